"""The model card: origin, scores, sizes and latencies of shipped files."""

import dataclasses
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.credit.labels import Label
from meanfield.deploy.formats.kinds import SUFFIXES
from meanfield.version import VERSION

from .manifest import file_in, read_text_json

_PACKAGES = ("jax", "numpy", "onnx", "onnxruntime", "safetensors")
CARD = "card.json"
CARD_VERSION = 2
_KINDS: dict[str, type] = {
    "format": str,
    "rule": str,
    "device": str,
    "subnetworks": list,
    "labels": dict,
    "versions": dict,
    "selection": dict,
    "diversity": dict,
    "ensemble": dict,
    "source": dict,
    "inputs": str,
    "control": dict,
    "dense": dict,
}
_OPTIONAL = ("selection", "diversity", "ensemble", "inputs", "control", "dense")
LABELS = tuple(label.name.lower() for label in Label)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that made the files."""
    found = {"python": platform.python_version(), "meanfield": VERSION}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def label_fractions(labels: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Fraction of the connections with each label, by layer and in total."""
    if not labels:
        return {}
    arrays = {name: np.asarray(codes).ravel() for name, codes in labels.items()}
    arrays["all"] = np.concatenate(list(arrays.values()))
    return {
        name: {label.name.lower(): float((codes == label).mean()) for label in Label}
        for name, codes in arrays.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCard(Mapping[str, Any]):
    """The contents of ``card.json``; also a mapping, in which None is left out.

    Attributes:
        version: version of the card's format. From 2 on the folder has a manifest.
        format: format of the sub-networks' files.
        rule: the rule by which they were drawn.
        device: device on which latencies were measured.
        subnetworks: for each file its name, sha256, bytes, scores, costs and latency,
            before and after shrinking, and how it was drawn.
        labels: fraction of each layer's connections with each label.
        versions: versions of Python and of the packages that made the files.
        selection: the sub-network that was chosen on validation data.
        diversity: how much the sub-networks differ.
        ensemble: name, sha256, bytes, scores and latency of the file that contains all
            sub-networks.
        source: the caller's description of the sub-networks' origin.
        control: scores of a plain network as large as the chosen sub-network, trained
            as long.
        inputs: "raw" if the files take raw inputs, as `source` describes them; else
            "features".
        dense: scores, bytes, costs and latency of the whole network, for comparison.
    """

    version: int
    format: str
    rule: str
    device: str
    subnetworks: list[dict[str, Any]]
    labels: dict[str, dict[str, float]]
    versions: dict[str, str]
    selection: dict[str, Any] | None = None
    diversity: dict[str, float] | None = None
    ensemble: dict[str, Any] | None = None
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: str = "features"
    control: dict[str, Any] | None = None
    dense: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        return self._content()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())

    def _content(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if part is not None}


def load_card(folder: str | os.PathLike) -> ModelCard:
    """The contents of a shipped folder's ``card.json``.

    Raises:
        FileNotFoundError: the folder has no card.
        ValueError: the card is damaged, or from a newer version.
    """
    folder = Path(folder)
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no shipped sub-networks: it has no {CARD}. Make them with "
            "`meanfield sample RUN --out FOLDER`."
        )
    content = read_text_json(file_in(folder, CARD, "card"), "card")
    version = content.get("version")
    require(
        type(version) is int,
        f"{path} is not a card, or was edited: its version is {version!r}.",
    )
    assert isinstance(version, int)
    require(
        version <= CARD_VERSION,
        f"{path} has card version {version}; this version of meanfield reads up to "
        f"{CARD_VERSION}. Update meanfield.",
    )
    for name, kind in _KINDS.items():
        part = content.get(name, kind())
        require(
            name in content or name in _OPTIONAL,
            f"{path} is not a card, or was edited: it has no `{name}`.",
        )
        require(
            isinstance(part, kind),
            f"{path} is not a card, or was edited: `{name}` is a "
            f"{type(part).__name__}, not a {kind.__name__}.",
        )
    entries = content["subnetworks"]
    require(
        bool(entries) and all(isinstance(entry, dict) for entry in entries),
        f"{path} is not a card, or was edited: `subnetworks` lists no file.",
    )
    require(
        content["format"] in SUFFIXES,
        f"{path} is not a card, or was edited: no format {content['format']!r}.",
    )
    unknown = sorted(content.keys() - {f.name for f in dataclasses.fields(ModelCard)})
    require(not unknown, f"{path} was edited: it has the unknown parts {unknown[:5]}.")
    return ModelCard(**content)
