"""Check that a configuration and the file of an ensemble belong together.

This is checked before the network is built, because it might be larger than the file.
"""

import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from meanfield.checks import require

from .architecture import build_model, widths_of
from .config import CONFIG, ENSEMBLE


def refuse_edited(folder: Path, sealed: Any) -> None:
    """Raise unless the configuration equals the one stored with the ensemble."""
    found = json.loads((folder / CONFIG).read_bytes())
    if found == sealed:
        return
    sealed = sealed if isinstance(sealed, dict) else {}
    different = [
        f"{part}/{name}"
        for part in ("data", "model", "training", "versions")
        for name in {**found.get(part, {}), **sealed.get(part, {})}
        if found.get(part, {}).get(name) != sealed.get(part, {}).get(name)
    ]
    raise ValueError(
        f"{folder / CONFIG} is not the configuration with which {ENSEMBLE} was "
        "trained: it was edited, or belongs to another run (different: "
        f"{', '.join(sorted(different)[:5]) or 'format'}). Restore it from a copy."
    )


def refuse_other_widths(folder: Path, config: dict[str, Any], arrays: Any) -> None:
    """Raise if weights in the ensemble's file have other shapes than configured."""
    widths = widths_of(config["model"])
    for number, shape in enumerate(zip(widths[1:], widths[:-1], strict=True)):
        name = f"params/layers/{number}/weight/slab_mean"
        found = arrays[name].shape if name in arrays else None
        require(
            found == shape,
            f"{folder / ENSEMBLE} must hold `{name}` of shape {shape}, as in its "
            f"configuration; got {found}. Restore the file from a copy.",
        )


def refuse_larger(folder: Path, config: dict[str, Any], arrays: Any) -> None:
    """Raise if the configured network has more parameters than the file."""
    model = eqx.filter_eval_shape(build_model, config["model"], 0, folder)
    leaves = [leaf for leaf in jax.tree.leaves(model) if hasattr(leaf, "shape")]
    needed = sum(math.prod(leaf.shape) for leaf in leaves)
    held = sum(array.size for array in arrays.values())
    require(
        needed <= held,
        f"{folder / ENSEMBLE} must hold the {needed:,} numbers of the network in its "
        f"configuration; got {held:,}. Restore the file from a copy.",
    )
