r"""Entropic complexity of the layers of a network, and the dimension of its features.

A unit with pre-activation a(x) has the binary state z = 1[a > 0]. A unit that is always
on or always off is an affine function on the data; a unit that is on for half of the
examples is as nonlinear as possible. In bits, over a data set:

    c_i = H(z_i)            unit         0 ≤ c_i ≤ 1
    Σ c_i                   layer, marginal: an upper bound
    C = H(z_1 … z_n)        layer, joint
    TC = Σ c_i − C          total correlation, ≥ 0

The effective dimension is that of the layer's features (after the nonlinearity).
Complexity and dimension depend on the network *and* on the data.

The idea is that of Janik & Witaszczyk; whether their definitions are the same was not
checked. These definitions, the estimators and the verdicts are this project's own.

References:
    Janik & Witaszczyk 2020, Complexity for deep neural networks and other
    characteristics of deep feature representations, arXiv:2006.04791.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, Real

from meanfield.checks import first_bad, require
from meanfield.keys import numpy_generator

from .dimension import effective_dimension
from .joint_entropy import joint_entropy
from .layer_complexity import NetworkComplexity, judge_layer, too_few_examples

Nonlinearity = Callable[[np.ndarray], Any]


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0), the default nonlinearity."""
    return np.maximum(x, 0)


def measure_complexity(
    activations: Mapping[str, Any],
    *,
    key: PRNGKeyArray,
    data: str = "",
    activation: Nonlinearity = relu,
    threshold: float | int = 0.0,
    joint: bool = True,
    num_terms: int = 32,
    num_permutations: int = 3,
    num_shuffles: int = 3,
) -> NetworkComplexity:
    r"""Entropic complexity and effective dimension of every layer.

    Args:
        activations: layer name -> pre-activations a, (examples, units) or (examples,
            channels, positions …), in forward order; see `layer_activations`. For a
            convolution a unit is a channel, and each example contributes one random
            position, so that samples are independent.
        key: a `jax.random.key` for positions, order of units, folds and nulls.
        data: name of the data, for the result.
        activation: φ of every layer but the last; the features of the last layer are
            its outputs.
        threshold: a unit is on if a > threshold. 0 is the kink of ReLU; for a smooth φ
            it is a convention.
        joint: whether to estimate joint entropies too (the expensive part).
        num_terms: terms of the chain rule to fit in a wide layer.
        num_permutations: shuffled copies for the null of the total correlation.
        num_shuffles: shuffled copies for the null of the dimension.

    Returns:
        A `NetworkComplexity`. A layer with fewer than 50 examples, or fewer examples
        than units, has the verdict "cannot tell", and None for undefined results.

    Raises:
        ValueError: no layers, a layer that is not (examples, units, …), layers with
            different numbers of examples, or NaN or infinity.

    Example:
        >>> import jax, numpy as np
        >>> from meanfield.physics.complexity.measure import measure_complexity
        >>> a = np.random.default_rng(0).normal(size=(1000, 3))
        >>> a = np.c_[a, a[:, 0], np.ones(1000)]          # a copy, an always-on unit
        >>> result = measure_complexity({"layer": a}, key=jax.random.key(0))
        >>> layer = result.layers[0]
        >>> round(layer.marginal), round(layer.joint.bits), layer.always_on
        (4, 3, 1)

    References:
        Janik & Witaszczyk 2020, arXiv:2006.04791.
    """
    arrays = _checked(activations)
    last = list(arrays)[-1]
    keys = jax.random.split(key, len(arrays))
    layers = []
    for layer_key, (name, values) in zip(keys, arrays.items(), strict=True):
        row_key, joint_key, dimension_key = jax.random.split(layer_key, 3)
        rows = _one_position(values, numpy_generator(row_key, spawn_key=(1,))).astype(
            np.float64
        )
        features = rows if name == last else np.asarray(activation(rows))
        require(
            features.shape == rows.shape and bool(np.isfinite(features).all()),
            "`activation` must return finite values of the shape of its input, "
            f"{rows.shape} in {name!r}; got shape {features.shape}"
            + (
                "."
                if features.shape != rows.shape
                else " with NaN or infinity among them."
            ),
        )
        states = rows > threshold
        reason = too_few_examples(*rows.shape)
        layers.append(
            judge_layer(
                name,
                states,
                joint_entropy(
                    states,
                    key=joint_key,
                    num_terms=num_terms,
                    num_permutations=num_permutations,
                )
                if joint and not reason
                else None,
                effective_dimension(
                    features, key=dimension_key, num_shuffles=num_shuffles
                )
                if not reason and (features != features[:1]).any()
                else None,
                reason,
            )
        )
    return NetworkComplexity(data, tuple(layers))


def _checked(activations: Mapping[str, Any]) -> dict[str, np.ndarray]:
    require(
        len(activations) > 0,
        "`activations` must hold at least one layer; got none. Record them with "
        "`layer_activations`.",
    )
    arrays = {}
    for name, values in activations.items():
        array = np.asarray(values)
        require(
            array.ndim >= 2 and array.size > 0,
            f"`activations` of {name!r} must have shape (examples, units) or "
            "(examples, channels, positions …) and not be empty; got shape "
            f"{array.shape}.",
        )
        require(
            jnp.issubdtype(array.dtype, np.floating) or array.dtype.kind in "iub",
            f"`activations` of {name!r} must be real numbers; got {array.dtype}.",
        )
        finite = np.isfinite(array)
        require(
            bool(finite.all()),
            f"`activations` of {name!r} must be finite; got NaN or infinity at "
            f"{first_bad(~finite) if not finite.all() else ()}.",
        )
        arrays[name] = array
    counts = {name: len(array) for name, array in arrays.items()}
    require(
        len(set(counts.values())) == 1,
        f"`activations` must come from the same examples in every layer; got {counts}.",
    )
    return arrays


def _one_position(
    values: np.ndarray, rng: np.random.Generator
) -> Real[np.ndarray, "examples units"]:
    """(examples, units), for a convolution one random position for each example."""
    if values.ndim == 2:
        return values
    flat = values.reshape(*values.shape[:2], -1)
    chosen = rng.integers(flat.shape[2], size=len(flat))
    return flat[np.arange(len(flat)), :, chosen]
