"""Store a batch of inputs in a file: its arrays by name, its structure as JSON.

The structure of one array is None, of a dictionary ``{"dict": {key: …}}``, of a tuple
``{"tuple": […]}``, and of a list ``{"list": […]}``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from meanfield.checks import require


def input_structure(x: Any) -> Any:
    """The structure of a batch.

    Raises:
        ValueError: the batch is not made of arrays, dictionaries with texts as keys,
            tuples and lists.
    """
    if isinstance(x, np.ndarray):
        return None
    if type(x) is dict and all(isinstance(key, str) for key in x):
        return {"dict": {key: input_structure(part) for key, part in x.items()}}
    require(
        type(x) in (tuple, list),
        "`data` must have inputs that are arrays, or dictionaries (with texts as "
        "keys), tuples and lists of arrays, which a shipped folder can store; got "
        f"{type(x).__name__}. Pass a dictionary, and let `call` of "
        f"`Ensemble.from_model` make the {type(x).__name__} from it.",
    )
    return {type(x).__name__: [input_structure(part) for part in x]}


def stored_inputs(
    arrays: Mapping[str, np.ndarray], structure: Any, path: str = "x"
) -> Any:
    """Rebuild a batch from its structure and its arrays, which are named by paths.

    Args:
        arrays: the arrays of a file, in which names of the batch's arrays begin with
            `path`.
        structure: the result of `input_structure`.
        path: the path of this part of the batch.
    """
    if structure is None:
        return arrays[path]
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {k: stored_inputs(arrays, v, f"{path}/{k}") for k, v in parts.items()}
    made = [stored_inputs(arrays, v, f"{path}/{i}") for i, v in enumerate(parts)]
    return tuple(made) if kind == "tuple" else made
