"""Planted truth: which inputs and connections matter is known; what does learning say?

sun: 1,000 normal inputs of pairwise correlation ½, 10,000 examples and the target
y = tanh(2 tanh(2x₀ − x₁)) + 2 tanh(2 tanh(x₂ − 2x₃ − 2x₄)) + ν with ν ~ N(0, 1). A
network 1000-5-3-1 of tanh learns it: 5 inputs and 9 of 5,018 connections matter (Sun,
Song & Liang 2022, consistent sparse deep learning).

lbbnn: 4 inputs uniform on (−10, 10), x₃ ← d x₁ + (1 − d) x₃ with d = 0, 0.1, 0.5, 0.9,
and y = 1 where 100 + x₁ + x₂ + x₁² + x₂² + x₁x₂ exceeds its median. A network
4-20-20-1 of ReLU learns it: inputs 1 and 2 matter (Høyheim et al., input-skip latent
binary Bayesian networks).

convolution: images of three channels of noise. Two 3×3 kernels of ReLU, averaged over
all places, add up to y; they read 5 of the 27 places of a kernel, spanning it, so that
no shift of theirs says the same. A network of four kernels learns it.

recurrence: sequences of six noises. Two units of tanh, one of which reads the first
input and itself, the other the second input and the first unit, add up to y at the end.
A network of four units learns it: 2 inputs, 2 of 16 recurrent connections matter.

Networks learn under the selective rule with its defaults: nothing is tuned here. A
connection is live where 1 − π > ½ (in the perceptrons, if it also lies on a path of
such connections from an input to the output); an input is kept if it has a live
connection. `select_inputs` decides once more, on examples of its own, at a false
discovery rate of 0.1. Other scores know no threshold: for each
the area under the ROC curve says how well the largest score of an input's connections
tells inputs that matter from the others.

    python experiments/planted_credit.py             # ten data sets of each
    python experiments/planted_credit.py --quick     # small, a minute
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from shared import plus_minus

import meanfield as mf
from meanfield.credit.removal import two_orders
from meanfield.ensemble.networks import mlp
from meanfield.files import write_text

DATA_SETS, NUM_TEST = 10, 2000
EXAMPLES, QUICK_EXAMPLES = 10_000, 1500
COPIES = (0.0, 0.1, 0.5, 0.9)
BATCH = 128
CREDIT_EXAMPLES, FDR = 1000, 0.1
OUT = Path("runs/planted_credit")


@dataclasses.dataclass(frozen=True)
class Design:
    """Data whose truth is known, and the network that learns them.

    Attributes:
        draw: from a generator and a number of examples to inputs and targets.
        build: from a key to the network.
        true: the inputs that matter.
        likelihood: of the targets.
        chain: whether the weights are the layers of a perceptron.
    """

    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    build: Callable[[Any], Any]
    true: tuple[int, ...]
    likelihood: Any
    chain: bool = True


def sun(inputs: int) -> Design:
    """Sun, Song & Liang's planted network."""

    def draw(rng, number):
        shared = rng.normal(size=(number, 1))
        x = (shared + rng.normal(size=(number, inputs))) / np.sqrt(2)
        first = np.tanh(2 * np.tanh(2 * x[:, 0] - x[:, 1]))
        second = 2 * np.tanh(2 * np.tanh(x[:, 2] - 2 * x[:, 3] - 2 * x[:, 4]))
        return x, first + second + rng.normal(size=number)

    def build(key):
        return mlp((inputs, 5, 3, 1), key=key, activation=jnp.tanh)

    return Design(draw, build, tuple(range(5)), mf.Gaussian())


def lbbnn(copy: float, width: int) -> Design:
    """Two inputs that matter, one that resembles the first, one that does not."""

    def draw(rng, number):
        x = rng.uniform(-10, 10, (number, 4))
        x[:, 2] = copy * x[:, 0] + (1 - copy) * x[:, 2]
        a, b = x[:, 0], x[:, 1]
        height = 100 + a + b + a**2 + b**2 + a * b
        return x / 10, height > np.median(height)

    def build(key):
        return mlp((4, width, width, 1), key=key, activation=jax.nn.relu)

    return Design(draw, build, (0, 1), mf.Bernoulli())


class Kernels(eqx.Module):
    """A convolution of ReLU, averaged over all places, and a sum of its channels."""

    convolution: eqx.nn.Conv2d
    readout: eqx.nn.Linear

    def __call__(self, x):
        """The output for one image."""
        return self.readout(jax.nn.relu(self.convolution(x)).mean((1, 2)))


def convolution() -> Design:
    """Two kernels, which read 5 of the 27 places of a kernel."""
    kernels = np.zeros((2, 3, 3, 3))
    kernels[0, 0, 0, 0], kernels[0, 0, 2, 2], kernels[0, 1, 0, 2] = 1.0, -1.0, 0.7
    kernels[1, 2, 0, 0], kernels[1, 2, 2, 2] = 1.0, 1.0
    teacher = jnp.asarray(kernels, jnp.float32)

    def draw(rng, number):
        x = rng.normal(size=(number, 3, 8, 8)).astype(np.float32)
        seen = jax.lax.conv(jnp.asarray(x), teacher, (1, 1), "VALID")
        first, second = np.asarray(jax.nn.relu(seen).mean((2, 3))).T
        return x, 10 * (first - second) + rng.normal(size=number)

    def build(key):
        keys = jax.random.split(key)
        return Kernels(
            eqx.nn.Conv2d(3, 4, 3, key=keys[0]), eqx.nn.Linear(4, 1, key=keys[1])
        )

    true = tuple(np.flatnonzero(np.abs(kernels).sum(0).ravel()).tolist())
    return Design(draw, build, true, mf.Gaussian(), chain=False)


class Recurrence(eqx.Module):
    """A recurrent network of tanh that is read at the end."""

    read: eqx.nn.Linear
    recur: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __call__(self, x):
        """The output for one sequence."""

        def step(state, now):
            return jnp.tanh(self.read(now) + self.recur(state)), None

        state, _ = jax.lax.scan(step, jnp.zeros(self.recur.out_features), x)
        return self.readout(state)


def recurrence() -> Design:
    """Two units, the first of which remembers and is read by the second."""

    def draw(rng, number):
        x = rng.normal(size=(number, 8, 6))
        one = two = np.zeros(number)
        for t in range(x.shape[1]):
            before, one = one, np.tanh(1.5 * x[:, t, 0] + 0.8 * one)
            two = np.tanh(x[:, t, 1] - 1.5 * before)
        return x, 2 * (one + two) + 0.5 * rng.normal(size=number)

    def build(key):
        keys = jax.random.split(key, 3)
        return Recurrence(
            eqx.nn.Linear(6, 4, key=keys[0]),
            eqx.nn.Linear(4, 4, use_bias=False, key=keys[1]),
            eqx.nn.Linear(4, 1, key=keys[2]),
        )

    return Design(draw, build, (0, 1), mf.Gaussian(), chain=False)


def designs(quick: bool) -> dict[str, Design]:
    """All designs by name."""
    copies = {f"lbbnn {copy:g}": lbbnn(copy, 8 if quick else 20) for copy in COPIES}
    return {
        "sun": sun(50 if quick else 1000),
        **copies,
        "convolution": convolution(),
        "recurrence": recurrence(),
    }


def live_connections(ensemble: mf.Ensemble, chain: bool) -> list[np.ndarray]:
    """Of each layer, which connections are there, in a chain on a path of such."""
    live = [np.asarray(w.inclusion_prob) > 0.5 for w in ensemble.weights().values()]
    if chain:
        for layer in range(1, len(live)):
            live[layer] &= live[layer - 1].any(1)[None, :]
        for layer in range(len(live) - 2, -1, -1):
            live[layer] &= live[layer + 1].any(0)[:, None]
    return live


def area(scores: np.ndarray, matter: np.ndarray) -> float:
    """Probability that an input that matters has the larger score (ties count half)."""
    pairs = scores[matter][:, None] - scores[~matter][None, :]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


def by_input(scores: np.ndarray) -> np.ndarray:
    """The largest score of the connections that read each input."""
    return np.asarray(scores).reshape(len(scores), -1).max(0)


def learn(design: Design, examples: int, seed: int) -> dict:
    """One data set, learned and compared with the truth."""
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    x, y = design.draw(rng, examples + NUM_TEST)
    classes = y.dtype == bool
    x, y = x.astype(np.float32), y[:, None].astype(int if classes else np.float32)
    train, test = (x[:examples], y[:examples]), (x[examples:], y[examples:])
    ensemble = mf.Ensemble.from_model(design.build(key), key=key)
    result = mf.fit(
        ensemble,
        train,
        likelihood=design.likelihood,
        key=key,
        batch_size=BATCH,
        prior="selective",
        progress=False,
    )
    learned, likelihood = result.ensemble, result.likelihood
    metrics = mf.evaluate(learned, test, likelihood=likelihood, num_samples=32, key=key)
    name, weight = next(iter(learned.weights().items()))
    live = live_connections(learned, design.chain)
    matter = np.zeros(by_input(live[0]).size, bool)
    matter[list(design.true)] = True
    kept = by_input(live[0])
    some = jax.tree.map(lambda part: part[:CREDIT_EXAMPLES], train)
    _, rms = two_orders(learned, likelihood, 1.0, some, key=key)
    mean, std = np.asarray(weight.mean), np.sqrt(np.asarray(weight.var))
    included = by_input(weight.inclusion_prob)
    scores = {
        "1 - pi": included,
        "rms": by_input(rms[name]),
        "magnitude": by_input(np.abs(mean)),
        "|mean|/std": by_input(np.abs(mean) / (std + 1e-12)),
    }
    row = {
        "found": int((kept & matter).sum()),
        "of": int(matter.sum()),
        "false": int((kept & ~matter).sum()),
        "live": int(sum(layer.sum() for layer in live)),
        "T": result.search.temperature,
        "price": result.search.price,
        "1-pi true": float(included[matter].mean()),
        "1-pi false": float(included[~matter].mean()),
        "acc/rmse": float(metrics.accuracy if classes else metrics.rmse),
        "nll": float(metrics.nll),
    }
    if x.ndim == 2:
        chosen = mf.credit.select_inputs(
            learned, test, fdr=FDR, key=key, likelihood=likelihood
        ).selected
        row |= {"fdr found": int((chosen & matter).sum())}
        row |= {"fdr false": int((chosen & ~matter).sum())}
    return row | {f"auc {name}": area(score, matter) for name, score in scores.items()}


def table(rows: list[dict]) -> str:
    """Mean ± standard error over the data sets of each design, a line a quantity."""
    names = dict.fromkeys(row["design"] for row in rows)
    kinds = [kind for kind in rows[0] if kind not in ("design", "seed")]
    lines = [f"{'':<16}" + "".join(f"{name:>18}" for name in names)]
    for kind in kinds:
        cells = []
        for name in names:
            values = [row.get(kind) for row in rows if row["design"] == name]
            known = None not in values
            cells.append(f"{plus_minus(values, 3) if known else '–':>18}")
        lines.append(f"{kind:<16}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Learn every data set that has no result yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, a minute")
    parser.add_argument("--data-sets", type=int, help="of each design")
    parser.add_argument("--design", help="only this one, or those that begin so")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    sets = args.data_sets or (1 if args.quick else DATA_SETS)
    examples = QUICK_EXAMPLES if args.quick else EXAMPLES
    folder = args.out / ("quick" if args.quick else "full")
    rows = []
    for name, design in designs(args.quick).items():
        if not name.startswith(args.design or ""):
            continue
        for seed in range(sets):
            path = folder / f"{name.replace(' ', '-')}-{seed}.json"
            if not path.exists():
                write_text(path, json.dumps(learn(design, examples, seed)))
            rows.append({"design": name, "seed": seed} | json.loads(path.read_text()))
            print({kind: rows[-1][kind] for kind in list(rows[-1])[:12]}, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
