"""Ordinary Equinox networks, for users who have data but no model."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.checks import require

# Channels of the two convolutions of `cnn`.
CHANNELS = (16, 32)


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


class CNN(eqx.Module):
    """Two convolutions of stride 2, then a multilayer perceptron; for one image.

    Attributes:
        convolutions: 3 × 3, to 16 and to 32 channels.
        head: perceptron from their features to the outputs.
        shape: shape of an image, (rows, columns) or (rows, columns, channels).
    """

    convolutions: tuple[eqx.nn.Conv2d, ...]
    head: eqx.nn.MLP
    shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " outputs"]:
        """Outputs for one image."""
        x = x[None] if len(self.shape) == 2 else jnp.moveaxis(x, -1, 0)
        for layer in self.convolutions:
            x = jax.nn.relu(layer(x))
        return self.head(x.reshape(-1))


def cnn(
    shape: Sequence[int], hidden: Sequence[int], outputs: int, *, key: PRNGKeyArray
) -> CNN:
    """A small convolutional network for images of any size.

    Args:
        shape: shape of an image, (rows, columns) or (rows, columns, channels).
        hidden: widths of the layers after the convolutions.
        outputs: number of outputs for each image.
        key: a `jax.random.key` for the initial weights.

    Raises:
        ValueError: `shape` is not that of an image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from meanfield.ensemble.networks import cnn
        >>> cnn((8, 8), (10,), 3, key=jax.random.key(0))(jnp.ones((8, 8))).shape
        (3,)
    """
    require(
        len(shape) in (2, 3) and min(shape) >= 1,
        "`shape` must be (rows, columns) or (rows, columns, channels), all positive; "
        f"got {tuple(shape)}.",
    )
    channels = (shape[2] if len(shape) == 3 else 1, *CHANNELS)
    first, second, last = jax.random.split(key, 3)
    convolutions = tuple(
        eqx.nn.Conv2d(before, after, 3, stride=2, padding=1, key=layer_key)
        for before, after, layer_key in zip(
            channels[:-1], channels[1:], (first, second), strict=True
        )
    )
    # Each convolution halves the sides of the image, rounded up.
    rows, columns = (-(-side // 4) for side in shape[:2])
    widths = (rows * columns * CHANNELS[-1], *hidden, outputs)
    return CNN(convolutions, mlp(widths, key=last), tuple(shape))
