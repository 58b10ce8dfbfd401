"""Train an ensemble from settings: write the run, score it and label connections."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from meanfield.data import load
from meanfield.files import LOCK, locked, sweep

from .architecture import (
    BUILT_IN,
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
)
from .decided import decided
from .documents import write_json
from .folder import ENSEMBLE, Run, load_run
from .held_out import hold_out, patience_of
from .label import label
from .learn import CHECKPOINTS, checked_prior, learn
from .pictures import draw_history
from .replacement import NEXT, commit, finish
from .score import score
from .settings import READING, TrainSettings
from .stages import stage
from .standardization import Standardization
from .tasks import task_of
from .user_model import MODEL_FILE, load_function, parse


def train(
    settings: TrainSettings, callbacks: Sequence[Callable[[Any], Any]] = ()
) -> Run:
    """Train an ensemble, score it, label its connections, write the run folder.

    Settings and data are checked before anything is written. A run that is replaced is
    unchanged until the new one is complete.

    Args:
        settings: data, network and settings of the training.
        callbacks: as in `fit`.

    Returns:
        The run; if `resume` names a finished run, this run, unchanged.

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
    prior = checked_prior(settings)
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
    earlier = 0.0
    if settings.resume is not None and (settings.resume / ENSEMBLE).is_file():
        earlier = load_run(settings.resume).metrics.get("train_seconds", 0.0)
    with _folder_for(out, settings) as folder:
        write_json(folder / CONFIG, config)
        keep_file(model, folder)
        learned = data, validation, patience
        run, history = learn(settings, folder, config, learned, prior, callbacks)
        seconds = earlier + run.metrics["train_seconds"]
        # The epochs before a kill are known from the history only.
        seconds = max(seconds, sum(history.get("seconds", ())))
        run.update_metrics({"train_seconds": seconds})
        score(run, dataset, seed=settings.seed)
        # Real targets are learned in standard units, in which the base rate differs.
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
            f"{out} holds a run already. Continue it with --resume {out}, replace it "
            "with --overwrite, or choose another --out."
        )


@contextlib.contextmanager
def _folder_for(out: Path, settings: TrainSettings) -> Iterator[Path]:
    """The folder to train in, which no other process writes to.

    If a run will be replaced, the new run has a folder inside that of the old one. If
    the block fails before the first checkpoint, the new folder is removed.
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
        except BaseException:  # Ctrl-C too: leave nothing behind
            begun = any((folder / CHECKPOINTS).glob("*.safetensors"))
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
        with contextlib.suppress(OSError):  # it has other files
            parent.rmdir()
