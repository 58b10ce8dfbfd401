"""Seconds of one training epoch: ensemble against point weights, in the same loop.

Both networks are trained by the same code: one compiled program per epoch that
shuffles, gathers batches and runs Adam. Rounds alternate and medians are compared, so
that a busy machine affects both alike. Processor seconds are reported too, because
other programs affect them less.

    python experiments/benchmarks/epoch_time.py
"""

import argparse
import functools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import meanfield as mf
from meanfield.ensemble.initial import critical
from meanfield.ensemble.networks import mlp
from meanfield.learning.schedule import random_batches

EXAMPLES, FEATURES, CLASSES, BATCH = 60_000, 784, 10, 128
WIDTHS = (100, 400)
STEP_SIZE = 1e-3


def point_epoch(model, optimizer):
    """The same loop for ordinary weights."""
    learned, fixed = eqx.partition(model, eqx.is_inexact_array)

    def loss(learned, x, y):
        logits = jax.vmap(eqx.combine(learned, fixed))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, x, y, key):
        batches = random_batches(key, len(x), BATCH)

        def step(state, rows):
            learned, memory = state
            value, slope = jax.value_and_grad(loss)(learned, x[rows], y[rows])
            change, memory = optimizer.update(slope, memory, learned)
            return (optax.apply_updates(learned, change), memory), value

        state, values = jax.lax.scan(step, state, batches)
        return state, values.mean()

    state = (jax.tree.map(jnp.copy, learned), optimizer.init(learned))
    return epoch, state


def rounds(width: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds of an epoch, by clock and processor: point weights, ensemble."""
    key = jax.random.key(0)
    x = jax.random.uniform(key, (EXAMPLES, FEATURES))
    y = jax.random.randint(key, (EXAMPLES,), 0, CLASSES)
    widths = (FEATURES, width, width, CLASSES)
    ensemble = mf.Ensemble.from_model(mlp(widths, key=key), key=key, initial=critical())
    optimizer = optax.adam(STEP_SIZE)
    epoch, state = point_epoch(ensemble.mean_network(), optimizer)
    seconds = {"point": [], "ensemble": []}
    ended = [0.0, 0.0]

    def now():
        return np.array([time.perf_counter(), time.process_time()])

    def measure_point():
        nonlocal state, ended
        start = now()
        state, value = epoch(state, x, y, key)
        value.block_until_ready()
        ended = now()
        seconds["point"].append(ended - start)

    def after_epoch(report):
        seconds["ensemble"].append(now() - ended)
        measure_point()

    measure_point()
    # A callback after every epoch of the ensemble's run measures the point network, so
    # the two alternate within one run.
    mf.fit(
        ensemble,
        (x, y),
        key=key,
        epochs=repeats + 1,
        batch_size=BATCH,
        optimizer=optimizer,
        callbacks=[after_epoch],
        progress=False,
        prior=None,
    )
    # The first epoch of each includes the compilation.
    return {name: tuple(np.median(rows[1:], axis=0)) for name, rows in seconds.items()}


def main() -> None:
    """Print a table of seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    given = parser.parse_args()
    repeats, widths = given.repeats, WIDTHS
    if given.quick:
        repeats, widths = 1, WIDTHS[:1]
    print(f"jax {jax.__version__}, batch {BATCH}, {EXAMPLES} examples")
    columns = ("point s", "ensemble s", "ratio", "of CPU s")
    print(f"{'network':<20}" + "".join(f"{name:>12}" for name in columns))
    for width in widths:
        found = rounds(width, repeats)
        (point, point_cpu), (ours, ours_cpu) = found["point"], found["ensemble"]
        print(
            f"784-{width}-{width}-10".ljust(20)
            + f"{point:>12.3f}{ours:>12.3f}"
            + f"{ours / point:>12.2f}{ours_cpu / point_cpu:>12.2f}"
        )


if __name__ == "__main__":
    main()
