"""Draw and export sub-networks of a run; check and convert exported ones."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.credit.labels import ConnectionLabels
from meanfield.data import Dataset
from meanfield.deploy.formats.archive import load_archive
from meanfield.deploy.formats.formats import Exported
from meanfield.deploy.formats.kinds import RAW, SUFFIXES, writable
from meanfield.deploy.shipping.card import ModelCard, load_card
from meanfield.deploy.shipping.served import Checked, check_shipped, convert
from meanfield.deploy.shipping.ship import require_new, ship
from meanfield.deploy.shipping.subnetworks import (
    RULES as DRAWING_RULES,
    Subnetwork,
    sample_subnetworks,
)
from meanfield.ensemble.ensemble import Ensemble
from meanfield.keys import key_of_seed

from .architecture import structure_of
from .coalitions import strong_masks
from .command_settings import ExportSettings, SampleSettings
from .compacted import can_be_compacted, compacted, described
from .contract import input_contract
from .folder import SUBNETWORKS, Run
from .label import find_labels
from .plain import plain_network
from .standardization import describe

__all__ = ["FORMATS", "RULES", "export", "sample", "serve_check"]
FORMATS = ("npz", *SUFFIXES)
COMPACT = "compact"
RULES = (COMPACT, *DRAWING_RULES)
INPUTS = ("raw", "features")
VALIDATION_EXAMPLES = 2_000


def sample(
    run: Run,
    dataset: Dataset,
    *,
    num_networks: int = SampleSettings.num_networks,
    out: Path | None = SampleSettings.out,
    format: str = SampleSettings.format,
    rule: str | None = SampleSettings.rule,
    tolerance: float = SampleSettings.tolerance,
    together: bool = SampleSettings.together,
    inputs: str | None = SampleSettings.inputs,
    plain: bool = SampleSettings.plain,
    seed: int = SampleSettings.seed,
) -> ModelCard:
    """Draw sub-networks, shrink them, and write them with a card; see `deploy.ship`.

    By the rule compact, the default for one network of a run under the selective rule,
    whole units are removed first; see `deploy.compact`. A single network then has the
    connections that are more likely present than absent, at their means; several
    networks are drawn. In both cases archives and ONNX files hold 16-bit numbers. For
    several networks, and for runs under other rules, the default is labels.

    The best network is chosen on part of the training data. The scores on the card are
    measured on the test data, on which the labels are certified too.
    """
    contract = input_contract(run.config, dataset)
    raw = takes_raw(inputs, format, contract)
    # Whatever would stop `ship` does so before the units are removed, which takes long.
    out = out or run.folder / SUBNETWORKS
    require_new(out)
    writable(format, raw)
    if together:
        writable("onnx")
    alone = num_networks == 1 and can_be_compacted(run)
    chosen = rule or (COMPACT if alone else "labels")
    ensemble, likelihood, found = run.ensemble, run.likelihood, {}
    if chosen == COMPACT:
        made = compacted(run, dataset, tolerance, seed)
        ensemble, likelihood = made.ensemble, made.likelihood
        found = {"compact": described(made)}
    labels = find_labels(run, dataset) if chosen == "labels" else None
    key = jax.random.fold_in(key_of_seed(seed), 4)
    networks = _draw(run, ensemble, chosen, num_networks, key, labels)
    x, y = dataset.x_train, dataset.y_train
    held = slice(-min(VALIDATION_EXAMPLES, len(x) // 5) or None, None)
    return ship(
        networks,
        out,
        data=(dataset.x_test, dataset.y_test),
        format=format,
        likelihood=run.standardization.likelihood(likelihood),
        validation=(x[held], y[held]),
        labels=labels,
        dtype="float16" if chosen == COMPACT else "float32",
        together=together,
        source={
            "run": str(run.folder),
            "ensemble": run.seal,
            "data": run.config["data"]["source"],
            "data_sha256": run.config["data"]["sha256"],
            "model": run.config["model"],
            "targets": describe(run.config, likelihood),
            "input": contract,
            "rule": chosen,
            **({} if labels is None else {"labels": labels.chosen}),
            **found,
            "seed": seed,
        },
        raw=raw,
        dense=run.ensemble.mean_network(),
        control=partial(plain_network, run, dataset) if plain else None,
    )


def _draw(
    run: Run,
    ensemble: Ensemble,
    rule: str,
    num_networks: int,
    key: PRNGKeyArray,
    labels: ConnectionLabels | None,
) -> list[Subnetwork]:
    """Networks of the run, or of its smaller ensemble, by a rule."""
    if rule != COMPACT:
        return sample_subnetworks(
            ensemble,
            num_networks,
            key=key,
            rule=rule,
            labels=labels,
            coalition=strong_masks(run) if rule == "coalition" else None,
        )
    drawn = sample_subnetworks(
        ensemble, num_networks, key=key, rule="mean" if num_networks == 1 else "draw"
    )
    return [dataclasses.replace(one, rule=COMPACT) for one in drawn]


def export(
    archive: Path,
    *,
    out: Path,
    format: str = ExportSettings.format,
    inputs: str | None = ExportSettings.inputs,
    model: str | None = None,
) -> Exported:
    """Convert an archive that `sample` made to another format, and verify it.

    Args:
        archive: the .safetensors file.
        out: file to write.
        format: format of that file.
        inputs: what an ONNX file takes: "raw" or "features"; see `takes_raw`.
        model: for a user's own network, file and function: see `structure_of`.
    """
    require(
        archive.is_file(),
        f"`archive` must be a file; there is no {archive}. Give a .safetensors archive "
        "that `meanfield sample` made.",
    )
    source = load_archive(archive).about.get("source", {})
    require(
        source.get("model") is not None,
        f"{archive} does not state what kind of network it holds: it was not made by "
        "`meanfield sample`. Use meanfield.deploy.load_subnetwork and "
        "meanfield.deploy.export.",
    )
    raw = takes_raw(inputs, format, source.get("input", {}))
    return convert(archive, out, format=format, like=_like(source, model), raw=raw)


def takes_raw(inputs: str | None, format: str, contract: Mapping[str, Any]) -> bool:
    """Whether a file takes raw rows or images, or else the features made from them.

    Args:
        inputs: "raw", "features", or None: raw for ONNX files, if the contract allows
            it.
        format: format of the file.
        contract: the input contract, see `contract`.

    Raises:
        ValueError: `inputs` is something else.
    """
    require(
        inputs in (None, *INPUTS),
        f"`inputs` must be {' or '.join(INPUTS)}; got {inputs!r}.",
    )
    if inputs is None:
        return "kind" in contract and format in RAW
    return inputs == "raw"


def serve_check(
    folder: Path, signers: Path | None = None, model: str | None = None
) -> list[Checked]:
    """Load every file of a folder that `sample` made, and compare its outputs.

    Args:
        folder: the folder.
        signers: a file of names and public keys, one of which must have signed the
            folder.
        model: for a user's own network, file and function: see `structure_of`.
    """
    card = load_card(folder)
    # Only an archive needs the structure of the network.
    like = _like(card.source, model) if card.format == "safetensors" else None
    return check_shipped(folder, like=like, signers=signers)


def _like(source: Mapping[str, Any], model: str | None) -> Any:
    """A network of the exported structure; None if the card does not describe one."""
    architecture = source.get("model")
    return None if architecture is None else structure_of(architecture, model)
