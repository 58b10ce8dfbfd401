"""The table and the figure of `neurogame`: scores against the number of units."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from shared import mean_and_error

from meanfield.plots import save

CELL = ("task", "network", "way", "keep")


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds with standard errors, and median processor seconds.

    `gap` is the score of Shapley coalitions with as many units minus the cell's own
    score, seed by seed; whole networks are compared with coalitions of half their
    units.
    """
    cells: dict[tuple, list] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in CELL), []).append(row)
    scores = {cell: np.array([r["score"] for r in own]) for cell, own in cells.items()}
    found = []
    for cell, own in cells.items():
        row = dict(zip(CELL, cell, strict=True))
        row["score"], row["error"] = mean_and_error(scores[cell])
        rival = scores[*cell[:2], "Shapley", 0.5 if cell[2] == "whole" else cell[3]]
        row["gap"], row["gap_error"] = mean_and_error(rival - scores[cell])
        row["units"], row["multiply_adds"] = own[0]["units"], own[0]["multiply_adds"]
        row["seconds"] = float(np.median([one["seconds"] for one in own]))
        found.append(row)
    return found


def show(cells: list[dict[str, Any]]) -> None:
    """Print the table."""
    for task, network in dict.fromkeys((c["task"], c["network"]) for c in cells):
        unit = "MAE, years" if task == "age" else "accuracy, %"
        title = f"{task}, {network}"
        print(f"\n{title:20}{unit:>15}   Shapley's excess  units  mult-adds  seconds")
        for cell in cells:
            if (cell["task"], cell["network"]) != (task, network):
                continue
            name = cell["way"] + ("" if cell["keep"] == 1 else f", {cell['keep']:g}")
            gap = f"{cell['gap']:+.2f} ± {cell['gap_error']:.2f}"
            print(
                f"  {name:20}{cell['score']:6.2f} ± {cell['error']:.2f}"
                f"{'' if cell['way'] == 'Shapley' else gap:>18}"
                f"{cell['units']:8d}{cell['multiply_adds']:11,d}{cell['seconds']:9.1f}"
            )
    print("\nShapley's excess: its score with as many units (for whole networks: half")
    print("as many) minus the score of the row.")


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Score against units, one panel for each task and network."""
    panels = list(dict.fromkeys((cell["task"], cell["network"]) for cell in cells))
    figure = Figure(figsize=(3.4 * len(panels) + 1.2, 3.4), layout="constrained")
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        own = [cell for cell in cells if (cell["task"], cell["network"]) == panel]
        axes.axhline(own[0]["score"], color="0.6", linestyle="--", zorder=0)
        ways = dict.fromkeys(cell["way"] for cell in cells)
        for number, way in enumerate(ways):
            line = [cell for cell in own if cell["way"] == way]
            axes.errorbar(
                # Place points side by side that have the same number of units.
                [cell["units"] * 1.05 ** max(number - 1, 0) for cell in line],
                [cell["score"] for cell in line],
                [cell["error"] for cell in line],
                color="0.4" if way == "whole" else f"C{number - 1}",
                marker="o" if len(line) > 1 else "D",
                markersize=4,
                label=way,
            )
        axes.set_xscale("log")
        axes.set_xticks(sorted({cell["units"] for cell in own}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_title(", ".join(panel))
        axes.set_xlabel("active units")
        axes.set_ylabel("MAE, years" if panel[0] == "age" else "accuracy, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    save(figure.axes[0], path)
