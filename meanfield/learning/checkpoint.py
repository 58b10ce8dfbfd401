"""Checkpoints, from which a run continues with identical results."""

import dataclasses
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from meanfield.checks import require
from meanfield.files import sweep
from meanfield.tensors import fill_tree, load_arrays, save_tree

from .fingerprint import differences
from .sharding import gathered

_NAME = re.compile(r"epoch-(\d+)\.safetensors")
_SEARCH = "search.safetensors"


@dataclasses.dataclass
class Checkpoint:
    """The folder and the times at which `fit` writes checkpoints.

    A file is written atomically after an epoch if enough epochs or minutes have passed
    since the last file. If the folder holds checkpoints of the same run, `fit`
    continues from the newest. The trials of the selective rule are stored in the folder
    too.

    Args:
        folder: folder of the files.
        every_epochs: epochs between two files.
        every_minutes: minutes between two files, if they pass before `every_epochs`.
        keep: number of newest files to keep.
        keep_best: whether to keep the epoch of smallest validation NLL (or training
            loss, without validation data) in ``best.safetensors``.

    Raises:
        ValueError: an argument is not positive.
    """

    folder: str | os.PathLike
    every_epochs: int = 1
    every_minutes: float | int = float("inf")
    keep: int = 2
    keep_best: bool = True

    def __post_init__(self):
        for name in ("every_epochs", "every_minutes", "keep"):
            value = getattr(self, name)
            require(value > 0, f"`{name}` must be positive; got {value}.")
        self._last_epoch, self._last_time = 0, time.monotonic()
        self._best = float("inf")

    def newest(self) -> Path | None:
        """The newest file, or None."""
        files = self._files()
        return files[-1] if files else None

    def restore(
        self, tree: Any, fingerprint: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """State and metadata of the newest file, or None if there is none.

        Raises:
            ValueError: the file is damaged, or belongs to another run.
        """
        self._last_epoch, self._last_time = 0, time.monotonic()
        self._best = float("inf")
        if jax.process_index() == 0:
            sweep(Path(self.folder))
        newest = self.newest()
        if newest is None:
            return None
        try:
            arrays, metadata = load_arrays(newest)
        except ValueError as error:
            raise ValueError(
                f"`checkpoint` is damaged or cannot be read: {error} Or delete "
                f"{newest}: the run then continues from an earlier checkpoint, if any."
            ) from error
        tree = fill_tree(arrays, tree, newest)
        self._refuse_other(newest, metadata, fingerprint)
        self._last_epoch, self._best = metadata["epoch"], metadata["best"]
        return tree, metadata

    def restore_search(
        self, fingerprint: dict[str, Any]
    ) -> dict[tuple[float, float], np.ndarray]:
        """The losses that `keep_search` wrote last; empty if there are none.

        Raises:
            ValueError: the file is damaged, or belongs to another run.
        """
        path = Path(self.folder) / _SEARCH
        if not path.exists():
            return {}
        _, metadata = load_arrays(path)
        self._refuse_other(path, metadata, fingerprint)
        return {(t, c): np.asarray(losses) for t, c, losses in metadata["trials"]}

    def keep_search(
        self,
        found: Mapping[tuple[float, float], np.ndarray],
        fingerprint: dict[str, Any],
    ) -> None:
        """Write the losses that the search before a run has found so far."""
        if jax.process_index() == 0:
            # JSON's text of a number keeps every bit of a double.
            trials = [[*pair, losses.tolist()] for pair, losses in found.items()]
            about = {"trials": trials, "fingerprint": fingerprint}
            save_tree(Path(self.folder) / _SEARCH, {}, about)

    def _refuse_other(self, path: Path, metadata: Any, fingerprint: Any) -> None:
        different = differences(metadata.get("fingerprint", {}), fingerprint)
        require(
            not different,
            f"`checkpoint` {path} belongs to another run: {'; '.join(different)}. "
            "Use the same settings, or another folder. (The default optimizer's step "
            "sizes depend on the number of epochs.)",
        )

    def offer(self, epoch: int, tree: Any, metadata: dict[str, Any], score: float):
        """Write a file if one is due.

        With several processes all must call this; the first process writes.
        """
        late = time.monotonic() - self._last_time >= 60 * self.every_minutes
        better = self.keep_best and score < self._best
        self._best = min(self._best, score)
        metadata = {**metadata, "epoch": epoch, "best": self._best}
        due = late or epoch - self._last_epoch >= self.every_epochs
        if not (better or due):
            return
        tree = gathered(tree)
        if due:
            self._last_epoch, self._last_time = epoch, time.monotonic()
        if jax.process_index() > 0:
            return
        if better:
            save_tree(Path(self.folder) / "best.safetensors", tree, metadata)
        if due:
            name = f"epoch-{epoch:06d}.safetensors"
            save_tree(Path(self.folder) / name, tree, metadata)
            for old in self._files()[: -self.keep]:
                old.unlink()

    def _files(self) -> list[Path]:
        folder = Path(self.folder)
        files = folder.iterdir() if folder.is_dir() else ()
        found = {path: _NAME.fullmatch(path.name) for path in files}
        epochs = {path: int(name[1]) for path, name in found.items() if name}
        return sorted(epochs, key=epochs.__getitem__)
