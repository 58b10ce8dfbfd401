r"""Joint draws of the entries of a contraction, in the moments reading.

The moments of z = W a are exact for independent a, but the entries of z are not
independent: they share the noise of the signal a, so
Cov(z_i, z_j) = Σ_k μ_ik μ_jk Var(a_k). To get this covariance, the signal a is drawn
first, from the moments of the root that it is a function of, and then z given a, as in
the sampled reading. This costs one contraction instead of a pass through the network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .deferred import Deferred, settle_moments
from .equation import Context, Equation
from .registry import find_rule
from .values import Random, add_noise, is_random

CONTRACTIONS = frozenset({"dot_general", "conv_general_dilated"})


def remember_distribution(
    equation: Equation, operands: Sequence[Any], result: Any
) -> None:
    """Store a function that draws a contraction of a random signal with weights."""
    signals = [isinstance(v, Deferred) or _is_signal(v) for v in operands]
    if sum(signals) != 1 or not is_random(result):
        return
    scale = equation.context.scale(*operands)

    def draw(key: PRNGKeyArray) -> Any:
        signal_key, weight_key = jax.random.split(key)
        drawn = [
            _draw_marginal(value, signal_key) if signal else value
            for value, signal in zip(operands, signals, strict=True)
        ]
        if not any(map(is_random, drawn)):
            return equation.bind(*drawn)
        sampled = Equation(equation.eqn, Context("sampled", weight_key))
        rule: Any = find_rule(equation.name, "sampled")
        value = rule(sampled, *drawn)
        if scale is None:
            return value
        return result.mean + jnp.sqrt(scale) * (value - result.mean)

    # The result is stored too, so that its id is not reused.
    equation.context.distributions[id(result)] = (result, draw)


def draw_jointly(context: Context, results: Sequence[Any]) -> Callable[[Any], list]:
    """A function from a key to one joint draw of all results."""

    def draw(key: PRNGKeyArray) -> list[Any]:
        roots: dict[int, Any] = {}

        def root_draw(root: Random) -> Any:
            if id(root) not in roots:
                own = jax.random.fold_in(key, len(roots))
                _, joint = context.distributions.get(id(root), (root, None))
                roots[id(root)] = joint(own) if joint else _draw_marginal(root, own)
            return roots[id(root)]

        drawn = []
        for value in results:
            if isinstance(value, Deferred):
                drawn.append(value.function(root_draw(value.root)))
            else:
                drawn.append(root_draw(value) if is_random(value) else value)
        return drawn

    return draw


def _is_signal(value: Any) -> bool:
    return is_random(value) and value.drawable


def _draw_marginal(value: Any, key: PRNGKeyArray) -> Any:
    """A draw of a value in which the entries of its root are independent."""
    if isinstance(value, Deferred):
        return value.function(_draw_marginal(value.root, key))
    value = settle_moments(value)
    return add_noise(value.mean, value.var, key)
