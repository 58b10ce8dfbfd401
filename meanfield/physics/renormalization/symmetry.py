r"""Translational symmetry in depth: do all layers share one distribution?

The layered Hamiltonian is invariant under m → m + 1 if all layers have the same
statistics. There are two tests, each with its own shuffled null; the verdict is that of
the first:

- Same distribution: the score is the standard deviation over layers of ln σ_w². The
  second measure is the largest Kolmogorov distance between one layer's distribution of
  √N w and that of all layers, at 200 quantiles. Null: weights √N w are exchanged among
  the layers.
- No drift: the von Neumann ratio Σ (x_{m+1} − x_m)² / Σ (x_m − x̄)² of x = ln σ_w² is
  near 2 for layers in random order, and small if σ_w² changes smoothly with depth.
  Null: the order of the layers is shuffled.

The score and its nulls are this project's own.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.fan_ins import fan_in
from meanfield.keys import numpy_generator
from meanfield.spikeslab import is_spike_slab

MAX_PER_LAYER = 5_000
MIN_WEIGHTS = 50
NUM_QUANTILES = 200
LEVEL = 0.01
SYMMETRIC, BROKEN, CANNOT_TELL = "symmetric", "broken", "cannot tell"


@dataclass(frozen=True)
class Symmetry:
    """Translational symmetry over the layers of a network.

    Args:
        verdict: "symmetric", "broken" or "cannot tell".
        reason: the reason for the verdict, in words.
        names: the compared layers, in order of depth.
        weight_vars: σ_w² of every layer.
        score: standard deviation over layers of ln σ_w².
        score_null: mean and 99 % quantile of the score if weights are exchanged.
        score_p: fraction of exchanges with at least this score.
        distance: largest Kolmogorov distance of a layer's distribution of √N w from the
            pooled one.
        distance_null: mean and 99 % quantile of the distance if weights are exchanged.
        distance_p: fraction of exchanges with at least this distance.
        drift: von Neumann ratio of ln σ_w² in depth, `None` for fewer than four layers.
        drift_p: fraction of layer orders with at most this ratio.
        num_per_layer: number of weights of each layer in the nulls.
    """

    verdict: str
    reason: str
    names: tuple[str, ...]
    weight_vars: tuple[float, ...] = ()
    score: float | None = None
    score_null: tuple[float, float] | None = None
    score_p: float | None = None
    distance: float | None = None
    distance_null: tuple[float, float] | None = None
    distance_p: float | None = None
    drift: float | None = None
    drift_p: float | None = None
    num_per_layer: tuple[int, ...] = ()


def translational_symmetry(
    layers: Mapping[str, Any],
    *,
    key: PRNGKeyArray,
    layout: str | Mapping[str, str] = "auto",
    num_shuffles: int = 400,
) -> Symmetry:
    """Test whether all layers of a network have one distribution, by shuffled nulls.

    Args:
        layers: weights by name, in order of depth, each of two or more dimensions;
            the mean μ is used for a `SpikeSlab`. Leave out layers that are not expected
            to be alike (often the first and the last one).
        key: a typed key for the shuffles.
        layout: which axes of a weight are its inputs, "auto", "out_in" or "in_out"; or
            a mapping from weights to these.
        num_shuffles: number of shuffles for each null, at least 100.

    Returns:
        Scores, nulls and verdict; "cannot tell" for fewer than two layers, or a layer
        with fewer than 50 weights, NaN or infinity, or only zeros. Layers of more than
        5,000 weights are subsampled for the nulls and the distance; σ_w² uses all.

    Raises:
        ValueError: a layer of fewer than two dimensions, or too few shuffles.

    Example:
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> layers = {str(i): rng.normal(size=(20, 20)) for i in range(3)}
        >>> translational_symmetry(layers, key=jax.random.key(0)).verdict
        'symmetric'
    """
    require(
        num_shuffles >= 100,
        f"`num_shuffles` must be at least 100; got {num_shuffles}. The verdict is at "
        "the 1 % level.",
    )
    names = tuple(layers)
    if len(names) < 2:
        reason = f"One layer or none ({list(names)}): there is no depth to compare."
        return Symmetry(CANNOT_TELL, reason, names)
    scaled = []
    layouts = dict.fromkeys(layers, layout) if isinstance(layout, str) else layout
    for name, weight in layers.items():
        plain = weight.mean if is_spike_slab(weight) else weight
        values = np.asarray(plain).astype(np.float64)
        values = values * math.sqrt(fan_in(name, values.shape, layouts[name]))
        if values.size < MIN_WEIGHTS or not np.isfinite(values).all():
            reason = f"{name!r} has fewer than {MIN_WEIGHTS} weights, or NaN."
            return Symmetry(CANNOT_TELL, reason, names)
        if not values.any():
            return Symmetry(CANNOT_TELL, f"{name!r} is all zeros.", names)
        scaled.append(values.ravel())
    rng = numpy_generator(key, spawn_key=(1,))
    variances = np.array([np.mean(np.square(values)) for values in scaled])
    samples = [_subsample(values, rng) for values in scaled]
    sizes = [sample.size for sample in samples]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pool = _Pool.of(np.concatenate(samples), np.array(sizes))
    found = pool.scores(labels)
    null = np.array([pool.scores(rng.permutation(labels)) for _ in range(num_shuffles)])
    p_values = (1 + np.sum(null >= found, axis=0)) / (1 + num_shuffles)
    drift, drift_p = _drift(np.log(variances), num_shuffles, rng)
    score = float(np.std(np.log(variances)))
    broken = bool(p_values.min() < LEVEL)
    limits = np.quantile(null, 0.99, axis=0)
    reason = (
        f"ln σ_w² varies by {score:.3f} over {len(names)} layers (exchanged weights "
        f"give under {limits[0]:.3f}); largest Kolmogorov distance {found[1]:.3f} "
        f"(exchanged: under {limits[1]:.3f})."
    )
    if drift_p is not None:
        trend = "drifts with depth" if drift_p < 0.05 else "has no order in depth"
        reason += f" σ_w² {trend} (p = {drift_p:.3f})."
    means = null.mean(axis=0)
    return Symmetry(
        verdict=BROKEN if broken else SYMMETRIC,
        reason=reason,
        names=names,
        weight_vars=tuple(float(v) for v in variances),
        score=score,
        score_null=(float(means[0]), float(limits[0])),
        score_p=float(p_values[0]),
        distance=float(found[1]),
        distance_null=(float(means[1]), float(limits[1])),
        distance_p=float(p_values[1]),
        drift=drift,
        drift_p=drift_p,
        num_per_layer=tuple(sizes),
    )


def _subsample(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if values.size <= MAX_PER_LAYER:
        return values
    return rng.choice(values, MAX_PER_LAYER, replace=False)


@dataclass(frozen=True)
class _Pool:
    """All weights, prepared for many random assignments to layers."""

    squares: np.ndarray
    bins: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, sizes: np.ndarray) -> "_Pool":
        edges = np.quantile(values, np.linspace(0, 1, NUM_QUANTILES + 1)[1:-1])
        return cls(np.square(values), np.searchsorted(edges, values), sizes)

    def scores(self, labels: np.ndarray) -> np.ndarray:
        """Spread of ln σ_w² over layers, and largest Kolmogorov distance."""
        num = self.sizes.size
        variances = np.bincount(labels, self.squares, num) / self.sizes
        cells = labels * NUM_QUANTILES + self.bins
        counts = np.bincount(cells, minlength=num * NUM_QUANTILES)
        counts = counts.reshape(num, NUM_QUANTILES)
        pooled = np.cumsum(counts.sum(axis=0)) / self.sizes.sum()
        distributions = np.cumsum(counts, axis=1) / self.sizes[:, None]
        # In a sparse network a layer may get only zeros.
        logs = np.log(np.maximum(variances, np.finfo(float).tiny))
        return np.array([np.std(logs), np.abs(distributions - pooled).max()])


def _drift(
    logs: np.ndarray, num: int, rng: np.random.Generator
) -> tuple[float | None, float | None]:
    """Von Neumann ratio, and its p-value over layer orders (all orders if few)."""
    if logs.size < 4 or np.ptp(logs) == 0:
        return None, None
    if logs.size <= 6:
        orders = np.array(list(itertools.permutations(logs)))
    else:
        orders = np.array([logs, *(rng.permutation(logs) for _ in range(num))])
    spread = float(np.sum(np.square(logs - logs.mean())))
    ratios = np.sum(np.square(np.diff(orders, axis=1)), axis=1) / spread
    found = float(np.sum(np.square(np.diff(logs))) / spread)
    return found, float(np.mean(ratios <= found * (1 + 1e-12)))
