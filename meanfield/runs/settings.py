"""The settings of every command, with names, defaults and help texts.

The options of the command line are made from these classes, and the functions of the
commands take their defaults from them. Nothing heavy is imported here, so that
``--help`` is fast.
"""

import dataclasses
from pathlib import Path
from typing import Any

from .fields import DATA_DIR, INPUTS, NAMES, OWN_MODEL, SEED, grid, setting, widths

# Headings of the options of `train`; the first three are also parts of a configuration.
DATA, LEARNING, PRIOR, RUN = "Data", "Network and training", "Prior", "Run"
# How `train` learns: see its option.
RULES = ("selective", "published", "evidence")
# The part of a configuration that stores a setting, if any.
KEPT = ("data", "model", "training")
# How a table is read.
READING = ("drop", "features", "sep", "decimal", "header", "missing")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run; see ``meanfield train --help``."""

    data: str = setting(
        "digits",
        "digits (embedded), mnist, fashion_mnist, a table (.csv, .tsv, .txt, .data) "
        "or an .npz",
        DATA,
    )
    out: Path | None = setting(None, "run folder to write (else runs/NAME)", RUN)
    data_dir: str | None = setting(None, DATA_DIR, DATA, kept="data")
    target: str | None = setting(
        None,
        "column of the table to predict, or several",
        DATA,
        kept="data",
        metavar=NAMES,
    )
    task: str | None = setting(
        None,
        "classification, regression, counts or binary (else by the target)",
        DATA,
    )
    likelihood: str | None = setting(
        None,
        "categorical, bernoulli, poisson, gaussian, student_t; heteroscedastic"
        " or heteroscedastic_student_t where noise depends on the input (else by "
        "the task: categorical, bernoulli, poisson or gaussian)",
        DATA,
        kept="model",
    )
    test_fraction: float = setting(
        0.2, "part of a table or .npz kept for testing", DATA, kept="data"
    )
    drop: str | None = setting(
        None, "columns to leave out", DATA, kept="data", metavar=NAMES
    )
    features: str | None = setting(
        None, "columns to learn from (else all)", DATA, kept="data", metavar=NAMES
    )
    sep: str | None = setting(
        None,
        "between the cells of the table: a character, tab or space (else guessed)",
        DATA,
        kept="data",
    )
    decimal: str | None = setting(
        None, "of the table's numbers: . or , (else guessed)", DATA, kept="data"
    )
    header: bool | None = setting(
        None,
        "whether the first row holds headings (else asked where it looks like data)",
        DATA,
        flags=("--header/--no-header",),
        kept="data",
    )
    missing: str = setting(
        "fill",
        "values of the table: fill (the median and a feature that tells; or a category "
        "of their own) or refuse",
        DATA,
        kept="data",
    )
    model: str = setting(
        "mlp",
        "mlp; cnn, two convolutions before the hidden layers, for images; or "
        "FILE.py:FUNCTION, a function (inputs, outputs, key) that returns an Equinox, "
        "Flax NNX or Linen model or a pair (apply_fn, params): the file is executed",
        LEARNING,
        kept="model",
    )
    hidden: tuple[int, ...] = setting(
        (100, 100),
        "widths of the hidden layers",
        LEARNING,
        kept="model",
        metavar="N,N,…",
        parse=widths,
        shown="100,100",
    )
    epochs: int | None = setting(
        None,
        "passes over the data (else 30; below 10,000 examples 60)",
        LEARNING,
        kept="training",
        min=1,
    )
    batch_size: int | None = setting(
        None,
        "examples a step (else 128; below 10,000 examples 32)",
        LEARNING,
        kept="training",
        min=1,
    )
    patience: int | None = setting(
        None,
        "epochs without a better score on a held-out tenth before it stops; 0: never "
        "(else 20 for a table that is gone through more than 100 times)",
        LEARNING,
        kept="training",
        min=0,
    )
    learning_rate: float = setting(
        2e-3, "of Adam; falls to 0 along a cosine", LEARNING, kept="training"
    )
    rule: str | None = setting(
        None,
        "selective finds what can go, on a part that it holds out; published has no"
        " prior; evidence has the prior below (else published, or evidence where"
        " --inclusion-prob is given)",
        PRIOR,
        kept="training",
    )
    inclusion_prob: float | None = setting(
        None, "of the prior of --rule evidence (else 0.1)", PRIOR, kept="training"
    )
    slab_scale: float = setting(0.1, "of that prior's slab", PRIOR, kept="training")
    temperature: float = setting(
        1.0,
        "weight of the prior, 1 is the evidence bound; of --rule selective the highest",
        PRIOR,
        kept="training",
    )
    spikes: str = setting(
        "connection",
        "connection: each has its own spike; unit: all that read one unit "
        "share it, and sub-networks shrink (give --inclusion-prob)",
        PRIOR,
        kept="training",
    )
    precision: str | None = setting(
        None,
        "bfloat16 computes in it; parameters stay float32",
        LEARNING,
        kept="training",
    )
    accumulate: int = setting(
        1, "parts that each batch goes through in", LEARNING, kept="training", min=1
    )
    devices: tuple[int, int] | None = setting(
        None,
        "devices that share each batch, or DATAxMODEL to split wide weights",
        LEARNING,
        metavar="N",
        parse=grid,
    )
    seed: int = setting(0, SEED, RUN, kept="training", min=0)
    resume: Path | None = setting(
        None, "go on with this run; its own settings hold", RUN
    )
    overwrite: bool = setting(
        False, "replace the run in --out", RUN, flags=("--overwrite",)
    )
    quiet: bool = setting(False, "no progress bar", RUN, flags=("--quiet",))
    json_lines: bool = setting(
        False,
        "a JSON object a line: each epoch, then the run",
        RUN,
        flags=("--json",),
    )

    @property
    def folder(self) -> Path:
        """The run folder to write."""
        return self.out or Path("runs") / Path(self.data).stem

    @property
    def learning_rule(self) -> str:
        """The rule that is meant where none is named."""
        evidence = "evidence" if self.inclusion_prob is not None else "published"
        return self.rule or evidence

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar."""
        return not (self.quiet or self.json_lines)

    def kept(self, part: str) -> dict[str, Any]:
        """The settings that one part of a run's configuration stores."""
        return {name: getattr(self, name) for name in kept_names(part)}


def kept_names(part: str) -> list[str]:
    """Names of the settings that one part of a run's configuration stores."""
    fields = dataclasses.fields(TrainSettings)
    return [field.name for field in fields if field.metadata["kept"] == part]


@dataclasses.dataclass(frozen=True)
class OpenSettings:
    """Where the data of a run are, if they were moved."""

    data: Path | None = setting(
        None, "the file of the run, if it was moved; its contents are checked"
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

    out: Path | None = setting(None, "file to write (else predictions.csv)")
    overwrite: bool = setting(False, "replace that file", flags=("--overwrite",))
    num_samples: int = setting(64, "sub-networks to average over", min=1)
    level: float = setting(0.95, "of the intervals of real targets")
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """Settings of ``meanfield sample``."""

    num_networks: int = setting(
        1, "how many to draw", flags=("-k", "--num-networks"), min=1
    )
    format: str = setting(
        "safetensors", "safetensors, npz, onnx, onnx-int8 or stablehlo"
    )
    rule: str = setting("labels", "labels, draw, median or coalition")
    out: Path | None = setting(None, "folder to make (else RUN/subnetworks)")
    together: bool = setting(
        False,
        "also one ONNX file of all with uncertainty",
        flags=("--together",),
    )
    inputs: str | None = setting(None, INPUTS)
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class CoalitionSettings:
    """Settings of ``meanfield coalitions``."""

    budget: int = setting(8_000, "coalitions to evaluate for each layer", min=1)
    epsilon: float = setting(0.02, "part of the payoff that may be lost")
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class CreditSettings:
    """Settings of ``meanfield credit``."""

    by: str | None = setting(None, "class: also split the values by class")
    examples: int = setting(2_000, "most examples the payoff averages over", min=1)
    num_samples: int = setting(3, "draws of the noise for each example and node", min=2)
    checks: int = setting(16, "sub-networks drawn to check the values; 0: none", min=0)
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class AnalyzeSettings:
    """Settings of ``meanfield analyze``."""

    weights: Path | None = setting(
        None, "instead of a run: a .npz or .safetensors of named arrays"
    )
    out: Path | None = setting(None, "folder to write (else RUN, or analysis)")
    seed: int = setting(0, SEED, min=0)


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Settings of ``meanfield export``."""

    format: str = setting("onnx", "npz, onnx, onnx-int8 or stablehlo")
    inputs: str | None = setting(None, INPUTS)
    model: str | None = setting(None, OWN_MODEL)
