"""`fit`: small parts assembled into a training run."""

import dataclasses
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble

from .batches import array_data, check_augment, check_batch, iterate
from .checkpoint import Checkpoint
from .interrupt import stop_on_interrupt
from .likelihoods import Categorical
from .optimizers import default_optimizer
from .parametrization import AbstractParametrization, Projected, Unconstrained
from .sharding import Layout, come_home
from .targets import check_targets
from .training import (
    AbstractRestraint,
    Recipe,
    Temperature,
    TrainState,
    Weighted,
    run_batch,
    run_epoch,
    split_learned,
    starting_state,
)
from .validation import validation_scores


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes:
        ensemble: the trained ensemble.
        likelihood: the likelihood, with what it learned.
        history: sequences of equal length, one entry an epoch: `epoch`, `loss`, `nll`
            and `kl` (nats per example), `seconds`, and with validation data `val_nll`
            and, for labels, `val_accuracy`.
        stopped: "finished", "early" (no improvement), "callback" or "interrupted".
    """

    ensemble: Ensemble
    likelihood: Any
    history: dict[str, list[Any]]
    stopped: str


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What a callback sees after an epoch.

    Attributes:
        epoch: number of epochs done.
        epochs: number of epochs asked for.
        history: as in `FitResult`.
        get: builds the ensemble and the likelihood of this moment.
        restrain: sets the `restraint` of the epochs that follow.
    """

    epoch: int
    epochs: int
    history: dict[str, list[Any]]
    get: Callable[[], tuple[Ensemble, Any]]
    restrain: Callable[[AbstractRestraint], None]

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble after this epoch."""
        return self.get()[0]

    @property
    def likelihood(self) -> Any:
        """The likelihood after this epoch."""
        return self.get()[1]


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient stopped being finite.

    Attributes:
        step: the step, counted from 0, at which it happened.
        result: a `FitResult` with the state before that step.
    """

    def __init__(self, message: str, step: int, result: FitResult):
        super().__init__(message)
        self.step = step
        self.result = result


def fit(
    ensemble: Ensemble,
    data: Any,
    *,
    likelihood: Callable[[Any], Any] = Categorical(),  # noqa: B008  (frozen)
    key: PRNGKeyArray,
    epochs: int = 30,
    batch_size: int = 128,
    optimizer: optax.GradientTransformation | None = None,
    prior: Any = None,
    temperature: Temperature = 1.0,
    parametrization: AbstractParametrization | None = None,
    validation: tuple[Any, Any] | None = None,
    patience: int | None = None,
    callbacks: Sequence[Callable[[EpochReport], Any]] = (),
    checkpoint: Checkpoint | str | os.PathLike | None = None,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    compute_dtype: Any = None,
    num_data: int | None = None,
    sample_weight: Any = None,
    restraint: AbstractRestraint | None = None,
    augment: Callable[..., Any] | None = None,
    progress: bool = True,
) -> FitResult:
    r"""Learn an ensemble by generalized back-propagation.

        loss = mean NLL(one ε draw) + temperature · Σ KL(q‖prior) / num_data

    in nats per example. Without a prior this is the published rule; with one it is the
    negative evidence bound. Point values (biases, norm scales) are learned along.

    Args:
        ensemble: where to start; it is not changed.
        data: arrays (x, y), first axis the examples, learned from in one compiled
            program an epoch; or, for data that does not fit in memory, an iterable of
            (x, y) batches that can be gone through again each epoch, or a function
            that returns one.
        likelihood: from outputs to a NumPyro distribution; `Categorical()` by default.
        key: a `jax.random.key`; the same key gives the same bits.
        epochs: passes over the data.
        batch_size: examples a step, for arrays. The last examples of an epoch's random
            order that fill no batch are left out of that epoch.
        optimizer: any Optax optimizer. Default: Adam whose step falls from 0.002 to 0
            along a cosine.
        prior: `SpikeSlabPrior`, a mapping from path names to priors, or None.
        temperature: weight T ≥ 0 of the KL term, a number or a schedule (a function of
            the step). A warm-up over 500 steps is `optax.linear_schedule(0.0, 1.0,
            500)`.
        parametrization: `Projected()` (default without a prior) or `Unconstrained()`
            (default with one).
        validation: arrays (x, y) scored after every epoch.
        patience: stop after so many epochs without a better validation NLL, and return
            the best epoch's ensemble.
        callbacks: called with an `EpochReport` after every epoch; one that returns
            True ends the training.
        checkpoint: a `Checkpoint` or a folder; a run found there is continued.
        mesh: a `jax.sharding.Mesh` whose axis "data" splits each batch, and whose axis
            "model", if any, splits wide weight matrices.
        accumulate: parts that every batch goes through in, one after the other, their
            gradients averaged: less memory, the same step.
        compute_dtype: a floating-point type, such as `jnp.bfloat16`, that the network
            computes in; parameters, optimizer and loss stay as they are.
        num_data: number of training examples; needed with a prior when `data` is an
            iterable.
        sample_weight: for arrays, a weight ≥ 0 for each example; only their ratios
            count.
        restraint: what every step may use of the ensemble, and what that costs; a
            callback may change it for the epochs that follow. The result holds the
            whole ensemble.
        augment: ``augment(x, key=key)``, a random change of a batch of inputs that
            keeps their shapes, such as `meanfield.data.shift_images`. It is compiled
            into every step; validation data are left as they are.
        progress: whether to show a progress bar.

    Returns:
        A `FitResult`. Ctrl-C ends after the running epoch, with what was learned.

    Raises:
        ValueError: an argument does not fit; the message says which and why.
        NonFiniteLossError: the loss stopped being finite; the error holds the last
            good state.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> x = jax.random.normal(jax.random.key(2), (64, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> result = mf.fit(ensemble, (x, y), key=jax.random.key(3), epochs=2,
        ...                 batch_size=16, progress=False)
        >>> len(result.history["nll"])
        2

    References:
        Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
    """
    arrays = array_data(data)
    validation = _check(epochs, batch_size, temperature, patience, validation)
    compute_dtype = _check_compute(accumulate, compute_dtype)
    if arrays is not None:
        given = len(jax.tree.leaves(arrays[0])[0])
        num_data = given if num_data is None else num_data
        require(
            batch_size <= given,
            f"`batch_size` must not exceed the number of examples; got {batch_size} "
            f"for {given} examples. Use a smaller batch.",
        )
        check_batch(ensemble, likelihood, *arrays)
        check_augment(augment, arrays[0], batch_size)
        if sample_weight is not None:
            arrays = (arrays[0], _weighted(arrays[1], sample_weight, given))
    if validation is not None:
        check_batch(ensemble, likelihood, *validation, name="validation")
    require(
        arrays is not None or sample_weight is None,
        "`sample_weight` goes with arrays (x, y); `data` is an iterable. Draw its "
        "batches by weight instead.",
    )
    require(
        num_data is not None or prior is None,
        "`num_data` is needed with a prior when `data` is an iterable: the KL term is "
        "divided by the number of training examples. Pass num_data=....",
    )
    steps = None if arrays is None else epochs * (given // batch_size)
    if parametrization is None:
        parametrization = Projected() if prior is None else Unconstrained()
    if isinstance(parametrization, Projected) and prior is not None:
        parametrization = Projected(max(parametrization.smallest_var, 1e-8))
    learned, fixed = split_learned(ensemble, likelihood, parametrization)
    recipe = Recipe(
        fixed=fixed,
        prior=prior,
        optimizer=optimizer or default_optimizer(steps),
        parametrization=parametrization,
        temperature=temperature if callable(temperature) else float(temperature),
        num_data=num_data or 0,
        accumulate=accumulate,
        compute_dtype=compute_dtype,
        restraint=restraint,
        augment=augment,
    )
    state = starting_state(learned, recipe.optimizer)
    best = None if patience is None else state.learned
    require(
        checkpoint is None or restraint is None,
        "`checkpoint` cannot keep a `restraint`, which changes; leave one out.",
    )
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    history, first = {}, 0
    if checkpoint is not None:
        fingerprint = _fingerprint(recipe, key, batch_size, arrays, patience)
        found = checkpoint.restore((state, best), fingerprint)
        if found is not None:
            (state, best), metadata = found
            history, first = metadata["history"], metadata["epoch"]
    layout = Layout(mesh, None if arrays is None else batch_size, accumulate)
    run = _Run(recipe, state, key, history, validation, layout)
    arrays = layout.everywhere(arrays)
    best = jax.tree.map(jnp.copy, best)
    stopped = "finished"
    bar = tqdm(
        total=epochs, initial=first, disable=not progress, unit="epoch", leave=False
    )
    with bar, stop_on_interrupt() as wish:
        for epoch in range(first, epochs):
            if patience is not None and run.epochs_since_best() >= patience:
                stopped = "early"
                break
            run.learn(data, arrays, epoch, batch_size)
            run.settle(epoch)
            bar.update()
            bar.set_postfix(run.summary())
            if patience is not None and run.epochs_since_best() == 0:
                best = jax.tree.map(jnp.copy, run.state.learned)
            if checkpoint is not None:
                metadata = {"history": run.history, "fingerprint": fingerprint}
                tree = (run.state, best)
                checkpoint.offer(epoch + 1, tree, metadata, run.scores()[-1])
            report = EpochReport(
                epoch + 1, epochs, run.history, run.current, run.restrain
            )
            answers = [callback(report) for callback in callbacks]
            if any(answer is True for answer in answers):
                stopped = "callback"
                break
            if wish.asked:
                stopped = "interrupted"
                break
    return run.result(stopped, best)


class _Run:
    """The moving parts of one call of `fit`."""

    def __init__(self, recipe, state, key, history, validation, layout):
        self.recipe: Recipe = layout.recipe(recipe)
        self.state: TrainState = layout.weights(state)
        self.key = key
        self.history: dict[str, list[Any]] = history
        self.validation = validation
        self.layout: Layout = layout
        self.parts: dict[str, Any] = {}
        self.outputs: Any = None
        self.started = time.perf_counter()

    def learn(self, data: Any, arrays: Any, epoch: int, batch_size: int) -> None:
        """Dispatch one epoch."""
        self.started = time.perf_counter()
        if arrays is not None:
            key, number = self.layout.everywhere((self.key, jnp.asarray(epoch)))
            constants = (self.recipe, *arrays, key, number, batch_size)
            self.state, self.parts = run_epoch(constants, self.state)
            return
        key = self.layout.everywhere(self.key)
        first_pass = self.outputs is None
        ensemble, likelihood = self.current()
        sums: list[Any] = []
        for x, y in iterate(data, epoch):
            if self.outputs is None:
                self.outputs = check_batch(ensemble, likelihood, x, come_home(y))
                check_augment(self.recipe.augment, x)
            elif first_pass:
                check_targets(likelihood, self.outputs, come_home(y))
            constants = (self.recipe, *self.layout.split((x, y)), key)
            self.state, parts = run_batch(constants, self.state)
            sums.append(parts)
            if len(sums) % 100 == 0 and not bool(self.state.healthy):
                break
        require(bool(sums), "`data` gave no batch; it needs at least one an epoch.")
        values = jax.device_get(sums)
        self.parts = {name: np.mean([v[name] for v in values]) for name in values[0]}

    def settle(self, epoch: int) -> None:
        """Write the epoch into the history; refuse to go on from a sick state."""
        if not bool(self.state.healthy):
            step = int(self.state.step)
            result = self.result("not finite", None)
            raise NonFiniteLossError(
                f"the loss or its gradient was not finite at step {step} (epoch "
                f"{epoch + 1}). The state before that step is in this error's "
                "`.result`. Try a smaller learning rate, scale the inputs, or look for "
                "NaN in the data.",
                step,
                result,
            )
        row = {"epoch": epoch + 1} | {k: float(v) for k, v in self.parts.items()}
        row["seconds"] = time.perf_counter() - self.started
        if self.validation is not None:
            ensemble, likelihood = self.current()
            key = jax.random.fold_in(jax.random.fold_in(self.key, 1), epoch)
            if self.recipe.restraint is not None:
                ensemble = self.recipe.restraint.restrict(ensemble, key)
            row |= validation_scores(ensemble, likelihood, *self.validation, key=key)
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)

    def restrain(self, restraint: AbstractRestraint) -> None:
        """Go on under another restraint."""
        restraint = self.layout.everywhere(restraint)
        self.recipe = dataclasses.replace(self.recipe, restraint=restraint)

    def scores(self) -> list[float]:
        """What early stopping and the best checkpoint go by; less is better."""
        return self.history.get("loss" if self.validation is None else "val_nll", [])

    def epochs_since_best(self) -> int:
        """Epochs since the least score; read off the history, so it survives a stop."""
        since, best = 0, math.nan
        for score in self.scores():
            better = score < best or math.isnan(best)
            since, best = (0, score) if better else (since + 1, best)
        return since

    def summary(self) -> dict[str, str]:
        """The last epoch in a few words."""
        names = ("nll", "kl", "val_nll", "val_accuracy")
        return {n: f"{self.history[n][-1]:.4f}" for n in names if n in self.history}

    def current(self) -> tuple[Ensemble, Any]:
        """Ensemble and likelihood of this moment, in buffers of their own."""
        return self._open(jax.tree.map(jnp.copy, self.state.learned))

    def result(self, stopped: str, learned: Any) -> FitResult:
        """The outcome; of another state than the last when `learned` is given."""
        if learned is None:
            learned = self.state.learned
        return FitResult(*self._open(learned), self.history, stopped)

    def _open(self, learned: Any) -> tuple[Ensemble, Any]:
        return come_home(self.recipe.ensemble_and_likelihood(learned))


def _check(epochs, batch_size, temperature, patience, validation) -> Any:
    require(epochs >= 1, f"`epochs` must be at least 1; got {epochs}.")
    require(batch_size >= 1, f"`batch_size` must be at least 1; got {batch_size}.")
    require(
        callable(temperature) or (math.isfinite(temperature) and temperature >= 0),
        f"`temperature` must be a finite number ≥ 0 or a schedule; got {temperature}. "
        "0 leaves the prior out, 1 is the evidence bound.",
    )
    if callable(temperature):
        first = np.asarray(temperature(jnp.asarray(0)))
        require(
            first.shape == () and bool(np.isfinite(first)) and bool(first >= 0),
            f"`temperature` must be a schedule of one finite number ≥ 0; at step 0 it "
            f"gives {first}.",
        )
    require(
        patience is None or (patience >= 1 and validation is not None),
        f"`patience` must be at least 1 and needs `validation` data; got {patience}.",
    )
    return None if validation is None else array_data(validation, name="validation")


def _check_compute(accumulate, compute_dtype) -> Any:
    require(accumulate >= 1, f"`accumulate` must be at least 1; got {accumulate}.")
    if compute_dtype is None:
        return None
    dtype = jnp.dtype(compute_dtype)
    require(
        jnp.issubdtype(dtype, jnp.floating),
        f"`compute_dtype` must be a floating-point type such as jnp.bfloat16; got "
        f"{dtype}.",
    )
    return dtype


def _weighted(y: Any, weights: Any, num_examples: int) -> Weighted:
    weights = np.asarray(weights, np.float64)
    require(
        weights.shape == (num_examples,),
        f"`sample_weight` must have one number for each of the {num_examples} "
        f"examples; got shape {weights.shape}.",
    )
    good = np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0
    require(
        bool(good),
        "`sample_weight` must be finite, not negative, and not all zero; got "
        f"minimum {weights.min()} and sum {weights.sum()}.",
    )
    return Weighted(y, jnp.asarray(weights / weights.mean(), jnp.result_type(float)))


def _fingerprint(recipe, key, batch_size, arrays, patience) -> dict[str, Any]:
    """What must be the same for a run to be gone on with.

    Whatever changes the shape of the state (architecture, optimizer) shows anyway.
    """
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data, checksum = jax.tree.leaves(arrays), 0
    for array in data:
        checksum = zlib.crc32(np.asarray(array, order="C").tobytes(), checksum)
    steady = not callable(recipe.temperature)
    return {
        "key": np.asarray(jax.random.key_data(key) if typed else key).tolist(),
        "num_data": recipe.num_data,
        "batch_size": batch_size if arrays is not None else None,
        "data_crc32": checksum if arrays is not None else None,
        "parametrization": eqx.tree_pformat(recipe.parametrization),
        "prior": eqx.tree_pformat(recipe.prior),
        "temperature": recipe.temperature if steady else "schedule",
        "early_stopping": patience is not None,
        # None where nothing is asked for, as in runs from before there was a choice.
        "accumulate": recipe.accumulate if recipe.accumulate > 1 else None,
        "compute_dtype": recipe.compute_dtype and str(recipe.compute_dtype),
        "augmented": True if recipe.augment is not None else None,
    }
