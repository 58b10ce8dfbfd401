"""Ordinary Equinox networks, for users who have data but no model."""

from collections.abc import Sequence

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from meanfield.checks import require


def mlp(
    widths: Sequence[int], *, key: PRNGKeyArray, activation=jax.nn.relu
) -> eqx.nn.MLP:
    """A multilayer perceptron whose hidden layers may differ in width.

    Args:
        widths: inputs, hidden layers, outputs.
        key: a `jax.random.key` for the initial weights.
        activation: activation between the layers.

    Returns:
        An `equinox.nn.MLP` with parameters ``layers/0/weight``, ``layers/0/bias``, …

    Raises:
        ValueError: fewer than two widths, or one that is not positive.

    Example:
        >>> import jax
        >>> from meanfield.ensemble.networks import mlp
        >>> network = mlp((4, 8, 3), key=jax.random.key(0))
        >>> [layer.out_features for layer in network.layers]
        [8, 3]
    """
    require(
        len(widths) >= 2 and min(widths) >= 1,
        f"`widths` must be inputs, hidden layers and outputs, all positive; got "
        f"{tuple(widths)}.",
    )
    keys = jax.random.split(key, len(widths))
    depth = len(widths) - 2
    frame = eqx.nn.MLP(
        widths[0], widths[-1], widths[1], depth, activation, key=keys[-1]
    )
    layers = tuple(
        eqx.nn.Linear(inputs, outputs, key=layer_key)
        for inputs, outputs, layer_key in zip(
            widths[:-1], widths[1:], keys[:-1], strict=True
        )
    )
    return eqx.tree_at(lambda network: network.layers, frame, layers)
