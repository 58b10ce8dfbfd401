"""The settings of `train`, with names, defaults and help texts.

The settings of the other commands are in `command_settings`. The options of the command
line are made from these classes, and the functions of the commands take their defaults
from them. JAX is not imported here, so that ``--help`` is fast.
"""

import dataclasses
from pathlib import Path
from typing import Any

from .fields import DATA_DIR, NAMES, SEED, grid, setting, widths

# Headings of the options of `train`.
DATA, LEARNING, PRIOR, RUN = "Data", "Network and training", "Prior", "Run"
# Rules of learning: see the option `--rule`.
RULES = ("selective", "published", "evidence")
# The parts of a configuration that store settings.
KEPT = ("data", "model", "training")
# Settings that say how a table is read.
READING = ("drop", "features", "sep", "decimal", "header", "missing")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run; see ``meanfield train --help``."""

    data: str = setting(
        "digits",
        "what to learn from: digits (embedded), mnist, fashion_mnist, a table (.csv, "
        ".tsv, .txt, .data) or an .npz",
        DATA,
    )
    out: Path | None = setting(None, "run folder to write (default: runs/NAME)", RUN)
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
        "classification, regression, counts or binary (default: by the target)",
        DATA,
    )
    likelihood: str | None = setting(
        None,
        "distribution of the target around its prediction: categorical, bernoulli, "
        "poisson, gaussian or student_t; heteroscedastic and heteroscedastic_student_t "
        "let the noise depend on the input (default: by the task)",
        DATA,
        kept="model",
    )
    test_fraction: float = setting(
        0.2, "fraction of a table or .npz kept for testing", DATA, kept="data"
    )
    drop: str | None = setting(
        None, "columns to leave out", DATA, kept="data", metavar=NAMES
    )
    features: str | None = setting(
        None, "columns to learn from (default: all)", DATA, kept="data", metavar=NAMES
    )
    sep: str | None = setting(
        None,
        "separator of cells of the table: one character, tab or space (default: "
        "guessed)",
        DATA,
        kept="data",
    )
    decimal: str | None = setting(
        None, "decimal mark of the table: . or , (default: guessed)", DATA, kept="data"
    )
    header: bool | None = setting(
        None,
        "whether the first row holds headings (default: yes; an error if it looks "
        "like data)",
        DATA,
        flags=("--header/--no-header",),
        kept="data",
    )
    missing: str = setting(
        "fill",
        "missing values: fill (numbers by the median, with a feature that marks them; "
        "categories as one more category) or refuse",
        DATA,
        kept="data",
    )
    model: str = setting(
        "mlp",
        "mlp; cnn, for images (two convolutions before the hidden layers); or "
        "FILE.py:FUNCTION, your function (inputs, outputs, key) that returns an "
        "Equinox, Flax NNX or Linen model or a pair (apply_fn, params): the file is "
        "executed",
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
        "passes over the data (default: as many as 800 steps need, at least 30; under "
        "other rules than selective 30, or 60 below 10,000 examples)",
        LEARNING,
        kept="training",
        min=1,
    )
    batch_size: int | None = setting(
        None,
        "examples per step (default: 128, or 32 below 10,000 examples; at most an "
        "eighth of all examples under the selective rule)",
        LEARNING,
        kept="training",
        min=1,
    )
    patience: int | None = setting(
        None,
        "stop after this number of epochs without a better score on a held-out "
        "tenth, and keep the best epoch; 0: never (default: 20 for a table with over "
        "100 epochs, except under the selective rule)",
        LEARNING,
        kept="training",
        min=0,
    )
    learning_rate: float = setting(
        2e-3,
        "first step size of Adam, which falls to 0 along a cosine",
        LEARNING,
        kept="training",
    )
    rule: str | None = setting(
        None,
        "selective: the strongest prior that does not make held-out examples worse, "
        "so that many connections are removed; published: no prior; evidence: the "
        "prior below (default: selective, or evidence with --inclusion-prob)",
        PRIOR,
        kept="training",
    )
    inclusion_prob: float | None = setting(
        None,
        "--rule evidence: prior probability of a connection (default: 0.1)",
        PRIOR,
        kept="training",
    )
    slab_scale: float = setting(
        0.1, "--rule evidence: prior deviation of a weight", PRIOR, kept="training"
    )
    temperature: float = setting(
        1.0,
        "weight of the prior, 1 for the evidence bound; for --rule selective, the "
        "largest weight that it tries",
        PRIOR,
        kept="training",
    )
    spikes: str = setting(
        "connection",
        "connection: each connection is present or absent by itself; unit: all "
        "connections that leave a unit together",
        PRIOR,
        kept="training",
    )
    precision: str | None = setting(
        None,
        "type to compute in, such as bfloat16; parameters stay float32",
        LEARNING,
        kept="training",
    )
    accumulate: int = setting(
        1,
        "parts to split each batch into, to save memory",
        LEARNING,
        kept="training",
        min=1,
    )
    devices: tuple[int, int] | None = setting(
        None,
        "devices that share each batch; DATAxMODEL also splits wide weights",
        LEARNING,
        metavar="N",
        parse=grid,
    )
    seed: int = setting(0, SEED, RUN, kept="training", min=0)
    resume: Path | None = setting(None, "run to continue, with its own settings", RUN)
    overwrite: bool = setting(
        False, "replace the run in --out", RUN, flags=("--overwrite",)
    )
    quiet: bool = setting(
        False, "show no progress and no notes", RUN, flags=("--quiet",)
    )
    json_lines: bool = setting(
        False,
        "print JSON, one object per line: each epoch, then the run",
        RUN,
        flags=("--json",),
    )

    @property
    def folder(self) -> Path:
        """The run folder to write."""
        return self.out or Path("runs") / Path(self.data).stem

    @property
    def learning_rule(self) -> str:
        """The rule, or the default if none is given."""
        return self.rule or ("selective" if self.inclusion_prob is None else "evidence")

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
