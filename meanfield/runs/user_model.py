"""A user's own network: a function in a Python file, which is executed.

The file is copied into the run folder, and its hash into the configuration; later
commands execute the copy, and only if it is unchanged.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from meanfield.checks import require
from meanfield.deploy.shipping.manifest import file_hash
from meanfield.ensemble.frameworks import open_model
from meanfield.ensemble.linen_modules import initialise

from .stages import stage

# The copy in a run folder.
MODEL_FILE = "model.py"


def parse(model: str) -> tuple[Path, str]:
    """File and function in a text such as ``net.py:make``.

    Raises:
        ValueError: the text has another form.
        FileNotFoundError: there is no such file.
    """
    name, _, function = model.rpartition(":")
    require(
        name.endswith(".py") and function.isidentifier(),
        "`model` must be mlp, cnn, or a Python file and a function in it, such as "
        f"net.py:make; got {model!r}.",
    )
    if not Path(name).is_file():
        raise FileNotFoundError(f"the file {name} of `model` does not exist.")
    return Path(name), function


def load_function(
    path: Path, name: str, sha256: str | None = None
) -> Callable[..., Any]:
    """Execute a Python file, and return a function of it.

    Args:
        path: the file.
        name: name of the function.
        sha256: required hash of its contents, or None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was changed, cannot be executed, or lacks the function.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: it makes the network of this run. Restore it."
        )
    found = file_hash(path)
    require(
        sha256 in (None, found),
        f"{path} is not the file with which the run was trained: its contents "
        "changed. Restore it from a copy.",
    )
    module = _executed(path, found)
    require(
        callable(getattr(module, name, None)),
        f"{path} has no function {name!r}; it has {_functions(module)}.",
    )
    return getattr(module, name)


def make_model(
    function: Callable[..., Any],
    inputs: int | tuple[int, ...],
    outputs: int,
    key: Any,
    where: str,
) -> Any:
    """The network that a user's function makes, checked on its shapes.

    Args:
        function: ``make(inputs, outputs, key)``, which returns an Equinox, Flax NNX
            or Flax Linen module, or a pair ``(apply_fn, params)``.
        inputs: number of features, or the shape of an image.
        outputs: required number of outputs for each example.
        key: a `jax.random.key`.
        where: name of the function in messages.

    Returns:
        A model for `Ensemble.from_model`; a Linen module becomes a pair.

    Raises:
        ValueError: the function fails, or its network does not accept such inputs or
            has other outputs.
    """
    shape = inputs if isinstance(inputs, tuple) else (inputs,)
    try:
        model = function(inputs, outputs, key)
    except Exception as error:
        raise ValueError(
            f"{where} failed for inputs {inputs} and {outputs} outputs: "
            f"{type(error).__name__}: {str(error).rstrip('.')}. It is called as "
            "make(inputs, outputs, key)."
        ) from error
    linen = sys.modules.get("flax.linen")
    one = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    try:
        if linen is not None and isinstance(model, linen.Module):
            model = model, initialise(model, key, jnp.zeros((1, *shape)))
        opened = open_model(model)
        found = jax.eval_shape(lambda x: opened.apply_fn(opened.params, x), one)
    except Exception as error:
        said = str(error)[:300].rstrip(".")
        raise ValueError(
            f"the network of {where} cannot take examples of shape {shape}: "
            f"{type(error).__name__}: {said}. An Equinox module takes one example, "
            "all other models take a batch."
        ) from error
    require(
        getattr(found, "shape", None) == (2, outputs),
        f"the network of {where} must give {outputs} outputs per example; for two "
        f"examples of shape {shape} it gives {getattr(found, 'shape', found)}.",
    )
    return model


def _executed(path: Path, digest: str) -> ModuleType:
    name = f"meanfield_user_model_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    stage(f"executing {path} (sha256 {digest[:12]}…)")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(
            f"{path} cannot be executed: {type(error).__name__}: {error}."
        ) from error
    return module


def _functions(module: ModuleType) -> list[str]:
    return sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
