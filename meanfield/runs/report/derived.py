"""Sections on the results of later commands: neurons, physics, sub-networks."""

import html
from collections import Counter
from collections.abc import Mapping
from typing import Any

from meanfield.deploy.shipping.manifest import MANIFEST, check_manifest
from meanfield.deploy.shipping.markdown import shown_score
from meanfield.runs.documents import read_json
from meanfield.runs.folder import ANALYSIS, COALITIONS, Run
from meanfield.runs.schemas import (
    ANALYSIS as ANALYSIS_CHECK,
    CARD as CARD_CHECK,
    COALITIONS as COALITIONS_CHECK,
)

from .page import details, missing, short, table
from .parts import KINDS, REMEDY, command_for, is_own, plot
from .scales import one_sum


def neurons(run: Run) -> str:
    """The section on neurons: strong coalitions and the label game."""
    command = command_for("coalitions", run)
    found = run.derived(COALITIONS, COALITIONS_CHECK, REMEDY)
    if found is None:
        return missing("coalitions of neurons", command)
    rows, plots = [], ""
    for name, layer in found["layers"].items():
        size, payoffs = layer["size"], layer["payoffs"]
        game, credit = layer["label_game"], layer.get("label_credit", {})
        rows.append(
            (
                name,
                len(layer["mask"]),
                size,
                short(float(payoffs[size])),
                short(float(payoffs[-1])),
                *(f"{game[kind]:+.3f}" for kind in KINDS),
                " / ".join(f"{credit[kind]:+.3f}" for kind in KINDS) if credit else "–",
            )
        )
        file = name.replace("/", "-")
        plots += plot(
            run,
            f"coalition-values-{file}",
            f"Shapley values of the neurons of {name} with their intervals; full "
            "circles form the strong coalition.",
            f"Shapley values of {len(layer['mask'])} neurons in decreasing order, from "
            f"{max(layer['values']):.3g} to {min(layer['values']):.3g}; {size} of them "
            "belong to the strong coalition.",
            command,
        ) + plot(
            run,
            f"coalition-payoff-{file}",
            f"Payoff of the best neurons of {name}, added by Shapley value.",
            f"Payoff against the number of neurons: {payoffs[0]:.3g} with none, "
            f"{payoffs[size]:.3g} with {size}, {payoffs[-1]:.3g} with all.",
            command,
        )
    if (run.plots / "coalition-network.png").is_file():
        plots += plot(
            run,
            "coalition-network",
            "The network with its coalitions; lines are the largest weights between "
            "members, dashed when negative.",
            "A column of neurons for each hidden layer, members of its strong "
            "coalition on top.",
            command,
        )
    head = ("layer", "neurons", "strong", "payoff", "of all")
    head += (*KINDS, "credit of these")
    return (
        "<p>Each hidden layer is a game whose players are its neurons; the payoff is "
        f"the {html.escape(str(found.get('payoff', 'accuracy')))} of the network when "
        "the neurons outside the coalition are held at their mean. The strong "
        "coalition is the smallest number of neurons, in order of Shapley value, "
        f"that keeps all but {100 * found.get('epsilon', 0):.3g} % of the payoff. The "
        "columns important, absent and variable have the Shapley values of the "
        "labels, each of which is one player; the last column has the sums of the "
        "connections' own values.</p>"
        + table(head, rows, range(1, len(head)))
        + f'<div class="plots">{plots}</div>'
        + one_sum(run, found, command)
    )


def physics(run: Run) -> str:
    """The section on physics: microstructure, renormalization, complexity."""
    command = command_for("analyze", run)
    found = run.derived(ANALYSIS, ANALYSIS_CHECK, REMEDY)
    if found is None:
        return missing("analysis of its weights", command)
    fits = found["microstructure"]
    laws = [
        (name, fit["verdict"], short(fit["mu"]), short(fit["sigma"]), fit["reason"])
        for name, fit in fits.items()
    ]
    counts = Counter(fit["verdict"] for fit in fits.values())
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    flow = found["renormalization"]
    why = f"{flow['verdict']}: {flow['reason']}"
    return "".join(
        [
            "<h3>Microstructure: are the magnitudes of the weights lognormal?</h3>",
            f"<p>Of {len(fits)} tensors: {html.escape(said)}.</p>",
            details(
                "The verdict on every tensor, and why",
                table(("tensor", "verdict", "μ", "σ", "why"), laws, (2, 3)),
            ),
            plot(
                run,
                "microstructure",
                "Skewness against standard deviation of ln|w| for every tensor; a "
                "lognormal distribution has skewness 0.",
                f"Skewness of ln|w| against its standard deviation: {said}.",
                command,
            ),
            "<h3>Renormalization: where the layers lie in the phase diagram</h3>",
            f"<p>{html.escape(why)}</p>",
            plot(
                run,
                "renormalization",
                "Weight and bias variance of each layer, and the critical line between "
                "order, where the activations of two inputs converge with depth, and "
                "chaos, where they diverge.",
                f"Phase diagram. {why}",
                command,
            )
            if "layers" in flow
            else "",
            "<h3>Complexity: bits of the on/off pattern, dimension of the features"
            "</h3>",
            _complexity(run, found["complexity"], command),
        ]
    )


def shipped(run: Run) -> str:
    """The section on exported sub-networks, from their model cards."""
    found = cards(run)
    if not found:
        return missing(
            "sub-networks", command_for("sample", run) + " -k 5 --format onnx"
        )
    parts = []
    for folder, card in found.items():
        rows = []
        for entry in card["subnetworks"]:
            before = entry.get("before", {})
            latency = entry.get("latency") or {}
            rows.append(
                (
                    entry["file"],
                    shown_score(entry)[1],
                    short(entry.get("nll")),
                    _change(before.get("bytes"), entry.get("bytes")),
                    _change(before.get("num_weights"), entry.get("num_weights")),
                    short(entry.get("num_nonzero")),
                    short(latency.get("batch_1_us")),
                )
            )
        scored, _ = shown_score((card["subnetworks"] or [{}])[0])
        head = ("file", scored, "NLL", "bytes", "weights")
        head += ("not zero", "µs, one example")
        settings = f"rule {card.get('rule')}, format {card.get('format')}"
        parts.append(
            f"<h3>{html.escape(folder)}: {html.escape(settings)}</h3>"
            + table(head, rows, range(1, len(head)))
            + _outputs(card.get("source", {}).get("targets"))
        )
    return (
        "<p>Each file is an ordinary network drawn from the ensemble, scored on the "
        "test data after it was written and read back. An arrow leads from a number "
        "of the network as drawn to that of the file, without its removed units.</p>"
        + "".join(parts)
    )


def cards(run: Run) -> dict[str, dict[str, Any]]:
    """Cards of sub-networks of this ensemble, by the name of their folder."""
    found = {}
    for path in sorted(run.folder.glob("*/card.json")):
        if is_own(run, path):
            card = read_json(path, REMEDY, CARD_CHECK)
            seal = card.get("source", {}).get("ensemble")
            if (path.parent / MANIFEST).exists():
                check_manifest(path.parent)
            if seal == run.seal or (seal is None and run.bare):
                found[path.parent.name] = card
    return found


def _complexity(run: Run, found: Mapping[str, Any], command: str) -> str:
    layers = found.get("layers")
    if layers is None:
        return f"<p>{html.escape(str(found['reason']))}</p>"
    rows = [
        (
            name,
            layer["num_units"],
            short(layer["marginal"]),
            short((layer["joint"] or {}).get("bits")),
            short((layer["dimension"] or {}).get("dimension")),
            layer["verdict"],
        )
        for name, layer in layers.items()
    ]
    head = ("layer", "units", "sum of units (bits)", "joint (bits)", "dimension", "")
    said = ", ".join(f"{row[0]} {row[2]} bits over its units" for row in rows)
    return table(head, rows, (1, 2, 3, 4)) + plot(
        run,
        "complexity",
        "Entropy of each layer's on/off pattern: the sum over its units, and the joint "
        "entropy; the difference is the information that the units share.",
        f"Bars of the entropy of the on/off patterns: {said}.",
        command,
    )


def _outputs(targets: Mapping[str, Any] | None) -> str:
    """The meaning of the outputs of exported files."""
    if targets is None:
        return ""
    return (
        f'<p class="soft">Outputs of the files: {html.escape(targets["outputs"])}.</p>'
    )


def _change(before: int | None, after: int | None) -> str:
    if before is None or before == after:
        return short(after)
    return f"{short(before)} → {short(after)}"
