"""The first part of the section on credit: the values of connections."""

import html
from typing import Any

from meanfield.runs.folder import CREDIT, Run
from meanfield.runs.schemas import CREDIT as CREDIT_CHECK

from .page import missing, short, table
from .parts import REMEDY, command_for, plot

VERDICTS = {
    "agrees": "Drawn sub-networks agree with the values",
    "differs": "Drawn sub-networks do NOT agree with the values: do not trust these",
    "cannot tell": "There are too few drawn sub-networks to check the values",
}


def values(run: Run) -> str:
    """The parts of the payoff due to inputs and layers."""
    command = command_for("credit", run)
    found = run.derived(CREDIT, CREDIT_CHECK, REMEDY)
    if found is None:
        return missing("values of its connections", command)
    share = found["payoff"] - found["empty_payoff"]
    rows = [
        (
            name,
            f"{layer['connections']:,}",
            short(layer["sum"]),
            f"{100 * layer['sum'] / share:.1f} %" if share else "–",
            short(layer["sum_of_negative"]),
        )
        for name, layer in found["layers"].items()
    ]
    head = ("layer", "connections", "value", "share", "of which negative")
    return (
        _map(run, found, command)
        + "<p>The value of a connection is its Shapley value: its fair part of the "
        f"gain of all connections together, here the {html.escape(_words(found))} "
        f"on {found['num_examples']:,} examples, {short(found['payoff'])} with all "
        f"and {short(found['empty_payoff'])} with none. {_check(found)}</p>"
        + table(head, rows, range(1, len(head)))
        + f'<div class="plots">{_plots(run, found, command)}</div>'
    )


def _words(found: dict[str, Any]) -> str:
    return found["payoff_name"].replace("_", " ")


def _check(found: dict[str, Any]) -> str:
    check = found["check"]
    if check is None:
        return ""
    return (
        f"{VERDICTS[check['verdict']]} (largest difference "
        f"{100 * check['largest_difference']:.1f} % of the gain)."
    )


def _map(run: Run, found: dict[str, Any], command: str) -> str:
    """The credit of the inputs, which begins the section."""
    if not (run.plots / "credit-inputs.png").is_file():
        return ""
    by = ", one map for each class" if found["by_class"] else ""
    drawn = plot(
        run,
        "credit-inputs",
        f"Credit of every input{by}: red helps, blue harms.",
        "Maps of the summed values of the connections that read each input.",
        command,
    )
    return f'<div class="plots">{drawn}</div>'


def _plots(run: Run, found: dict[str, Any], command: str) -> str:
    path = found["path"]
    drawn = ""
    if (run.plots / "credit-network.png").is_file():
        drawn = plot(
            run,
            "credit-network",
            "The network by its credit: the strongest paths from inputs to outputs.",
            "Network of the paths with the most credit, thicker for more.",
            command,
        )
    return (
        drawn
        + plot(
            run,
            "credit-density",
            "Payoff against the fraction of connections that are present.",
            f"Rising curve from {short(found['empty_payoff'])} to "
            f"{short(found['payoff'])}, steepest at density {path['steepest']:.2f}.",
            command,
        )
        + plot(
            run,
            "credit-magnitude",
            "Value of every connection against its absolute mean weight; where the two "
            "disagree most, connections are named.",
            "Scatter plot of values against absolute mean weights, layer by layer.",
            command,
        )
    )
