"""Values of the players of a game with gates; players are connections or units.

A game has `names`, the arrays of players; `shapes` of their gates; `payoff`, the name
of the payoff; `earned(gates, x, y, key, sign)`; and, for the check, `grown(key)` and
`earned_by(grown, times, x, y, key)`.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .path_check import PathCheck, check_path
from .path_integral import Chunks, Integral, integrate
from .path_values import PathValues, summarize
from .quadrature import Rule


def value_players(
    game: Any,
    data: tuple[Any, Any],
    chunks: Chunks,
    rule: Rule,
    labels: Sequence[Hashable] | None,
    num_samples: int,
    num_checks: int,
    key: PRNGKeyArray,
) -> tuple[PathValues, PathCheck | None]:
    """Values of all players along the path of the gates, and their check.

    Args:
        game: the game.
        data: inputs and targets.
        chunks: the chunks of examples to sum over, from `cut`.
        rule: nodes and weights of the quadrature.
        labels: names of the groups of examples; None without groups.
        num_samples: draws of the noise for each example and node.
        num_checks: sub-networks drawn to check the values; 0 for none.
        key: a `jax.random.key`.

    Raises:
        ValueError: a number along the path is not finite.
    """
    path_key, check_key = jax.random.split(key)
    groups = 1 if labels is None else len(labels)
    nodes = rule.nodes, rule.weights
    integral = _integrate(game, data, chunks, nodes, groups, num_samples, path_key)
    found = summarize(integral, game.names, chunks, rule, labels, game.payoff)
    if not num_checks:
        return found, None
    return found, check_path(game, integral, chunks, rule, *data, num_checks, check_key)


@eqx.filter_jit
def _integrate(
    game: Any,
    data: tuple[Any, Any],
    chunks: Chunks,
    nodes: tuple[Any, Any],
    num_groups: int,
    num_samples: int,
    key: PRNGKeyArray,
) -> Integral:
    places, weights = (jnp.asarray(part, jnp.float32) for part in nodes)
    return integrate(
        game.earned,
        game.shapes,
        *data,
        chunks,
        places,
        weights,
        num_groups,
        num_samples,
        key,
    )
