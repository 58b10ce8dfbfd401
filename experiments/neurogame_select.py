"""How the settings of coalition training in `neurogame` were chosen.

    python experiments/neurogame_select.py --data-dir DIR    # DIR/utkface/…

Candidates are compared by the reduction in error against small networks with as many
units, on faces that `neurogame` uses neither for training nor for testing, with other
seeds.
"""

from pathlib import Path

import numpy as np
from neurogame import GAMES, run_all
from pictures import Kind, Task, faces, kinds
from shared import keep_compiled, options, plus_minus

# GAMES with these changes.
PLAIN = {"regularizer": 0.0}
CANDIDATES = [
    {},
    PLAIN,
    PLAIN | {"settle": 8},
    PLAIN | {"memory": 0.0},
    PLAIN | {"softness": 0.5},
    PLAIN | {"payoff": None},
    PLAIN | {"num_examples": 500, "budget_per_unit": 64},
    PLAIN | {"every": 2, "settle": 3},
    PLAIN | {"every": 2, "settle": 3, "apart": True},
]
SELECT_SEEDS = range(100, 103)
SELECT_KEEP = (0.25, 0.125)


def select(cases: list[tuple[Task, Kind]], path: Path) -> None:
    """Compare candidates by their reduction in error against small networks.

    The reduction is 100 (1 − e / e_small), with errors e in percent or in years,
    averaged over tasks, sizes and seeds.
    """
    ways = [(way, keep) for keep in SELECT_KEEP for way in ("small", "Shapley")]
    for changes in CANDIDATES:
        rows = run_all(cases, ways, SELECT_SEEDS, path, GAMES | changes)
        errors = [r["score"] if r["task"] == "age" else 100 - r["score"] for r in rows]
        gains = 100 * (1 - np.array(errors[1::2]) / np.array(errors[::2]))
        gain = plus_minus(gains.reshape(len(SELECT_SEEDS), -1).mean(1), 2, "+")
        print(f"{gain} % less error with {changes}", flush=True)


def main() -> None:
    """Print one line for every candidate."""
    args = options(__doc__, out="runs/neurogame").parse_args()
    keep_compiled(args.out)
    tasks = faces(Path(args.data_dir or "."), validation=True)
    select([(task, kinds(task)[0]) for task in tasks], args.out / "select.jsonl")


if __name__ == "__main__":
    main()
