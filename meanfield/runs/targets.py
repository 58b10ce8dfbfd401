r"""What a run predicts: its likelihood, and the units of its targets.

| likelihood                | task           | outputs of the network, for each target |
|---------------------------|----------------|-----------------------------------------|
| categorical               | classification | logits of the classes                   |
| bernoulli                 | binary         | logit of the answer 1                   |
| poisson                   | counts         | logarithm of the rate                   |
| gaussian                  | regression     | mean                                    |
| heteroscedastic           | regression     | mean, and noise before softplus         |
| student_t                 | regression     | location                                |
| heteroscedastic_student_t | regression     | location, and noise before softplus     |

A network learns real targets in standard units, every column in its own,

    y' = (y − shift) / scale,      shift and scale: mean and deviation in training,

and every score is told in the units of the data. Counts and answers stay what they are.
Each target of a regression has a noise of its own.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.learning.likelihoods import (
    AbstractLikelihood,
    Bernoulli,
    Categorical,
    Gaussian,
    Poisson,
    StudentT,
)

# Name → task, and the likelihood for a number of targets.
_KINDS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "categorical": ("classification", lambda n: Categorical()),
    "bernoulli": ("binary", lambda n: Bernoulli()),
    "poisson": ("counts", lambda n: Poisson()),
    "gaussian": ("regression", lambda n: Gaussian(initial_scale=_ones(n))),
    "heteroscedastic": ("regression", lambda n: Gaussian("input")),
    "student_t": ("regression", lambda n: StudentT(initial_scale=_ones(n))),
    "heteroscedastic_student_t": (
        "regression",
        lambda n: StudentT(scale="input"),
    ),
}
LIKELIHOODS = tuple(_KINDS)
_OUTPUTS = {
    "categorical": "logits of the classes",
    "bernoulli": "logits of the answer 1, one for each target",
    "poisson": "logarithms of the rates, one for each target",
}
_STANDARD = "means in standard units, one for each target: shift + scale · output"
_WITH_NOISE = "; then as many s, noise in the data's units scale · softplus(s)"


def task_of(likelihood: str | None, task: str | None) -> str | None:
    """The task that a likelihood needs, checked against the one that was asked for.

    Raises:
        ValueError: no such likelihood, or it belongs to another task.
    """
    if likelihood is None:
        return task
    require(
        likelihood in _KINDS,
        f"`likelihood` must be one of {', '.join(LIKELIHOODS)}; got {likelihood!r}.",
    )
    needed, _ = _KINDS[likelihood]
    require(
        task in (None, needed),
        f"`likelihood` {likelihood} is for the task {needed!r}; got `task` {task!r}. "
        "Leave the task out.",
    )
    return needed


def likelihood_of(task: str) -> str:
    """Name of the likelihood that a task has if none is asked for."""
    return next(name for name, (needed, _) in _KINDS.items() if needed == task)


def build_likelihood(name: str, num_targets: int = 1) -> Any:
    """The likelihood of a name, before learning.

    Args:
        name: one of `LIKELIHOODS`.
        num_targets: numbers in one target; each has a noise of its own.
    """
    _, make = _KINDS[name]
    return make(num_targets)


@dataclasses.dataclass(frozen=True)
class Units:
    """How real targets were standardised; nothing of the sort for all others.

    Args:
        shift: what was subtracted from each column, in its units, or None.
        scale: what it was divided by, or None.
    """

    shift: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    @classmethod
    def learn(cls, dataset: Dataset) -> "Units":
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
            f"the target {names[same.argmax()]!r} is the same in every row: there is "
            "nothing to learn. Leave it out.",
        )
        return cls(tuple(y.mean(0).tolist()), tuple(scale.tolist()))

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Units":
        """The units that a run's configuration holds."""
        parts = (config["data"][f"target_{part}"] for part in ("shift", "scale"))
        return cls(*(None if p is None else tuple(np.ravel(p).tolist()) for p in parts))

    def standardise(self, y: np.ndarray) -> np.ndarray:
        """Targets in the units that the network learns in."""
        if self.shift is None:
            return y
        columns = y.astype(np.float64).reshape(len(y), -1)
        standard = (columns - np.asarray(self.shift)) / np.asarray(self.scale)
        return standard.reshape(y.shape).astype(np.float32)

    def likelihood(self, likelihood: Any) -> Any:
        """The likelihood with its targets in the units of the data."""
        if self.shift is None or self.scale is None:
            return likelihood
        return _InUnits(likelihood, self.shift, self.scale)


class _InUnits(AbstractLikelihood):
    """A likelihood of location and scale for y = shift + scale · y'."""

    standard: AbstractLikelihood
    shift: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, outputs: Float[Array, "batch ..."]) -> dist.Distribution:
        """Distribution of the targets in the units of the data."""
        law: Any = self.standard(outputs)
        base = law.base_dist
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
        """As many as in standard units."""
        return self.standard.num_outputs(targets)


def target_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the targets; numbers where they have none."""
    if dataset.target_names is not None:
        return dataset.target_names
    return tuple(map(str, range(dataset.num_targets)))


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the outputs of a run's networks mean, for a model card."""
    name, units = config["model"]["likelihood"], Units.of(config)
    outputs = _OUTPUTS.get(name, _STANDARD)
    if name.startswith("heteroscedastic"):
        outputs += _WITH_NOISE
    found = {"likelihood": name, "outputs": outputs}
    if config["data"].get("target_names"):
        found["names"] = list(config["data"]["target_names"])
    if units.shift is not None and units.scale is not None:
        found |= {"shift": list(units.shift), "scale": list(units.scale)}
    return found


def _ones(count: int) -> Any:
    return np.ones(count) if count > 1 else 1.0
