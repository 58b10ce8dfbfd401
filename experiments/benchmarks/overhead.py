"""Overhead of the transformation compared with handwritten gBP, per epoch.

Both train the same spike-and-slab network with the same noise, loss, optimizer,
projection and loop. They differ only in the forward pass: `mf.mean_field` of an
ordinary Equinox network, or the equations written by hand,

    G = a μᵀ,   Δ² = a² Vᵀ,   z = G + ε Δ + b.

Rounds alternate. Compilation is timed separately.

    python experiments/benchmarks/overhead.py
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
from meanfield.ensemble.networks import mlp
from meanfield.learning.parametrization import project_all
from meanfield.learning.schedule import random_batches
from meanfield.propagation.noise import fold_in, normal

EXAMPLES, FEATURES, CLASSES, BATCH = 20_000, 784, 10, 128
WIDTHS = (100, 400)
STEP_SIZE = 1e-3


def by_hand(model, x, key):
    """Logits of a batch, for a multilayer perceptron with `SpikeSlab` weights."""
    last = len(model.layers) - 1
    for number, layer in enumerate(model.layers):
        pi, m, xi = (getattr(layer.weight, n) for n in layer.weight.__annotations__)
        mean = x @ ((1 - pi) * m).T
        var = jnp.square(x) @ ((1 - pi) * (xi + pi * m**2)).T
        noise = normal(fold_in(key, number), mean.shape, mean.dtype)
        random = var > 0
        std = jnp.sqrt(jnp.where(random, var, 1))
        x = jnp.where(random, mean + noise * std, mean) + layer.bias
        x = x if number == last else jax.nn.relu(x)
    return x


def transformed(model, x, key):
    """The same logits by the transformation."""
    return mf.mean_field(lambda model, x: jax.vmap(model)(x))(model, x, key=key)


def make_epoch(forward, model, optimizer):
    """A compiled epoch and its first state."""
    learned, fixed = eqx.partition(model, eqx.is_inexact_array)

    def loss(learned, x, y, key):
        logits = forward(eqx.combine(learned, fixed), x, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, x, y, key):
        batches = random_batches(key, len(x), BATCH)

        def step(state, inputs):
            (rows, number), (learned, memory) = inputs, state
            noise_key = fold_in(key, number)
            value, slope = jax.value_and_grad(loss)(
                learned, x[rows], y[rows], noise_key
            )
            change, memory = optimizer.update(slope, memory, learned)
            learned = optax.apply_updates(learned, change)
            return (project_all(mf.learning.Projected(), learned), memory), value

        state, values = jax.lax.scan(step, state, (batches, jnp.arange(len(batches))))
        return state, values

    return epoch, jax.tree.map(jnp.copy, (learned, optimizer.init(learned)))


def compare(width: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds to compile and to run an epoch, and the last loss, of both."""
    key = jax.random.key(0)
    x = jax.random.uniform(key, (EXAMPLES, FEATURES))
    y = jax.random.randint(key, (EXAMPLES,), 0, CLASSES)
    network = mlp((FEATURES, width, width, CLASSES), key=key)
    model = mf.Ensemble.from_model(network, key=key).params
    optimizer = optax.adam(STEP_SIZE)
    runs = {}
    for name, forward in (("by hand", by_hand), ("transformed", transformed)):
        epoch, state = make_epoch(forward, model, optimizer)
        start = time.perf_counter()
        program = epoch.lower(state, x, y, key).compile()
        runs[name] = {"program": program, "state": state, "wall": [], "cpu": []}
        runs[name]["compile"] = time.perf_counter() - start
    for _ in range(repeats + 1):
        for run in runs.values():
            wall, cpu = time.perf_counter(), time.process_time()
            run["state"], values = run["program"](run["state"], x, y, key)
            values.block_until_ready()
            run["wall"].append(time.perf_counter() - wall)
            run["cpu"].append(time.process_time() - cpu)
            run["loss"] = float(values.mean())
    return {
        name: {
            "compile": run["compile"],
            "wall": float(np.median(run["wall"][1:])),
            "cpu": float(np.median(run["cpu"][1:])),
            "loss": run["loss"],
        }
        for name, run in runs.items()
    }


def main() -> None:
    """Print a table of seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    given = parser.parse_args()
    repeats, widths = given.repeats, WIDTHS
    if given.quick:
        repeats, widths = 2, WIDTHS[:1]
    print(f"jax {jax.__version__}, batch {BATCH}, {EXAMPLES} examples")
    columns = ("compile s", "epoch s", "CPU s", "loss")
    print(f"{'network':<18}{'forward':<14}" + "".join(f"{c:>12}" for c in columns))
    for width in widths:
        found = compare(width, repeats)
        for name, row in found.items():
            cells = (row["compile"], row["wall"], row["cpu"], row["loss"])
            print(
                f"784-{width}-{width}-10".ljust(18)
                + f"{name:<14}"
                + "".join(f"{cell:>12.4f}" for cell in cells)
            )
        hand, ours = found["by hand"], found["transformed"]
        print(
            f"  ratio: epoch {ours['wall'] / hand['wall']:.3f}, "
            f"CPU {ours['cpu'] / hand['cpu']:.3f}"
        )


if __name__ == "__main__":
    main()
