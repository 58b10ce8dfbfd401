"""The command line: ``meanfield train``, ``evaluate``, ``label``, ``sample``, …

Exit code 0: done. 1: the work failed, and the message says why. 2: wrong usage.
"""

import dataclasses
import functools
import inspect
import json
import sys
import typing
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from meanfield import learning, runs
from meanfield.runs.settings import (
    AnalyzeSettings,
    CoalitionSettings,
    CreditSettings,
    ExportSettings,
    OpenSettings,
    SampleSettings,
    ScoreSettings,
    TrainSettings,
)

app = typer.Typer(
    name="meanfield",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RunFolder = Annotated[Path, typer.Argument(help="a run folder made by `train`")]


def with_options(*kinds: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of some settings classes.

    The command has one parameter annotated with each class, and gets the objects.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        given = inspect.signature(command).parameters.values()
        holders = {p.annotation: p.name for p in given if p.annotation in kinds}
        own = [p for p in given if p.annotation not in kinds]
        made = [
            _option(kind, field) for kind in kinds for field in dataclasses.fields(kind)
        ]

        @functools.wraps(command)
        def call(**values: Any) -> None:
            for kind, holder in holders.items():
                names = [field.name for field in dataclasses.fields(kind)]
                values[holder] = kind(**{name: values.pop(name) for name in names})
            command(**values)

        parameters = [*own, *made]
        call.__dict__["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return give


def _option(kind: type, field: dataclasses.Field) -> inspect.Parameter:
    """The option that sets a field of a settings class."""
    about = field.metadata
    parse, shown = about["parse"], about["shown"]
    option = typer.Option(
        *about["flags"],
        help=about["help"],
        rich_help_panel=about["panel"],
        metavar=about["metavar"],
        min=about["min"],
        parser=parse,
    )
    # What is parsed has its default as text, which the help shows.
    wanted = Any if parse else typing.get_type_hints(kind)[field.name]
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default if shown is None else shown,
        annotation=Annotated[wanted, option],
    )


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


@app.command()
@with_options(TrainSettings)
def train(settings: TrainSettings) -> None:
    """Train an ensemble, score it, label its connections; makes a run folder."""
    if settings.resume is not None:
        settings = runs.config.resumed(settings)
    callbacks = [learning.log_json()] if settings.json_lines else []
    run = runs.train.train(settings, callbacks)
    if settings.json_lines:
        typer.echo(json.dumps({"run": str(run.folder.resolve()), **run.metrics}))
    else:
        _show(run)
    if run.metrics["stopped"] == "interrupted":
        raise RuntimeError(
            f"interrupted; {run.folder} holds the epochs that were finished. Go on "
            f"with `meanfield train --resume {run.folder}`."
        )


@app.command()
@with_options(OpenSettings, ScoreSettings)
def evaluate(run: RunFolder, where: OpenSettings, settings: ScoreSettings) -> None:
    """Score a run on its test data; updates metrics.json."""
    opened, dataset = _open(run, where)
    runs.score.score(opened, dataset, **vars(settings))
    _show(opened)


@app.command()
@with_options(OpenSettings)
def label(run: RunFolder, where: OpenSettings) -> None:
    """Label every connection important, absent or variable; writes connections.csv."""
    opened, dataset = _open(run, where)
    runs.label.label(opened, dataset)
    _show(opened)


@app.command()
@with_options(SampleSettings, OpenSettings)
def sample(run: RunFolder, settings: SampleSettings, where: OpenSettings) -> None:
    """Draw sub-networks, shrink them, and write them with a verified card.

    Rules: draw, each connection by its probability; labels, important ones always and
    absent ones never; median, those more likely there than not; coalition, the strong
    coalitions that `meanfield coalitions` found.
    """
    _check_format(settings.format)
    if settings.rule not in runs.sample.RULES:
        known = ", ".join(runs.sample.RULES)
        raise typer.BadParameter(f"--rule must be one of {known}")
    opened, dataset = _open(run, where)
    card = runs.sample.sample(opened, dataset, **vars(settings))
    typer.echo(runs.tables.card_table(card))
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
    """Write a shipped sub-network in another format, loaded back and compared."""
    _check_format(settings.format)
    done = runs.sample.export(archive, out=out, **vars(settings))
    typer.echo(f"  largest difference {done.largest_difference:.2g}")
    typer.echo(f"  wrote {done.path.resolve()} ({done.bytes:,} bytes)")


@app.command("serve-check")
def serve_check(
    folder: Annotated[Path, typer.Argument(help="a folder made by `sample`")],
) -> None:
    """Load every shipped file in its runtime; compare with the outputs on record."""
    for done in runs.sample.serve_check(folder):
        gap = done.largest_difference
        typer.echo(f"  {done.file:<28}hash agrees, outputs within {gap:.2g}")


@app.command()
@with_options(CreditSettings, OpenSettings)
def credit(run: RunFolder, settings: CreditSettings, where: OpenSettings) -> None:
    """Value every connection; writes credit.json, columns of connections.csv, plots."""
    opened, dataset = _open(run, where)
    found = runs.credit.credit(opened, dataset, **vars(settings))
    typer.echo(runs.tables.credit_table(found))
    _wrote(run / runs.folder.CREDIT)


@app.command()
@with_options(CoalitionSettings, OpenSettings)
def coalitions(
    run: RunFolder, settings: CoalitionSettings, where: OpenSettings
) -> None:
    """Value the neurons of every hidden layer; writes coalitions.json and plots."""
    opened, dataset = _open(run, where)
    found = runs.coalitions.coalitions(opened, dataset, **vars(settings))
    typer.echo(runs.tables.coalitions_table(found))
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
    """Read a network with statistical mechanics; writes analysis.json and plots."""
    if (run is None) == (settings.weights is None):
        raise typer.BadParameter("give either a run folder or --weights FILE")
    folder = settings.out or run or Path("analysis")
    if run is not None:
        opened, dataset = _open(run, where)
        found = runs.analyze.analyze_run(
            opened, dataset, out=folder, seed=settings.seed
        )
    else:
        arrays = runs.analyze.read_weights(Path(str(settings.weights)))
        found = runs.analyze.analyze(arrays, folder, seed=settings.seed)
    typer.echo(runs.tables.analysis_table(found))
    _wrote(folder / runs.folder.ANALYSIS)


@app.command()
def report(run: RunFolder) -> None:
    """Write one self-contained HTML page with the plots and verdicts of a run."""
    typer.echo(f"  wrote {runs.report.write_report(run).resolve()}")


def _open(run: Path, where: OpenSettings) -> tuple[Any, Any]:
    return runs.folder.open_run(run, **vars(where))


def _check_format(format: str) -> None:
    if format not in runs.sample.FORMATS:
        known = ", ".join(runs.sample.FORMATS)
        raise typer.BadParameter(f"--format must be one of {known}")


def _show(run: Any) -> None:
    typer.echo(runs.tables.run_table(run.metrics))
    typer.echo("")
    _wrote(run.folder)


def _wrote(path: Path) -> None:
    typer.echo(f"  wrote {path.resolve()}")


def main() -> None:
    """Run the command line; errors of the work end with code 1 and one message."""
    try:
        app()
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
