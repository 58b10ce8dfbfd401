r"""Moments between two contractions: functions of one random array.

The result of a contraction is treated as an array of independent Gaussian entries, the
root. All steps up to the next contraction (activation, norm, softmax, pooling) are
together a function of this root, however often the program reads it. Moments are not
computed step by step, because this would treat x and f(x) as independent. Instead the
whole function is built up ("deferred"), and integrated when its moments are needed:

- functions of single entries (ReLU, GELU, x·sigmoid(x), …) of the root or of a
  rearrangement of it: Gauss–Legendre quadrature on both sides of the input 0, where
  activations may have a kink;
- softmax, log-softmax, logsumexp, maxima and max-pooling, layer and root-mean-square
  norms, recognised by their steps (`closed_forms`): formulas exact up to quadrature;
- other functions that mix entries: an average over antithetic standardised draws of the
  root with a fixed key, so that the result is deterministic; its relative error is
  about 1/√DRAWS.

After linear steps the exact moments are known without integration. Different roots, as
in a residual sum x + f(x) across a contraction, are treated as independent, and so are
the entries of a root. The error of the variance of x + W φ(x) is therefore twice the
covariance of its terms: 2 Σ_k μ_ik Cov(x_i, φ(x_k)) for independent weights of mean μ.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from meanfield.program.primitives import ENTRYWISE

from .delta import linearized
from .equation import Equation, UnsupportedPrimitiveError
from .noise import normal
from .values import Random, is_random

NODES = 24
REACH = 8.0
DRAWS = 256
MIXING = frozenset(
    "argmax argmin broadcast_in_dim concatenate cumlogsumexp cummax cumprod cumsum "
    "dynamic_slice dynamic_update_slice gather pad reduce_and reduce_max reduce_min "
    "reduce_or reduce_prod reduce_sum reduce_window reduce_window_max "
    "reduce_window_min reduce_window_sum reshape rev scatter scatter-add scatter-max "
    "scatter-min slice sort split squeeze top_k transpose".split()
)
LINEAR = frozenset(
    "add add_any sub neg mul div copy reduce_precision convert_element_type "
    "broadcast_in_dim cumsum dynamic_slice dynamic_update_slice gather pad reduce_sum "
    "reduce_window_sum reshape rev scatter scatter-add slice squeeze transpose "
    "select_n".split()
)
# Primitives whose results share entries of the operand, and so are not independent.
OVERLAPPING = frozenset({"cumsum", "reduce_window_sum"})


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred:
    """An array that is a function of a random one, with moments not yet computed.

    Attributes:
        root: the random array, of independent Gaussian entries.
        function: function from a value of the root to a value of this array.
        shape: shape of this array.
        source: independent Gaussian entries, those of the root or of a rearrangement of
            it, such that each entry of this array depends only on the source's entry at
            the same place; None if there is no such array.
        of_source: function from a value of the source to a value of this array.
        known: a function that computes the moments by a rule or a formula, or None.
        normal: whether the entries are independent Gaussians with the known moments.
        name: the primitive of the last step; empty for the root itself.
        params: parameters of that step.
        inputs: operands of that step, deferred or plain.
        bind: runs that step on plain arrays.
        delta: whether its moments are computed by the delta method (see the module
            `delta`).
    """

    root: Random
    function: Callable[[Any], Any]
    shape: tuple[int, ...]
    source: Random | None = None
    of_source: Callable[[Any], Any] = lambda z: z
    known: Callable[[], Random] | None = None
    normal: bool = False
    name: str = ""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    bind: Callable[..., Any] | None = None
    delta: bool = False


ClosedForm = Callable[[Deferred], Callable[[], Random] | None]


def defer(
    equation: Equation, operands: Sequence[Any], rule: Any, closed_form: ClosedForm
) -> list[Deferred] | None:
    """The results as functions of the one root that all random operands share.

    None if the operands have several roots or cannot be drawn, or if the primitive is
    not one of those that are deferred.
    """
    if equation.name not in ENTRYWISE | MIXING:
        return None
    random = [v for v in operands if isinstance(v, Deferred) or is_random(v)]
    if any(not v.drawable for v in random if isinstance(v, Random)):
        return None
    views = tuple(_view(v) for v in operands)
    deferred = [v for v in views if isinstance(v, Deferred)]
    roots = {id(v.root): v.root for v in deferred}
    if len(roots) != 1:
        return None
    (root,) = roots.values()

    def applied(field: str) -> Callable[[Any], Any]:
        return lambda value: equation.bind(
            *(getattr(v, field)(value) if isinstance(v, Deferred) else v for v in views)
        )

    function, delta = applied("function"), equation.context.delta
    if equation.many:
        shapes = [tuple(var.aval.shape) for var in equation.eqn.outvars]  # type: ignore[attr-defined]
        return [
            Deferred(root, lambda z, i=i: function(z)[i], shape, delta=delta)
            for i, shape in enumerate(shapes)
        ]
    result = Deferred(
        root,
        function,
        equation.shape,
        source=_common_source(equation, views),
        of_source=applied("of_source"),
        name=equation.name,
        params=equation.params,
        inputs=views,
        bind=equation.bind,
        delta=delta,
    )
    if rule is not None and _keeps_moments(equation, views):
        take = lambda: rule(equation, *map(settle_moments, views))
        if len(deferred) == 1 and deferred[0].normal:
            moments = take()
            take = lambda: moments
            normal = not moments.copied and equation.name not in OVERLAPPING
            result = dataclasses.replace(result, known=take, normal=normal)
            if normal and result.source is None:
                result = dataclasses.replace(
                    result, source=moments, of_source=lambda z: z
                )
            return [result]
        return [dataclasses.replace(result, known=functools.cache(take))]
    # The moments of most deferred values are never needed, so a closed form is found
    # here, but not evaluated.
    form = closed_form(result)
    return [dataclasses.replace(result, known=form and functools.cache(form))]


def dtype_of(value: Deferred) -> Any:
    """Type of the numbers of a deferred array."""
    return jax.eval_shape(value.function, value.root.mean).dtype


def settle_moments(value: Any) -> Any:
    """Compute the moments of a deferred function; other values are returned as is."""
    if not isinstance(value, Deferred):
        return value
    if value.known is not None:
        return value.known()
    root, function, kind = value.root, value.function, dtype_of(value)
    if jnp.issubdtype(kind, jnp.integer):
        raise UnsupportedPrimitiveError(
            f"`{value.name or 'an index'}` is an integer computed from the random "
            f"parameters {', '.join(map(repr, root.leaves))}, and has no mean in the "
            'moments reading. Read it with reading="sampled", or leave these '
            "parameters point values: `where=` in Ensemble.from_model."
        )
    # A condition has the mean and variance of its indicator.
    numbers = root.mean.dtype if kind == jnp.bool_ else kind
    function = lambda z: value.function(z).astype(numbers)
    if value.source is not None:
        integrate = linearized if value.delta else _by_quadrature
        entries = lambda z: value.of_source(z).astype(numbers)
        mean, var = integrate(entries, value.source)
    else:
        mean, var = _by_draws(function, root)
        mean = function(root.mean) if value.delta else mean
    return Random(mean, var, root.leaves, drawable=True)


def _view(value: Any) -> Any:
    """A root as a deferred value, with the identity as its function."""
    if is_random(value):
        independent, itself = not value.copied, lambda: value
        return Deferred(
            value,
            lambda z: z,
            value.shape,
            source=value,
            known=itself,
            normal=independent,
        )
    return value


def _common_source(equation: Equation, views: Sequence[Any]) -> Random | None:
    """The entries on which all operands of a step that acts entry by entry depend."""
    sources = {id(v.source): v.source for v in views if isinstance(v, Deferred)}
    (source, *others) = sources.values()
    if equation.name not in ENTRYWISE or others or source is None:
        return None
    plain = [jnp.shape(v) for v in views if not isinstance(v, Deferred)]
    return source if all(shape in ((), source.shape) for shape in plain) else None


def _keeps_moments(equation: Equation, views: Sequence[Any]) -> bool:
    """Whether moments of the result follow from known moments of the operands."""
    places = [i for i, v in enumerate(views) if isinstance(v, Deferred)]
    found = all(
        views[i].known is not None or views[i].source is not None for i in places
    )
    if not found or equation.name == "concatenate":
        return found
    place = places[0]
    if len(places) > 1 or equation.name not in LINEAR:
        return False
    # A step with a random divisor, condition or index is not linear.
    last = {"div": 0, "gather": 0, "dynamic_slice": 0, "dynamic_update_slice": 1}
    if equation.name == "select_n":
        return place > 0
    if equation.name.startswith("scatter"):
        return place != 1
    return place <= last.get(equation.name, place)


def _by_quadrature(function: Callable[[Any], Any], root: Random) -> tuple[Any, Any]:
    """Mean and variance of f(m + √v ξ), ξ ~ N(0, 1), entry by entry."""
    random = root.var > 0
    std = jnp.where(random, jnp.sqrt(jnp.where(random, root.var, 1)), 0)
    kink = jnp.clip(-root.mean / jnp.where(random, std, 1), -REACH, REACH)
    kink = lax.stop_gradient(jnp.where(random, kink, 0))
    points, weights = np.polynomial.legendre.leggauss(NODES)
    centre = function(root.mean)
    sides = ((-REACH, kink), (kink, REACH))

    def add(sums: Any, node: tuple[Any, Any]) -> tuple[Any, None]:
        point, weight = node
        for low, high in sides:
            noise = low + (high - low) * (1 + point) / 2
            mass = weight * (high - low) / 2 * jnp.exp(-jnp.square(noise) / 2)
            change = function(root.mean + std * noise) - centre
            moments = (mass, mass * change, mass * jnp.square(change))
            sums = jax.tree.map(jnp.add, sums, moments)
        return sums, None

    zero = jnp.zeros_like(centre)
    nodes = (jnp.asarray(points, zero.dtype), jnp.asarray(weights, zero.dtype))
    (total, first, second), _ = lax.scan(add, (zero, zero, zero), nodes)
    shift = first / total
    var = jnp.maximum(second / total - jnp.square(shift), 0)
    mean = jnp.where(random, centre + shift, centre)
    return mean, jnp.where(random, var, 0)


def _by_draws(function: Callable[[Any], Any], root: Random) -> tuple[Any, Any]:
    """Mean and variance of f over antithetic draws of the whole root."""
    random = root.var > 0
    std = jnp.where(random, jnp.sqrt(jnp.where(random, root.var, 1)), 0)
    centre = function(root.mean)
    keys = jax.random.split(jax.random.key(0), DRAWS // 2)

    def noise_of(key: Any) -> Any:
        return normal(key, root.shape, root.mean.dtype)

    def square(sum_: Any, key: Any) -> tuple[Any, None]:
        return sum_ + jnp.square(noise_of(key)), None

    squares, _ = lax.scan(square, jnp.zeros_like(std), keys)
    unit = std * lax.rsqrt(squares / (DRAWS // 2))

    def add(sums: Any, key: Any) -> tuple[Any, None]:
        noise = unit * noise_of(key)
        for step in (noise, -noise):
            change = function(root.mean + step) - centre
            sums = jax.tree.map(jnp.add, sums, (change, jnp.square(change)))
        return sums, None

    zero = jnp.zeros_like(centre)
    (first, second), _ = lax.scan(add, (zero, zero), keys)
    shift = first / DRAWS
    return centre + shift, jnp.maximum(second / DRAWS - jnp.square(shift), 0)
