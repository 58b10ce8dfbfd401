"""From drawn sub-networks to a folder of verified files with a model card."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.formats.formats import SUFFIXES, canonical
from meanfield.deploy.formats.together import NAME, link_of, run_together
from meanfield.files import scratch_folder, write_text
from meanfield.learning.likelihoods import Categorical
from meanfield.tensors import save_tree

from .card import CARD, CARD_VERSION, ModelCard, label_fractions, package_versions
from .manifest import write_manifest
from .markdown import to_markdown
from .records import Data, Written, write_one, write_together
from .scores import choices, payoff, score
from .selection import choose_best, measure_diversity
from .served import Probe, save_probe
from .subnetworks import Subnetwork

CARD_TEXT, MASKS = "card.md", "masks.safetensors"
# Inputs kept for later checks; of archives, which become other formats, all compared.
KEPT = 8


def ship(
    subnetworks: Sequence[Subnetwork],
    out: str | os.PathLike,
    *,
    data: tuple[Any, Any],
    format: str = "safetensors",
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    validation: tuple[Any, Any] | None = None,
    calibration: Any = None,
    labels: Any = None,
    dtype: str = "float32",
    together: bool = False,
    allow_constant: bool = False,
    measure: bool = True,
    source: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Shrink, write, load back, compare and describe drawn sub-networks.

    Args:
        subnetworks: what `sample_subnetworks` returned.
        out: a folder to make; it may exist if it is empty. It appears whole or not at
            all.
        data: test inputs and targets (x, y) for the reported scores; the first inputs
            are the probe on which files are compared.
        format: "safetensors", "numpy" (or "npz"), "onnx", "onnx-int8", "stablehlo".
        likelihood: from outputs to a distribution of the targets.
        validation: inputs and targets that choose the best of the K networks; they must
            not be the test data, whose scores are reported.
        calibration: inputs for 8-bit ranges and for the means of units outside a
            coalition; validation inputs (or else the test inputs) if not given.
        labels: the result of `label_connections`, for the card and the archives.
        dtype: of an archive's numbers, "float32" or "float16".
        together: whether to write also one ONNX file of all K with their mean, standard
            deviation and mutual information.
        allow_constant: whether a network that shrinks to nothing may ship.
        measure: whether to time the networks (before and after).
        source: what the card says of their origin (run folder, data, seed). An entry
            `targets` says what the outputs of the files mean and heads the card.

    Returns:
        The contents of ``card.json``.

    Raises:
        FileExistsError: `out` exists and is not empty.
        ValueError: no networks, an unknown format, validation data that are the test
            data, or a check that fails.
        ImportError: an optional package is missing; the message names the extra.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> drawn = mf.deploy.sample_subnetworks(ensemble, 2, key=jax.random.key(2))
        >>> data = jax.random.normal(jax.random.key(3), (8, 4)), jax.numpy.arange(8) % 3
        >>> card = mf.deploy.ship(drawn, "out", data=data, format="npz", measure=False)
        >>> [entry["file"] for entry in card["subnetworks"]]
        ['subnetwork-0.npz', 'subnetwork-1.npz']
    """
    format, out = canonical(format), Path(out)
    require(len(subnetworks) > 0, "`subnetworks` is empty; draw at least one.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists and is not empty; choose another folder. Nothing changed."
        )
    x, y = np.asarray(data[0]), np.asarray(data[1])
    if validation is not None:
        validation = _check_apart(x, validation)
    if calibration is None:
        calibration = x if validation is None else validation[0]
    prepared = Data(
        x,
        y,
        np.asarray(calibration),
        validation,
        format,
        likelihood,
        dtype,
        allow_constant,
        measure,
        dict(source or {}),
    )
    codes = getattr(labels, "labels", labels)
    with scratch_folder(out) as folder:
        temporary = folder / out.name
        temporary.mkdir()
        card = _fill(temporary, list(subnetworks), prepared, codes, together)
        write_text(temporary / CARD, json.dumps(dict(card), indent=2) + "\n")
        write_text(temporary / CARD_TEXT, to_markdown(card))
        write_manifest(temporary)
        os.replace(temporary, out)
    return card


def _fill(
    folder: Path,
    subnetworks: list[Subnetwork],
    data: Data,
    codes: Mapping[str, Any] | None,
    together: bool,
) -> ModelCard:
    """Write all files but the card, the manifest, and what is made of them."""
    written = []
    for number, subnetwork in enumerate(subnetworks):
        path = folder / f"subnetwork-{number}{SUFFIXES[data.format]}"
        written.append(write_one(path, subnetwork, data, codes))
    _save_masks(folder, subnetworks)
    ensemble, kept = None, KEPT if data.format != "safetensors" else len(data.probe)
    recorded = {one.entry["file"]: one.outputs[:kept] for one in written}
    if together:
        ensemble = write_together(folder / NAME, written, data)
        found = run_together(folder / NAME, data.x[:kept])
        recorded |= {f"{NAME}/{name}": value for name, value in found.items()}
    link = link_of(data.likelihood, written[0].outputs)
    ranges = data.ranges if data.format == "safetensors" else None
    save_probe(folder, Probe(data.x[:kept], recorded, ranges, link))
    chosen = [choices(one.outputs, data.likelihood) for one in written]
    spread = None
    if chosen[0] is not None:
        spread = measure_diversity(chosen, [one.masks for one in subnetworks])
    return ModelCard(
        version=CARD_VERSION,
        format=data.format,
        rule=subnetworks[0].rule,
        device=f"{platform.machine()}, one thread",
        subnetworks=[one.entry for one in written],
        labels=label_fractions(codes),
        versions=package_versions(),
        selection=_select(written, data),
        diversity=None if spread is None else vars(spread),
        ensemble=ensemble,
        source=data.source,
    )


def _save_masks(folder: Path, subnetworks: list[Subnetwork]) -> None:
    masks = {
        f"{number}:{name}": jnp.asarray(np.packbits(mask, axis=None))
        for number, one in enumerate(subnetworks)
        for name, mask in one.masks.items()
    }
    shapes = {name: list(mask.shape) for name, mask in subnetworks[0].masks.items()}
    save_tree(folder / MASKS, masks, {"shapes": shapes})


def _select(written: list[Written], data: Data) -> dict[str, Any] | None:
    """Which network does best on the validation data."""
    if data.validation is None:
        return None
    x, y = data.validation
    scores = [score(one.predict(x), y, data.likelihood) for one in written]
    payoffs = list(map(payoff, scores))
    best = choose_best(payoffs)
    return {
        "best": best,
        "file": written[best].entry["file"],
        "payoffs": payoffs,
        "num_validation": len(y),
    }


def _check_apart(x: np.ndarray, validation: Any) -> tuple[np.ndarray, np.ndarray]:
    require(
        len(validation) == 2 and len(validation[0]) == len(validation[1]) > 0,
        "`validation` must be a pair (x, y) of equal, positive length.",
    )
    other, targets = map(np.asarray, validation)
    require(
        not (other.shape == x.shape and np.array_equal(other, x)),
        "`validation` and `data` are the same inputs: the reported score would be that "
        "of the choice. Keep test data out of the choice.",
    )
    return other, targets
