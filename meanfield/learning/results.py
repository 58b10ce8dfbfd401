"""The result of `fit`, its report to callbacks, and its error for a non-finite loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

from meanfield.ensemble.ensemble import Ensemble

from .training import AbstractRestriction


@dataclasses.dataclass(frozen=True)
class Search:
    """The temperature and price that the selective rule found before a run.

    Attributes:
        temperature: T of the run.
        price: c, in nats per connection.
        trials: mean held-out loss, in nats per example, by temperature and price.
    """

    temperature: float
    price: float
    trials: dict[tuple[float, float], float]

    def kept(self) -> dict[str, Any]:
        """The search as plain numbers and lists, for a file."""
        trials = [[*pair, loss] for pair, loss in self.trials.items()]
        return {**vars(self), "trials": trials}

    @classmethod
    def restored(cls, kept: dict[str, Any]) -> "Search":
        """The search from the result of `kept`."""
        trials = {(t, price): loss for t, price, loss in kept["trials"]}
        return cls(kept["temperature"], kept["price"], trials)


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The result of `fit`.

    Attributes:
        ensemble: the trained ensemble.
        likelihood: the likelihood, with its learned parameters.
        history: sequences of equal length, with one entry per epoch: `epoch`, `loss`,
            `nll` and `kl` (nats per example), `seconds`, and with validation data
            `val_nll` and, for labels, `val_accuracy`; under the selective rule
            `temperature`. Connections that this rule removes after the last epoch are
            still present in the last entries (see `joint_removal`).
        stopped: "finished", "early" (no improvement), "callback" or "interrupted".
        search: the result of the selective rule's search; None under another rule.
    """

    ensemble: Ensemble
    likelihood: Any
    history: dict[str, list[Any]]
    stopped: str
    search: Search | None = None


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """The report that a callback gets after an epoch.

    Attributes:
        epoch: number of epochs done.
        epochs: number of epochs of the whole fit.
        history: as in `FitResult`; a copy.
        get: function that builds the current ensemble and likelihood.
        restrict: function that sets the `restriction` of the following epochs.
    """

    epoch: int
    epochs: int
    history: dict[str, list[Any]]
    get: Callable[[], tuple[Ensemble, Any]]
    restrict: Callable[[AbstractRestriction], None]

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble after this epoch."""
        return self.get()[0]

    @property
    def likelihood(self) -> Any:
        """The likelihood after this epoch."""
        return self.get()[1]


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient was no longer finite.

    Attributes:
        step: the step, counted from 0, at which it happened.
        result: a `FitResult` with the state before that step.
    """

    def __init__(self, message: str, step: int, result: FitResult):
        super().__init__(message)
        self.step = step
        self.result = result
