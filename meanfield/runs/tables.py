"""The tables that are printed after each command."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd


def run_table(metrics: Mapping[str, Any], targets: Sequence[str] = ()) -> str:
    """The table of a run's scores and labels.

    Args:
        metrics: metrics of a run.
        targets: names of its targets; the RMSE of a single one is in its units.
    """
    names = {
        "accuracy": "test accuracy",
        "rmse": rmse_of(targets),
        "r2": "test R²",
        "nll": "test NLL (nats)",
        "ece": "calibration error (ECE)",
        "coverage": "coverage of 95 % intervals",
        "epochs": "epochs",
        "train_seconds": "training seconds",
        "num_weights": "weights",
    }
    rivals = metrics.get("baselines", {})
    lines = []
    if rivals:
        heads = "".join(f"{name:>15}" for name in ("ensemble", *rivals))
        lines = [f"  {'':<28}{heads}"]
    for name, text in names.items():
        if metrics.get(name) is None:
            continue
        cells = [_number(metrics[name])]
        cells += [_number(r[name]) if name in r else "" for r in rivals.values()]
        row = "".join(f"{cell:>15}" for cell in cells) if rivals else cells[0]
        lines.append(f"  {text:<28}{row}".rstrip())
    for scores in metrics.get("by_target", ()):
        parts = [
            f"{text.removeprefix('test ')} {_number(scores[name])}"
            for name, text in names.items()
            if name in scores
        ]
        lines.append(f"  {'  ' + scores['target']:<28}" + ", ".join(parts))
    wide = column_width(metrics.get("labels", {}), 24)
    if metrics.get("labels"):
        heads = ("important", "absent", "variable", "never learned")
        lines += ["", f"  {'layer':<{wide}}" + "".join(f"{head:>15}" for head in heads)]
    for layer, fractions in metrics.get("labels", {}).items():
        never = metrics.get("never_learned", {}).get(layer)
        parts = [fractions[name] for name in ("important", "absent", "variable")]
        cells = "".join(f"{100 * part:>13.2f} %" for part in parts)
        cells += "" if never is None else f"{100 * never:>13.2f} %"
        lines.append(f"  {layer:<{wide}}{cells}")
    return "\n".join(lines + _promise(metrics.get("label_rule", {})))


def rmse_of(targets: Sequence[str], words: str = "test RMSE") -> str:
    """The name of the RMSE, with the name of a single target, whose units it has."""
    if len(targets) != 1:
        return words
    return f"{words} of {textwrap.shorten(targets[0], 14, placeholder='…')}"


def _promise(rule: Mapping[str, Any]) -> list[str]:
    """The guarantees of certified labels, and the cost of removing each kind."""
    if "verdict" not in rule:
        return []
    costs = ", ".join(
        f"{after:.4f} without the {kind}" for kind, after in rule["without"].items()
    )
    said = textwrap.fill(
        rule["verdict"], 76, initial_indent="  ", subsequent_indent="  "
    )
    return [
        "",
        said,
        f"  {rule['payoff']} of the network of means: {rule['full']:.4f} whole, "
        f"{costs}",
    ]


def comparison_table(names: Sequence[str], rows: Sequence[Any]) -> str:
    """The table that is printed after `compare`.

    Args:
        names: names of the runs.
        rows: rows of the table, each a name and a cell for each run.
    """
    grid = [("", list(names)), *rows]
    wide = column_width((name for name, _ in grid), 20)
    widths = [
        max(len(cell) for cell in column) + 3
        for column in zip(*(cells for _, cells in grid), strict=True)
    ]
    lines = [
        f"  {name:<{wide}}"
        + "".join(f"{c:>{width}}" for c, width in zip(cells, widths, strict=True))
        for name, cells in grid
    ]
    return "\n".join([*lines, "  ±: 95 %, over test examples; other seeds differ too"])


def predictions_table(found: pd.DataFrame, most: int = 5) -> str:
    """The first rows, which are printed after `predict`."""
    wide = 7
    names = [str(name) for name in found.columns[:wide]]
    rows = [
        [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row[:wide]]
        for row in found.head(most).itertuples(index=False)
    ]
    widths = [
        max(len(cell) for cell in column) + 2
        for column in zip(names, *rows, strict=True)
    ]
    lines = [
        "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (names, *rows)
    ]
    more = "" if len(names) == len(found.columns) else ", more columns in the file"
    return "\n".join([*lines, f"  {len(found):,} rows{more}"])


def analysis_table(found: Mapping[str, Any]) -> str:
    """One table for each of the three analyses."""
    lines = [
        "  microstructure: is |w| lognormal? mu, sigma: mean and deviation of ln|w|",
        "",
    ]
    wide = column_width(found["microstructure"], 34)
    lines.append(f"  {'tensor':<{wide}}{'verdict':<16}{'mu':>8}{'sigma':>8}  reason")
    for name, fit in found["microstructure"].items():
        mu, sigma = (_short(fit.get(part)) for part in ("mu", "sigma"))
        lines.append(
            f"  {name:<{wide}}{fit['verdict']:<16}{mu:>8}{sigma:>8}  "
            f"{textwrap.shorten(fit['reason'], 60, placeholder=' …')}"
        )
    renormalization = found["renormalization"]
    lines += [
        "",
        "  renormalization: layers in the phase diagram (χ₁ above 1, chaotic: inputs "
        "that are close",
        "  drift apart from layer to layer; below 1, ordered: they come together)",
        "",
    ]
    lines.append(f"  {renormalization['verdict']}: {renormalization['reason']}")
    placed = renormalization.get("layers", {})
    wide = column_width(placed, 24)
    for name, layer in placed.items():
        lines.append(f"  {name:<{wide}}{layer['verdict']:<12}{layer['reason']}")
    complexity = found["complexity"]
    lines += [
        "",
        "  complexity: bits of the pattern of units that are on, by unit (sum) and",
        "  together (joint); D_eff: the dimension that the activations fill",
        "",
    ]
    if "layers" not in complexity:
        lines.append(f"  {complexity['verdict']}: {complexity['reason']}")
        return "\n".join(lines)
    wide = column_width(complexity["layers"], 24)
    head = f"  {'layer':<{wide}}{'units':>7}{'sum bits':>10}{'joint bits':>12}"
    lines.append(head + f"{'D_eff':>9}  verdict")
    for name, layer in complexity["layers"].items():
        joint = (layer.get("joint") or {}).get("bits")
        dimension = (layer.get("dimension") or {}).get("dimension")
        lines.append(
            f"  {name:<{wide}}{layer.get('num_units', 0):>7}"
            f"{_short(layer.get('marginal')):>10}{_short(joint):>12}"
            f"{_short(dimension):>9}  {layer.get('verdict', '')}"
        )
    return "\n".join(lines)


def column_width(names: Iterable[str], least: int) -> int:
    """Width of a column that leaves two spaces after the longest name."""
    return max([least, *(len(name) + 2 for name in names)])


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
