"""`mean_field`: transform a network function into the function of its ensemble."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require
from meanfield.spikeslab import SpikeSlab

from . import control, linear, structure  # noqa: F401  (importing registers rules)
from .deferred import settle_moments
from .drawing import draw_weight
from .equation import Context, moments_context, refusal
from .interpreter import evaluate
from .joint import draw_jointly
from .noise import fold_in
from .noise_kinds import KINDS, Noise, drawn_leaves
from .readings import find_readings
from .staging import fill_params, split_params, stage
from .values import Gated, Moments, Random, is_random, variance_dtype

READINGS = ("sampled", "moments", "delta")
# The number folded into the key of the first drawn weight; those of pre-activations
# count from 0.
FIRST_KEY = 2**30


def mean_field(
    apply_fn: Callable[..., Any],
    reading: str = "sampled",
    noise: Noise = "preactivations",
    *,
    sign: Any = None,
    scales: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    r"""Transform a network function into the function of its mean-field ensemble.

    The transformed function takes a `SpikeSlab` for any leaf of `params`. It has three
    readings: "sampled" draws pre-activations, "moments" propagates means and variances,
    "delta" does so to lowest order. In the sampled reading, every contraction of a
    plain array a with random weights of mean μ and variance V becomes

        z = G + ε Δ,   G = Σ_k μ_k a_k,   Δ² = Σ_k V_k a_k²,   ε ~ N(0, 1),

    with ε fresh for every output entry, example, equation and step of a loop. Its
    gradients with respect to (π, m, Ξ) are generalized back-propagation.
    With π = 0 and Ξ = 0 everywhere the result equals that of `apply_fn`: bit by bit if
    JAX runs it operation by operation or compiles without optimisation. With
    optimisation XLA fuses the two programs differently, and the last digits may differ.

    Several pre-activations may use the same weight: the positions of a convolution, the
    steps of a loop, tied layers. Each of them has independent noise, whereas in a
    sub-network they share one weight. Other uses of weights cannot have independent
    noise: functions of weights alone (w − w̄, A w, a norm of w), one weight several
    times in one sum (w[[0, 0, 1, 1]]), products of complex numbers, arguments of a
    `jax.custom_jvp`. Such weights are found before the program runs, and are drawn once
    for the whole call; the other readings refuse them.

    With ``noise="weights"`` every random leaf is drawn once for the whole call, with
    exact zeros, as in a sub-network. Then all functions of JAX can be used, with the
    derivative rules of their authors. The examples of a batch share one sub-network;
    use `jax.vmap` over examples and keys to draw one for each. A drawn weight is
    differentiated through its mean and its standard deviation,

        dw = dμ + η d√V,   η = (w − μ)/√V held constant.

    In the moments reading nothing is drawn: mean and variance are propagated through
    the nonlinearities, and every output has a `.mean` and a `.var`. For independent
    Gaussian entries the moments are exact for ReLU, |z|, z², exp, erf, softmax,
    log-softmax, logsumexp, maxima and max-pooling, layer, group and root-mean-square
    norms, average pooling, look-ups, and sums over the edges of a graph. Other
    functions of one entry (tanh, sigmoid, GELU, SiLU, x + f(x), …) are integrated to
    float32 accuracy; other functions that mix entries (top-k, sorting, softmax over the
    edges of a node) have errors up to 1/16 of a standard deviation. A choice `where(g
    > c, a, b)` is a mixture of both cases with weight P(g > c). Indices computed from
    random numbers raise an error.

    The moments reading is approximate, because entries of a signal share the noise of
    the layers below but are treated as independent Gaussians. For a residual sum x + W
    φ(x), the term 2 Σ_k μ_ik Cov(x_i, φ(x_k)) of the variance is missing. In a block of
    a transformer with small variances, the total variance of the outputs has an error
    of a tenth, and single variances have an error of up to a factor of 2.4; factors
    fitted on held-out data (`mf.prediction.fit_scales`) correct the total. On MNIST
    (784-100-100-10, 8 epochs), after training without a prior, one pass differs from
    100 samples by 0.05 points of accuracy and 0.8 % of the NLL; after training with the
    evidence bound at T = 1, where a few noisy units dominate, by 0.07 points, and its
    NLL is 11 % lower.

    Args:
        apply_fn: ``apply_fn(params, *args, **kwargs)``, any function that JAX can
            trace: an Equinox or Flax model's call, or plain `jax.numpy`.
        reading: "sampled" (default; used for training), "moments", or "delta", the
            moments to lowest order in the variances: the means are the outputs of the
            mean network, and every layer is linearised about them; see `delta`.
        noise: in the sampled reading, "preactivations" (default) or "weights"; or a
            mapping or function from path names of random leaves to either (leaves that
            a mapping does not name have the default).
        sign: factor of every ε of a pre-activation: −1 gives the antithetic draw for
            the same key. None means 1.
        scales: in the moments and delta readings, a factor for the variance after every
            contraction with a weight, by path name (1 for other weights); see
            `mf.prediction.fit_scales`.

    Returns:
        ``f(params, *args, key=key, **kwargs)``. It composes with `jit`, `grad`, `vmap`
        and sharding. `key` is a `jax.random.key`; the moments reading needs none.

    Raises:
        ValueError: an unknown reading or noise, a name that no random leaf has, or no
            `key` in the sampled reading.
        UnsupportedPrimitiveError: a primitive without a rule has a random operand, or,
            in the moments and delta readings, a weight would have to be drawn; the
            message says what can be done.

    Example:
        >>> import jax, jax.numpy as jnp, meanfield as mf
        >>> weight = mf.SpikeSlab(jnp.zeros((3, 2)), jnp.ones((3, 2)), jnp.ones((3, 2)))
        >>> network = mf.mean_field(lambda w, x: jnp.tanh(x @ w))
        >>> network(weight, jnp.ones((5, 3)), key=jax.random.key(0)).shape
        (5, 2)

        A sub-network for every example:

        >>> square = mf.mean_field(lambda w, x: x @ (w @ w.T), noise="weights")
        >>> keys = jax.random.split(jax.random.key(0), 5)
        >>> each = jax.vmap(lambda x, key: square(weight, x, key=key))
        >>> each(jnp.ones((5, 3)), keys).shape
        (5, 3)

    References:
        Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
    """
    check_reading(reading)
    require(
        not isinstance(noise, str) or noise in KINDS,
        f"`noise` must be 'preactivations' or 'weights'; got {noise!r}.",
    )
    require(
        reading == "sampled" or noise == "preactivations",
        f"`noise` must be left out in the {reading} reading, which draws nothing.",
    )
    require(
        reading != "sampled" or scales is None,
        "`scales` must be left out in the sampled reading, which draws and propagates "
        "no variances.",
    )

    def ensemble_fn(
        params: Any, *args: Any, key: PRNGKeyArray | None = None, **kwargs: Any
    ) -> Any:
        names, slabs, points = split_params(params)
        require(
            not slabs or reading != "sampled" or hasattr(key, "dtype"),
            "`key` is needed to draw the noise of the sampled reading; got "
            f"{key!r}. Pass key=jax.random.key(seed).",
        )
        drawn = drawn_leaves(names, noise)
        if slabs and len(drawn) == len(slabs):
            weights = [_draw(slab, key, n) for n, slab in enumerate(slabs)]
            return apply_fn(fill_params(points, weights), *args, **kwargs)
        if reading == "sampled":
            context = Context("sampled", key, sign=sign)
        else:
            context = moments_context(reading, names, scales)
        results, rebuild = evaluate_network(
            apply_fn, context, params, args, kwargs, drawn
        )
        return rebuild([finish(context, value) for value in results])

    return ensemble_fn


def joint_output_distribution(
    apply_fn: Callable[..., Any],
    reading: str = "moments",
    scales: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """A function of params and a batch that returns a function to draw outputs.

    The network runs once, in the given reading. A draw has the moments of the outputs
    and the covariance due to their last contraction; see `joint`.

    Args:
        apply_fn: as for `mean_field`.
        reading: "moments" or "delta".
        scales: as for `mean_field`.

    Returns:
        ``distribution(params, *args)``, a function of a `jax.random.key`.

    Raises:
        UnsupportedPrimitiveError: a primitive without a rule for moments.

    Example:
        >>> import jax, jax.numpy as jnp, meanfield as mf
        >>> w = mf.SpikeSlab(jnp.full((3, 2), 0.5), jnp.ones((3, 2)), jnp.ones((3, 2)))
        >>> distribution = mf.propagation.joint_output_distribution(lambda w, x: x @ w)
        >>> draw = distribution(w, jnp.ones((1, 3)))
        >>> draw(jax.random.key(0)).shape
        (1, 2)
    """

    def distribution(params: Any, *args: Any) -> Callable[[PRNGKeyArray], Any]:
        context = moments_context(reading, split_params(params)[0], scales)
        none = frozenset()
        results, rebuild = evaluate_network(apply_fn, context, params, args, {}, none)
        for value in results:
            _refuse_gates(value)
        draw = draw_jointly(context, results)
        return lambda key: rebuild(draw(key))

    return distribution


def evaluate_network(
    apply_fn: Callable[..., Any],
    context: Context,
    params: Any,
    args: Any,
    kwargs: Any,
    drawn: frozenset[str],
) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Results of the program, and a function from them to the output of `apply_fn`.

    The leaves in `drawn` are drawn, and also those that cannot have independent noise.
    """
    names, slabs, points = split_params(params)
    program, outputs, static = stage(apply_fn, points, slabs, args, kwargs)
    count = len(jax.tree.leaves(eqx.filter(points, eqx.is_array)))
    found = find_readings(program, names, count, context.reading, drawn).drawn
    if context.reading == "moments":
        for name, (eqn, because) in found.items():
            raise refusal(eqn, "moments", [name], because)
    # A weight with a shared spike that `apply_fn` returns unchanged is not drawn: an
    # error is raised for it later.
    shared = {name for name, slab in zip(names, slabs, strict=True) if slab.shared}
    drawn |= {name for name in found if found[name][0] or name not in shared}
    leaves = [
        _draw(slab, context.base_key, number) if name in drawn else _random(name, slab)
        for number, (name, slab) in enumerate(zip(names, slabs, strict=True))
    ]
    plain = jax.tree.leaves(eqx.filter((points, args, kwargs), eqx.is_array))
    results = evaluate(program, [*leaves, *plain], context)
    treedef = jax.tree.structure(outputs)

    def rebuild(values: list[Any]) -> Any:
        tree = jax.tree.unflatten(treedef, values)
        return eqx.combine(tree, static, is_leaf=_is_moments)

    return results, rebuild


def _draw(weight: SpikeSlab, key: Any, number: int) -> Array:
    """One draw of a weight, for a whole call."""
    return draw_weight(weight, fold_in(key, FIRST_KEY + number))


def _random(name: str, weight: SpikeSlab) -> Random | Gated:
    """A weight as a value of the interpreter."""
    wide = variance_dtype(weight.dtype)
    if not weight.shared:
        return Random(weight.mean, weight.var.astype(wide), (name,))
    slab = Random(weight.slab_mean, weight.slab_var.astype(wide), (name,))
    spread = weight.spike_prob * (1 - weight.spike_prob)
    var = jnp.broadcast_to(spread.astype(wide), weight.shape)
    gate = Random(weight.inclusion_prob, var, (name,), copied=weight.shared)
    return Gated(slab, gate)


def _refuse_gates(value: Any) -> None:
    require(
        not isinstance(value, Gated),
        "`apply_fn` must not return a weight whose connections share a spike. Return a "
        "function of the inputs.",
    )


def finish(context: Context, value: Any) -> Any:
    """Turn a value into a result: a draw, or its moments."""
    _refuse_gates(value)
    if context.reading == "sampled":
        return context.draw(value)
    value = settle_moments(value)
    if is_random(value):
        return Moments(value.mean, value.var)
    return Moments(value, jnp.zeros_like(value))


def _is_moments(node: Any) -> bool:
    return isinstance(node, Moments)


def check_reading(reading: str) -> None:
    """Raise unless `reading` is a known reading.

    Raises:
        ValueError: the reading is unknown.
    """
    require(
        reading in READINGS,
        f"`reading` must be 'sampled', 'moments' or 'delta'; got {reading!r}.",
    )
