"""The table printed after `sample`: dense, shipped and plain networks.

| row               | what it is                                                       |
|-------------------|------------------------------------------------------------------|
| dense             | the ensemble's network of means: every connection, 32 bits       |
| as drawn, whole   | the first sub-network before units were removed                  |
| subnetwork-0.F …  | the files                                                        |
| plain, that size  | an ordinary network of the chosen file's layers, trained as long |
"""

from collections.abc import Mapping, Sequence
from typing import Any

from meanfield.deploy.shipping.markdown import shown_score

# A sub-network that loses more than this against the ensemble is listed: a share of the
# examples (accuracy) or of the variance of a real target (R²); nats per example (NLL)
# for counts, whose variance grows with their mean.
LOST, LOST_NATS = 0.005, 0.01
COUNTS = ("bytes", "num_weights", "num_nonzero", "macs")


def card_table(card: Mapping[str, Any], dense: Mapping[str, Any] | None = None) -> str:
    """The table of a card, and a line for every file that is worse than the ensemble.

    Args:
        card: the card of the shipped networks.
        dense: scores of the whole ensemble, or None.
    """
    entries = card["subnetworks"]
    rows = [("dense", card["dense"])] if "dense" in card else []
    rows += [("as drawn, whole", entries[0]["before"])]
    rows += [(entry["file"], entry) for entry in entries]
    if "nll" in card.get("control", {}):
        rows += [("plain, that size", card["control"])]
    metric = shown_score(entries[0])[0]
    names = ("", metric, "NLL", "bytes", "weights", "non-zero", "multiply-adds")
    table = [[*names, "µs, batch 1", "µs, batch 256"]]
    for name, entry in rows:
        cells = [name, shown_score(entry)[1], f"{entry['nll']:.4f}"]
        cells += [f"{entry[n]:,}" if n in entry else "–" for n in COUNTS]
        latency = entry.get("latency") or {}
        cells += [_time(latency.get(n)) for n in ("batch_1_us", "batch_256_us")]
        table.append(cells)
    widths = [max(map(len, column)) + 2 for column in zip(*table, strict=True)]
    lines = [
        f"  {name:<{widths[0]}}"
        + "".join(f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))
        for name, *cells in table
    ]
    counts = card.get("source", {}).get("model", {}).get("likelihood") == "poisson"
    told = _losses(entries, dense or {}, counts)
    return "\n".join(lines + told + _plain(card))


def nothing_removed(
    card: Mapping[str, Any], training: Mapping[str, Any] | None = None
) -> str | None:
    """Why nothing was removed, and what to set; None if something was removed.

    Args:
        card: the card of the shipped networks.
        training: settings with which the run was trained, or None.
    """
    made = card.get("source", {}).get("compact")
    if made is not None and made["share"] == 1:
        return f"  no whole unit was removed: {_needed(made)}"
    absent = card.get("labels", {}).get("all", {}).get("absent", 0.0)
    if card["rule"] == "labels" and absent == 0:
        said = card.get("source", {}).get("labels", "no connection is absent")
        return f"  nothing was removed: {said}. {_remedy(training or {})}"
    smaller = [
        entry["num_weights"] < entry["before"]["num_weights"]
        for entry in card["subnetworks"]
    ]
    if any(smaller) or "missing" in card.get("control", {}):
        return None
    return (
        "  no whole unit was removed: the zeros are scattered, and make a file neither "
        f"smaller nor faster. {_remedy(training or {})}"
    )


def _remedy(training: Mapping[str, Any]) -> str:
    """Advice on settings that were not used."""
    if training.get("rule") != "selective":
        return (
            "Train with --rule selective, which removes connections, and whole units "
            "with them."
        )
    if training.get("spikes") != "unit":
        return "Train with --spikes unit too, which removes whole units."
    return "Train for more epochs, or a network with wider layers."


def _needed(made: Mapping[str, Any]) -> str:
    """Why every unit stays."""
    if not made["held_out"]:
        return "this network has no layer whose units can be distinguished."
    parts = sorted(((float(k), v) for k, v in made["held_out"].items()), reverse=True)
    (_, whole), *less = parts
    tried = ", ".join(f"{value:.4f} with {100 * share:g} %" for share, value in less)
    return (
        f"held-out {made['payoff']} {whole:.4f} with all units, {tried}. Allow more "
        "loss by --tolerance."
    )


def _plain(card: Mapping[str, Any]) -> list[str]:
    """A line that describes the plain network."""
    control = card.get("control")
    if control is None:
        return []
    if "missing" in control:
        return [f"  no plain network of that size: {control['missing']}"]
    widths = " → ".join(map(str, control.get("widths", ())))
    size = widths or f"of the same layers, {control['num_weights']:,} weights"
    return [
        f"  plain, that size: an ordinary network {size}, trained for "
        f"{control['epochs']} epochs in {control['seconds']:.0f} s"
    ]


def _losses(
    entries: Sequence[Any], dense: Mapping[str, Any], counts: bool
) -> list[str]:
    """A line for every sub-network that is clearly worse than the whole ensemble."""
    lost = [(entry["file"], _loss(entry, dense, counts)) for entry in entries]
    return [f"  {file} loses {loss}" for file, loss in lost if loss]


def _loss(entry: Mapping[str, Any], dense: Mapping[str, Any], counts: bool) -> str:
    """The largest loss of a sub-network against the ensemble, if it is a clear one."""
    if "accuracy" in entry and "accuracy" in dense:
        whole = dense["accuracy"]
        lost = whole - entry["accuracy"]
        said = f"{100 * lost:.1f} points of accuracy against the ensemble's {whole:.4f}"
        return said if lost > LOST else ""
    if counts and "nll" in dense:
        lost = entry["nll"] - dense["nll"]
        said = f"{lost:.3f} nats per example against the ensemble's {dense['nll']:.4f}"
        return said if lost > LOST_NATS else ""
    each = entry.get(
        "rmse_by_output", [entry[name] for name in entry if name == "rmse"]
    )
    wholes = dense.get("by_target", [dense])
    found = [
        (scores["r2"] - explained, scores["r2"], scores.get("target"))
        for scores, rmse in zip(wholes, each, strict=False)
        if len(wholes) == len(each)
        and (explained := _explained(rmse, scores)) is not None
    ]
    lost, whole, target = max(found, default=(0.0, 0.0, None))
    of = f" of {target}" if target else ""
    said = f"{100 * lost:.1f} points of R²{of} against the ensemble's {whole:.4f}"
    return said if lost > LOST else ""


def _explained(rmse: float, scores: Mapping[str, Any]) -> float | None:
    """R² for an RMSE; the ensemble's scores give the variance, RMSE² / (1 − R²)."""
    known = scores.get("r2") is not None and scores.get("rmse")
    return 1 - (1 - scores["r2"]) * (rmse / scores["rmse"]) ** 2 if known else None


def _time(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
