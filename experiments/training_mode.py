"""Batch norm and dropout in Equinox, NNX and Linen: evaluated against shipped.

    python experiments/training_mode.py            # digits, 3 seeds
    python experiments/training_mode.py --quick    # one seed, few epochs

The same perceptron in three frameworks, 64-64-64-10 with batch norm and dropout after
each hidden layer, is passed to `Ensemble.from_model` in training mode. Test accuracies
are of

    evaluate       average over noise draws
    subnetworks    average over drawn networks, as `evaluate(of="subnetworks")` gives it
    by hand        the same average over drawn modules, called by their own framework
    one            a drawn module on its own, mean over the draws
    own            the same with statistics from `estimate_statistics`
    held           as `one`, with the statistics held at their initial values
    point          the point network with the same budget
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from matplotlib import pyplot
from shared import once, options, plus_minus

import meanfield as mf
from meanfield import plots
from meanfield.data import load
from meanfield.ensemble.linen_modules import initialise

SEEDS = 3
WIDTH, DEPTH, CLASSES = 64, 2, 10
DROPOUT, MOMENTUM = 0.1, 0.9
EPOCHS, BATCH_SIZE = 40, 64
DRAWS = 20
ROWS = ("evaluate", "subnetworks", "by hand", "one", "own", "held", "point")


class EquinoxNet(eqx.Module):
    """A network of one example, with a state."""

    layers: list[eqx.nn.Linear]
    norms: list[eqx.nn.BatchNorm]
    drop: eqx.nn.Dropout

    def __init__(self, key):
        widths = [64, *[WIDTH] * DEPTH, CLASSES]
        keys = jax.random.split(key, DEPTH + 1)
        self.layers = [
            eqx.nn.Linear(*pair, key=key)
            for *pair, key in zip(widths[:-1], widths[1:], keys, strict=True)
        ]
        norm = functools.partial(eqx.nn.BatchNorm, axis_name="batch", mode="batch")
        self.norms = [norm(WIDTH, momentum=MOMENTUM) for _ in range(DEPTH)]
        self.drop = eqx.nn.Dropout(DROPOUT)

    def __call__(self, x, state, *, key=None):
        """Logits, and the new state."""
        keys = [None] * DEPTH if key is None else jax.random.split(key, DEPTH)
        for layer, norm, own in zip(self.layers[:-1], self.norms, keys, strict=True):
            x, state = norm(layer(x), state)
            x = self.drop(jax.nn.relu(x), key=own)
        return self.layers[-1](x), state


class NNXNet(nnx.Module):
    """A network of a batch."""

    def __init__(self, rngs):
        widths = [64, *[WIDTH] * DEPTH, CLASSES]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        norm = functools.partial(nnx.BatchNorm, momentum=MOMENTUM, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in pairs])
        self.norms = nnx.List([norm(WIDTH) for _ in range(DEPTH)])
        self.drop = nnx.Dropout(DROPOUT, rngs=rngs)

    def __call__(self, x):
        """Logits."""
        for number, norm in enumerate(self.norms):
            x = self.drop(nnx.relu(norm(self.layers[number](x))))
        return self.layers[DEPTH](x)


class LinenNet(linen.Module):
    """A network of a batch; the mode is an argument."""

    @linen.compact
    def __call__(self, x, train: bool):
        """Logits."""
        for _ in range(DEPTH):
            norm = linen.BatchNorm(use_running_average=not train, momentum=MOMENTUM)
            x = linen.relu(norm(linen.Dense(WIDTH)(x)))
            x = linen.Dropout(DROPOUT, deterministic=not train)(x)
        return linen.Dense(CLASSES)(x)


def make(kind: str, seed: int):
    """A network in training mode, as a user would build it."""
    key = jax.random.key(seed)
    if kind == "equinox":
        return eqx.nn.make_with_state(EquinoxNet)(key)
    if kind == "nnx":
        return NNXNet(nnx.Rngs(seed))
    return LinenNet(), initialise(LinenNet(), key, jnp.zeros((1, 64)))


@eqx.filter_jit
def equinox_logits(net, state, x):
    """Logits of a batch, as Equinox computes them."""
    return jax.vmap(lambda x: net(x, state)[0])(x)


def logits(kind: str, model, x):
    """Logits that the framework itself computes with an exported network."""
    if kind == "equinox":
        return equinox_logits(*model, x)
    if kind == "nnx":
        return nnx.jit(lambda net, x: net(x))(model, x)
    return model[0].apply(model[1], x, train=False)


def accuracies(kind: str, seed: int, data, epochs: int) -> dict[str, float]:
    """Test accuracies of one seed, in percent."""
    train, (x, y) = (data.x_train, data.y_train), (data.x_test, data.y_test)
    start, fit_key, test_key = jax.random.split(jax.random.key(seed), 3)
    settings = {"epochs": epochs, "batch_size": BATCH_SIZE, "progress": False}
    settings["prior"] = None
    fit = lambda ensemble: mf.fit(ensemble, train, key=fit_key, **settings).ensemble
    right = lambda outputs: float((np.asarray(outputs).argmax(1) == y).mean())
    ensemble = fit(mf.Ensemble.from_model(make(kind, seed), key=start))
    score = functools.partial(
        mf.evaluate, ensemble, (x, y), key=test_key, num_samples=DRAWS
    )
    keys = jax.random.split(test_key, DRAWS)
    drawn = [ensemble.sample(key) for key in keys]
    outputs = [logits(kind, net, x) for net in drawn]
    own = [
        mf.ensemble.estimate_statistics(net, data.x_train, key=key, num_steps=100)
        for net, key in zip(drawn[:5], keys, strict=False)
    ]
    model = make(kind, seed)
    names = tuple(mf.Ensemble.from_points(model).state())
    held = fit(mf.Ensemble.from_model(model, key=start, frozen=names))
    point = fit(mf.Ensemble.from_points(model)).mean_network()
    found = {
        "evaluate": score().accuracy,
        "subnetworks": score(of="subnetworks").accuracy,
        "by hand": right(sum(jax.nn.softmax(out) for out in outputs)),
        "one": np.mean([right(out) for out in outputs]),
        "own": np.mean([right(logits(kind, net, x)) for net in own]),
        "held": np.mean([right(logits(kind, held.sample(k), x)) for k in keys[:5]]),
        "point": right(logits(kind, point, x)),
    }
    return {name: 100 * float(value) for name, value in found.items()}


def main() -> None:
    """Train every network, print the table, draw the figure."""
    args = options(__doc__, out="runs/training_mode", seeds=SEEDS).parse_args()
    seeds, epochs = (1, 5) if args.quick else (args.seeds, EPOCHS)
    data = load("digits")
    rows = {
        kind: [
            once(
                args.out / f"{kind}-{seed}-{epochs}.json",
                functools.partial(accuracies, kind, seed, data, epochs),
            )
            for seed in range(seeds)
        ]
        for kind in ("equinox", "nnx", "linen")
    }
    print(f"{'test accuracy, %':18s}" + "".join(f"{kind:>16s}" for kind in rows))
    for name in ROWS:
        values = [plus_minus([r[name] for r in found], 2) for found in rows.values()]
        print(f"{name:18s}" + "".join(f"{value:>16s}" for value in values))
    figure, axes = pyplot.subplots(figsize=(6, 3))
    for offset, (kind, found) in enumerate(rows.items()):
        means = [np.mean([row[name] for row in found]) for name in ROWS]
        axes.bar(np.arange(len(ROWS)) + 0.25 * (offset - 1), means, 0.25, label=kind)
    axes.set_xticks(range(len(ROWS)), ROWS)
    axes.set(ylabel="test accuracy (%)", ylim=(85, 100))
    axes.legend()
    plots.save(figure, args.out / "accuracy.png")
    print(f"figure and numbers in {args.out}")


if __name__ == "__main__":
    main()
