import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meanfield.data import shift_images


def shifted(image, down, right):
    """The slow way: move, then black out what came around."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                out[i + down, j + right] = image[i, j]
    return out


@pytest.mark.parametrize("shape", [(5, 7), (6, 4, 3)])
def test_every_image_is_moved_by_an_offset_of_its_own(shape):
    images = np.random.default_rng(0).uniform(1, 2, (300, *shape)).astype(np.float32)
    flat = jnp.asarray(images.reshape(300, -1))
    moved = shift_images(shape, most=1)(flat, key=jax.random.key(3))
    offsets = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    counts = dict.fromkeys(offsets, 0)
    for image, result in zip(
        images, np.asarray(moved).reshape(images.shape), strict=True
    ):
        fits = [o for o in offsets if np.array_equal(shifted(image, *o), result)]
        assert len(fits) == 1
        counts[fits[0]] += 1
    deviation = np.sqrt(300 * (1 / 9) * (8 / 9))
    assert all(abs(count - 300 / 9) < 5 * deviation for count in counts.values())


def test_no_shift_is_the_batch_itself_and_equal_settings_are_one_function():
    x = jax.random.normal(jax.random.key(0), (4, 6, 6))
    assert np.array_equal(shift_images((6, 6), most=0)(x, key=jax.random.key(1)), x)
    assert shift_images((6, 6), 2) is shift_images([6, 6], 2)


def test_shapes_that_are_no_image_are_refused():
    with pytest.raises(ValueError, match=r"`shape` must be \(height, width\)"):
        shift_images((784,))
    with pytest.raises(ValueError, match=r"`most` must be at least 0 and less"):
        shift_images((28, 28), most=28)
