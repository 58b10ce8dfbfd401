"""The state of one call of `fit` between epochs."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.ensemble.opened import check_training

from .batches import check_augment, check_batch, iterate
from .epochs import MOST_EPOCHS, run_batch, run_epochs
from .parametrization import Projected
from .precision import check_precision
from .results import EpochReport, FitResult, NonFiniteLossError
from .sharding import Layout, gathered
from .state import TrainState, copied
from .targets import check_targets
from .training import AbstractRestriction, Recipe
from .validation import validation_scores

# Short epochs share a call of about this length, after which Ctrl-C takes effect.
CALL_SECONDS = 0.25


class Loop:
    """The state of one call of `fit` that changes from epoch to epoch.

    Args:
        recipe: everything that no step changes.
        state: the current parameters and optimizer state.
        key: a `jax.random.key` for the run.
        history: history of the previous epochs.
        validation: arrays (x, y) scored after every epoch, or None.
        layout: placement of arrays on devices.
        settling: number of initial epochs whose scores do not count.
    """

    def __init__(
        self,
        recipe,
        state,
        key,
        history,
        validation,
        layout,
        settling: int = 0,
    ):
        self.recipe: Recipe = layout.recipe(recipe)
        self.state: TrainState = layout.weights(state)
        self.key = key
        self.keys = layout.everywhere(jax.random.split(key))
        self.history: dict[str, list[Any]] = history
        self.validation = validation
        self.layout: Layout = layout
        # Rows of the epochs of the last call, and number of epochs of the next call.
        self.rows: list[dict[str, Any]] = []
        self.pace = 1
        self.outputs: Any = None
        self.settling = settling

    def learn(
        self, data: Any, arrays: Any, epoch: int, batch_size: int, most: int = 1
    ) -> int:
        """Learn for an epoch or, over arrays, for several short ones.

        Args:
            data: the argument of `fit`.
            arrays: the same as arrays on devices, or None.
            epoch: number of the first epoch.
            batch_size: examples per step, of arrays.
            most: largest number of epochs.

        Returns:
            The number of epochs.
        """
        started = time.perf_counter()
        count = min(most, self.pace) if arrays is not None else 1
        if arrays is None:
            columns = self._learn_batches(data, epoch)
        else:
            numbers = jnp.asarray(np.int32(epoch)), jnp.asarray(np.int32(count))
            first, many = self.layout.everywhere(numbers)
            x, y = arrays
            constants = (self.recipe, x, y, self.keys, first, many, batch_size)
            self.state, columns = run_epochs(constants, self.state)
        columns = jax.device_get(columns)
        seconds = (time.perf_counter() - started) / count
        # Several processes must use the same number, but measure different seconds.
        if jax.process_count() == 1:
            self.pace = max(1, min(int(CALL_SECONDS / seconds), MOST_EPOCHS))
        self.rows = [
            {name: float(column[i]) for name, column in columns.items()}
            | {"seconds": seconds}
            for i in range(count)
        ]
        return count

    def _learn_batches(self, data: Any, epoch: int) -> dict[str, Any]:
        first_pass = self.outputs is None
        ensemble, likelihood = self.current()
        sums: list[Any] = []
        sizes: list[int] = []
        for x, y in iterate(data, epoch):
            if self.outputs is None:
                self.outputs = check_batch(ensemble, likelihood, x, gathered(y))
                check_training(ensemble.params, ensemble.training, x)
                compute = self.recipe.compute_dtype
                check_precision(compute, ensemble, x, self.recipe.hold)
                check_augment(self.recipe.augment, x)
            elif first_pass:
                check_targets(likelihood, self.outputs, gathered(y))
            constants = (self.recipe, *self.layout.split((x, y)), self.keys)
            self.state, parts = run_batch(constants, self.state)
            sums.append(parts)
            sizes.append(len(jax.tree.leaves(x)[0]))
            if len(sums) % 100 == 0 and not bool(self.state.healthy):
                break
        require(bool(sums), "`data` must give at least one batch per epoch; got none.")
        values = jax.device_get(sums)
        mean = {
            name: [np.average([v[name] for v in values], weights=sizes)]
            for name in values[0]
        }
        return mean | {"step": [self.state.step], "healthy": [self.state.healthy]}

    def settle(self, epoch: int) -> None:
        """Add the last epochs to the history; raise if a loss was not finite."""
        for number, row in enumerate(self.rows, epoch):
            self._settle_one(number, row)

    def _settle_one(self, epoch: int, row: dict[str, float]) -> None:
        step = int(row.pop("step"))
        if not row.pop("healthy"):
            result = self.result("not finite", ())
            raise NonFiniteLossError(
                f"the loss or its gradient was not finite at step {step} (epoch "
                f"{epoch + 1}). The state before that step is in this error's "
                "`.result`. Try a smaller learning rate, scale the inputs, or look for "
                "NaN in the data.",
                step,
                result,
            )
        row = {"epoch": epoch + 1} | row
        if self.validation is not None:
            ensemble, likelihood = self.current()
            key = jax.random.fold_in(jax.random.fold_in(self.key, 1), epoch)
            if self.recipe.restriction is not None:
                ensemble = self.recipe.restriction.restrict(ensemble, key)
            row |= validation_scores(ensemble, likelihood, *self.validation, key=key)
        if self.recipe.schedule is not None:
            schedule = jax.device_get(self.recipe.schedule)
            row["temperature"] = float(schedule.temperature_at(step))
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)

    def restrict(self, restriction: AbstractRestriction) -> None:
        """Continue with another restriction."""
        restriction = self.layout.everywhere(restriction)
        self.recipe = dataclasses.replace(self.recipe, restriction=restriction)

    def report(self, epochs: int) -> EpochReport:
        """The argument of a callback, with copies of the lists."""
        history = {name: list(values) for name, values in self.history.items()}
        return EpochReport(
            history["epoch"][-1], epochs, history, self.current, self.restrict
        )

    def scores(self) -> list[float]:
        """Scores for early stopping and the best checkpoint; smaller is better."""
        scores = self.history.get("loss" if self.validation is None else "val_nll", [])
        first = min(self.settling, len(scores))
        return [math.inf] * first + scores[first:]

    def epochs_since_best(self) -> int:
        """Epochs since the smallest score, found from the (checkpointed) history."""
        since, best = 0, math.nan
        for score in self.scores():
            better = score < best or math.isnan(best) or score == math.inf
            since, best = (0, score) if better else (since + 1, best)
        return since

    def summary(self) -> dict[str, str]:
        """A short text on the last epoch."""
        names = ("nll", "kl", "temperature", "val_nll", "val_accuracy")
        return {n: f"{self.history[n][-1]:.4f}" for n in names if n in self.history}

    def current(self) -> tuple[Ensemble, Any]:
        """The current ensemble and likelihood, copied to new buffers."""
        return self._open(*copied(self.state.network))

    def result(self, stopped: str, network: Sequence[Any]) -> FitResult:
        """The result of the run, from `network` or by default from the last state."""
        return FitResult(
            *self._open(*(network or self.state.network)), self.history, stopped
        )

    def _open(self, learned: Any, moving: Any) -> tuple[Ensemble, Any]:
        plain = isinstance(self.recipe.parametrization, Projected)
        read = Recipe.ensemble_and_likelihood if plain else _read
        return gathered(read(self.recipe, learned, moving))


# One program instead of one for each operation and shape.
_read = eqx.filter_jit(Recipe.ensemble_and_likelihood)
