"""Seconds of one training epoch: with priors, without a prior, and of a point network.

The same compiled epoch with the same optimizer; the priors alternate in rounds, and the
median over rounds of the ratio to the run without a prior is reported, so that a busy
machine affects all alike. Without a prior, `fit` updates π, m and Ξ themselves
(`Projected`); with a prior it updates logit π, m and ln √Ξ (`Unconstrained`). The
second row shows this part of the difference, and the last column is the median ratio to
the second row. The first column of ratios is to the point network, and the last row is
the selective rule with its own optimizer.

    python experiments/benchmarks/prior_time.py
    python experiments/benchmarks/prior_time.py --widths 784-400-400-10
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.learning.epochs import learn_epoch
from meanfield.learning.schedule import Schedule
from meanfield.learning.selective import selective_optimizer, selective_start
from meanfield.learning.state import starting_state
from meanfield.learning.training import Recipe, split_learned

WIDTHS = (784, 300, 100, 10)
EXAMPLES, BATCH, ROUNDS = 12_800, 128, 15
STEP_SIZE = 1e-3
run_epoch = eqx.filter_jit(learn_epoch, donate="all-except-first")

CASES = {
    "no prior": (None, mf.learning.Projected()),
    "no prior, unconstrained": (None, mf.learning.Unconstrained()),
    "fixed numbers": (
        mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale=1.0),
        mf.learning.Unconstrained(),
    ),
    "learned slab scale": (
        mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale="learned"),
        mf.learning.Unconstrained(),
    ),
    "learned scale, Beta": (
        mf.SpikeSlabPrior(inclusion_prob=dist.Beta(1.0, 9.0), slab_scale="learned"),
        mf.learning.Unconstrained(),
    ),
}
POINT, SELECTIVE = "point network", "selective rule"


class Training:
    """One run, an epoch at a time."""

    def __init__(
        self,
        ensemble,
        data,
        prior,
        parametrization,
        *,
        batch=BATCH,
        selective=False,
    ):
        learned, fixed = split_learned(ensemble, mf.Categorical(), parametrization)
        optimizer, schedule = optax.adam(STEP_SIZE), None
        if selective:
            optimizer = selective_optimizer()
            schedule = Schedule(jnp.asarray(0.1), jnp.asarray(1e4), jnp.asarray(1.0))
        self.recipe = Recipe(
            fixed=fixed,
            prior=prior,
            optimizer=optimizer,
            parametrization=parametrization,
            temperature=1.0,
            num_data=len(data[0]),
            schedule=schedule,
        )
        self.data, self.batch, self.number = data, batch, 0
        self.state = starting_state(learned, optimizer)

    def epoch(self) -> float:
        """Learn for an epoch; its seconds."""
        number, key = jnp.asarray(self.number), jax.random.split(jax.random.key(0))
        start = time.perf_counter()
        constants = (self.recipe, *self.data, key, number, self.batch)
        self.state, parts = run_epoch(constants, self.state)
        jax.block_until_ready((self.state, parts))
        self.number += 1
        return time.perf_counter() - start


def measure(widths, examples: int, rounds: int) -> np.ndarray:
    """Seconds of an epoch, (rounds, cases): `CASES`, then `POINT` and `SELECTIVE`."""
    key = jax.random.key(0)
    x = jax.random.uniform(key, (examples, widths[0]))
    y = jax.random.randint(key, (examples,), 0, widths[-1])
    ensemble = mf.Ensemble.from_model(mlp(widths, key=key), key=key)
    runs = [Training(ensemble, (x, y), *case) for case in CASES.values()]
    points = mf.Ensemble.from_points(ensemble.mean_network())
    runs.append(Training(points, (x, y), *CASES["no prior"]))
    start = selective_start(ensemble), (x, y), *CASES["learned slab scale"]
    runs.append(Training(*start, selective=True))
    for run in runs:  # This one compiles.
        run.epoch()
    return np.array([[run.epoch() for run in runs] for _ in range(rounds)])


def main() -> None:
    """Print a row for each prior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--widths", default="-".join(map(str, WIDTHS)))
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.examples, args.widths = 2, 1_280, "784-50-10"
    widths = tuple(int(width) for width in args.widths.split("-"))
    seconds = measure(widths, args.examples, args.rounds)
    ratios = seconds / seconds[:, :1]
    print(f"jax {jax.__version__}, {args.widths}, batch {BATCH}, {args.examples:,}")
    head = f"{'prior':<26}{'ms a step':>10}{'to point':>10}{'ratio':>8}"
    head += f"{'quartiles':>16}"
    print(head + f"{'to second row':>14}")
    alike = np.median(seconds / seconds[:, 1:2], axis=0)
    to_point = np.median(seconds / seconds[:, -2:-1], axis=0)
    steps = args.examples // BATCH
    for column, name in enumerate([*CASES, POINT, SELECTIVE]):
        low, middle, high = np.percentile(ratios[:, column], [25, 50, 75])
        step = 1e3 * np.median(seconds[:, column]) / steps
        row = f"{name:<26}{step:>10.2f}{to_point[column]:>10.2f}{middle:>8.2f}"
        row += f"{low:>9.2f}–{high:.2f}"
        print(row + f"{alike[column]:>14.2f}")


if __name__ == "__main__":
    main()
