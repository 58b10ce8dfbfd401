"""The formats of files: their names, suffixes, and the packages that they need."""

from meanfield.checks import require

from .extras import need

SUFFIXES = {
    "safetensors": ".safetensors",
    "numpy": ".npz",
    "onnx": ".onnx",
    "onnx-int8": ".int8.onnx",
    "stablehlo": ".stablehlo",
}
# Formats whose files can contain the preprocessing of raw inputs.
RAW = ("onnx", "onnx-int8")
# Packages that these formats need.
PACKAGES = ("onnx", "onnxruntime")


def canonical(format: str) -> str:
    """The name of a format; `npz` is another name for `numpy`.

    Raises:
        ValueError: there is no such format.
    """
    format = "numpy" if format == "npz" else format
    require(
        format in SUFFIXES,
        f"`format` must be one of {', '.join(SUFFIXES)}; got {format!r}.",
    )
    return format


def writable(format: str, raw: bool = False) -> str:
    """The name of a format, after a check that its files can be written here.

    Args:
        format: the format.
        raw: whether the files take raw inputs.

    Raises:
        ValueError: there is no such format, or its files cannot take raw inputs.
        ImportError: a package that the format needs is missing.
    """
    format = canonical(format)
    require(
        not raw or format in RAW,
        f"`raw` is for the formats {' and '.join(RAW)}, whose files can contain the "
        f"preprocessing; got {format!r}.",
    )
    for package in PACKAGES if format in RAW else ():
        need(package)
    return format
