r"""The task of a run, and its likelihood.

| likelihood                | task           | outputs of the network, for each target |
|---------------------------|----------------|-----------------------------------------|
| categorical               | classification | logits of the classes                   |
| bernoulli                 | binary         | logit of y = 1                          |
| poisson                   | counts         | logarithm of the rate                   |
| gaussian                  | regression     | mean                                    |
| heteroscedastic           | regression     | mean, and noise before softplus         |
| student_t                 | regression     | location                                |
| heteroscedastic_student_t | regression     | location, and noise before softplus     |

Each target of a regression has its own noise. Real targets are standardised, see
`standardization`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.learning.likelihoods import (
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


def task_of(likelihood: str | None, task: str | None) -> str | None:
    """The task of a likelihood, after a check that it agrees with `task`.

    Raises:
        ValueError: an unknown likelihood, or one that belongs to another task.
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
        f"`task` must be {needed!r} for `likelihood` {likelihood}; got {task!r}. Leave "
        "the task out.",
    )
    return needed


def likelihood_of(task: str) -> str:
    """Name of the default likelihood of a task."""
    return next(name for name, (needed, _) in _KINDS.items() if needed == task)


def build_likelihood(name: str, num_targets: int = 1) -> Any:
    """The likelihood with a given name, before training.

    Args:
        name: one of `LIKELIHOODS`.
        num_targets: number of targets; each has its own noise.
    """
    _, make = _KINDS[name]
    return make(num_targets)


def target_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the targets, or their numbers if they have no names."""
    if dataset.target_names is not None:
        return dataset.target_names
    return tuple(map(str, range(dataset.num_targets)))


def _ones(count: int) -> Any:
    return np.ones(count) if count > 1 else 1.0


def target_columns(config: Mapping[str, Any]) -> list[str]:
    """Names of the targets of a run in its predictions."""
    named = config["data"].get("target_names")
    if named:
        return list(named)
    if config["model"]["likelihood"] == "categorical":
        return ["class"]
    count = config["model"]["targets"]
    return ["target"] if count == 1 else [f"target_{n}" for n in range(count)]
