"""Values of players from an integral along a path of gates, with their errors."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from meanfield.checks import require
from meanfield.learning.batches import array_pair

from .path_integral import (
    Chunks,
    Integral,
    payoffs_by_example,
    require_finite,
    root_mean_square,
)
from .quadrature import Rule

Values = dict[str, Float[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True, eq=False)
class PathValues:
    """Values of players from an integral along a path of gates, with their errors.

    Attributes:
        values: φ of every player, by name of the array of players, in units of the
            payoff.
        standard_errors: standard error of every value, over draws of the noise.
        rms: √⟨φ(x)²⟩, the root mean square over examples of the value for one example.
        payoff: f(1), mean payoff with every player.
        empty_payoff: f(0), mean payoff without any player.
        efficiency_gap: Σφ − (payoff − empty_payoff); None for weightings under which
            the values need not add up to the payoff.
        gap_error: standard error of `efficiency_gap`, over draws of the noise.
        quadrature_error: error of Σφ from the finite number of nodes, estimated with
            the embedded quadrature rule.
        nodes: t_k, the nodes of the quadrature.
        path_payoff: f(t_k).
        path_errors: standard errors of `path_payoff`, over draws of the noise.
        by_group: what the examples of each group contribute to `values`; these
            contributions add up to `values`. None without groups.
        group_payoffs: what the examples of each group contribute to `payoff` and to
            `empty_payoff`. None without groups.
        num_examples: examples that the payoff averages over.
        num_passes: forward and backward passes over the whole data.
        payoff_name: name of the payoff.
    """

    values: Values
    standard_errors: Values
    rms: Values
    payoff: float
    empty_payoff: float
    efficiency_gap: float | None
    gap_error: float
    quadrature_error: float
    nodes: Float[np.ndarray, " nodes"]
    path_payoff: Float[np.ndarray, " nodes"]
    path_errors: Float[np.ndarray, " nodes"]
    by_group: dict[Hashable, Values] | None
    group_payoffs: dict[Hashable, tuple[float, float]] | None
    num_examples: int
    num_passes: int
    payoff_name: str

    @property
    def num_players(self) -> int:
        """Number of players."""
        return sum(array.size for array in self.values.values())

    @property
    def sampling_errors(self) -> Values:
        """Standard errors of `values` as estimates for the population of examples.

        √((rms² − φ²) / examples) measures the spread over examples; `standard_errors`
        measure the spread over draws of the noise.
        """
        return {
            name: np.sqrt(
                np.maximum(np.square(self.rms[name]) - np.square(value), 0)
                / self.num_examples
            )
            for name, value in self.values.items()
        }


def summarize(
    integral: Integral,
    names: Sequence[str],
    chunks: Chunks,
    rule: Rule,
    labels: Sequence[Hashable] | None,
    payoff_name: str,
) -> PathValues:
    """Turn sums over examples into values and their errors.

    Args:
        integral: from `integrate`.
        names: names of the arrays of players, in order.
        chunks: the chunks of examples that were summed over.
        rule: nodes and weights of the quadrature.
        labels: names of the groups; None without groups.
        payoff_name: name of the payoff.

    Raises:
        ValueError: a number in the integral is not finite.
    """
    count = int(chunks.real.sum())
    payoffs, noise = payoffs_by_example(integral, chunks, count)
    require_finite(integral, payoffs, rule.nodes)
    sums = {n: np.asarray(integral.by_group[n]) / count for n in names}
    values = {name: array.sum(0) for name, array in sums.items()}
    mean, errors = payoffs.mean(1), np.sqrt(noise.sum(1)) / count
    total = sum(float(array.sum(dtype=np.float64)) for array in values.values())
    rates = np.asarray(integral.rates, np.float64)
    by_group = group_payoffs = None
    if labels is not None:
        parts = [{n: array[g] for n, array in sums.items()} for g in range(len(labels))]
        by_group = dict(zip(labels, parts, strict=True))
        member = np.zeros(count, int)
        member[chunks.rows] = chunks.group[:, None]
        shares = [payoffs[[-1, 0]][:, member == g] for g in range(len(labels))]
        pairs = [tuple(share.sum(1) / count) for share in shares]
        group_payoffs = dict(zip(labels, pairs, strict=True))
    return PathValues(
        values=values,
        standard_errors={
            name: np.sqrt(np.maximum(np.asarray(integral.noise[name]), 0)) / count
            for name in names
        },
        rms=root_mean_square(integral, names, chunks, count),
        payoff=float(mean[-1]),
        empty_payoff=float(mean[0]),
        efficiency_gap=total - float(mean[-1] - mean[0]) if rule.efficient else None,
        gap_error=_gap_error(integral, chunks, rates, rule),
        quadrature_error=float(rule.error(rates.mean(1).sum(0) / count).sum()),
        nodes=rule.nodes,
        path_payoff=mean[1:-1],
        path_errors=errors[1:-1],
        by_group=by_group,
        group_payoffs=group_payoffs,
        num_examples=count,
        num_passes=rates.shape[1] * rates.shape[2],
        payoff_name=payoff_name,
    )


def _gap_error(
    integral: Integral,
    chunks: Chunks,
    rates: Float[np.ndarray, "chunks draws nodes arrays"],
    rule: Rule,
) -> float:
    """Standard error of Σφ − (payoff − empty payoff), all with the same noise."""
    seen = np.asarray(integral.payoffs, np.float64)
    rise = np.where(chunks.real[:, None], seen[:, :, -1] - seen[:, :, 0], 0).sum(-1)
    gaps = np.einsum("cmka,k->cm", rates, rule.weights) - rise
    noise = gaps.var(1, ddof=1).sum() / gaps.shape[1]
    return float(np.sqrt(noise) / chunks.real.sum())


def checked_data(data: Any) -> tuple[Any, Any]:
    """The pair (x, y) as arrays.

    Raises:
        ValueError: `data` is not a pair, has no targets, or has a number that is not
            finite.
    """
    require(
        isinstance(data, tuple) and len(data) == 2 and data[1] is not None,
        "`data` must be a pair of arrays (x, y), because every payoff compares outputs "
        f"with targets; got a {type(data).__name__} without targets. Pass the targets.",
    )
    return array_pair(data)


def check_settings(
    payoff: str | None, num_samples: int, chunk_size: int | None, num_checks: int
) -> None:
    """Check the settings that the values of connections and of units have in common.

    Raises:
        ValueError: a payoff without gradient, too few draws, or an empty chunk.
    """
    require(
        payoff != "accuracy",
        '`payoff` must have a gradient; got "accuracy", which has none. Use '
        '"probability", the probability of the right class.',
    )
    require(
        num_samples >= 2,
        "`num_samples` must be at least 2, so that the spread of the draws gives an "
        f"error; got {num_samples}.",
    )
    require(
        chunk_size is None or chunk_size >= 1,
        f"`chunk_size` must be at least 1 example; got {chunk_size}.",
    )
    require(
        num_checks == 0 or num_checks >= 2,
        f"`num_checks` must be 0, for no check, or at least 2; got {num_checks}.",
    )


def number_groups(
    groups: Any, num_examples: int
) -> tuple[list[Hashable] | None, Int[np.ndarray, " examples"]]:
    """Names of the groups, and the index of the group of every example.

    Raises:
        ValueError: `groups` does not hold one label for each example.
    """
    if groups is None:
        return None, np.zeros(num_examples, int)
    labels = np.asarray(groups)
    require(
        labels.shape == (num_examples,),
        f"`groups` must hold one label for each of the {num_examples} examples; got "
        f"shape {labels.shape}.",
    )
    names, numbers = np.unique(labels, return_inverse=True)
    return names.tolist(), numbers
