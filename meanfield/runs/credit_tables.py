"""The tables that are printed after `credit` and `coalitions`."""

from collections.abc import Mapping
from typing import Any

from .tables import column_width

LABELS = ("important", "absent", "variable")
# Comparison of the values with payoffs of drawn sub-networks, by verdict.
CHECKED = {
    "agrees": "agree with the values",
    "differs": "DIFFER from the values: do not trust these",
    "cannot tell": "are too few to check the values",
}


def credit_table(found: Mapping[str, Any]) -> str:
    """The table that is printed after `credit`."""
    name = found["payoff_name"].replace("_", " ")
    lines = [
        f"  {name}: {found['payoff']:.4f} with all connections, "
        f"{found['empty_payoff']:.4f} with none",
        f"  it rises fastest where {100 * found['path']['steepest']:.0f} % of the "
        "connections are present",
    ]
    check = found["check"]
    if check is not None:
        lines.append(
            f"  drawn sub-networks {CHECKED[check['verdict']]} (largest difference "
            f"{100 * check['largest_difference']:.1f} % of the payoff gained)"
        )
    lines += ["", *scale_lines(found["scales"])]
    if found["by_class"]:
        wide = column_width(found["by_class"], 24)
        lines += ["", f"  {'class':<{wide}}{'payoff':>10}{'by connections':>16}"]
        for label, entry in found["by_class"].items():
            total = sum(entry["layers"].values())
            lines.append(f"  {label:<{wide}}{entry['payoff']:>10.4f}{total:>16.4f}")
    return "\n".join(lines)


def scale_lines(
    scales: Mapping[str, Any], units: Mapping[str, Any] | None = None
) -> list[str]:
    """The sum of credit at three scales by layer, beside the game of neurons.

    Args:
        scales: sums of the values of connections, from ``credit.json``.
        units: the game of all neurons, from ``coalitions.json``.
    """
    own = {} if units is None else units["layers"]
    names = [*scales["layers"], "all", "payoff gained"]
    wide = column_width(names, 16)
    head = f"  {'sum of credit':<{wide}}{'connections':>12}{'neurons':>9}"
    head += f"{'sum':>10}{'share':>9}"
    lines = [head + ("" if units is None else f"{'own game':>11}")]
    gain = scales["gain"]

    def line(name: str, count: int, neurons: Any, total: float, other: Any) -> str:
        part = f"{100 * total / gain:.1f} %" if gain else "–"
        text = f"  {name:<{wide}}{count:>12,}{neurons:>9}{total:>10.4f}{part:>9}"
        return text + ("" if other is None else f"{other:>11.4f}")

    for name, layer in scales["layers"].items():
        neurons = "–" if layer["neurons"] is None else f"{len(layer['neurons']):,}"
        other = own[name]["sum"] if name in own else None
        lines.append(line(name, layer["connections"], neurons, layer["sum"], other))
    layers = scales["layers"].values()
    count = sum(layer["connections"] for layer in layers)
    neurons = sum(len(layer["neurons"] or ()) for layer in layers)
    total = None if units is None else units["sum"]
    lines.append(line("all", count, f"{neurons:,}", scales["sum"], total))
    end = f"  {'payoff gained':<{wide}}{'':>21}{gain:>10.4f}{'':>9}"
    lines.append(end + ("" if units is None else f"{units['gain']:>11.4f}"))
    gap = f"  {'gap ± noise':<{wide}}{'':>21}{_gap(scales):>19}"
    lines.append(gap if units is None else f"{gap}{_gap(units):>20}")
    return lines


def coalitions_table(found: Mapping[str, Any]) -> str:
    """The tables that are printed after `coalitions`."""
    wide = column_width(found["layers"], 16)
    payoff = found["payoff"].replace("_", " ")
    lines = [
        f"  strong: the fewest neurons of a layer that keep the payoff ({payoff})",
        f"  {'layer':<{wide}}{'neurons':>9}{'strong':>8}{'by strong':>10}{'by all':>9}",
    ]
    for layer, entry in found["layers"].items():
        lines.append(
            f"  {layer:<{wide}}{len(entry['mask']):>9}{entry['size']:>8}"
            f"{entry['payoffs'][entry['size']]:>10.4f}{entry['payoffs'][-1]:>9.4f}"
        )
    lines += [
        "",
        "  value of the connections of a label: as one player, and summed over "
        "connections",
        f"  {'':<{wide}}" + "".join(f"{label:>20}" for label in LABELS),
        f"  {'layer':<{wide}}" + f"{'as one':>11}{'sum':>9}" * len(LABELS),
    ]
    for layer, entry in found["layers"].items():
        whole, single = entry["label_game"], entry["label_credit"]
        cells = "".join(
            f"{whole[label]:>+11.3f}{single[label]:>+9.3f}" for label in LABELS
        )
        lines.append(f"  {layer:<{wide}}{cells}")
    lines += [
        "",
        "  mean credit of a neuron's connections, in and out; effect: Cliff's δ, 1 if "
        "every strong",
        "  neuron has more than every other one, 0 if they do not differ; p: by "
        "shuffling",
        f"  {'layer':<{wide}}{'strong':>10}{'others':>10}{'effect':>9}{'p':>9}",
    ]
    for layer, entry in found["layers"].items():
        test = entry["links"]["strong_against_others"]
        if test is None:
            lines.append(
                f"  {layer:<{wide}}   all neurons or none are strong: no comparison"
            )
            continue
        lines.append(
            f"  {layer:<{wide}}{test['inside']:>10.5f}{test['outside']:>10.5f}"
            f"{test['effect']:>9.2f}{test['p_value']:>9.4f}"
        )
    end = "  own game: values of all neurons as players of one game"
    return "\n".join(
        [*lines, "", *scale_lines(found["credit"], found["unit_game"]), end]
    )


def _gap(sums: Mapping[str, Any]) -> str:
    return f"{sums['gap']:+.1g} ± {sums['gap_error']:.1g}"
