"""Writes the pages of the reference from what the package exports.

Every public name gets one entry: its signature as it is written in the source, and its
docstring. A public name without a docstring stops the build.
"""

import ast
import dataclasses
import enum
import importlib
import inspect
import textwrap
import types
from functools import cache
from pathlib import Path

import click
import equinox as eqx
import typer
from docstrings import markdown
from public import docstring, namespaces, public_methods, public_names

from meanfield.cli import app

# The order in which the names at the top are explained; others follow.
ROOMS = ("spikeslab", "propagation", "ensemble", "learning", "prediction", "credit")


def write_reference(folder: Path) -> None:
    """Write a page for `meanfield`, one for each namespace, and the command line's."""
    names = public_names()
    undocumented = [name for name in names if not documented(name)]
    if undocumented:
        raise ValueError(f"public names without a docstring: {undocumented}")
    pages = {"": [name for name in names if "." not in name]}
    for space in namespaces():
        pages[space] = [name for name in names if name.startswith(f"{space}.")]
    folder.mkdir(parents=True, exist_ok=True)
    for space, members in pages.items():
        page = top_page(members) if not space else namespace_page(space, members)
        (folder / f"{space or 'meanfield'}.md").write_text(page)
    toctree = "\n".join(["```{toctree}", ":maxdepth: 1", *namespaces(), "```"])
    (folder / "namespaces.md").write_text(f"# Namespaces\n\n{toctree}\n")
    (folder / "command-line.md").write_text(command_line())


def documented(name: str) -> bool:
    """Whether a public value, or one of its methods, lacks a docstring of its own."""
    value = public_names()[name]
    if not callable(value):
        return True
    methods = public_methods(value) if isinstance(value, type) else {}
    return all(map(docstring, (value, *methods.values())))


def top_page(members: list[str]) -> str:
    """The page of the names at the top of the package, by what they are about."""
    rooms: dict[str, list[str]] = {room: [] for room in ROOMS}
    for name in members:
        rooms.setdefault(public_names()[name].__module__.split(".")[1], []).append(name)
    parts = ["# Top level", "```{py:module} meanfield\n```"]
    parts.append("Everything here is used as `mf.name` after `import meanfield as mf`.")
    inside = {room: names for room, names in rooms.items() if names}
    for room, names in inside.items():
        parts += [f"**{title(room)}**", table(names)]
    for room, names in inside.items():
        parts += [f"## {title(room)}", *map(entry, names)]
    return "\n\n".join(parts)


def title(room: str) -> str:
    """What a package of ours is about: the first line of its docstring."""
    package = importlib.import_module(f"meanfield.{room}")
    return docstring(package).split("\n")[0].split(":")[0].rstrip(".")


def namespace_page(space: str, members: list[str]) -> str:
    """The page of a namespace; what is at the top too is explained there."""
    top = {id(value): name for name, value in public_names().items() if "." not in name}
    parts = [
        f"# `mf.{space}`",
        f"```{{py:module}} meanfield.{space}\n```",
        markdown(docstring(namespaces()[space]), links()),
        table(members),
    ]
    for name in members:
        twin = top.get(id(public_names()[name]))
        parts.append(alias(name, twin) if twin else entry(name))
    return "\n\n".join(parts)


def table(members: list[str]) -> str:
    """The names of a page with the first sentence of each."""
    rows = [f"| {{py:obj}}`{n} <meanfield.{n}>` | {summary(n)} |" for n in members]
    return "\n".join(["| name | is |", "|---|---|", *rows])


def summary(name: str) -> str:
    """The first sentence of a docstring."""
    first = docstring(public_names()[name]).split("\n\n")[0].replace("\n", " ")
    return first.replace("|", r"\|")


def alias(name: str, twin: str) -> str:
    """An entry that sends the reader to the one at the top of the package."""
    text = f"The same as {{py:obj}}`mf.{twin} <meanfield.{twin}>`."
    return f"```{{py:data}} {name.split('.')[-1]}\n\n{text}\n```"


def entry(name: str) -> str:
    """The entry of one public name."""
    value, short = public_names()[name], name.split(".")[-1]
    text = markdown(docstring(value), links())
    if isinstance(value, type):
        kind = "exception" if issubclass(value, Exception) else "class"
        methods = [method(key, each) for key, each in public_methods(value).items()]
        members = [constant(each) for each in enum_members(value)]
        text = "\n\n".join([text, *members, *methods])
        signature = class_signature(value)
    elif callable(value):
        kind, signature = "function", function_signature(value)
    else:
        kind, signature = "data", ""
        text = text if docstring(value) != docstring(type(value)) else f"`{value!r}`"
    return f"`````{{py:{kind}}} {short}{signature}\n\n{text}\n`````"


def enum_members(cls: type) -> list[enum.Enum]:
    """The members of an enumeration; nothing for other classes."""
    return list(cls) if issubclass(cls, enum.Enum) else []


def constant(member: enum.Enum) -> str:
    """The entry of one member of an enumeration."""
    return f"````{{py:attribute}} {member.name}\n:value: {member.value!r}\n````"


def method(name: str, value: object) -> str:
    """The entry of a method or a property of a class."""
    text = markdown(docstring(value), links())
    if isinstance(value, property):
        return f"````{{py:property}} {name}\n\n{text}\n````"
    return f"````{{py:method}} {name}{function_signature(value)}\n\n{text}\n````"


@cache
def links() -> dict[str, str]:
    """The full names that a name in backticks may mean."""
    names = public_names()
    return {name: f"meanfield.{name}" for name in (*names, *namespaces())}


def definition(value: object) -> ast.FunctionDef | ast.ClassDef:
    """The syntax tree of a function or class."""
    source = inspect.getsource(inspect.unwrap(value))  # type: ignore[arg-type]
    return ast.parse(textwrap.dedent(source)).body[0]  # type: ignore[return-value]


def function_signature(value: object) -> str:
    """A signature as it is written in the source, without `self`."""
    node = definition(value)
    if not isinstance(node, ast.FunctionDef):  # a function made by a decorator
        return str(inspect.signature(value))  # type: ignore[arg-type]
    arguments = node.args
    arguments.defaults = list(map(short_default, arguments.defaults))
    arguments.kw_defaults = [
        each and short_default(each) for each in arguments.kw_defaults
    ]
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(arguments)}){returns}"


def short_default(node: ast.expr) -> ast.expr:
    """A default as written, or `...` where it is computed in a loop."""
    loops = any(isinstance(each, ast.GeneratorExp) for each in ast.walk(node))
    return ast.Constant(...) if loops else node


def class_signature(cls: type) -> str:
    """The arguments of a class: of its `__init__`, or its fields."""
    if issubclass(cls, (enum.Enum, Exception)):
        return ""
    for base in cls.__mro__:
        own = vars(base).get("__init__")
        ours = base.__module__.startswith("meanfield.")
        if ours and isinstance(own, types.FunctionType) and written(base):
            return function_signature(own)
    if not (dataclasses.is_dataclass(cls) or issubclass(cls, eqx.Module)):
        return ""
    return f"({', '.join(fields(cls))})"


def written(cls: type) -> bool:
    """Whether a class has an `__init__` in its source."""
    body = definition(cls).body
    return any(isinstance(n, ast.FunctionDef) and n.name == "__init__" for n in body)


def fields(cls: type) -> list[str]:
    """The fields of a dataclass as they are written in the source."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("meanfield."):
            for node in definition(base).body:
                if isinstance(node, ast.AnnAssign) and isinstance(
                    node.target, ast.Name
                ):
                    default = f" = {ast.unparse(node.value)}" if node.value else ""
                    text = f"{node.target.id}: {ast.unparse(node.annotation)}{default}"
                    found[node.target.id] = text
    return list(found.values())


def command_line() -> str:
    """The page of the command line: every command with its options."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    parts = ["# The command line", group.help or ""]
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        parts += [f"## meanfield {name}", (command.help or "").strip()]
        rows = [row for each in command.params if (row := option_row(each))]
        parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def option_row(parameter: click.Parameter) -> str | None:
    """The line of a table for one option."""
    names = ", ".join(f"`{each}`" for each in parameter.opts)
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    default = parameter.default
    shown = default not in (None, False, (), "") and not callable(default)
    note = f" (default `{default}`)" if shown else ""
    text = (getattr(parameter, "help", "") or "").replace("|", r"\|")
    return f"| {names} | {text}{note} |"
