r"""Standardised targets, and likelihoods in the units of the data.

A network learns real targets that are standardised, column by column,

    y' = (y − shift) / scale,      shift and scale: mean and deviation in training,

and every score is reported in the units of the data. Counts and binary targets are not
standardised.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.learning.likelihoods import AbstractLikelihood

from .tasks import target_columns, target_names

_OUTPUTS = {
    "categorical": "logits of the classes",
    "bernoulli": "logits of y = 1, one for each target",
    "poisson": "logarithms of the rates, one for each target",
}
_STANDARD = "means in standard units, one for each target: shift + scale · output"
_WITH_NOISE = "; then one s for each target, whose noise is scale · softplus(s)"


@dataclasses.dataclass(frozen=True)
class Standardization:
    """How real targets were standardised; both are None for other targets.

    Args:
        shift: number subtracted from each column, in units of the column, or None.
        scale: number by which each column is divided, or None.
    """

    shift: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    @classmethod
    def learn(cls, dataset: Dataset) -> "Standardization":
        """Mean and deviation of every column of the training targets.

        Raises:
            ValueError: a column holds the same number in every row.
        """
        if dataset.task != "regression":
            return cls()
        y = dataset.y_train.astype(np.float64).reshape(len(dataset.y_train), -1)
        scale = y.std(0)
        same = y.min(0) == y.max(0)
        names = target_names(dataset)
        require(
            not same.any(),
            f"the target {names[same.argmax()]!r} must vary; got the same number in "
            "every row. Leave it out.",
        )
        return cls(tuple(y.mean(0).tolist()), tuple(scale.tolist()))

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Standardization":
        """The standardization that is stored in a run's configuration."""
        parts = (config["data"][f"target_{part}"] for part in ("shift", "scale"))
        return cls(*(None if p is None else tuple(np.ravel(p).tolist()) for p in parts))

    def standardise(self, y: np.ndarray) -> np.ndarray:
        """Standardised targets, as the network learns them."""
        if self.shift is None:
            return y
        columns = y.astype(np.float64).reshape(len(y), -1)
        standard = (columns - np.asarray(self.shift)) / np.asarray(self.scale)
        return standard.reshape(y.shape).astype(np.float32)

    def likelihood(self, likelihood: Any) -> Any:
        """The likelihood for targets in the units of the data."""
        if self.shift is None or self.scale is None:
            return likelihood
        return _Restored(likelihood, self.shift, self.scale)


class _Restored(AbstractLikelihood):
    """A likelihood of location and scale for y = shift + scale · y'."""

    standard: AbstractLikelihood
    shift: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, outputs: Float[Array, "batch ..."]) -> dist.Distribution:
        """Distribution of the targets in the units of the data."""
        standard: Any = self.standard(outputs)
        base = standard.base_dist
        shift, scale = (
            jnp.asarray(p, base.loc.dtype) for p in (self.shift, self.scale)
        )
        loc, width = shift + scale * base.loc, scale * base.scale
        if isinstance(base, dist.StudentT):
            moved = dist.StudentT(base.df, loc, width)
        else:
            moved = dist.Normal(loc, width)
        return moved.to_event(loc.ndim - 1)

    def num_outputs(self, targets: Any) -> int:
        """Number of outputs, as for standardised targets."""
        return self.standard.num_outputs(targets)


def describe(config: Mapping[str, Any], likelihood: Any) -> dict[str, Any]:
    """The meaning of the outputs of a run's networks, for a model card.

    Args:
        config: configuration of the run.
        likelihood: the learned likelihood of standardised targets.

    Returns:
        Texts and numbers: `likelihood`, `outputs`, the names of targets and classes;
        for real targets `shift` and `scale`, `noise` (its scale in their units, unless
        it depends on the input) and `df` (degrees of freedom, for Student's
        distribution).
    """
    name, standard = config["model"]["likelihood"], Standardization.of(config)
    outputs = _OUTPUTS.get(name, _STANDARD)
    if name.startswith("heteroscedastic"):
        outputs += _WITH_NOISE
    found = {"likelihood": name, "outputs": outputs}
    if config["data"].get("class_names"):
        found["class_names"] = list(config["data"]["class_names"])
    found["names"] = target_columns(config)
    if standard.shift is not None and standard.scale is not None:
        found |= {"shift": list(standard.shift), "scale": list(standard.scale)}
        if not name.startswith("heteroscedastic"):
            noise = np.asarray(likelihood.scale) * np.asarray(standard.scale)
            found["noise"] = np.ravel(noise).tolist()
        if name.endswith("student_t"):
            found["df"] = likelihood.df
    return found
