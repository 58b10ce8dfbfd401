r"""Labels of connections: important, absent, variable.

By the posterior alone (the certified rule is in `meanfield.credit.certificates`):

| label       | exact rule       | with a tolerance τ                        | paper |
|-------------|------------------|-------------------------------------------|-------|
| `IMPORTANT` | π = 0 and Ξ = 0  | π ≤ τ and P(sign of the slab flips) ≤ τ   | VIP   |
| `ABSENT`    | π = 1            | π ≥ 1 − τ                                 | UIP   |
| `VARIABLE`  | the rest         | the rest                                  | VAR   |

The exact rule is the limit τ → 0 of the other. It suits the projected parametrization,
in which π and Ξ reach exact 0 and 1; in the unconstrained one they only come close. The
slab's sign flips with probability Φ(−|m|/√Ξ), a dimensionless measure of its width.

Source: Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
"""

import dataclasses
import enum
from collections.abc import Mapping
from statistics import NormalDist

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int8

from meanfield.checks import require
from meanfield.elementary import safe_sqrt
from meanfield.ensemble.ensemble import Ensemble
from meanfield.spikeslab import SpikeSlab

from .certificates import Certificate

Fractions = dict[str, float]


class Label(enum.IntEnum):
    """Label of a connection (VIP, UIP, VAR in the paper)."""

    IMPORTANT = 0
    ABSENT = 1
    VARIABLE = 2


@dataclasses.dataclass(frozen=True)
class ConnectionLabels:
    """The result of `label_connections`.

    Attributes:
        labels: an int8 array of `Label` for every random weight, by path name.
        tolerance: τ of the posterior rule, 0 for the exact rule; None for the certified
            rule.
        chosen: how τ was chosen, "given" if by the caller; for the certified rule, the
            verdict of the certificate.
        never_learned: for every weight, a mask of the connections whose gradient is
            exactly zero on all the given data (for the certified rule, on the examples
            `certificate.chosen_on`); None without data.
        certificate: the guarantee of certified labels; None for the other rules.
        values: for the certified rule, the credit φ of every connection: the decrease
            without it of the mean probability of the true class (for real targets, of
            the closeness) if each other connection is kept with probability ½.
        rms: for the certified rule, r of every connection, the root mean square over
            examples of ∂ ln P(y|x)/∂q, with q the probability that it is kept; see
            `meanfield.credit.removal`.
        inclusion_prob: 1 − π of every connection.
    """

    labels: dict[str, Int8[np.ndarray, "..."]]
    tolerance: float | None
    chosen: str
    never_learned: dict[str, Bool[np.ndarray, "..."]] | None = None
    certificate: Certificate | None = None
    values: dict[str, Float[np.ndarray, "..."]] | None = None
    rms: dict[str, Float[np.ndarray, "..."]] | None = None
    inclusion_prob: Mapping[str, Float[np.ndarray, "..."]] = dataclasses.field(
        default_factory=dict
    )

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of important, absent and variable connections of every layer."""
        return {name: _counts(array) for name, array in self.labels.items()}

    @property
    def fractions(self) -> dict[str, Fractions]:
        """Fraction of every layer's connections that have each label."""
        return {name: _fractions(count) for name, count in self.counts.items()}

    @property
    def overall(self) -> Fractions:
        """Fraction of all connections that have each label."""
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
        """As `fractions`, without connections that never learn; NaN if none is left.

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
        """Fraction of every layer's connections that never learn.

        Raises:
            ValueError: the labels were made without data.
        """
        return {name: float(mask.mean()) for name, mask in self._masks().items()}

    def _masks(self) -> dict[str, np.ndarray]:
        if self.never_learned is None:
            raise ValueError(
                "these labels were made without data, which is needed to find the "
                "connections that never learn; pass `data=x, key=key` to "
                "label_connections."
            )
        return self.never_learned


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
        # Φ(−|m|/√Ξ) ≤ τ is solved for |m|, because tail probabilities underflow.
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
    r"""Mean entropy of the connections of each layer, in nats.

        S_layer = (1/M) Σ_weights S(π, m, Ξ)        S as in `SpikeSlab.entropy`

    The mixed measure (counting at 0, Lebesgue elsewhere) makes S negative for narrow
    slabs; a slab of zero width is an atom and adds only the binary entropy of π.

    Args:
        ensemble: a trained ensemble.
        never_learned: masks of connections to leave out, as in
            `ConnectionLabels.never_learned`.

    Returns:
        Nats per weight by path name; NaN for a layer without remaining connections.

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


# Compiled once for each shape, instead of once for each operation.
_entropy = eqx.filter_jit(SpikeSlab.entropy)


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
