"""Seconds of one training epoch: ensemble against point weights, in the same loop.

Both networks are trained by the same code: one compiled program an epoch that shuffles,
gathers batches and runs Adam. The rounds alternate, and the median is compared, so that
a noisy machine disturbs both alike.

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
from meanfield.initial import critical
from meanfield.learning.training import random_batches
from meanfield.networks import mlp

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


def rounds(width: int, repeats: int) -> tuple[float, float]:
    """Median seconds of an epoch: point weights, ensemble."""
    key = jax.random.key(0)
    x = jax.random.uniform(key, (EXAMPLES, FEATURES))
    y = jax.random.randint(key, (EXAMPLES,), 0, CLASSES)
    widths = (FEATURES, width, width, CLASSES)
    ensemble = mf.Ensemble.from_model(mlp(widths, key=key), key=key, initial=critical())
    optimizer = optax.adam(STEP_SIZE)
    epoch, state = point_epoch(ensemble.mean_network(), optimizer)
    point_seconds = []

    def measure_point():
        nonlocal state
        start = time.perf_counter()
        state, value = epoch(state, x, y, key)
        value.block_until_ready()
        point_seconds.append(time.perf_counter() - start)

    measure_point()
    # A callback after every epoch of the ensemble's run measures the point network, so
    # the two alternate within one run.
    result = mf.fit(
        ensemble,
        (x, y),
        key=key,
        epochs=repeats + 1,
        batch_size=BATCH,
        optimizer=optimizer,
        callbacks=[lambda report: measure_point()],
        progress=False,
    )
    # The first of each holds the compilation.
    return (
        float(np.median(point_seconds[1:])),
        float(np.median(result.history["seconds"][1:])),
    )


def main() -> None:
    """Print a table of seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"jax {jax.__version__}, batch {BATCH}, {EXAMPLES} examples")
    print(f"{'network':<20}{'point s':>10}{'ensemble s':>12}{'ratio':>8}")
    for width in WIDTHS:
        point, ensemble = rounds(width, repeats)
        name = f"784-{width}-{width}-10"
        print(f"{name:<20}{point:>10.3f}{ensemble:>12.3f}{ensemble / point:>8.2f}")


if __name__ == "__main__":
    main()
