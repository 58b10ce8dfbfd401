"""Random shifts of images, for `fit(augment=...)`."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.checks import require


def shift_images(shape: Sequence[int], most: int = 1) -> Callable[..., Array]:
    """Shift every image of a batch by its own random whole number of pixels.

    Both offsets are uniform on −most … most. Empty pixels are filled with 0.

    Args:
        shape: shape of one image: (height, width) or (height, width, channels).
        most: largest offset, in pixels.

    Returns:
        ``augment(x, key=key)`` for batches of images, flat or not.

    Raises:
        ValueError: `shape` does not have two or three axes, or `most` is too large.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from meanfield.data import shift_images
        >>> augment = shift_images((28, 28), most=2)
        >>> augment(jnp.ones((4, 784)), key=jax.random.key(0)).shape
        (4, 784)
    """
    shape = tuple(shape)
    require(
        len(shape) in (2, 3) and min(shape) >= 1,
        "`shape` must be (height, width) or (height, width, channels) of one image; "
        f"got {shape}.",
    )
    require(
        0 <= most < min(shape[:2]),
        "`most` must be at least 0 and less than the height and the width of the "
        f"images; got {most} for images of shape {shape}.",
    )
    return _shift(shape, int(most))


@functools.lru_cache(maxsize=64)
def _shift(shape: tuple[int, ...], most: int) -> Callable[..., Array]:
    """Cached, so that equal arguments give the same function and compile only once."""
    margin = [(most, most)] * 2 + [(0, 0)] * (len(shape) - 2)

    def augment(x: Float[Array, "batch ..."], *, key: PRNGKeyArray) -> Array:
        images = x.reshape(-1, *shape)
        offsets = jax.random.randint(key, (len(images), 2), 0, 2 * most + 1)
        starts = jnp.pad(offsets, ((0, 0), (0, len(shape) - 2)))
        wide = jnp.pad(images, [(0, 0), *margin])
        moved = jax.vmap(lambda i, start: jax.lax.dynamic_slice(i, start, shape))
        return moved(wide, starts).reshape(x.shape)

    return augment
