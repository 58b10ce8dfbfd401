"""The settings of all commands but `train`; see `settings`."""

import dataclasses
from pathlib import Path

from .fields import DATA_DIR, OWN_MODEL, SEED, setting

INPUTS = (
    "inputs of an ONNX file: raw (cells of the table, or pixels; outputs are "
    "classes, probabilities, numbers in units) or features (for the network alone; "
    "default: raw)"
)
OUT = "folder to make (default: RUN/subnetworks)"


@dataclasses.dataclass(frozen=True)
class OpenSettings:
    """The place of a run's data, if they were moved."""

    data: Path | None = setting(
        None,
        "new path of the run's data file, if it was moved (its contents are checked)",
    )
    data_dir: str | None = setting(None, DATA_DIR)


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """Settings of ``meanfield evaluate``."""

    num_samples: int = setting(32, "noise draws to average over", min=1)
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class PredictSettings:
    """Settings of ``meanfield predict``."""

    out: Path | None = setting(None, "file to write (default: predictions.csv)")
    overwrite: bool = setting(False, "replace that file", flags=("--overwrite",))
    num_samples: int = setting(64, "sub-networks to average over", min=1)
    level: float = setting(0.95, "probability of the intervals of real targets")
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """Settings of ``meanfield sample``."""

    num_networks: int = setting(
        1, "sub-networks to draw", flags=("-k", "--num-networks"), min=1
    )
    format: str = setting(
        "safetensors", "safetensors, npz, onnx, onnx-int8 or stablehlo"
    )
    rule: str | None = setting(
        None,
        "compact, labels, draw, mean, median or coalition: see above (default: compact "
        "for one network of a run under the selective rule, else labels)",
    )
    tolerance: float = setting(
        0.005,
        "--rule compact: decrease of held-out accuracy (for real targets, of "
        "closeness) that is accepted for fewer units",
    )
    out: Path | None = setting(None, OUT)
    together: bool = setting(
        False,
        "also write one ONNX file of all of them, with their uncertainty",
        flags=("--together",),
    )
    inputs: str | None = setting(None, INPUTS)
    plain: bool = setting(
        True,
        "also train a plain network of the shipped size, for comparison, if whole "
        "units were removed",
        flags=("--plain/--no-plain",),
    )
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class CoalitionSettings:
    """Settings of ``meanfield coalitions``."""

    budget: int = setting(8_000, "coalitions to evaluate in each layer", min=1)
    epsilon: float = setting(
        0.02, "fraction of the payoff that a strong coalition may lose"
    )
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class CreditSettings:
    """Settings of ``meanfield credit``."""

    by: str | None = setting(None, "class: also split the values by class")
    examples: int = setting(
        2_000, "largest number of examples that the payoff averages over", min=1
    )
    num_samples: int = setting(
        3, "noise draws for each example and point of the path", min=2
    )
    checks: int = setting(
        16, "sub-networks to draw for a check of the values; 0: none", min=0
    )
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class AnalyzeSettings:
    """Settings of ``meanfield analyze``."""

    weights: Path | None = setting(
        None, "instead of a run: a .npz or .safetensors file of named arrays"
    )
    out: Path | None = setting(None, "folder to write (default: RUN, or analysis)")
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Settings of ``meanfield export``."""

    format: str = setting("onnx", "npz, onnx, onnx-int8 or stablehlo")
    inputs: str | None = setting(None, INPUTS)
    model: str | None = setting(None, OWN_MODEL)
