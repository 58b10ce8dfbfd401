"""Seconds of a training step whose weights are drawn, against a point network's.

The same compiled epoch with the same optimizer: a convolutional network on images of 28
× 28 pixels, and two transformer blocks on windows of 32 characters. The cases alternate
in rounds, and the median over rounds of the ratio to the point network is reported, so
that a busy machine affects all cases alike.

    python experiments/benchmarks/drawn_weights.py
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from prior_time import Training

import meanfield as mf

ROUNDS, STEPS, BATCH = 9, 8, 64
WIDTH, HEADS, CONTEXT, SYMBOLS = 128, 4, 32, 64
PRIOR = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned")
HOW = {
    "point network": (None, None),
    "fresh noise, no prior": ("preactivations", None),
    "drawn weights, no prior": ("weights", None),
    "drawn weights, a prior": ("weights", PRIOR),
}


class Convolutions(eqx.Module):
    """Two convolutions, two dense layers; 105,000 weights."""

    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 16, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(16, 32, 3, padding=1, key=keys[1]),
            eqx.nn.Linear(1568, 64, key=keys[2]),
            eqx.nn.Linear(64, 10, key=keys[3]),
        ]

    def __call__(self, x):
        """Logits of one image (1, height, width)."""
        for layer in self.layers[:2]:
            x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(layer(x)))
        return self.layers[3](jax.nn.relu(self.layers[2](x.ravel())))


class Block(eqx.Module):
    """Causal attention and a perceptron, each added to its input."""

    attention: eqx.nn.MultiheadAttention
    layers: list
    norms: list

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
        self.layers = [
            eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[1]),
            eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[2]),
        ]
        self.norms = [eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)]

    def __call__(self, x):
        """From (time, width) to (time, width)."""
        past = jnp.tril(jnp.ones((len(x), len(x)), bool))
        inner = jax.vmap(self.norms[0])(x)
        x = x + self.attention(inner, inner, inner, past)
        inner = jax.vmap(self.layers[0])(jax.vmap(self.norms[1])(x))
        return x + jax.vmap(self.layers[1])(jax.nn.gelu(inner))


class Transformer(eqx.Module):
    """Two blocks; 410,000 weights."""

    symbols: eqx.nn.Embedding
    blocks: list
    read: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.symbols = eqx.nn.Embedding(SYMBOLS, WIDTH, key=keys[0])
        self.blocks = [Block(keys[1]), Block(keys[2])]
        self.read = eqx.nn.Linear(WIDTH, SYMBOLS, key=keys[3])

    def __call__(self, ids):
        """Logits (time, symbols) of one window."""
        x = jax.vmap(self.symbols)(ids)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.read)(x)


def problem(name: str, examples: int):
    """A network, and random data of its kind."""
    keys = jax.random.split(jax.random.key(0), 3)
    if name == "convolution":
        x = jax.random.uniform(keys[0], (examples, 1, 28, 28))
        return Convolutions(keys[2]), x, jax.random.randint(keys[1], examples, 0, 10)
    ids = [jax.random.randint(k, (examples, CONTEXT), 0, SYMBOLS) for k in keys[:2]]
    return Transformer(keys[2]), *ids


def measure(name: str, steps: int, rounds: int) -> tuple[int, np.ndarray]:
    """Number of weights; seconds of a step, (rounds, cases)."""
    network, x, y = problem(name, steps * BATCH)
    runs, size = [], 0
    for noise, prior in HOW.values():
        if noise is None:
            ensemble = mf.Ensemble.from_points(network)
        else:
            key = jax.random.key(1)
            ensemble = mf.Ensemble.from_model(network, key=key, noise=noise)
            size = ensemble.num_weights
        parametrization = (
            mf.learning.Unconstrained() if prior else mf.learning.Projected()
        )
        runs.append(Training(ensemble, (x, y), prior, parametrization, BATCH))
    for run in runs:  # This one compiles.
        run.epoch()
    seconds = [[run.epoch() / steps for run in runs] for _ in range(rounds)]
    return size, np.array(seconds)


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    args = parser.parse_args()
    steps, rounds = (2, 2) if args.quick else (STEPS, args.rounds)
    print(f"jax {jax.__version__}, batch {BATCH}, {rounds} rounds of {steps} steps")
    for name in ("convolution", "attention"):
        size, seconds = measure(name, steps, rounds)
        print(f"\n{name}, {size:,} weights")
        print(f"{'':<26}{'ms a step':>10}{'ratio':>8}{'quartiles':>16}")
        for case, own in zip(HOW, seconds.T, strict=True):
            low, middle, high = np.percentile(own / seconds[:, 0], [25, 50, 75])
            row = f"{case:<26}{1e3 * np.median(own):>10.2f}{middle:>8.2f}"
            print(row + f"{low:>9.2f}–{high:.2f}", flush=True)


if __name__ == "__main__":
    main()
