r"""Likelihoods: from the outputs of a network to a distribution of its targets.

    outputs (batch, ...)  →  NumPyro distribution with batch shape (batch,)

A likelihood is any such function. Those of this module are frozen pytrees whose only
array leaves are trainable parameters (a learned noise scale), so that an optimizer can
update them together with the network; everything fixed is static.
"""

import math
from abc import abstractmethod
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from meanfield.checks import is_concrete, require

# Smallest scale: at 0 the density of a target at the mean would be infinite.
SMALLEST_SCALE = 1e-6
# exp(±80) is representable in float32.
LARGEST_LOG_RATE = 80.0


class AbstractLikelihood(eqx.Module):
    """A function from network outputs to a NumPyro distribution of the targets."""

    @abstractmethod
    def __call__(self, outputs: Any) -> dist.Distribution:
        """Distribution of the targets, with batch shape (batch,)."""

    @abstractmethod
    def num_outputs(self, targets: Any) -> int:
        """Number of network outputs that these targets need."""


class Categorical(AbstractLikelihood):
    """Classes 0 … K − 1 with the outputs as logits, P(y = k) = softmax(outputs)_k.

    Outputs (batch, classes) need integer targets (batch,). With further axes before the
    classes, every position has its own class.

    Example:
        >>> import jax.numpy as jnp, meanfield as mf
        >>> mf.Categorical()(jnp.zeros((2, 4))).probs[0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    def __call__(self, outputs: Float[Array, "batch ..."]) -> dist.Distribution:
        """Distribution of the labels."""
        require(
            outputs.ndim >= 2,
            "`outputs` of a Categorical likelihood must be (batch, ..., classes); got "
            f"shape {outputs.shape}. For two classes and one output use Bernoulli().",
        )
        return dist.CategoricalLogits(outputs).to_event(outputs.ndim - 2)

    def num_outputs(self, targets: Any) -> int:
        """Number of classes: the largest label plus one."""
        targets = np.asarray(targets)
        require(
            np.issubdtype(targets.dtype, np.integer) and targets.size > 0,
            "`targets` of a Categorical likelihood must be whole numbers 0, 1, …; got "
            f"{targets.size} values of dtype {targets.dtype}. Encode the classes.",
        )
        return int(targets.max()) + 1


class Bernoulli(AbstractLikelihood):
    """Targets 0 or 1 with the outputs as logits, P(y = 1) = sigmoid(output).

    Outputs (batch,) or (batch, k); k outputs are for k independent binary targets.
    """

    def __call__(self, outputs: Float[Array, "batch ..."]) -> dist.Distribution:
        """Distribution of the targets."""
        return _independent(dist.BernoulliLogits(outputs), outputs)

    def num_outputs(self, targets: Any) -> int:
        """One logit for each target."""
        return _width(targets)


class Poisson(AbstractLikelihood):
    """Counts 0, 1, … with rate exp(output).

    The logarithm of the rate is clipped to ±80, so that the rate is representable in
    float32.
    """

    def __call__(self, outputs: Float[Array, "batch ..."]) -> dist.Distribution:
        """Distribution of the counts."""
        log_rate = jnp.clip(outputs, -LARGEST_LOG_RATE, LARGEST_LOG_RATE)
        return _independent(dist.Poisson(jnp.exp(log_rate)), outputs)

    def num_outputs(self, targets: Any) -> int:
        """One logarithm of a rate for each count."""
        return _width(targets)


class _Scale(eqx.Module):
    """A noise scale: fixed (static), learned (one leaf), or read from the outputs."""

    fixed: Any = eqx.field(static=True)
    raw: Float[Array, "..."] | None

    def split(self, outputs: Array) -> tuple[Array, Array]:
        """Location and scale."""
        if self.raw is not None:
            return outputs, _positive(self.raw.astype(outputs.dtype))
        if self.fixed is not None:
            return outputs, jnp.asarray(self.fixed, outputs.dtype)
        width = outputs.shape[-1] if outputs.ndim > 1 else 1
        require(
            outputs.ndim >= 2 and width % 2 == 0,
            "`scale='input'` needs outputs whose last axis has even length, for "
            f"locations and raw scales; got shape {outputs.shape}. Give the network "
            "two outputs for each target.",
        )
        location, raw = jnp.split(outputs, 2, axis=-1)
        return location, _positive(raw)

    @property
    def outputs_per_target(self) -> int:
        """Network outputs needed for one target."""
        return 2 if self.raw is None and self.fixed is None else 1


class Gaussian(AbstractLikelihood):
    r"""Real targets with normal noise, y ~ N(output, scale²).

    Args:
        scale: `"learned"` (default): one trainable number, or one per output if
            `initial_scale` has that shape; a fixed positive number, or one per output;
            or `"input"`: the last axis of the outputs has first the means, then as many
            raw scales, which softplus makes positive.
        initial_scale: initial value of a learned scale, in units of the targets.

    Raises:
        ValueError: a scale is not positive, or an unknown string.

    Example:
        >>> import jax.numpy as jnp, meanfield as mf
        >>> noise = mf.Gaussian(scale="input")(jnp.zeros((8, 2)))
        >>> noise.batch_shape, noise.event_shape
        ((8,), (1,))
    """

    _scale: _Scale

    def __init__(
        self,
        scale: Any | Literal["learned", "input"] = "learned",
        initial_scale: Any = 1.0,
    ):
        self._scale = _make_scale(scale, initial_scale)

    def __call__(self, outputs: Float[Array, "batch ..."]) -> dist.Distribution:
        """Distribution of the targets."""
        mean, scale = self._scale.split(outputs)
        scale = _broadcast_scale(scale, mean)
        return _independent(dist.Normal(mean, scale), mean)

    def num_outputs(self, targets: Any) -> int:
        """One mean for each target, and one raw scale with `scale="input"`."""
        return self._scale.outputs_per_target * _width(targets)

    @property
    def scale(self) -> Float[Array, "..."]:
        """Standard deviation of the noise, if it does not depend on the input."""
        return _constant_scale(self._scale)


class StudentT(AbstractLikelihood):
    r"""Real targets with heavy-tailed noise, y = output + scale · t, t ~ Student(df).

    Args:
        df: degrees of freedom ν > 0; the variance is finite for ν > 2.
        scale: as in `Gaussian`: `"learned"`, a positive number, or `"input"`.
        initial_scale: initial value of a learned scale, in units of the targets.

    Raises:
        ValueError: `df` or a scale is not positive, or an unknown string.
    """

    df: float = eqx.field(static=True)
    _scale: _Scale

    def __init__(
        self,
        df: float = 4.0,
        scale: Any | Literal["learned", "input"] = "learned",
        initial_scale: Any = 1.0,
    ):
        require(
            math.isfinite(df) and df > 0,
            f"`df` must be a positive number; got {df}. 4 is a usual choice; for "
            "normal noise use Gaussian().",
        )
        self.df = float(df)
        self._scale = _make_scale(scale, initial_scale)

    def __call__(self, outputs: Float[Array, "batch ..."]) -> dist.Distribution:
        """Distribution of the targets."""
        location, scale = self._scale.split(outputs)
        scale = _broadcast_scale(scale, location)
        return _independent(dist.StudentT(self.df, location, scale), location)

    def num_outputs(self, targets: Any) -> int:
        """One location for each target, and one raw scale with `scale="input"`."""
        return self._scale.outputs_per_target * _width(targets)

    @property
    def scale(self) -> Float[Array, "..."]:
        """Scale of the noise, if it does not depend on the input."""
        return _constant_scale(self._scale)


def _independent(distribution: dist.Distribution, outputs: Array) -> dist.Distribution:
    return distribution.to_event(outputs.ndim - 1)


def _positive(raw: Array) -> Array:
    return jax.nn.softplus(raw) + SMALLEST_SCALE


def _make_scale(scale: Any, initial_scale: Any) -> _Scale:
    if isinstance(scale, str):
        require(
            scale in ("learned", "input"),
            f"`scale` must be a positive number, 'learned' or 'input'; got {scale!r}.",
        )
        if scale == "input":
            return _Scale(fixed=None, raw=None)
        start = _positive_numbers("initial_scale", initial_scale)
        # The inverse of softplus, ln(eˢ − 1), in a form that does not overflow.
        start = np.maximum(start - SMALLEST_SCALE, SMALLEST_SCALE)
        return _Scale(fixed=None, raw=jnp.asarray(start + np.log(-np.expm1(-start))))
    return _Scale(fixed=_as_tuples(_positive_numbers("scale", scale)), raw=None)


def _positive_numbers(name: str, value: Any) -> np.ndarray:
    require(
        is_concrete(value),
        f"`{name}` must be a number and not a traced value; got {value}. Build the "
        "likelihood outside of jit, and use scale='learned' to train it.",
    )
    numbers = np.asarray(value, np.float64)
    require(
        bool((np.isfinite(numbers) & (numbers > 0)).all()),
        f"`{name}` must be positive and finite; got {value}. It is a standard "
        "deviation in units of the targets.",
    )
    return numbers


def _as_tuples(numbers: Any) -> Any:
    """Nested tuples of floats: hashable, as static fields must be."""
    return tuple(map(_as_tuples, numbers)) if np.ndim(numbers) else float(numbers)


def _broadcast_scale(scale: Array, location: Array) -> Array:
    outputs = location.shape[1:]
    fits = scale.ndim <= location.ndim - 1 or scale.shape == location.shape
    require(
        fits
        and all(
            size in (1, width)
            for size, width in zip(
                reversed(scale.shape), reversed(location.shape), strict=False
            )
        ),
        f"`scale` must fit outputs of shape {outputs} for one example; got shape "
        f"{scale.shape}. Give one number, or one for each output.",
    )
    return jnp.broadcast_to(scale, location.shape)


def _constant_scale(scale: _Scale) -> Array:
    require(
        scale.outputs_per_target == 1,
        "`scale` depends on the input here; take it from the distribution, "
        "likelihood(outputs).",
    )
    return scale.split(jnp.zeros((), jnp.result_type(float)))[1]


def _width(targets: Any) -> int:
    """Numbers in one target."""
    return int(np.prod(np.shape(targets)[1:], dtype=int))
