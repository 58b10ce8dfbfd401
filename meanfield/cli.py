"""The command line: ``meanfield train``, ``evaluate``, ``label``, ``sample``, …

Exit code 0: done. 1: the work failed, and the message says why. 2: wrong usage.
3: an internal error, which is a bug in meanfield.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from meanfield import deploy, learning, runs
from meanfield.runs.cache import keep_programs
from meanfield.runs.command_settings import (
    AnalyzeSettings,
    CoalitionSettings,
    CreditSettings,
    ExportSettings,
    OpenSettings,
    PredictSettings,
    SampleSettings,
    ScoreSettings,
)
from meanfield.runs.failures import run_command
from meanfield.runs.fields import OWN_MODEL
from meanfield.runs.options import with_options
from meanfield.runs.settings import TrainSettings
from meanfield.runs.stages import stage
from meanfield.version import VERSION

app = typer.Typer(
    name="meanfield",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RunFolder = Annotated[Path, typer.Argument(help="a run folder made by `train`")]


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"meanfield {VERSION}")
        raise typer.Exit


@app.callback(
    epilog="Exit code 0: done. 1: the work failed. 2: wrong usage. 3: internal error."
)
def start(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="show the version"
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="show the traceback of an error")
    ] = False,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="do not keep compiled programs for the next command (they take at "
            "most 500 MB of your cache folder; set $MEANFIELD_CACHE to another "
            "folder, or to off)",
        ),
    ] = False,
) -> None:
    """Train an ensemble of sub-networks, assign credit, ship a sub-network.

    Begin with `meanfield train`: it makes a run folder, by default runs/digits. Every
    other command reads that folder, says what it wrote, and puts its plots where
    `meanfield report` finds them.
    """
    said = keep_programs(not no_cache)
    if said:
        stage(said)
    stage("starting")


@app.command()
@with_options(TrainSettings)
def train(settings: TrainSettings) -> None:
    """Train an ensemble, score it and label its connections; makes a run folder."""
    done = settings.resume is not None and runs.train.is_finished(settings.resume)
    callbacks = [learning.log_json()] if settings.json_lines else []
    run = runs.train.train(settings, callbacks)
    if settings.json_lines:
        typer.echo(json.dumps({"run": str(run.folder.resolve()), **run.metrics}))
    elif done:
        typer.echo(_table(run))
        typer.echo(f"\n  {run.folder.resolve()} was finished already: nothing changed")
    else:
        _show(run)
    if run.metrics["stopped"] == "interrupted":
        raise RuntimeError(
            f"interrupted; {run.folder} holds the epochs that were finished. Continue "
            f"with `meanfield train --resume {run.folder}`."
        )


@app.command()
@with_options(OpenSettings, ScoreSettings)
def evaluate(run: RunFolder, where: OpenSettings, settings: ScoreSettings) -> None:
    """Score a run on its test data; updates metrics.json."""
    with runs.folder.locked(run):
        opened, dataset = _open(run, where)
        runs.score.score(opened, dataset, **vars(settings))
    _show(opened)


@app.command()
@with_options(PredictSettings)
def predict(
    run: RunFolder,
    rows: Annotated[
        Path, typer.Argument(help="new rows: a table like the training table; or .npz")
    ],
    settings: PredictSettings,
) -> None:
    """Predict new rows; writes a .csv in their order, in the target's own units.

    For real targets: mean, standard deviation, interval, and the two parts of the
    standard deviation, aleatoric (it stays with more data) and epistemic (it vanishes).
    For classes: the most probable class, the probability of each class, and the same
    two parts of the entropy, in nats.
    """
    stage("loading the run")
    opened = runs.folder.load_run(run)
    stage(f"predicting the rows of {rows}")
    path, found, unused = runs.predict.predict_file(opened, rows, **vars(settings))
    typer.echo(runs.tables.predictions_table(found))
    if unused:
        typer.echo(f"  not used: {', '.join(unused)}")
    _wrote(path)


@app.command()
@with_options(OpenSettings)
def label(run: RunFolder, where: OpenSettings) -> None:
    """Label every connection important, absent or variable; writes connections.csv."""
    with runs.folder.locked(run):
        opened, dataset = _open(run, where)
        stage("labelling the connections")
        runs.label.label(opened, dataset)
    _show(opened)


@app.command()
@with_options(SampleSettings, OpenSettings)
def sample(run: RunFolder, settings: SampleSettings, where: OpenSettings) -> None:
    """Draw sub-networks, shrink them, and write them with a card of what was checked.

    --rule says which connections a sub-network has. compact, the default for one
    network of a run with `train --rule selective`: as many units are removed as
    held-out accuracy allows in trials, the others learn again for half as many epochs
    as the run, and the next rule, mean, says which connections of this smaller ensemble
    are kept. mean: connections that are more likely present than
    absent are kept at their means. median: the same are kept at the means of their
    slabs. labels: important connections are kept, absent ones are removed, and variable
    ones are drawn by their probability. draw: all are drawn. coalition: all are drawn,
    and the neurons outside the strong coalitions of `meanfield coalitions` are held at
    their mean.
    """
    _check_format(settings.format)
    if settings.rule not in (None, *runs.sample.RULES):
        known = ", ".join(runs.sample.RULES)
        raise typer.BadParameter(f"--rule must be one of {known}")
    opened, dataset = _open(run, where)
    stage("drawing, shrinking, writing and checking sub-networks")
    card = runs.sample.sample(opened, dataset, **vars(settings))
    typer.echo(runs.shipped.card_table(card, opened.metrics))
    note = runs.shipped.nothing_removed(card, opened.config["training"])
    if note is not None:
        typer.echo(note)
    _wrote(settings.out or run / runs.folder.SUBNETWORKS)


@app.command()
@with_options(ExportSettings)
def export(
    archive: Annotated[
        Path, typer.Argument(help="a .safetensors file made by `sample`")
    ],
    out: Annotated[Path, typer.Option(help="file to write; it must not exist")],
    settings: ExportSettings,
) -> None:
    """Convert a shipped sub-network to another format, load it back and compare."""
    _check_format(settings.format)
    stage("converting and comparing")
    done = runs.sample.export(archive, out=out, **vars(settings))
    typer.echo(f"  largest difference {done.largest_difference:.2g}")
    if done.precision is not None:
        alike = "" if done.agreement is None else f", {done.agreement:.1%} choose alike"
        typer.echo(f"  integers in {done.precision}{alike}")
    typer.echo(f"  wrote {done.path.resolve()} ({done.bytes:,} bytes)")


@app.command("serve-check")
def serve_check(
    folder: Annotated[Path, typer.Argument(help="a folder made by `sample`")],
    signers: Annotated[
        Path | None,
        typer.Option(help="names and public SSH keys; one must have signed the folder"),
    ] = None,
    model: Annotated[str | None, typer.Option(help=OWN_MODEL)] = None,
) -> None:
    """Check that shipped files still give the outputs that they gave when shipped."""
    for done in runs.sample.serve_check(folder, signers, model):
        gap = done.largest_difference
        signed = "" if done.signer is None else f", signed by {done.signer}"
        typer.echo(f"  {done.file:<28}hash agrees, outputs within {gap:.2g}{signed}")


@app.command()
def sign(
    folder: Annotated[Path, typer.Argument(help="a folder made by `sample`")],
    key: Annotated[Path, typer.Option(help="a private SSH key")],
) -> None:
    """Sign a shipped folder with OpenSSH; `serve-check --signers` checks it."""
    _wrote(deploy.sign_shipped(folder, key))


@app.command()
@with_options(CreditSettings, OpenSettings)
def credit(run: RunFolder, settings: CreditSettings, where: OpenSettings) -> None:
    """Value every connection; writes credit.json, plots, columns of connections.csv."""
    with runs.folder.locked(run):
        opened, dataset = _open(run, where)
        stage("valuing the connections")
        found = runs.credit.credit(opened, dataset, **vars(settings))
    typer.echo(runs.credit_tables.credit_table(found))
    _wrote(run / runs.folder.CREDIT)


@app.command()
@with_options(CoalitionSettings, OpenSettings)
def coalitions(
    run: RunFolder, settings: CoalitionSettings, where: OpenSettings
) -> None:
    """Value the neurons of every hidden layer; writes coalitions.json and plots."""
    with runs.folder.locked(run):
        opened, dataset = _open(run, where)
        stage("valuing the neurons, layer by layer, and their connections")
        found = runs.coalitions.coalitions(opened, dataset, **vars(settings))
    typer.echo(runs.credit_tables.coalitions_table(found))
    _wrote(run / runs.folder.COALITIONS)


@app.command()
@with_options(AnalyzeSettings, OpenSettings)
def analyze(
    settings: AnalyzeSettings,
    where: OpenSettings,
    run: Annotated[
        Path | None, typer.Argument(help="a run folder made by `train`")
    ] = None,
) -> None:
    """Analyze a network by statistical mechanics; writes analysis.json and plots."""
    if (run is None) == (settings.weights is None):
        raise typer.BadParameter("give either a run folder or --weights FILE")
    folder = settings.out or run or Path("analysis")
    doing = "measuring microstructure, renormalization and complexity"
    if run is not None:
        opened, dataset = _open(run, where)
        stage(doing)
        found = runs.analyze.analyze_run(
            opened, dataset, out=folder, seed=settings.seed
        )
    else:
        arrays = runs.analyze.read_weights(Path(str(settings.weights)))
        stage(doing)
        found = runs.analyze.analyze(arrays, folder, seed=settings.seed)
    typer.echo(runs.tables.analysis_table(found))
    _wrote(folder / runs.folder.ANALYSIS)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN …", help="run folders, two or more")
    ],
) -> None:
    """Compare runs on the same data: settings that differ, scores, labels, sizes."""
    if len(folders) < 2:
        raise typer.BadParameter("give two run folders or more")
    stage("loading the runs")
    rows = runs.comparison.compare(folders)
    typer.echo(runs.tables.comparison_table([str(f) for f in folders], rows))


@app.command()
def report(run: RunFolder) -> None:
    """Write one self-contained HTML page with the plots and verdicts of a run."""
    stage("writing the page")
    typer.echo(f"  wrote {runs.report.write_report(run).resolve()}")


def _open(run: Path, where: OpenSettings) -> tuple[Any, Any]:
    stage("loading the run and its data")
    return runs.folder.open_run(run, **vars(where))


def _check_format(format: str) -> None:
    if format not in runs.sample.FORMATS:
        known = ", ".join(runs.sample.FORMATS)
        raise typer.BadParameter(f"--format must be one of {known}")


def _show(run: Any) -> None:
    typer.echo(_table(run))
    typer.echo("")
    _wrote(run.folder)


def _table(run: Any) -> str:
    names = run.config["data"].get("target_names") or ()
    return runs.tables.run_table(run.metrics, names)


def _wrote(path: Path) -> None:
    typer.echo(f"  wrote {path.resolve()}")


def main() -> None:
    """Run the command line; see `runs.failures`."""
    run_command(lambda words: app(args=words), sys.argv[1:])
