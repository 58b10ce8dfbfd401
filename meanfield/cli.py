"""The command line: ``meanfield train``, ``evaluate``, ``label``, ``sample``, …

Exit code 0: done. 1: the work failed, and the message says why. 2: wrong usage.
"""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from meanfield import learning, runs

app = typer.Typer(
    name="meanfield",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
FORMATS = ("safetensors", "npz", "numpy", "onnx", "onnx-int8", "stablehlo")
RULES = ("draw", "labels", "median", "coalition")
RunFolder = Annotated[Path, typer.Argument(help="a run folder made by `train`")]
DATA_DIR = "folder of mnist and fashion_mnist (else $MEANFIELD_DATA)"
SEED = "of all random choices: the same seed, the same numbers"
DataDir = Annotated[str | None, typer.Option(help=DATA_DIR)]
Seed = Annotated[int, typer.Option(help=SEED, min=0)]


DATA, LEARNING, PRIOR, RUN = "Data", "Network and training", "Prior", "Run"


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"meanfield {version('meanfield')}")
        raise typer.Exit


@app.callback(epilog="Exit code 0: done. 1: the work failed. 2: wrong usage.")
def start(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="show it"),
    ] = None,
) -> None:
    """Train an ensemble of sub-networks, see where the credit sits, ship a sub-network.

    Begin with `meanfield train`: it makes a run folder, by default runs/digits. Every
    other command reads that folder, says what it wrote, and puts its plots where
    `meanfield report` finds them.
    """


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list like 100,100") from error
    if any(width < 1 for width in widths):
        raise typer.BadParameter(f"every width must be positive; got {text!r}")
    return widths


def _devices(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is neither a number nor like 4x2")
    return int(found[1]), int(found[2] or 1)


@app.command()
def train(
    data: Annotated[
        str,
        typer.Option(
            rich_help_panel=DATA,
            help="digits (embedded), mnist, fashion_mnist, a .csv or a .npz",
        ),
    ] = "digits",
    out: Annotated[
        Path | None,
        typer.Option(rich_help_panel=RUN, help="run folder to write (else runs/NAME)"),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help=DATA_DIR, rich_help_panel=DATA)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="column of the .csv to predict, or several",
            metavar="NAME,NAME,…",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="classification, regression, counts or binary (else by the target)",
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="categorical, bernoulli, poisson, gaussian, student_t; heteroscedastic"
            " or heteroscedastic_student_t where noise depends on the input (else by "
            "the task: categorical, bernoulli, poisson or gaussian)",
        ),
    ] = None,
    test_fraction: Annotated[
        float,
        typer.Option(
            rich_help_panel=DATA, help="part of a .csv or .npz kept for testing"
        ),
    ] = 0.2,
    hidden: Annotated[
        str,
        typer.Option(
            rich_help_panel=LEARNING,
            help="widths of the hidden layers",
            metavar="N,N,…",
        ),
    ] = "100,100",
    epochs: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=LEARNING,
            min=1,
            help="passes over the data (else 30; below 10,000 examples 60)",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=LEARNING,
            min=1,
            help="examples a step (else 128; below 10,000 examples 32)",
        ),
    ] = None,
    learning_rate: Annotated[
        float,
        typer.Option(
            rich_help_panel=LEARNING, help="of Adam; falls to 0 along a cosine"
        ),
    ] = 2e-3,
    inclusion_prob: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PRIOR,
            help="of a spike-and-slab prior; left out: the published rule",
        ),
    ] = None,
    slab_scale: Annotated[
        float, typer.Option(rich_help_panel=PRIOR, help="of the prior's slab")
    ] = 0.1,
    temperature: Annotated[
        float,
        typer.Option(
            rich_help_panel=PRIOR, help="weight of the prior; 1 is the evidence bound"
        ),
    ] = 1.0,
    spikes: Annotated[
        str,
        typer.Option(
            rich_help_panel=PRIOR,
            help="connection: each has its own spike; unit: all that read one unit "
            "share it, and sub-networks shrink (give --inclusion-prob)",
        ),
    ] = "connection",
    precision: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LEARNING,
            help="bfloat16 computes in it; parameters stay float32",
        ),
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(
            rich_help_panel=LEARNING,
            help="parts that each batch goes through in",
            min=1,
        ),
    ] = 1,
    devices: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LEARNING,
            help="devices that share each batch, or DATAxMODEL to split wide weights",
            metavar="N",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help=SEED, min=0, rich_help_panel=RUN)] = 0,
    resume: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=RUN, help="go on with this run; its own settings hold"
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", rich_help_panel=RUN, help="replace the run in --out"
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", rich_help_panel=RUN, help="no progress bar")
    ] = False,
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json",
            rich_help_panel=RUN,
            help="a JSON object a line: each epoch, then the run",
        ),
    ] = False,
) -> None:
    """Train an ensemble, score it, label its connections; makes a run folder."""
    mesh, progress = _devices(devices), not (quiet or json_lines)
    if resume is not None:
        settings = runs.workflow.resumed(resume, devices=mesh, progress=progress)
    else:
        settings = runs.workflow.TrainSettings(
            data=data,
            out=out or Path("runs") / Path(data).stem,
            data_dir=data_dir,
            target=target,
            task=task,
            likelihood=likelihood,
            test_fraction=test_fraction,
            hidden=_widths(hidden),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            inclusion_prob=inclusion_prob,
            slab_scale=slab_scale,
            temperature=temperature,
            spikes=spikes,
            precision=precision,
            accumulate=accumulate,
            seed=seed,
            devices=mesh,
            overwrite=overwrite,
            progress=progress,
        )
    run = runs.workflow.train(settings, [learning.log_json()] if json_lines else [])
    if json_lines:
        typer.echo(json.dumps({"run": str(run.folder.resolve()), **run.metrics}))
    else:
        _show(run)
    if run.metrics["stopped"] == "interrupted":
        raise RuntimeError(
            f"interrupted; {run.folder} holds the epochs that were finished. Go on "
            f"with `meanfield train --resume {run.folder}`."
        )


@app.command()
def evaluate(
    run: RunFolder,
    data_dir: DataDir = None,
    num_samples: Annotated[
        int, typer.Option(help="noise draws to average over", min=1)
    ] = 32,
    seed: Seed = 0,
) -> None:
    """Score a run on its test data; updates metrics.json."""
    opened, dataset = runs.workflow.open_run(run, data_dir)
    runs.workflow.score(opened, dataset, num_samples=num_samples, seed=seed)
    _show(opened)


@app.command()
def label(run: RunFolder, data_dir: DataDir = None) -> None:
    """Label every connection important, absent or variable; writes connections.csv."""
    opened, dataset = runs.workflow.open_run(run, data_dir)
    runs.workflow.label(opened, dataset)
    _show(opened)


@app.command()
def sample(
    run: RunFolder,
    num_networks: Annotated[
        int, typer.Option("-k", "--num-networks", help="how many to draw", min=1)
    ] = 1,
    format: Annotated[
        str,
        typer.Option(help="safetensors, npz, onnx, onnx-int8 or stablehlo"),
    ] = "safetensors",
    rule: Annotated[
        str, typer.Option(help="draw, labels, median or coalition")
    ] = "draw",
    out: Annotated[
        Path | None, typer.Option(help="folder to make (else RUN/subnetworks)")
    ] = None,
    together: Annotated[
        bool,
        typer.Option("--together", help="also one ONNX file of all with uncertainty"),
    ] = False,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Draw sub-networks, shrink them, and write them with a verified card.

    Rules: draw, each connection by its probability; labels, important ones always and
    absent ones never; median, those more likely there than not; coalition, the strong
    coalitions that `meanfield coalitions` found.
    """
    _check_format(format)
    if rule not in RULES:
        raise typer.BadParameter(f"--rule must be one of {', '.join(RULES)}")
    opened, dataset = runs.workflow.open_run(run, data_dir)
    folder = out or run / "subnetworks"
    card = runs.workflow.sample(
        opened,
        dataset,
        num_networks=num_networks,
        out=folder,
        format=format,
        rule=rule,
        together=together,
        seed=seed,
    )
    typer.echo(runs.workflow.card_summary(card))
    typer.echo(f"\n  wrote {folder.resolve()}")


@app.command()
def export(
    archive: Annotated[
        Path, typer.Argument(help="a .safetensors file made by `sample`")
    ],
    out: Annotated[Path, typer.Option(help="file to write; it must not exist")],
    format: Annotated[
        str, typer.Option(help="npz, onnx, onnx-int8 or stablehlo")
    ] = "onnx",
) -> None:
    """Write a shipped sub-network in another format, loaded back and compared."""
    _check_format(format)
    done = runs.workflow.export(archive, format=format, out=out)
    typer.echo(f"  largest difference {done.largest_difference:.2g}")
    typer.echo(f"  wrote {done.path.resolve()} ({done.bytes:,} bytes)")


@app.command("serve-check")
def serve_check(
    folder: Annotated[Path, typer.Argument(help="a folder made by `sample`")],
) -> None:
    """Load every shipped file in its runtime; compare with the outputs on record."""
    for done in runs.workflow.serve_check(folder):
        gap = done.largest_difference
        typer.echo(f"  {done.file:<28}hash agrees, outputs within {gap:.2g}")


@app.command()
def coalitions(
    run: RunFolder,
    budget: Annotated[
        int, typer.Option(help="coalitions to evaluate for each layer", min=1)
    ] = 8_000,
    epsilon: Annotated[
        float, typer.Option(help="part of the payoff that may be lost")
    ] = 0.02,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Value the neurons of every hidden layer; writes coalitions.json and plots."""
    opened, dataset = runs.workflow.open_run(run, data_dir)
    found = runs.workflow.coalitions(
        opened, dataset, budget=budget, epsilon=epsilon, seed=seed
    )
    typer.echo(runs.workflow.coalitions_summary(found))
    typer.echo(f"\n  wrote {(run / 'coalitions.json').resolve()}")


@app.command()
def analyze(
    run: Annotated[
        Path | None, typer.Argument(help="a run folder made by `train`")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="instead of a run: a .npz or .safetensors of named arrays"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder to write (else RUN, or analysis)")
    ] = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Read a network with statistical mechanics; writes analysis.json and plots."""
    if (run is None) == (weights is None):
        raise typer.BadParameter("give either a run folder or --weights FILE")
    folder = out or run or Path("analysis")
    if run is not None:
        opened, dataset = runs.workflow.open_run(run, data_dir)
        found = runs.analyze.analyze_run(opened, dataset, out=folder, seed=seed)
    else:
        arrays = runs.analyze.read_weights(Path(str(weights)))
        found = runs.analyze.analyze(arrays, folder, seed=seed)
    typer.echo(runs.analyze.summary(found))
    typer.echo(f"\n  wrote {(folder / 'analysis.json').resolve()}")


@app.command()
def report(run: RunFolder) -> None:
    """Write one self-contained HTML page with the plots and verdicts of a run."""
    typer.echo(f"  wrote {runs.report.write_report(run).resolve()}")


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise typer.BadParameter(f"--format must be one of {', '.join(FORMATS)}")


def _show(run: Any) -> None:
    typer.echo(runs.workflow.summary(run.metrics))
    typer.echo("")
    typer.echo(f"  wrote {run.folder.resolve()}")


def main() -> None:
    """Run the command line; errors of the work end with code 1 and one message."""
    try:
        app()
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
