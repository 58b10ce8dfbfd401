"""The public objects of `meanfield`, by the names that users write."""

import ast
import inspect
import types
from functools import cache
from pathlib import Path

import meanfield


@cache
def namespaces() -> dict[str, types.ModuleType]:
    """The modules among the names of `meanfield`."""
    found = {name: getattr(meanfield, name) for name in meanfield.__all__}
    return {k: v for k, v in found.items() if isinstance(v, types.ModuleType)}


def exported(module: types.ModuleType) -> list[str]:
    """A module's names for users: `__all__`, or `x as x`, or what it defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    tree = ast.parse(Path(module.__file__ or "").read_text())
    aliases = [
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname and alias.asname == alias.name
    ]
    defined = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
    ]
    return sorted(aliases + defined)


@cache
def public_names() -> dict[str, object]:
    """All public values: `fit`, `Ensemble`, …, `plots.landscape`, …"""
    found = {
        name: getattr(meanfield, name)
        for name in meanfield.__all__
        if name not in namespaces()
    }
    for space, module in namespaces().items():
        for name in exported(module):
            value = getattr(module, name)
            if not isinstance(value, types.ModuleType):
                found[f"{space}.{name}"] = value
    return found


def public_methods(cls: type) -> dict[str, object]:
    """The methods and properties that a class of ours defines or inherits from ours."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.split(".")[0] == "meanfield":
            for name, value in vars(base).items():
                inner = getattr(value, "__func__", value)
                method = isinstance(inner, (types.FunctionType, property))
                if not name.startswith("_") and method:
                    found[name] = inner
    return found


def docstring(value: object) -> str:
    """The docstring of a value itself, not one that it inherits from elsewhere."""
    value = value.fget if isinstance(value, property) else value
    own = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    return inspect.cleandoc(own or "")
