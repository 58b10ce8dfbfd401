"""Training data, as arrays or as an iterable of batches; checked before training."""

import functools
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from meanfield.checks import first_bad, refuse_masked, require
from meanfield.ensemble.ensemble import Ensemble

from .targets import check_targets

CHUNK = 8192
# Inputs look like raw images if rows have several axes or PIXEL_FEATURES features, and
# the first PIXEL_EXAMPLES rows hold whole numbers from 0 to a maximum in [BRIGHT, 255].
PIXEL_EXAMPLES, PIXEL_FEATURES, BRIGHT = 256, 64, 200


def array_data(data: Any) -> tuple[Any, Any] | None:
    """Inputs and targets as arrays, or None when `data` is an iterable of batches.

    Raises:
        ValueError: there are no examples, inputs and targets differ in number, or one
            is NaN or infinite.
        TypeError: `data` is neither a pair of arrays nor an iterable.
    """
    batches = callable(data) or hasattr(data, "__iter__")
    if batches and not (isinstance(data, tuple) and len(data) == 2):
        return None
    return array_pair(data, hint="An iterable of such batches is accepted too.")


def array_pair(data: Any, name: str = "data", hint: str = "") -> tuple[Any, Any]:
    """Inputs and targets as arrays, of the same number of examples.

    Args:
        data: a pair (x, y).
        name: name of the caller's argument, for the message.
        hint: additional advice for the message.

    Raises:
        ValueError: there are no examples, inputs and targets differ in number, or one
            is NaN or infinite.
        TypeError: `data` is not a pair.
    """
    if not (isinstance(data, tuple) and len(data) == 2):
        raise TypeError(
            f"`{name}` must be a pair of arrays (x, y); got {type(data).__name__}. "
            f"{hint}".rstrip()
        )
    x = input_arrays(data[0], f"{name}` inputs `x")
    y = jax.tree.map(_array, data[1])
    leaves = jax.tree.leaves(y)
    examples = len(jax.tree.leaves(x)[0])
    require(
        bool(leaves) and all(leaf.shape[:1] == (examples,) for leaf in leaves),
        f"`{name}` must have one target for each example; got {examples} examples and "
        f"targets of shape {[leaf.shape for leaf in leaves[:4]]}.",
    )
    for leaf in leaves:
        _refuse_non_finite(leaf, f"`{name}` targets `y`")
    return x, y


def warn_of_raw_images(x: Any) -> None:
    """Warn if the first inputs seem to be pixels from 0 to 255.

    Rows of integers other than bytes cause no warning, because they may be tokens.
    """
    for leaf in jax.tree.leaves(x):
        some = np.asarray(leaf[:PIXEL_EXAMPLES])
        pixels = some.ndim >= 3 or (some.ndim == 2 and some.shape[1] >= PIXEL_FEATURES)
        tokens = some.ndim == 2 and some.dtype.kind in "iu" and some.dtype != np.uint8
        if not pixels or tokens or some.dtype.kind not in "iuf":
            continue
        whole = some.dtype.kind in "iu" or bool((some == np.rint(some)).all())
        if whole and some.min() >= 0 and BRIGHT <= some.max() <= 255:
            warnings.warn(
                f"`data` inputs look like raw images, whole numbers from 0 to "
                f"{some.max():g}. Weights start for inputs of about unit size: divide "
                "by 255, as meanfield.data does, or standardise.",
                stacklevel=4,
            )


def input_arrays(x: Any, name: str) -> Any:
    """Inputs as device arrays with the examples along the first axis.

    Raises:
        ValueError: there are no inputs, they differ in number, or a feature is NaN or
            infinite.
    """
    x = jax.tree.map(_array, x)
    leaves = jax.tree.leaves(x)
    shapes = [leaf.shape for leaf in leaves]
    require(
        bool(leaves) and all(len(shape) >= 1 for shape in shapes),
        f"`{name}` must be arrays with the examples along the first axis; got shapes "
        f"{shapes[:4]}.",
    )
    require(
        len({shape[0] for shape in shapes}) == 1,
        f"`{name}` must agree on the number of examples; got shapes {shapes[:4]}.",
    )
    require(shapes[0][0] > 0, f"`{name}` must have at least one example; got none.")
    for leaf in leaves:
        _refuse_non_finite(leaf, f"`{name}`")
    return x


def check_batch(
    ensemble: Ensemble, likelihood: Any, x: Any, y: Any, name: str = "data"
) -> Any:
    """Raise if inputs do not fit the network or targets do not fit the likelihood.

    Returns:
        Shapes of the outputs for x.

    Raises:
        ValueError: the inputs or the targets do not fit.
    """
    shapes = check_inputs(ensemble, x, name)
    check_targets(likelihood, shapes, y)
    return shapes


def check_inputs(ensemble: Ensemble, x: Any, name: str = "data") -> Any:
    """Raise if the shape or type of inputs does not fit the network.

    Returns:
        Shapes of the outputs.

    Raises:
        ValueError: the inputs do not fit; includes the network's own error.
    """
    try:
        arrays, static = eqx.partition(ensemble, eqx.is_array)
        leaves, treedef = jax.tree.flatten(static)
        return _outputs.eval_shape(arrays, x, (treedef, tuple(leaves)))
    except (TypeError, ValueError, IndexError) as error:
        got = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", x)
        raise ValueError(
            f"`{name}` must be a batch that the model accepts, first axis the "
            f"examples; got {got}, for which the model raises: {error}"
        ) from error


@functools.partial(jax.jit, static_argnums=2)
def _outputs(arrays: Ensemble, x: Any, static: tuple[Any, tuple[Any, ...]]) -> Any:
    """Outputs for a batch; a function of its own, so that JAX caches its trace."""
    treedef, leaves = static
    ensemble = eqx.combine(arrays, jax.tree.unflatten(treedef, leaves))
    return outputs_of(ensemble)(x)


def check_augment(augment: Any, x: Any, batch_size: int | None = None) -> None:
    """Raise if an augmentation changes the shape or type of a batch.

    Raises:
        ValueError: `augment` changes them, or does not accept the batch.
    """
    if augment is None:
        return
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((batch_size or len(a), *a.shape[1:]), a.dtype), x
    )
    changed = jax.eval_shape(
        lambda x, key: augment(x, key=key), batch, jax.random.key(0)
    )
    before, after = (
        jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)
        for tree in (batch, changed)
    )
    require(
        before == after,
        f"`augment` must return a batch like its input, {before}; got "
        f"{after}. It is called as augment(x, key=key).",
    )


def outputs_of(ensemble: Ensemble) -> Any:
    """The ensemble as a function of a batch alone, for tracing."""
    network = ensemble.network
    return lambda x: network(ensemble.params, x, key=jax.random.key(0))


def iterate(data: Any, epoch: int) -> Iterator[tuple[Any, Any]]:
    """The batches of one epoch, as device arrays.

    Raises:
        ValueError: `data` is an iterator that can be used only once, or a batch is not
            a pair.
    """
    batches: Any = data() if callable(data) else data
    once = inspect.isgenerator(data) or (not callable(data) and iter(data) is data)
    require(
        not once,
        "`data` must give all batches in every epoch; got an iterator, which can be "
        "used only once. Pass a list, a loader, or a function that makes an iterator.",
    )
    for number, batch in enumerate(batches):
        require(
            isinstance(batch, tuple | list) and len(batch) == 2,
            f"`data` must give (x, y) batches; batch {number} is a "
            f"{type(batch).__name__}.",
        )
        yield array_pair(tuple(batch), name=f"data batch {number}")


def _array(value: Any) -> Any:
    """A device array; Python floats and NumPy float64 become the default float type."""
    if isinstance(value, jax.Array):
        return value
    refuse_masked("data", value)
    value = np.asarray(value)
    require(
        value.dtype != object and value.dtype.kind not in "USM",
        f"`data` must be numbers; got dtype {value.dtype}. Encode texts and dates "
        "first, for example with meanfield.data.table.",
    )
    # Numbers that overflow become infinite, which raises an error.
    with np.errstate(over="ignore"):
        array = jnp.asarray(value)
    _refuse_changed(value, array)
    return array


def _refuse_changed(value: np.ndarray, array: Any) -> None:
    """Raise if whole numbers overflow in the new type, or all real numbers become 0."""
    if value.dtype.kind in "iu" and value.size:
        limits = jnp.iinfo(array.dtype)
        least, most = int(value.min()), int(value.max())
        require(
            limits.min <= least and most <= limits.max,
            f"`data` must fit {array.dtype}; got the whole number "
            f"{most if most > limits.max else least}. Number classes from 0, give "
            "features as real numbers, or set jax_enable_x64.",
        )
    if value.dtype == np.float64 and array.dtype == jnp.float32 and value.any():
        require(
            bool(jnp.any(array)),
            f"`data` must not be too small for {array.dtype}; got numbers up to "
            f"{np.abs(value).max():g}, which would all become 0. Scale them first.",
        )


def _refuse_non_finite(array: Any, what: str) -> None:
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return
    if {device.platform for device in array.devices()} == {"cpu"}:
        # NumPy needs no copy and compiles nothing.
        array = np.asarray(array) if array.is_fully_addressable else array
    for start in range(0, array.shape[0], CHUNK):
        chunk = array[start : start + CHUNK]
        if not _all_finite(chunk):
            row, *rest = first_bad(~np.isfinite(np.asarray(chunk)))
            place = f"row {start + row}" + (f", position {tuple(rest)}" if rest else "")
            raise ValueError(
                f"{what} must be finite; got NaN or infinity in {place}. Clean or "
                "impute the data first."
            )


def _all_finite(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return bool(np.isfinite(array).all())
    return bool(_all_finite_there(array))


@jax.jit
def _all_finite_there(array: Array) -> Array:
    return jnp.isfinite(array).all()
