"""Load the data that a configuration names, and check that they are unchanged."""

from pathlib import Path
from typing import Any

from meanfield import data as datasets
from meanfield.checks import require
from meanfield.data import Dataset

from .settings import READING


def load_data(
    config: dict[str, Any], data_dir: Any = None, data: Any = None
) -> Dataset:
    """The data set of a configuration; its fingerprint must still be the same.

    Raises:
        FileNotFoundError: the file is no longer where it was.
        ValueError: the data have changed since.
    """
    source, is_file = config["source"], bool(Path(config["source"]).suffix)
    require(
        data is None or is_file,
        f"`data` must be left out unless the run was trained on a file; got a run "
        f"trained on {source!r}.",
    )
    place = Path(source if data is None else data)
    if is_file and not place.is_file():
        raise FileNotFoundError(
            f"the data of this run are not at {place.resolve()}. Give their new path "
            "with --data FILE; their contents are checked."
        )
    dataset = datasets.load(
        place if is_file else source,
        data_dir=data_dir or config.get("data_dir"),
        target=config.get("target"),
        task=config["task"] if is_file else None,
        test_fraction=config["test_fraction"],
        seed=config["seed"],
        **{name: config.get(name) for name in READING},
    )
    require(
        config["sha256"] == dataset.sha256,
        f"the data in {str(place)!r} are not those on which the run was trained: "
        "their contents changed. Restore them, or train again.",
    )
    return dataset
