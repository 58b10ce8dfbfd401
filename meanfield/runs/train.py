"""Train an ensemble from settings: write the run, score it and label connections."""

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from meanfield.checks import require
from meanfield.data import load
from meanfield.deploy.shipping.manifest import file_hash
from meanfield.ensemble.ensemble import Ensemble
from meanfield.files import LOCK, locked, sweep
from meanfield.keys import key_of_seed
from meanfield.learning.checkpoint import Checkpoint
from meanfield.learning.fit import fit
from meanfield.learning.optimizers import cosine_adam
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.learning.results import FitResult, NonFiniteLossError
from meanfield.learning.sharding import device_mesh

from .architecture import (
    BUILT_IN,
    at_mean_rate,
    build_model,
    check_model,
    describe_model,
    keep_file,
    shaped,
    source_of,
)
from .baselines import BASE_RATE
from .config import (
    CONFIG,
    config_of,
    read_config,
    refuse_other_data,
    resumed,
    versions,
)
from .decided import decided
from .documents import write_json
from .folder import ENSEMBLE, HISTORY, Run, load_run, save_run
from .held_out import hold_out, patience_of
from .label import label
from .pictures import draw_history
from .replacement import NEXT, commit, finish
from .score import score
from .settings import READING, RULES, TrainSettings
from .stages import LEARNING, stage
from .standardization import Standardization
from .tasks import build_likelihood, task_of
from .user_model import MODEL_FILE, load_function, parse

CHECKPOINTS = "checkpoints"
# Below so many examples: smaller batches and more epochs, unless told otherwise.
SMALL = 10_000
# Of the prior, where the rule evidence is asked for and no other is given.
INCLUSION_PROB = 0.1


def train(
    settings: TrainSettings, callbacks: Sequence[Callable[[Any], Any]] = ()
) -> Run:
    """Train an ensemble, score it, label its connections, write the run folder.

    Settings and data are checked before anything is written. A run that is replaced
    stays as it is until the new one is whole.

    Args:
        settings: data, network and settings of the training.
        callbacks: as in `fit`.

    Returns:
        The run; with `resume` of a finished one that run, unchanged.

    Raises:
        ValueError: settings or data cannot be used.
        FileExistsError: `out` already has a run, and neither `resume` nor `overwrite`
            is set.
        BlockingIOError: another process writes to `out`.
        NonFiniteLossError: the loss was not finite; the last finite state was written.
    """
    if settings.resume is not None:
        if is_finished(settings.resume):
            return _finished(settings.resume)
        settings = resumed(settings)
    out = settings.folder
    _refuse_second_run(out, settings)
    prior = _checked_prior(settings)
    if settings.model not in BUILT_IN:
        load_function(*parse(source_of(settings.model, settings.resume)))
    stage(f"loading {settings.data}")
    dataset = load(
        settings.data,
        data_dir=settings.data_dir,
        target=settings.target,
        task=task_of(settings.likelihood, settings.task),
        test_fraction=settings.test_fraction,
        seed=settings.seed,
        **{name: getattr(settings, name) for name in READING},
    )
    config = config_of(settings, dataset)
    model = source_of(settings.model, settings.resume)
    config["model"] |= describe_model(model, dataset)
    check_model(model, config["model"])
    dataset = shaped(dataset, config["model"])
    standard = Standardization.learn(dataset)
    config["data"] |= {"target_shift": standard.shift, "target_scale": standard.scale}
    if settings.resume is not None:
        config["model"]["targets"] = read_config(out)["model"]["targets"]
        refuse_other_data(out, config)
    data = dataset.x_train, standard.standardise(dataset.y_train)
    patience, validation = patience_of(settings, dataset), None
    if patience is not None:
        data, validation = hold_out(dataset, data, settings.seed)
    if settings.resume is not None and out.name == NEXT:
        out = out.parent
    config["training"]["patience"] = patience or 0
    for line in decided(dataset, config):
        stage(line)
    with _folder_for(out, settings) as folder:
        write_json(folder / CONFIG, config)
        keep_file(model, folder)
        learned = data, validation, patience
        run, history = _learn(settings, folder, config, learned, prior, callbacks)
        score(run, dataset, seed=settings.seed)
        # Numbers are learned in standard units: their base rate is another there.
        known = dataset.task in ("classification", "binary")
        rate = run.metrics["baselines"][BASE_RATE]["nll"] if known else None
        draw_history(run, history, rate)
        stage("labelling the connections")
        label(run, dataset)
    if folder != out:
        commit(out)
    return dataclasses.replace(run, folder=out)


def is_finished(folder: Path) -> bool:
    """Whether a folder has a run that was completely trained, scored and labelled."""
    if not (folder / ENSEMBLE).is_file():
        return False
    metrics = load_run(folder).metrics
    return metrics.get("stopped") in ("finished", "early") and "labels" in metrics


def _finished(folder: Path) -> Run:
    if folder.name == NEXT:
        commit(folder.parent)
        folder = folder.parent
    return load_run(folder)


def _refuse_second_run(out: Path, settings: TrainSettings) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file. Choose another --out.")
    holds = any((out / name).exists() for name in (CONFIG, ENSEMBLE))
    if holds and not (settings.resume or settings.overwrite):
        raise FileExistsError(
            f"{out} holds a run already. Go on with it by --resume {out}, replace it "
            "with --overwrite, or choose another --out."
        )


@contextlib.contextmanager
def _folder_for(out: Path, settings: TrainSettings) -> Iterator[Path]:
    """The folder to train in, which no other process writes to.

    For a run that will be replaced it is a second folder inside. If the block fails
    before the first checkpoint, the new folder is removed.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        finish(out)
        _refuse_second_run(out, settings)
        fresh = settings.resume is None
        replaces = (out / CONFIG).exists() or (out / ENSEMBLE).exists()
        folder = out / NEXT if (replaces if fresh else out != settings.folder) else out
        if fresh and folder != out:
            shutil.rmtree(folder, ignore_errors=True)
        sweep(folder)
        try:
            yield folder
        except Exception:
            begun = any((folder / CHECKPOINTS).glob("epoch-*"))
            if fresh and not begun and not (folder / ENSEMBLE).exists():
                _discard(folder, out, made)
            raise


def _discard(folder: Path, out: Path, made: Sequence[Path]) -> None:
    if folder != out:
        shutil.rmtree(folder)
    else:
        for name in (CONFIG, MODEL_FILE):
            (folder / name).unlink(missing_ok=True)
    if out in made:
        (out / LOCK).unlink(missing_ok=True)
    for parent in made:
        with contextlib.suppress(OSError):  # Not empty, because it has other files.
            parent.rmdir()


def _learn(
    settings: TrainSettings,
    folder: Path,
    config: dict[str, Any],
    learned: tuple[Any, Any, int | None],
    prior: SpikeSlabPrior | str | None,
    callbacks: Sequence[Callable[[Any], Any]],
) -> tuple[Run, dict[str, Any]]:
    """Fit, and write the result, even if the loss was not finite."""
    stage(f"{LEARNING}: compiling, then epochs")
    started, failure = time.perf_counter(), None
    try:
        result = _fit(settings, folder, config["model"], learned, prior, callbacks)
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
    learned: tuple[Any, Any, int | None],
    prior: SpikeSlabPrior | str | None,
    callbacks: Sequence[Callable[[Any], Any]],
) -> FitResult:
    """Build the ensemble that an architecture describes, and train it."""
    data, validation, patience = learned
    likelihood = build_likelihood(architecture["likelihood"], architecture["targets"])
    model = build_model(architecture, settings.seed, folder)
    if architecture["likelihood"] == "poisson" and architecture["kind"] == "mlp":
        model = at_mean_rate(model, data[1])
    key = key_of_seed(settings.seed)
    ensemble = Ensemble.from_model(
        model, key=jax.random.fold_in(key, 0), spikes=settings.spikes
    )
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
        key=jax.random.fold_in(key, 1),
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
    """Epochs and batch size; by the number of examples where none are given."""
    small = num_examples < SMALL
    epochs = settings.epochs or (60 if small else 30)
    return epochs, min(settings.batch_size or (32 if small else 128), num_examples)


def _is_floating(name: str) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.dtype(name), jnp.floating))
    except TypeError:  # Not the name of any type.
        return False


def _checked_prior(settings: TrainSettings) -> SpikeSlabPrior | str | None:
    """The prior of the settings; raises for numbers out of range.

    This is checked before any file is read or written.
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
        f"`inclusion_prob` belongs to the rule evidence; got {settings.inclusion_prob} "
        f"with the rule {rule}. Leave one of them out.",
    )
    require(
        rule != "selective" or rate == TrainSettings.learning_rate,
        f"`learning_rate` belongs to the rules published and evidence; got {rate} with "
        "the rule selective, whose steps are its own. Leave it out.",
    )
    if rule == "selective":
        return rule
    if rule == "published":
        return None
    share = (
        INCLUSION_PROB if settings.inclusion_prob is None else settings.inclusion_prob
    )
    return SpikeSlabPrior(inclusion_prob=share, slab_scale=settings.slab_scale)
