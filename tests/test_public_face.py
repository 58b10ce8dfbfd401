"""The public face, held to its rules by a table over all signatures."""

import dataclasses
import importlib.util
import inspect
import re
import sys
import types
import typing
from pathlib import Path

import equinox as eqx
import pytest

import meanfield

ROOT = Path(__file__).parents[1]


def tool(name):
    """A script of the folder `tools`, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


public = tool("public")
NAMES = public.public_names()


def callables():
    """Public functions, constructors and methods: (name, function)."""
    for name, value in NAMES.items():
        if isinstance(value, type):
            own = value.__dict__.get("__init__", value.__init__)
            if getattr(own, "__module__", "").startswith("meanfield"):
                yield name, own
            for method, inner in public.public_methods(value).items():
                if isinstance(inner, types.FunctionType):
                    yield f"{name}.{method}", inner
        elif isinstance(inspect.unwrap(value), types.FunctionType):
            yield name, inspect.unwrap(value)


CALLABLES = dict(callables())
# What these say is not what the rule is about, or somebody else has chosen the name.
FREE = {
    ("MeanFieldRegressor.predict", "return_std"),  # scikit-learn's
    ("ensemble.jaynes_initial", "sigma"),  # σ of ln|w|, as in the paper
    ("physics.Microstructure", "sigma"),
    ("physics.utility_coefficients", "sigma"),
    ("plots.predictions", "std"),
    ("data.Column", "std"),  # a name in the files of runs
    ("Selective", "held_out"),  # a share, no data
    ("learning.Selective", "held_out"),
}
RULES = {
    "a variance ends in _var, a deviation in _scale": r"(^|_)(std|sigma|variance)$",
    "draws are num_samples": r"^((num|n)_draws|n_samples)$",
    "held-out data is validation": r"^(held_?out|hold_?out|valid|val|val_data)$",
    "counts are num_": r"^n_\w+$",
}


def test_the_top_holds_few_names():
    assert len(meanfield.__all__) <= 45


@pytest.mark.parametrize("rule", RULES)
def test_arguments_have_one_name_for_one_thing(rule):
    wrong = [
        (name, argument)
        for name, function in CALLABLES.items()
        for argument in inspect.signature(function).parameters
        if re.search(RULES[rule], argument) and (name, argument) not in FREE
    ]
    assert not wrong


def test_a_layer_is_a_module_path():
    wrong = {
        name: hint
        for name, function in CALLABLES.items()
        for argument, parameter in inspect.signature(function).parameters.items()
        if argument == "layer"
        and str not in classes_in(hint := parameter.annotation)
        and not name.startswith("physics.")
    }
    assert not wrong


def classes_in(hint):
    """The classes that an annotation is made of."""
    if isinstance(hint, type):
        yield hint
    for part in typing.get_args(hint):
        yield from classes_in(part)


def test_every_type_that_is_returned_is_exported():
    exported = {id(value) for value in NAMES.values()}
    wrong = {
        (name, each.__qualname__)
        for name, function in CALLABLES.items()
        for each in classes_in(inspect.signature(function).return_annotation)
        if each.__module__.startswith("meanfield.")
        and not each.__name__.startswith("_")
        and id(each) not in exported
    }
    assert not wrong


def test_every_result_is_frozen():
    wrong = [
        name
        for name, value in NAMES.items()
        if value is not meanfield.Checkpoint  # it writes, it is no result
        and dataclasses.is_dataclass(value)
        and not value.__dataclass_params__.frozen
        and not issubclass(value, eqx.Module)  # frozen by its own means
    ]
    assert not wrong


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs"])
def test_the_names_on_a_page_exist(page):
    pages = [ROOT / page] if page.endswith(".md") else list(ROOT.glob("docs/**/*.md"))
    pages = [path for path in pages if "generated" not in path.parts]
    spaces = public.namespaces()
    unknown = set()
    for path in pages:
        text = path.read_text()
        if (
            page == "CHANGELOG.md"
        ):  # the names of older versions are in the first column
            text = re.sub(r"^\| [^|]*\|", "", text, flags=re.M)
        for name in re.findall(r"\bmf\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)", text):
            first = name.split(".")[0]
            if name not in NAMES and first not in NAMES and name not in spaces:
                unknown.add((path.name, name))
    assert not unknown


def test_no_exported_name_can_be_hidden_by_a_module_of_that_name():
    """Importing a submodule binds its name on the package, over what is exported."""
    spaces = [space for space in vars(meanfield).values() if inspect.ismodule(space)]
    for space in [*spaces, *(getattr(meanfield, name) for name in meanfield.__all__)]:
        if not (inspect.ismodule(space) and hasattr(space, "__path__")):
            continue
        folder = Path(space.__path__[0])
        inside = {path.stem for path in [*folder.glob("*.py"), *folder.glob("*/")]}
        stub = folder / "__init__.pyi"
        exported = re.findall(r"(\w+) as \1", stub.read_text()) if stub.exists() else []
        hidden = {
            name
            for name in set(exported) & inside
            if not inspect.ismodule(getattr(space, name))
        }
        assert not hidden, (space.__name__, hidden)
