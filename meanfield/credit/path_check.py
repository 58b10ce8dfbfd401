r"""Check Shapley values from a path integral against sampled sub-networks.

The path integral (see `path_integral`) treats every pre-activation as Gaussian. This is
accurate for units with many inputs and wrong for units with few. Sampled sub-networks
need no such approximation: each player joins at a random time, uniform on (0, 1), so
that it is present at time t with probability t. The mean payoff f(t) is compared at the
nodes of the quadrature. The players that join between two nodes do so array by array,
the arrays in random order. The increases of the payoff due to one array, summed over
all intervals, estimate the sum of its players' values, Σφ. Such an order is a sampled
permutation of groups of players: its increases add up to v(N) − v(∅), and for a hundred
thousand players it takes only a few dozen payoffs.

The verdict is "differs" if a difference is larger than a tenth of the range of the
payoff along the path and noise cannot explain the excess; "agrees" if every difference
is smaller than that tenth even if noise is added to it; and "cannot tell" otherwise.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray
from scipy import stats

from meanfield.keys import numpy_generator

from .path_integral import Chunks, Integral
from .quadrature import Rule

MOST_EXAMPLES = 256
TOLERANCE = 0.1
LEVEL = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class PathCheck:
    """Values from a path integral and from drawn sub-networks, on the same examples.

    Attributes:
        verdict: "agrees", "differs" (do not trust the values) or "cannot tell".
        nodes: the nodes t of the quadrature.
        path_payoff: f(t) with Gaussian pre-activations, as in the path integral.
        drawn_payoff: mean payoff of drawn sub-networks at the same t.
        drawn_errors: standard errors of `drawn_payoff`.
        sums: Σφ of each array of players; None for weightings other than Shapley's.
        drawn_sums: Σφ of each array of players from sampled orders.
        drawn_sum_errors: standard errors of `drawn_sums`.
        largest_difference: the largest difference in f(t) or Σφ, divided by the range
            of the payoff along the path.
        tolerance: value of `largest_difference` above which the verdict is "differs",
            unless noise can explain the excess.
        num_subnetworks: number of drawn sub-networks.
        num_examples: number of examples that they were evaluated on.
    """

    verdict: str
    nodes: Float[np.ndarray, " nodes"]
    path_payoff: Float[np.ndarray, " nodes"]
    drawn_payoff: Float[np.ndarray, " nodes"]
    drawn_errors: Float[np.ndarray, " nodes"]
    sums: dict[str, float] | None
    drawn_sums: dict[str, float] | None
    drawn_sum_errors: dict[str, float] | None
    largest_difference: float
    tolerance: float
    num_subnetworks: int
    num_examples: int

    @property
    def trusted(self) -> bool | None:
        """Whether the values may be trusted; None when the check cannot tell."""
        return {"agrees": True, "differs": False}.get(self.verdict)


def check_path(
    game: Any,
    integral: Integral,
    chunks: Chunks,
    rule: Rule,
    x: Any,
    y: Any,
    num_checks: int,
    key: PRNGKeyArray,
) -> PathCheck:
    """Compare f(t), and the sums over arrays of players, with drawn sub-networks.

    Args:
        game: has `names` of the arrays of players, `grown(key)`, which draws the times
            at which players join, and `earned_by(grown, times, x, y, key)`, the payoff
            of every example when each array has reached its time in `times`.
        integral: the integral to check.
        chunks: the chunks of examples that it was summed over; a random part is used.
        rule: nodes and weights of the quadrature.
        x: inputs.
        y: targets.
        num_checks: sub-networks, at least 2.
        key: a `jax.random.key`.
    """
    rng = numpy_generator(key)
    order = rng.permutation(len(chunks.group))
    counts = np.cumsum(chunks.real.sum(1)[order])
    taken = order[: max(1, int(np.searchsorted(counts, MOST_EXAMPLES, "right")))]
    real = chunks.real[taken]
    rows = chunks.rows[taken][real]
    owners, times = _schedule(rng, len(game.names), rule.nodes, num_checks)
    part_x, part_y = (jax.tree.map(lambda leaf: leaf[rows], tree) for tree in (x, y))
    seen = _grow(
        game,
        part_x,
        part_y,
        times.astype(np.float32),
        jax.random.split(key, num_checks),
    )
    payoffs = np.asarray(seen, np.float64)
    at_nodes = payoffs[:, :: len(game.names)][:, 1:-1]
    gaussian = np.asarray(integral.payoffs, np.float64)[taken].mean(1)[:, 1:-1]
    path = np.moveaxis(gaussian, 1, 0)[:, real].mean(1)
    noise = _path_noise(integral, taken, real)
    scale = np.ptp(np.concatenate([path, payoffs[:, [0, -1]].mean(0)]))
    differences = [at_nodes.mean(0) - path]
    errors = [np.hypot(_error(at_nodes), noise)]
    sums = drawn_sums = drawn_sum_errors = None
    if rule.efficient:
        rates = np.asarray(integral.rates, np.float64)[taken]
        parts = np.einsum("cmka,k->ma", rates, rule.weights) / len(rows)
        gains = np.zeros((num_checks, len(game.names)))
        rises = np.diff(payoffs, axis=1)
        for number in range(len(game.names)):
            gains[:, number] = np.where(owners == number, rises, 0).sum(1)
        differences.append(gains.mean(0) - parts.mean(0))
        errors.append(np.hypot(_error(gains), _error(parts)))
        named = lambda array: dict(zip(game.names, array.tolist(), strict=True))
        sums, drawn_sums = named(parts.mean(0)), named(gains.mean(0))
        drawn_sum_errors = named(_error(gains))
    off, spread = np.abs(np.concatenate(differences)), np.concatenate(errors)
    return PathCheck(
        verdict=_verdict(off, spread, scale, num_checks),
        nodes=rule.nodes,
        path_payoff=path,
        drawn_payoff=at_nodes.mean(0),
        drawn_errors=_error(at_nodes),
        sums=sums,
        drawn_sums=drawn_sums,
        drawn_sum_errors=drawn_sum_errors,
        largest_difference=float(off.max() / scale) if scale > 0 else 0.0,
        tolerance=TOLERANCE,
        num_subnetworks=num_checks,
        num_examples=len(rows),
    )


def _verdict(off: Any, spread: Any, scale: float, num_checks: int) -> str:
    """The verdict on all differences, at joint level `LEVEL` (Šidák's correction)."""
    tail = -np.expm1(np.log(LEVEL) / len(off)) / 2
    reach = stats.t.isf(tail, num_checks - 1) * spread
    # Values that are equal in every sub-network may still differ by rounding.
    slack = 1e-5 * max(scale, 1e-30)
    if (off - reach > TOLERANCE * scale + slack).any():
        return "differs"
    return (
        "agrees" if (off + reach <= TOLERANCE * scale + slack).all() else "cannot tell"
    )


def _schedule(
    rng: np.random.Generator, arrays: int, nodes: Any, repeats: int
) -> tuple[Int[np.ndarray, "repeats steps"], Float[np.ndarray, "repeats times arrays"]]:
    """The array that joins at each step, and the times of all arrays.

    Row 0 of the times is before the first step, row k after the k-th.
    """
    grid = np.array([*nodes, 1.0])
    owners = np.argsort(rng.random((repeats, len(grid), arrays)), axis=-1)
    times = np.zeros((repeats, 1 + len(grid) * arrays, arrays))
    for repeat in range(repeats):
        now = np.zeros(arrays)
        for step, owner in enumerate(owners[repeat].ravel()):
            now[owner] = grid[step // arrays]
            times[repeat, step + 1] = now
    return owners.reshape(repeats, -1), times


@eqx.filter_jit
def _grow(game: Any, x: Any, y: Any, times: Any, keys: Any) -> Any:
    """Mean payoff of each sub-network after every step."""

    def one(item: Any) -> Any:
        key, times = item
        grown = game.grown(key)
        pay = lambda now: game.earned_by(grown, now, x, y, key).mean()
        return jax.lax.map(pay, times)

    return jax.lax.map(one, (keys, jnp.asarray(times)))


def _error(samples: Float[np.ndarray, "samples entries"]) -> Any:
    return samples.std(0, ddof=1) / np.sqrt(len(samples))


def _path_noise(integral: Integral, taken: Any, real: Any) -> Any:
    """Standard errors of the payoffs along the path on some chunks."""
    seen = np.asarray(integral.payoffs, np.float64)[taken][:, :, 1:-1]
    noise = np.moveaxis(seen.var(1, ddof=1), 1, 0)[:, real].sum(1) / seen.shape[1]
    return np.sqrt(noise) / real.sum()
