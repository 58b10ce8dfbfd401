"""Data whose truth is known, and networks that can learn it.

sun: normal inputs with pairwise correlation ½ and the target y = tanh(2 tanh(2x₀ − x₁))
+ 2 tanh(2 tanh(x₂ − 2x₃ − 2x₄)) + ν with ν ~ N(0, 1). A network p-5-3-1 of tanh learns
it: 5 inputs and 9 connections matter (Sun, Song & Liang 2022, consistent sparse deep
learning).

lbbnn: 4 inputs uniform on (−10, 10), x₃ ← d x₁ + (1 − d) x₃, and y = 1 where
100 + x₁ + x₂ + x₁² + x₂² + x₁x₂ exceeds its median. A network 4-20-20-1 of ReLU learns
it: inputs 1 and 2 matter (Høyheim et al., input-skip latent binary Bayesian networks).
Many sets of connections give the same function, so only the true inputs are known.

convolution: images of three channels of noise. Two 3×3 kernels with ReLU are averaged
over all positions; y is proportional to their difference. The kernels read 5 of their
27 inputs, which span the window, so that no shifted kernel gives the same function. A
network with four kernels learns it.

recurrence: sequences of eight steps with six inputs of noise. Two tanh units add up to
y at the end; the first reads the first input and itself, the second reads the second
input and the first unit. A network with four units learns it: 2 inputs and 2 of 16
recurrent connections matter.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import meanfield as mf
from meanfield.ensemble.networks import mlp

Masks = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Design:
    """Data with a known truth, and the network that learns them.

    Attributes:
        draw: map from a generator and a number of examples to inputs and targets.
        build: map from a key to an untrained ensemble.
        likelihood: the likelihood of the targets.
        inputs: the inputs that matter; None where all do.
        reads: path name of the array whose axes after the first are the inputs.
        truth: by path name, the connections that matter, with the hidden units in one
            order of many; None where it is not unique.
        hidden: for each group of hidden units that can be permuted, the axes (path
            name, axis) that number them.
        chain: whether the weights are the layers of a perceptron, in order.
    """

    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    build: Callable[[Any], mf.Ensemble]
    likelihood: Any
    inputs: tuple[int, ...] | None = None
    reads: str = "layers/0/weight"
    truth: Masks | None = None
    hidden: tuple[tuple[tuple[str, int], ...], ...] = ()
    chain: bool = False


def ensemble(network: Any, key: Any) -> mf.Ensemble:
    """An untrained ensemble around a network."""
    return mf.Ensemble.from_model(network, key=key)


def mask(shape: tuple[int, ...], *places: tuple[int, ...]) -> np.ndarray:
    """True at these places."""
    found = np.zeros(shape, bool)
    found[tuple(np.transpose(places))] = True
    return found


def sun(inputs: int) -> Design:
    """Sun, Song & Liang's planted network."""

    def draw(rng, number):
        shared = rng.normal(size=(number, 1))
        x = (shared + rng.normal(size=(number, inputs))) / np.sqrt(2)
        first = np.tanh(2 * np.tanh(2 * x[:, 0] - x[:, 1]))
        second = 2 * np.tanh(2 * np.tanh(x[:, 2] - 2 * x[:, 3] - 2 * x[:, 4]))
        return x, first + second + rng.normal(size=number)

    names = [f"layers/{layer}/weight" for layer in range(3)]
    return Design(
        draw,
        lambda key: ensemble(mlp((inputs, 5, 3, 1), key=key, activation=jnp.tanh), key),
        mf.Gaussian(),
        inputs=tuple(range(5)),
        truth={
            names[0]: mask((5, inputs), (0, 0), (0, 1), (1, 2), (1, 3), (1, 4)),
            names[1]: mask((3, 5), (0, 0), (1, 1)),
            names[2]: mask((1, 3), (0, 0), (0, 1)),
        },
        hidden=tuple(((names[i], 0), (names[i + 1], 1)) for i in range(2)),
        chain=True,
    )


def lbbnn(copy: float, width: int) -> Design:
    """Two inputs that matter, one correlated with the first, one independent."""

    def draw(rng, number):
        x = rng.uniform(-10, 10, (number, 4))
        x[:, 2] = copy * x[:, 0] + (1 - copy) * x[:, 2]
        a, b = x[:, 0], x[:, 1]
        height = 100 + a + b + a**2 + b**2 + a * b
        return x / 10, height > np.median(height)

    return Design(
        draw,
        lambda key: ensemble(
            mlp((4, width, width, 1), key=key, activation=jax.nn.relu), key
        ),
        mf.Bernoulli(),
        inputs=(0, 1),
        chain=True,
    )


class Kernels(eqx.Module):
    """A convolution of ReLU, averaged over all places, and a sum of its channels."""

    convolution: eqx.nn.Conv2d
    readout: eqx.nn.Linear

    def __init__(self, *, key):
        keys = jax.random.split(key)
        self.convolution = eqx.nn.Conv2d(3, 4, 3, key=keys[0])
        self.readout = eqx.nn.Linear(4, 1, key=keys[1])

    def __call__(self, x):
        """The output for one image."""
        return self.readout(jax.nn.relu(self.convolution(x)).mean((1, 2)))


def convolution() -> Design:
    """Two kernels, which read 5 of their 27 inputs."""
    kernels = np.zeros((4, 3, 3, 3))
    kernels[0, 0, 0, 0], kernels[0, 0, 2, 2], kernels[0, 1, 0, 2] = 1.0, -1.0, 0.7
    kernels[1, 2, 0, 0], kernels[1, 2, 2, 2] = 1.0, 1.0
    teacher = jnp.asarray(kernels[:2], jnp.float32)

    def draw(rng, number):
        x = rng.normal(size=(number, 3, 8, 8)).astype(np.float32)
        seen = jax.lax.conv(jnp.asarray(x), teacher, (1, 1), "VALID")
        first, second = np.asarray(jax.nn.relu(seen).mean((2, 3))).T
        return x, 10 * (first - second) + rng.normal(size=number)

    names = "convolution/weight", "readout/weight"
    return Design(
        draw,
        lambda key: ensemble(Kernels(key=key), key),
        mf.Gaussian(),
        inputs=tuple(np.flatnonzero(np.abs(kernels).sum(0).ravel()).tolist()),
        reads=names[0],
        truth={names[0]: kernels != 0, names[1]: mask((1, 4), (0, 0), (0, 1))},
        hidden=(((names[0], 0), (names[1], 1)),),
    )


class Recurrence(eqx.Module):
    """A recurrent tanh network with a readout at the end."""

    read: eqx.nn.Linear
    recur: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, *, key):
        keys = jax.random.split(key, 3)
        self.read = eqx.nn.Linear(6, 4, key=keys[0])
        self.recur = eqx.nn.Linear(4, 4, use_bias=False, key=keys[1])
        self.readout = eqx.nn.Linear(4, 1, key=keys[2])

    def __call__(self, x):
        """The output for one sequence."""

        def step(state, now):
            return jnp.tanh(self.read(now) + self.recur(state)), None

        state, _ = jax.lax.scan(step, jnp.zeros(self.recur.out_features), x)
        return self.readout(state)


def recurrence() -> Design:
    """Two units: the first reads itself, the second reads the first."""

    def draw(rng, number):
        x = rng.normal(size=(number, 8, 6))
        one = two = np.zeros(number)
        for t in range(x.shape[1]):
            before, one = one, np.tanh(1.5 * x[:, t, 0] + 0.8 * one)
            two = np.tanh(x[:, t, 1] - 1.5 * before)
        return x, 2 * (one + two) + 0.5 * rng.normal(size=number)

    names = "read/weight", "recur/weight", "readout/weight"
    return Design(
        draw,
        lambda key: ensemble(Recurrence(key=key), key),
        mf.Gaussian(),
        inputs=(0, 1),
        reads=names[0],
        truth={
            names[0]: mask((4, 6), (0, 0), (1, 1)),
            names[1]: mask((4, 4), (0, 0), (1, 0)),
            names[2]: mask((1, 4), (0, 0), (0, 1)),
        },
        hidden=(((names[0], 0), (names[1], 0), (names[1], 1), (names[2], 1)),),
    )
