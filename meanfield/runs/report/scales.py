"""The sum of credit at three scales, beside the game of neurons."""

import html
from collections.abc import Mapping
from typing import Any

from meanfield.runs.folder import Run

from .page import short, table
from .parts import plot


def one_sum(run: Run, found: Mapping[str, Any], command: str) -> str:
    """Credit of connections, neurons and layers; empty for files without sums.

    Args:
        run: the run.
        found: the contents of ``coalitions.json``.
        command: the command that makes them.
    """
    if "credit" not in found or "unit_game" not in found:
        return ""
    scales, units = found["credit"], found["unit_game"]
    rows = []
    for name, layer in scales["layers"].items():
        neurons, own = layer["neurons"], units["layers"].get(name)
        rows.append(
            (
                name,
                layer["connections"],
                None if neurons is None else len(neurons),
                layer["sum"],
                None if own is None else own["sum"],
            )
        )
    counts = (sum(row[place] or 0 for row in rows) for place in (1, 2))
    rows.append(("all", *counts, scales["sum"], units["sum"]))
    rows.append(("payoff gained", None, None, scales["gain"], units["gain"]))
    rows.append(("gap", None, None, scales["gap"], units["gap"]))
    head = ("", "connections", "neurons", "sum of credit", "neurons' own game")
    shown = [(row[0], *map(short, row[1:])) for row in rows]
    payoff = html.escape(str(scales.get("payoff", "payoff")).replace("_", " "))
    text = (
        "<h3>One sum at three scales</h3><p>Every connection leads to one neuron, and "
        "every neuron belongs to one layer. So the values of the connections sum to "
        "the credit of the neurons, to that of the layers, and to the gain of all "
        f"connections, {short(scales['gain'])} of {payoff} (the sum differs by "
        f"{short(scales['gap'])} ± {short(scales['gap_error'])}). The last column is "
        "a different game with a different gain: its players are the neurons of all "
        "hidden layers, and a neuron outside the coalition is held at its mean.</p>"
    )
    drawn = plot(
        run,
        "coalition-credit",
        "One sum at three scales, and below it the neurons' own game; members of the "
        "strong coalitions are orange, the top 1 % of the connections black.",
        f"Bars of equal length, {short(scales['sum'])}: connections, neurons, layers.",
        command,
    )
    return (
        text
        + table(head, shown, range(1, len(head)))
        + f'<div class="plots">{drawn}</div>'
    )
