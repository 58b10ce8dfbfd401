"""Import packages that only some formats need."""

import importlib
from typing import Any

from meanfield.version import DISTRIBUTION


def need(package: str, install: str = f"{DISTRIBUTION}[onnx]") -> Any:
    """Import an optional package.

    Args:
        package: the module to import.
        install: what to install when it is missing.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"this format needs the package {package.split('.')[0]!r}, which is not "
            f"installed: pip install '{install}'"
        ) from error
