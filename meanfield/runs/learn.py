"""Learn from data by the settings of a run: its prior, its network, its fit."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from meanfield.checks import require
from meanfield.credit.labels import mean_entropy
from meanfield.deploy.shipping.manifest import file_hash
from meanfield.ensemble.ensemble import Ensemble
from meanfield.keys import key_of_seed
from meanfield.learning.checkpoint import Checkpoint
from meanfield.learning.fit import fit
from meanfield.learning.optimizers import cosine_adam
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.learning.results import FitResult, NonFiniteLossError
from meanfield.learning.selective import resolve_prior
from meanfield.learning.sharding import device_mesh

from .architecture import starting_model
from .config import (
    versions,
)
from .folder import HISTORY, Run, save_run
from .settings import RULES, TrainSettings
from .stages import stage
from .tasks import build_likelihood

CHECKPOINTS = "checkpoints"
# With fewer examples than this, the defaults are smaller batches and more epochs.
SMALL = 10_000
# Default inclusion probability of the rule evidence.
INCLUSION_PROB = 0.1


def learn(
    settings: TrainSettings,
    folder: Path,
    config: dict[str, Any],
    learned: tuple[Any, Any, int | None],
    prior: SpikeSlabPrior | str | None,
    callbacks: Sequence[Callable[[Any], Any]],
) -> tuple[Run, dict[str, Any]]:
    """Fit to `learned`: data, validation data and patience; write the result.

    If the loss is not finite, the last finite state is written before the error is
    raised.
    """
    stage("learning: compiling, then epochs")
    started, failure = time.perf_counter(), None
    architecture, targets = config["model"], learned[0][1]
    model = starting_model(architecture, settings.seed, folder, targets)
    ensemble = Ensemble.from_model(
        model,
        key=jax.random.fold_in(key_of_seed(settings.seed), 0),
        spikes=settings.spikes,
    )
    try:
        result = _fit(
            settings, folder, architecture, ensemble, learned, prior, callbacks
        )
    except NonFiniteLossError as error:
        failure, result = error, error.result
    seconds = time.perf_counter() - started
    run = save_run(folder, config, result)
    run.update_metrics(
        {
            "train_seconds": seconds,
            "history_sha256": file_hash(folder / HISTORY),
            "epochs": len(result.history.get("epoch", ())),
            "stopped": result.stopped,
            "num_weights": result.ensemble.num_weights,
            "versions": versions(),
            "entropy_start": mean_entropy(resolve_prior(prior, ensemble)[-1]),
        }
    )
    if result.search is not None:
        run.update_metrics({"search": result.search.kept()})
    if failure is not None:
        raise failure
    return run, result.history


def _fit(
    settings: TrainSettings,
    folder: Path,
    architecture: dict[str, Any],
    ensemble: Ensemble,
    learned: tuple[Any, Any, int | None],
    prior: SpikeSlabPrior | str | None,
    callbacks: Sequence[Callable[[Any], Any]],
) -> FitResult:
    """Train the ensemble, with the likelihood that the architecture names."""
    data, validation, patience = learned
    likelihood = build_likelihood(architecture["likelihood"], architecture["targets"])
    epochs, batch_size = schedule(settings, len(data[0]))
    optimizer = None
    if prior == "selective":
        epochs = settings.epochs
    else:
        steps = epochs * (len(data[0]) // batch_size)
        optimizer = cosine_adam(settings.learning_rate, steps)
    return fit(
        ensemble,
        data,
        likelihood=likelihood,
        key=jax.random.fold_in(key_of_seed(settings.seed), 1),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        prior=prior,
        temperature=settings.temperature,
        validation=validation,
        patience=patience,
        checkpoint=Checkpoint(folder / CHECKPOINTS),
        callbacks=callbacks,
        mesh=settings.devices and device_mesh(*settings.devices),
        accumulate=settings.accumulate,
        compute_dtype=settings.precision,
        progress=settings.progress,
    )


def schedule(settings: TrainSettings, num_examples: int) -> tuple[int, int]:
    """Epochs and batch size; the defaults depend on the number of examples."""
    small = num_examples < SMALL
    epochs = settings.epochs or (60 if small else 30)
    if settings.batch_size is not None:
        return epochs, min(settings.batch_size, num_examples)
    # The selective rule needs many steps, and epochs of one step are slow.
    many = -(-num_examples // 8)
    most = many if settings.learning_rule == "selective" else num_examples
    return epochs, min(32 if small else 128, most)


def _is_floating(name: str) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.dtype(name), jnp.floating))
    except TypeError:  # not the name of a type
        return False


def checked_prior(settings: TrainSettings) -> SpikeSlabPrior | str | None:
    """The prior of the settings; raises if they cannot be used.

    They are checked before the data are read and before anything is written.
    """
    rate, temperature = settings.learning_rate, settings.temperature
    require(
        math.isfinite(rate) and rate > 0,
        f"`learning_rate` must be a positive number; got {rate}. Try 0.002.",
    )
    require(
        math.isfinite(temperature) and temperature >= 0,
        f"`temperature` must be a finite number ≥ 0; got {temperature}. 0 leaves the "
        "prior out, 1 is the evidence bound.",
    )
    key_of_seed(settings.seed)
    if settings.precision is not None:
        require(
            _is_floating(settings.precision),
            "`precision` must be a floating-point type such as bfloat16; got "
            f"{settings.precision!r}.",
        )
    rule = settings.learning_rule
    require(rule in RULES, f"`rule` must be one of {', '.join(RULES)}; got {rule!r}.")
    require(
        rule == "evidence" or settings.inclusion_prob is None,
        "`inclusion_prob` belongs to the rule evidence; got "
        f"{settings.inclusion_prob} with the rule {rule}. Leave out one of them.",
    )
    require(
        rule != "selective" or rate == TrainSettings.learning_rate,
        f"`learning_rate` belongs to the rules published and evidence; got {rate} "
        "with the rule selective, which chooses the step size. Leave it out, or give "
        "another `rule`.",
    )
    if rule == "selective":
        return rule
    if rule == "published":
        return None
    share = (
        INCLUSION_PROB if settings.inclusion_prob is None else settings.inclusion_prob
    )
    return SpikeSlabPrior(inclusion_prob=share, slab_scale=settings.slab_scale)
