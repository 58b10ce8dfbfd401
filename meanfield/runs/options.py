"""The options of a command, made from the fields of its settings."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer


def with_options(*kinds: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of some settings classes.

    The command has one parameter for each class, annotated with it, and is called with
    objects of these classes.
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
    # The default of a parsed option is passed as text, for the help.
    wanted = Any if parse else typing.get_type_hints(kind)[field.name]
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default if shown is None else shown,
        annotation=Annotated[wanted, option],
    )
