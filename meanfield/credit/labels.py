r"""Labels of connections: important, absent, variable.

| label       | exact rule       | with a tolerance τ                        | paper |
|-------------|------------------|-------------------------------------------|-------|
| `IMPORTANT` | π = 0 and Ξ = 0  | π ≤ τ and P(sign of the slab flips) ≤ τ   | VIP   |
| `ABSENT`    | π = 1            | π ≥ 1 − τ                                 | UIP   |
| `VARIABLE`  | the rest         | the rest                                  | VAR   |

The exact rule is the limit τ → 0 of the other. It suits the projected parametrization,
whose steps end on the edges; the unconstrained one only comes near them. The slab's
sign flips with probability Φ(−|m|/√Ξ), a measure of its width that knows no unit.

Source: Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
"""

import dataclasses
import enum
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int8, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.spikeslab import SpikeSlab, safe_sqrt

from .never_learned import silent_connections

# π ≤ 0.1 is the published threshold for important connections where no exact zeros
# occur (the recurrent follow-up, Zou, Li & Huang, arXiv:2102.03740, its code).
TOLERANCE = 0.1

Fractions = dict[str, float]


class Label(enum.IntEnum):
    """What a connection is to the ensemble (VIP, UIP, VAR on paper)."""

    IMPORTANT = 0
    ABSENT = 1
    VARIABLE = 2


@dataclasses.dataclass(frozen=True)
class ConnectionLabels:
    """What `label_connections` returns.

    Attributes:
        labels: an int8 array of `Label` for every random weight, by path name.
        tolerance: τ of the rule; 0 is the exact rule.
        chosen: "given" by the caller, or how τ was chosen, in words.
        never_learned: for every weight, where the gradient is exactly zero on all the
            data; None when no data was given.
    """

    labels: dict[str, Int8[np.ndarray, "..."]]
    tolerance: float
    chosen: str
    never_learned: dict[str, Bool[np.ndarray, "..."]] | None = None

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of important, absent and variable connections of every layer."""
        return {name: _counts(array) for name, array in self.labels.items()}

    @property
    def fractions(self) -> dict[str, Fractions]:
        """Part of every layer's connections under each label."""
        return {name: _fractions(count) for name, count in self.counts.items()}

    @property
    def overall(self) -> Fractions:
        """Part of all connections under each label."""
        return _fractions(_total(self.counts))

    @property
    def learned_counts(self) -> dict[str, dict[str, int]]:
        """As `counts`, without the connections that never learn.

        Raises:
            ValueError: the labels were made without data.
        """
        masks = self._masks()
        return {
            name: _counts(array[~masks[name]]) for name, array in self.labels.items()
        }

    @property
    def learned_fractions(self) -> dict[str, Fractions]:
        """As `fractions`, without the connections that never learn (NaN if none stays).

        Raises:
            ValueError: the labels were made without data.
        """
        return {name: _fractions(count) for name, count in self.learned_counts.items()}

    @property
    def learned_overall(self) -> Fractions:
        """As `overall`, without the connections that never learn.

        Raises:
            ValueError: the labels were made without data.
        """
        return _fractions(_total(self.learned_counts))

    @property
    def never_learned_fractions(self) -> dict[str, float]:
        """Part of every layer's connections that never learn.

        Raises:
            ValueError: the labels were made without data.
        """
        return {name: float(mask.mean()) for name, mask in self._masks().items()}

    def _masks(self) -> dict[str, np.ndarray]:
        if self.never_learned is None:
            raise ValueError(
                "these labels were made without data, so that connections which never "
                "learn are not known; pass `data=x, key=key` to label_connections."
            )
        return self.never_learned


def label_connections(
    ensemble: Ensemble,
    *,
    tolerance: float | int | None = None,
    data: Any = None,
    key: PRNGKeyArray | None = None,
    num_samples: int = 1,
    batch_size: int = 1024,
) -> ConnectionLabels:
    r"""Label every connection important, absent or variable.

        important  π ≤ τ and Φ(−|m|/√Ξ) ≤ τ      absent  π ≥ 1 − τ      else variable

    τ = 0 is the exact rule of the paper: π = 0 and Ξ = 0, π = 1, the rest.

    Without `tolerance` the ensemble itself decides, as a whole: if π = 0 or Ξ = 0
    holds exactly anywhere, τ = 0; else τ = 0.1. The projected parametrization (and an
    untrained start) has such zeros; logit π and ln √Ξ would have to pass −100 for one.
    The result says what was chosen in `.chosen`. A run with a prior keeps Ξ above a
    floor even when projected: pass `tolerance` there to see important connections.

    A connection whose gradient is exactly zero on all the data, because its input is
    always zero (a black pixel, a dead unit) or its output never matters, stays
    where it started and says nothing about learning: with `data` these are told apart.
    A constant input other than zero does teach its connections; they act as biases.

    Args:
        ensemble: a trained ensemble.
        tolerance: τ in [0, 0.5), a probability; None chooses as said above.
        data: inputs x (no targets), such as those trained on. Optional.
        key: a `jax.random.key` for the noise; needed with `data`.
        num_samples: noise draws for each example of `data`. A unit that fires in none
            of them counts as dead.
        batch_size: examples of `data` in memory at once.

    Returns:
        `ConnectionLabels`: labels, counts and fractions by layer and overall.

    Raises:
        ValueError: `tolerance` out of range, `data` without `key`, or data that the
            network cannot take.

    Example:
        >>> import jax, jax.numpy as jnp, meanfield as mf
        >>> weight = mf.SpikeSlab([[0.0, 1.0, 0.5]], [[2.0, 2.0, 2.0]], [[0.0] * 3])
        >>> network = lambda params, x: x @ params["w"]
        >>> ensemble = mf.Ensemble.from_model(
        ...     (network, {"w": jnp.ones((1, 3))}), initial=lambda *_: weight)
        >>> mf.label_connections(ensemble).labels["w"].tolist()
        [[0, 1, 2]]

    References:
        Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
    """
    require(
        tolerance is None or 0 <= tolerance < 0.5,
        "`tolerance` must lie in [0, 0.5), beyond it a connection could be absent and "
        f"important at once; got {tolerance}. 0 is the exact rule.",
    )
    weights = ensemble.weights()
    chosen = "given"
    if tolerance is None:
        tolerance, chosen = _choose(weights)
    labels = {
        name: np.asarray(_label(weight, tolerance)) for name, weight in weights.items()
    }
    never_learned = None
    if data is not None:
        if key is None:
            raise ValueError(
                "`key` is needed with `data`, for the noise of the ensemble; pass "
                "key=jax.random.key(seed)."
            )
        never_learned = silent_connections(
            ensemble, data, key=key, num_samples=num_samples, batch_size=batch_size
        )
    return ConnectionLabels(labels, tolerance, chosen, never_learned)


def label(weight: SpikeSlab, tolerance: float = 0.0) -> Int8[Array, "*shape"]:
    """Labels of one array of weights, for use under `jit`.

    Args:
        weight: the spike-and-slab weights.
        tolerance: τ as in `label_connections`, a Python number.

    Returns:
        int8 values of `Label`, in the shape of the weights.
    """
    spike = weight.spike_prob
    absent = spike >= 1 - tolerance
    if tolerance > 0:
        # Φ(−|m|/√Ξ) ≤ τ, solved for |m|: no tail probability that underflows.
        distance = -NormalDist().inv_cdf(tolerance)
        narrow = jnp.abs(weight.slab_mean) >= distance * safe_sqrt(weight.slab_var)
    else:
        narrow = weight.slab_var == 0
    important = (spike <= tolerance) & narrow
    values = jnp.where(important, Label.IMPORTANT, Label.VARIABLE)
    return jnp.where(absent, Label.ABSENT, values).astype(jnp.int8)


def mean_entropy(
    ensemble: Ensemble,
    never_learned: Mapping[str, Bool[np.ndarray, "..."]] | None = None,
) -> dict[str, float]:
    r"""Mean entropy of a connection, layer by layer, in nats.

        S_layer = (1/M) Σ_weights S(π, m, Ξ)        S as in `SpikeSlab.entropy`

    The mixed measure (counting at 0, Lebesgue elsewhere) makes S negative for narrow
    slabs; a slab of zero width is an atom and adds H_b(π) alone.

    Args:
        ensemble: a trained ensemble.
        never_learned: masks of connections to leave out, as in
            `ConnectionLabels.never_learned`.

    Returns:
        Nats per weight by path name; NaN for a layer of which nothing is left.

    Raises:
        ValueError: a mask is missing or has another shape than its weight.
    """
    result = {}
    for name, weight in ensemble.weights().items():
        entropy = np.asarray(_entropy(weight), np.float64)
        if never_learned is not None:
            shape = np.shape(never_learned[name]) if name in never_learned else None
            require(
                shape == weight.shape,
                f"`never_learned` must hold a mask of shape {weight.shape} for "
                f"`{name}`; got {shape}. Take it from label_connections(..., data=x).",
            )
            entropy = entropy[~np.asarray(never_learned[name])]
        result[name] = float(entropy.mean()) if entropy.size else float("nan")
    return result


# One program for each shape, instead of one for each operation.
_label = eqx.filter_jit(label)
_entropy = eqx.filter_jit(SpikeSlab.entropy)


def _choose(weights: Mapping[str, SpikeSlab]) -> tuple[float, str]:
    exact = any(
        bool((np.asarray(part) == 0).any())
        for weight in weights.values()
        for part in (weight.spike_prob, weight.slab_var)
    )
    if exact:
        return 0.0, "exact: some connection has π = 0 or Ξ = 0"
    return TOLERANCE, "tolerance: no connection has π = 0 or Ξ = 0"


def _counts(labels: np.ndarray) -> dict[str, int]:
    return {each.name.lower(): int((labels == each).sum()) for each in Label}


def _total(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {
        each.name.lower(): sum(count[each.name.lower()] for count in counts.values())
        for each in Label
    }


def _fractions(counts: Mapping[str, int]) -> Fractions:
    total = sum(counts.values())
    return {
        name: count / total if total else float("nan") for name, count in counts.items()
    }
