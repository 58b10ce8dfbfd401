"""Check that outputs, likelihood and targets fit, before anything is computed."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from meanfield.checks import require

from .distributions import base_of, is_categorical
from .likelihoods import AbstractLikelihood

# Number of rows that are checked at once, to bound memory.
_CHUNK = 4096


def output_distribution(
    likelihood: Callable[[Any], Any], outputs: Any
) -> dist.Distribution:
    """Distribution of the targets, after a check of its batch shape.

    Args:
        likelihood: any function from outputs to a NumPyro distribution.
        outputs: an array, or a pytree of arrays, with the batch as first axis.

    Returns:
        `likelihood(outputs)`.

    Raises:
        ValueError: the result is not a distribution, or has another batch shape.
    """
    batch = _batch_size(outputs)
    distribution = likelihood(outputs)
    require(
        isinstance(distribution, dist.Distribution),
        "`likelihood` must map the network's outputs to a NumPyro distribution; got "
        f"{type(distribution).__name__}. Return for example "
        "numpyro.distributions.Normal(outputs, 1.0).to_event(1).",
    )
    shape = tuple(distribution.batch_shape)
    extra = len(shape) - 1
    require(
        shape == (batch,),
        f"`likelihood` must return a distribution of batch shape ({batch},), one for "
        f"each example; got batch shape {shape} and event shape "
        f"{tuple(distribution.event_shape)}."
        + (f" Append .to_event({extra})." if shape[:1] == (batch,) and extra else ""),
    )
    return distribution


def align_targets(distribution: dist.Distribution, targets: Any) -> Array:
    """Targets in the shape and type in which the distribution scores them.

    Only unambiguous changes are made: (batch,) becomes (batch, 1) for a network with
    one output, and the reverse; booleans become integers.

    Args:
        distribution: distribution of the targets, batch shape (batch,).
        targets: the observed targets.

    Returns:
        Targets of shape batch shape + event shape.

    Raises:
        ValueError: another shape, or labels that are not of an integer type.
    """
    return _aligned(distribution, jnp.asarray(targets))


def log_prob(
    likelihood: Callable[[Any], Any], outputs: Any, targets: Any
) -> Float[Array, " batch"]:
    """Log-likelihood ln P(target | outputs) of every example, in nats.

    Args:
        likelihood: any function from outputs to a NumPyro distribution.
        outputs: outputs of the network for a batch.
        targets: the observed targets.

    Returns:
        One number for each example; further axes of a target are summed.

    Raises:
        ValueError: the result of `likelihood` is not a distribution, or shapes do not
            fit.
    """
    distribution = output_distribution(likelihood, outputs)
    return jnp.asarray(distribution.log_prob(align_targets(distribution, targets)))


def check_targets(likelihood: Callable[[Any], Any], outputs: Any, targets: Any) -> None:
    """Raise for targets outside the support of the likelihood.

    The network is not evaluated; zeros, and then ones, are used as its outputs. The
    support is checked only if it is the same for both.

    Args:
        likelihood: any function from outputs to a NumPyro distribution.
        outputs: outputs for a batch of any size, or their `jax.ShapeDtypeStruct`.
        targets: all the targets, (examples, ...).

    Raises:
        ValueError: no distribution, a wrong batch shape, targets of another shape or
            type, NaN, or a target outside the support.
    """
    targets = np.asarray(targets)
    require(
        targets.ndim >= 1 and len(targets) > 0,
        f"`targets` must hold at least one example; got shape {targets.shape}.",
    )
    require(
        targets.dtype.kind in "biuf",
        f"`targets` must be numbers; got dtype {targets.dtype}. Encode text or objects "
        "as whole numbers first.",
    )
    for start in range(0, len(targets), _CHUNK):
        _check_chunk(likelihood, outputs, targets[start : start + _CHUNK], start)


def _check_chunk(
    likelihood: Callable[[Any], Any], outputs: Any, chunk: np.ndarray, start: int
) -> None:
    # Our likelihoods give valid parameters for all outputs; a check of these would
    # compile five programs.
    own = isinstance(likelihood, AbstractLikelihood)
    with numpyro.validation_enabled(False) if own else contextlib.nullcontext():
        zeros = _filled(outputs, len(chunk), 0.0)
        distribution = output_distribution(likelihood, zeros)
        # NaN is checked first, because it is more common and has a clearer message.
        _refuse(np.isnan(chunk), chunk, start, "numbers, not NaN", "Drop the row")
        support = distribution.support
        whole = _has_whole_support(distribution)
        if whole and chunk.dtype.kind == "f":
            _refuse(chunk % 1 != 0, chunk, start, "whole numbers", "Encode the labels")
        with np.errstate(over="ignore"):  # Cast as in training; it may overflow.
            kept = jax.dtypes.canonicalize_dtype(chunk.dtype)
            aligned = _aligned(distribution, chunk.astype(kept))
        other = output_distribution(likelihood, _filled(outputs, len(chunk), 1.0))
        if support is None or support != other.support:
            return
        outside = ~np.asarray(support(aligned))
        if outside.any():
            words = _support_words(distribution)
            _refuse(outside, chunk, start, words, "Check the labels")


def num_outputs(likelihood: Any, targets: Any) -> int:
    """Number of network outputs that a likelihood needs for these targets.

    Args:
        likelihood: one of this package's likelihoods.
        targets: all the targets, (examples, ...).

    Returns:
        The number of outputs: classes, targets, or twice the targets if the noise is
        also an output.

    Raises:
        ValueError: the likelihood is a plain function.

    Example:
        >>> from meanfield.learning.targets import num_outputs
        >>> import meanfield as mf
        >>> num_outputs(mf.Gaussian(scale="input"), [[0.1, 0.2], [0.3, 0.4]])
        4
    """
    require(
        isinstance(likelihood, AbstractLikelihood),
        "`likelihood` must be one of meanfield's likelihoods; got a plain function, "
        "whose number of outputs is not known. Build the network yourself.",
    )
    return likelihood.num_outputs(targets)


def _aligned(distribution: dist.Distribution, targets: Any) -> Any:
    """Targets of the needed shape and type; NumPy arrays stay NumPy arrays."""
    wanted = tuple(distribution.batch_shape) + tuple(distribution.event_shape)
    if targets.dtype == bool:
        targets = targets.astype(int)
    require(
        targets.shape == wanted
        or _without_ones(targets.shape) == _without_ones(wanted),
        f"`targets` must have shape {wanted} for these outputs; got {targets.shape}."
        + _shape_advice(distribution, targets.shape, wanted),
    )
    require(
        not (is_categorical(distribution) and _is_floating(targets)),
        f"`targets` must be labels of an integer type; got {targets.dtype}. Convert "
        "with targets.astype(int), or choose a likelihood for real targets.",
    )
    return targets.reshape(wanted)


def _batch_size(outputs: Any) -> int:
    leaves = jax.tree.leaves(outputs)
    require(
        bool(leaves) and all(len(leaf.shape) > 0 for leaf in leaves),
        "`outputs` must be arrays whose first axis is the batch; got "
        f"{[getattr(leaf, 'shape', leaf) for leaf in leaves]}.",
    )
    sizes = {leaf.shape[0] for leaf in leaves}
    require(
        len(sizes) == 1,
        f"`outputs` must agree on the size of the batch; got {sorted(sizes)}.",
    )
    return sizes.pop()


def _filled(outputs: Any, batch: int, value: float) -> Any:
    # Filled by NumPy, because JAX compiles a program for each new shape.
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.full((batch, *leaf.shape[1:]), value, leaf.dtype)),
        outputs,
    )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without trailing axes of length one, except the batch axis."""
    return shape if len(shape) < 2 or shape[-1] != 1 else _without_ones(shape[:-1])


def _has_whole_support(distribution: Any) -> bool:
    support = base_of(distribution).support
    return support is not None and bool(support.is_discrete)


def _is_floating(targets: Any) -> bool:
    return bool(jnp.issubdtype(targets.dtype, jnp.floating))


def _shape_advice(distribution: Any, got: tuple, wanted: tuple) -> str:
    if is_categorical(distribution) and len(got) == len(wanted) + 1:
        return " Labels are whole numbers, not one-hot rows: take targets.argmax(-1)."
    return " One target belongs to each example and output."


def _support_words(distribution: Any) -> str:
    base = base_of(distribution)
    if is_categorical(distribution):
        return f"labels 0 … {base.probs.shape[-1] - 1}, one for each output"
    return f"in the support of {type(base).__name__}, {base.support}"


def _refuse(
    bad: np.ndarray, targets: np.ndarray, start: int, needed: str, advice: str
) -> None:
    if not bad.any():
        return
    row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
    raise ValueError(
        f"`targets` must be {needed}; got {targets[row]} in row {start + row}. "
        f"{advice}, or choose another likelihood."
    )
