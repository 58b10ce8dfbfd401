"""Count the uses of random weights in a network's program."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from .equation import Context
from .noise_kinds import Noise, drawn_leaves
from .readings import Readings, find_readings
from .staging import split_params, stage
from .transformation import evaluate_network, finish


def count_summands(
    apply_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    noise: Noise = "preactivations",
) -> dict[str, list[int | float]]:
    """Number of weights that are summed in each product of a random leaf.

    Args:
        apply_fn: ``apply_fn(params, *args)``.
        params: some of its leaves are `SpikeSlab`s.
        args: arrays, or their shapes.
        noise: as for `mean_field`; weights that are drawn are not counted.

    Returns:
        By path name, in the order of the program: the length of each contraction
        (of a strided transposed convolution on average over its outputs), and 1 for
        a look-up.

    Raises:
        UnsupportedPrimitiveError: a primitive without a rule has a random operand.

    Example:
        >>> import jax.numpy as jnp, meanfield as mf
        >>> w = mf.SpikeSlab(jnp.full((3, 2), 0.5), jnp.ones((3, 2)), jnp.ones((3, 2)))
        >>> counts = mf.propagation.count_summands(
        ...     lambda p, x: x @ p["w"], {"w": w}, jnp.ones(3))
        >>> counts["w"]
        [3]
    """
    found: dict[str, list[int | float]] = {}

    def run(params: Any, *args: Any) -> list[Any]:
        context = Context("sampled", jax.random.key(0), summands=found)
        drawn = drawn_leaves(split_params(params)[0], noise)
        results, _ = evaluate_network(apply_fn, context, params, args, {}, drawn)
        return [finish(context, value) for value in results]

    eqx.filter_eval_shape(run, params, *args)
    return found


def count_readings(apply_fn: Callable[..., Any], params: Any, *args: Any) -> Readings:
    """The number of uses of each random weight, and the weights that must be drawn.

    Args:
        apply_fn: ``apply_fn(params, *args)``.
        params: some of its leaves are `SpikeSlab`s.
        args: arrays, or their shapes; of one example, to count the uses per example.

    Returns:
        The `Readings` of the sampled reading.

    Example:
        >>> import jax.numpy as jnp, meanfield as mf
        >>> w = mf.SpikeSlab(jnp.full((3, 2), 0.5), jnp.ones((3, 2)), jnp.ones((3, 2)))
        >>> readings = mf.propagation.count_readings(lambda w, x: x @ w, w, jnp.ones(3))
        >>> type(readings).__name__
        'Readings'
    """
    names, slabs, points = split_params(params)
    program, *_ = stage(apply_fn, points, slabs, args, {})
    is_array = lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    num_points = len(jax.tree.leaves(eqx.filter(points, is_array)))
    return find_readings(program, names, num_points, "sampled")
