"""Train an ensemble into a run folder, from the settings to the labels."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.data import load
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.checkpoint import Checkpoint
from meanfield.learning.fit import fit
from meanfield.learning.optimizers import cosine_adam
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.learning.results import FitResult, NonFiniteLossError
from meanfield.learning.sharding import device_mesh

from .config import CONFIG, config_of, read_config, refuse_other_config, versions
from .documents import write_json
from .folder import Run, build_model, save_run
from .label import label
from .pictures import draw_history
from .score import score
from .settings import TrainSettings
from .standardization import Standardization
from .tasks import build_likelihood, task_of

CHECKPOINTS = "checkpoints"
# Below so many examples: smaller batches and more epochs, unless told otherwise.
SMALL = 10_000


def train(
    settings: TrainSettings, callbacks: Sequence[Callable[[Any], Any]] = ()
) -> Run:
    """Train an ensemble, score it, label its connections, write the run folder.

    Args:
        settings: what to train on, and how.
        callbacks: as in `fit`.

    Raises:
        ValueError: settings or data cannot be used.
        FileExistsError: `out` holds a run already, and neither `resume` nor
            `overwrite` is set.
        NonFiniteLossError: training broke down; the last good state was written.
    """
    out = settings.folder
    if (out / CONFIG).is_file() and not (settings.resume or settings.overwrite):
        raise FileExistsError(
            f"{out} holds a run already. Go on with it by --resume {out}, replace it "
            "with --overwrite, or choose another --out."
        )
    prior = _checked_prior(settings)
    dataset = load(
        settings.data,
        data_dir=settings.data_dir,
        target=settings.target,
        task=task_of(settings.likelihood, settings.task),
        test_fraction=settings.test_fraction,
        seed=settings.seed,
    )
    config = config_of(settings, dataset)
    standard = Standardization.learn(dataset)
    config["data"] |= {"target_shift": standard.shift, "target_scale": standard.scale}
    if settings.resume and (out / CONFIG).is_file():
        config["model"]["targets"] = read_config(out)["model"]["targets"]
        refuse_other_config(out, config)
    write_json(out / CONFIG, config)
    if settings.overwrite and not settings.resume:
        for old in (out / CHECKPOINTS).glob("*.safetensors"):
            old.unlink()
    data = dataset.x_train, standard.standardise(dataset.y_train)
    run = _learn(settings, config, data, prior, callbacks)
    score(run, dataset, seed=settings.seed)
    label(run, dataset)
    return run


def _learn(
    settings: TrainSettings,
    config: dict[str, Any],
    data: tuple[Any, Any],
    prior: SpikeSlabPrior | None,
    callbacks: Sequence[Callable[[Any], Any]],
) -> Run:
    """Fit, and write what came out, even of a training that broke down."""
    started, failure = time.perf_counter(), None
    try:
        result = _fit(settings, config["model"], data, prior, callbacks)
    except NonFiniteLossError as error:
        failure, result = error, error.result
    seconds = time.perf_counter() - started
    save_run(settings.folder, config, result)
    run = Run(settings.folder, config, result.ensemble, result.likelihood)
    run.update_metrics(
        {
            "train_seconds": seconds,
            "epochs": len(result.history.get("epoch", ())),
            "stopped": result.stopped,
            "num_weights": result.ensemble.num_weights,
            "versions": versions(),
        }
    )
    if failure is not None:
        raise failure
    draw_history(run, result.history)
    return run


def _fit(
    settings: TrainSettings,
    architecture: dict[str, Any],
    data: tuple[Any, Any],
    prior: SpikeSlabPrior | None,
    callbacks: Sequence[Callable[[Any], Any]],
) -> FitResult:
    """Build the ensemble that an architecture describes, and train it."""
    likelihood = build_likelihood(architecture["likelihood"], architecture["targets"])
    model = build_model(architecture, settings.seed)
    if architecture["likelihood"] == "poisson":
        model = _at_mean_rate(model, data[1])
    key = jax.random.key(settings.seed)
    ensemble = Ensemble.from_model(
        model, key=jax.random.fold_in(key, 0), spikes=settings.spikes
    )
    epochs, batch_size = schedule(settings, len(data[0]))
    return fit(
        ensemble,
        data,
        likelihood=likelihood,
        key=jax.random.fold_in(key, 1),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=cosine_adam(
            settings.learning_rate, epochs * (len(data[0]) // batch_size)
        ),
        prior=prior,
        temperature=settings.temperature,
        checkpoint=Checkpoint(settings.folder / CHECKPOINTS),
        callbacks=callbacks,
        mesh=settings.devices and device_mesh(*settings.devices),
        accumulate=settings.accumulate,
        compute_dtype=settings.precision,
        progress=settings.progress,
    )


def schedule(settings: TrainSettings, num_examples: int) -> tuple[int, int]:
    """Epochs and batch size; by the number of examples where none are given."""
    small = num_examples < SMALL
    epochs = settings.epochs or (60 if small else 30)
    return epochs, min(settings.batch_size or (32 if small else 128), num_examples)


def _checked_prior(settings: TrainSettings) -> SpikeSlabPrior | None:
    """The prior that the settings ask for; refuses numbers out of range.

    It does so before anything is read or written.
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
    if settings.inclusion_prob is None:
        return None
    return SpikeSlabPrior(settings.inclusion_prob, settings.slab_scale)


def _at_mean_rate(model: Any, counts: np.ndarray) -> Any:
    """A network of log-rates that starts at the mean count, not at a rate of 1."""
    mean = np.maximum(counts.reshape(len(counts), -1).mean(0), 1 / len(counts))
    bias = jnp.asarray(np.log(mean), jnp.float32)
    return eqx.tree_at(lambda network: network.layers[-1].bias, model, bias)
