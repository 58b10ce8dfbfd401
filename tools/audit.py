"""Print where the package breaks its own conventions.

    python tools/audit.py

prints one line per finding, and exits with 1 if there is any:

- two modules, or two classes, with the same name (a module may have its package's
  name);
- names that only tests use: no package module, experiment, notebook or page uses them,
  and neither `meanfield` nor one of its namespaces exports them;
- files of more than 400 lines, or 800 of tests;
- public functions whose docstring lacks a section. A function with parameters needs
  `Args`, one that returns something `Returns`, one that raises, directly or in a
  function that it calls, `Raises`, and all need `Example`. Functions that compute a
  published quantity need a source, in the function or in the module docstring.
"""

import ast
import functools
import importlib
import inspect
import re
import sys
import textwrap
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from public import public_names

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "meanfield"
MAX_LINES = 400
# Test files are tables of cases, so they may be longer.
MAX_TEST_LINES = 800
# Functions in these packages cite a source or state that the method is ours.
SCIENCE = ("spikeslab", "games", "credit", "neurons", "physics")
SOURCE = r"References:|arXiv:|\bours\b|this\s+project's\s+own"


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def files(*folders: str) -> list[Path]:
    """The Python files under some folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """The name under which a file of the package is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def equal_names() -> Iterator[str]:
    """Modules that share a name, and classes that share one."""
    places = defaultdict(set)
    for path in files("meanfield"):
        if path.stem not in ("__init__", "__main__", path.parent.name):
            places["module", path.stem].add(dotted(path))
        for node in parse(path).body:
            if isinstance(node, ast.ClassDef):
                places["class", node.name].add(dotted(path))
    for (kind, name), modules in sorted(places.items()):
        if len(modules) > 1:
            yield f"{kind} {name}: one name in {', '.join(sorted(modules))}"


def words(path: Path) -> set[str]:
    """The identifiers that a file uses; not those that it only defines."""
    if path.suffix != ".py":
        return set(re.findall(r"[A-Za-z_]\w*", path.read_text()))
    used = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)  # names that are looked up as strings
    return used


def definitions(path: Path) -> Iterator[tuple[str, str | None]]:
    """The functions, classes and methods of a file: (name, class it belongs to).

    Functions that a decorator registers count as used and are left out.
    """
    kinds = (ast.FunctionDef, ast.ClassDef)
    for node in parse(path).body:
        if isinstance(node, kinds) and not registered(node):
            yield node.name, None
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not registered(inner):
                    yield inner.name, node.name


def registered(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a decorator registers the function, as `@app.command()` does."""
    names = {word for each in node.decorator_list for word in names_in(each)}
    return bool(names & {"command", "callback", "register", "defjvp"})


def names_in(node: ast.AST) -> set[str]:
    """The words of an expression, cut at underscores as well."""
    text = " ".join(
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, (ast.Name, ast.Attribute))
    )
    return set(re.findall(r"\w+", text)) | set(re.findall(r"[a-z]+", text))


def only_tested() -> Iterator[str]:
    """Names of the package that only tests use."""
    readers = files("meanfield", "experiments", "docs", "tools")
    readers += [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("*.md")]
    readers += ROOT.rglob("docs/**/*.md")
    used = set().union(*map(words, readers))
    exported = {name.split(".")[-1] for name in public_names()}
    for path in files("meanfield"):
        for name, owner in definitions(path):
            known = name in used or name.startswith("__") or (owner or name) in exported
            if not known and not (owner and inherited(path, owner, name)):
                label = f"{owner}.{name}" if owner else name
                yield f"{dotted(path)}.{label}: only tests use it, or nobody"


def inherited(path: Path, owner: str, name: str) -> bool:
    """Whether a base class, ours or a dependency's, defines the method."""
    cls = getattr(importlib.import_module(dotted(path)), owner)
    return any(hasattr(base, name) for base in cls.__mro__[1:])


def long_files() -> Iterator[str]:
    """Files that are too long to be one idea."""
    for path in files("meanfield", "experiments", "tests", "tools", "docs"):
        lines = len(path.read_text().splitlines())
        most = MAX_TEST_LINES if ROOT / "tests" in path.parents else MAX_LINES
        if lines > most:
            yield f"{path.relative_to(ROOT)}: {lines} lines, more than {most}"


def missing_sections() -> Iterator[str]:
    """Public functions whose docstring lacks a section that it should have."""
    for name, value in sorted(public_names().items()):
        function = inspect.unwrap(value) if callable(value) else value
        if not isinstance(function, types.FunctionType):
            continue
        text = inspect.getdoc(function) or ""
        have = set(re.findall(r"^(\w+):$", text, re.M))
        missing = [section for section in wanted(function) if section not in have]
        if missing:
            yield f"mf.{name} ({function.__module__}): no {', '.join(missing)}"


def wanted(function: types.FunctionType) -> Iterator[str]:
    """The sections that a function's docstring should have."""
    signature = inspect.signature(function)
    if signature.parameters:
        yield "Args"
    if signature.return_annotation is not None:
        yield "Returns"
    if may_raise(function):
        yield "Raises"
    yield "Example"
    module = sys.modules[function.__module__]
    texts = f"{module.__doc__}{function.__doc__}"
    if function.__module__.split(".")[1] in SCIENCE and not re.search(SOURCE, texts):
        yield "References"


def may_raise(function: types.FunctionType) -> bool:
    """Whether a function raises, directly or in a function of ours that it calls."""
    tree = tree_of(function)
    if raises(tree):
        return True
    called = (
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    values = (inspect.unwrap(function.__globals__.get(name, len)) for name in called)
    return any(
        raises(tree_of(value))
        for value in values
        if isinstance(value, types.FunctionType)
        and value.__module__.startswith("meanfield.")
    )


@functools.cache
def tree_of(function: types.FunctionType) -> ast.AST:
    """The syntax tree of a function."""
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def raises(tree: ast.AST) -> bool:
    """Whether a piece of code raises or calls `require`."""
    return any(
        isinstance(node, ast.Raise)
        or (isinstance(node, ast.Name) and node.id == "require")
        for node in ast.walk(tree)
    )


def main() -> int:
    """Print the findings; return 1 if there are any."""
    checks = (equal_names, only_tested, long_files, missing_sections)
    complaints = [complaint for check in checks for complaint in check()]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
