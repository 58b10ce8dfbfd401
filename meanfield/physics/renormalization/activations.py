r"""Gaussian moments of activations φ, from which the maps of wide layers follow.

    E φ(√q z)²        E φ'(√q z)²        E φ(√q z₁) φ(√q z₂),  corr(z₁, z₂) = c

with z standard normal. They are computed by closed forms if these exist (erf, ReLU,
identity), else by the trapezoidal rule on [−9, 9]. For a function that is analytic
within a distance a of the real line, the error is of order exp(−2π a/step). The step is
0.0075 for one variable and 0.06 for two. For tanh(√q z), with a = π/(2√q), moments are
exact up to rounding for q up to a few hundred (one variable) or about 20 (two). At such
q, Gauss–Hermite quadrature with 101 nodes is inaccurate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from meanfield.checks import require

Function = Callable[[np.ndarray], np.ndarray]
Moment = Callable[[float], float]
RANGE = 9.0


def _normal_weights(nodes: np.ndarray) -> np.ndarray:
    density = np.exp(-0.5 * np.square(nodes))
    return density / density.sum()


_NODES = np.linspace(-RANGE, RANGE, 2401)
_WEIGHTS = _normal_weights(_NODES)
_PAIR_NODES = np.linspace(-RANGE, RANGE, 301)
_PAIR_WEIGHTS = _normal_weights(_PAIR_NODES)


@dataclass(frozen=True)
class Activation:
    """A nonlinearity φ with its derivative and Gaussian moments.

    Args:
        name: name of the activation.
        value: φ, elementwise on arrays.
        derivative: φ', elementwise on arrays.
        second_moment_form: closed form of E φ(√q z)², if known.
        derivative_moment_form: closed form of E φ'(√q z)², if known.
        product_moment_form: closed form (q, c) → E φ(√q z₁) φ(√q z₂), if known.
        derivative_product_form: closed form (q, c) → E φ'(√q z₁) φ'(√q z₂), if known.
    """

    name: str
    value: Function
    derivative: Function
    second_moment_form: Moment | None = None
    derivative_moment_form: Moment | None = None
    product_moment_form: Callable[[float, float], float] | None = None
    derivative_product_form: Callable[[float, float], float] | None = None

    def second_moment(self, q: float | int) -> float:
        """E φ(√q z)²."""
        if self.second_moment_form is not None:
            return float(self.second_moment_form(q))
        return gaussian_mean(lambda z: self.value(np.sqrt(q) * z) ** 2)

    def derivative_moment(self, q: float | int) -> float:
        """E φ'(√q z)²."""
        if self.derivative_moment_form is not None:
            return float(self.derivative_moment_form(q))
        return gaussian_mean(lambda z: self.derivative(np.sqrt(q) * z) ** 2)

    def product_moment(self, q: float | int, c: float | int) -> float:
        """E φ(√q z₁) φ(√q z₂) for standard normals of correlation c."""
        if self.product_moment_form is not None:
            return float(self.product_moment_form(q, c))
        return _pair_mean(self.value, q, c)

    def derivative_product(self, q: float | int, c: float | int) -> float:
        """E φ'(√q z₁) φ'(√q z₂) for standard normals of correlation c."""
        if self.derivative_product_form is not None:
            return float(self.derivative_product_form(q, c))
        return _pair_mean(self.derivative, q, c)


def gaussian_mean(function: Callable[[np.ndarray], np.ndarray]) -> float:
    """E f(z) for standard normal z, by the trapezoidal rule."""
    return float(_WEIGHTS @ function(_NODES))


def find_activation(activation: str | Activation) -> Activation:
    """Activation by name ("tanh", "erf", "relu", "linear"), or the given `Activation`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> find_activation("relu").derivative_moment(0.3)
        0.5
    """
    if isinstance(activation, Activation):
        return activation
    require(
        activation in ACTIVATIONS,
        f"`activation` must be one of {sorted(ACTIVATIONS)} or an `Activation`; got "
        f"{activation!r}. Build an `Activation` from the function and its derivative.",
    )
    return ACTIVATIONS[activation]


def _pair_mean(function: Function, q: float | int, c: float | int) -> float:
    root, weights = np.sqrt(q), _PAIR_WEIGHTS
    spread = np.sqrt(max(1 - c * c, 0.0))
    partner = c * _PAIR_NODES[:, None] + spread * _PAIR_NODES[None, :]
    inner = function(root * partner) @ weights
    return float(weights @ (function(root * _PAIR_NODES) * inner))


def _tanh_derivative(z: np.ndarray) -> np.ndarray:
    return 1 - np.tanh(z) ** 2


def _erf_derivative(z: np.ndarray) -> np.ndarray:
    return 2 / np.sqrt(np.pi) * np.exp(-np.square(z))


def _erf_product(q: float, c: float) -> float:
    return 2 / np.pi * np.arcsin(2 * c * q / (1 + 2 * q))


def _erf_derivative_product(q: float, c: float) -> float:
    return 4 / np.pi / np.sqrt((1 + 2 * q) ** 2 - (2 * c * q) ** 2)


def _relu_product(q: float, c: float) -> float:
    angle = np.arccos(np.clip(c, -1, 1))
    return q / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))


def _relu_derivative_product(q: float, c: float) -> float:
    return 0.5 - np.arccos(np.clip(c, -1, 1)) / (2 * np.pi)


ACTIVATIONS = {
    "tanh": Activation("tanh", np.tanh, _tanh_derivative),
    "erf": Activation(
        "erf",
        special.erf,
        _erf_derivative,
        lambda q: _erf_product(q, 1.0),
        lambda q: _erf_derivative_product(q, 1.0),
        _erf_product,
        _erf_derivative_product,
    ),
    "relu": Activation(
        "relu",
        lambda z: np.maximum(z, 0),
        lambda z: np.where(z > 0, 1.0, 0.0),
        lambda q: q / 2,
        lambda q: 0.5,
        _relu_product,
        _relu_derivative_product,
    ),
    "linear": Activation(
        "linear",
        lambda z: z,
        np.ones_like,
        lambda q: q,
        lambda q: 1.0,
        lambda q, c: c * q,
        lambda q, c: 1.0,
    ),
}
