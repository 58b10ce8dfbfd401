"""Named image sets: digits (embedded in scikit-learn), MNIST, Fashion-MNIST."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from sklearn.datasets import load_digits

from meanfield.checks import require

from .dataset import Dataset, split_rows
from .idx import parse_idx, read_payload

# The split of `digits` never changes, so that results on it can be compared.
DIGITS_SEED, DIGITS_TEST_FRACTION = 0, 0.2

_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
# SHA-256 of the unpacked files, because gzip files of equal contents may differ.
_SHA256 = {
    "mnist": {
        "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "x_train": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "y_train": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "x_test": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "y_test": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
_ADDRESS = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
}
_FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_DIGIT_CLASSES = tuple(str(digit) for digit in range(10))


def digits() -> Dataset:
    """The 1,797 handwritten 8 × 8 digits that come with scikit-learn.

    Features are pixel values divided by 16, in [0, 1]. A fixed split, stratified by
    class (seed 0), keeps 359 examples for testing.

    Returns:
        A `Dataset`: training and test arrays, names of classes, and how it was read.

    Raises:
        ValueError: scikit-learn's digits could not be split by class.

    Example:
        >>> from meanfield.data import digits
        >>> digits().x_test.shape
        (359, 64)
    """
    pixels, labels = load_digits(return_X_y=True)
    x = (np.asarray(pixels) / 16).astype(np.float32)
    y = np.asarray(labels).astype(np.int32)
    train, test = split_rows(
        len(x), test_fraction=DIGITS_TEST_FRACTION, seed=DIGITS_SEED, labels=y
    )
    return Dataset(
        name="digits",
        task="classification",
        x_train=x[train],
        y_train=y[train],
        x_test=x[test],
        y_test=y[test],
        class_names=_DIGIT_CLASSES,
        image_shape=(8, 8),
        divisor=16.0,
        provenance="scikit-learn's embedded digits, stratified split with seed 0",
    )


def mnist(*, data_dir: str | os.PathLike | None = None) -> Dataset:
    """MNIST: 60,000 + 10,000 handwritten digits of 28 × 28 pixels in [0, 1].

    Args:
        data_dir: folder with the four idx files (plain or gzip), directly or in its
            subfolder `mnist`. None means $MEANFIELD_DATA or, if that is not set, a
            download to the user's cache.

    Returns:
        A `Dataset`: training and test arrays, names of classes, and how it was read.

    Raises:
        FileNotFoundError: files are missing, or cannot be downloaded; the message says
            which files to put where.
        ValueError: a file is damaged, or a downloaded one has the wrong hash.

    Example:
        >>> from meanfield import data
        >>> digits = data.mnist(data_dir="mnist")  # doctest: +SKIP
        >>> digits.x_train.shape  # doctest: +SKIP
        (60000, 784)

    References:
        LeCun, Bottou, Bengio & Haffner 1998.
    """
    return _idx_images("mnist", data_dir, _DIGIT_CLASSES)


def fashion_mnist(*, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Fashion-MNIST: articles of clothing in the format and sizes of MNIST.

    Args:
        data_dir: as for `mnist`, with the subfolder `fashion_mnist`.

    Returns:
        A `Dataset`: training and test arrays, names of classes, and how it was read.

    Raises:
        FileNotFoundError: files are missing, or cannot be downloaded; the message says
            which files to put where.
        ValueError: a file is damaged, or a downloaded one has the wrong hash.

    Example:
        >>> from meanfield import data
        >>> clothes = data.fashion_mnist(data_dir="fashion")  # doctest: +SKIP
        >>> clothes.x_train.shape  # doctest: +SKIP
        (60000, 784)

    References:
        Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747.
    """
    return _idx_images("fashion_mnist", data_dir, _FASHION_CLASSES)


def _idx_images(
    name: str, data_dir: str | os.PathLike | None, class_names: tuple[str, ...]
) -> Dataset:
    given = data_dir if data_dir is not None else os.environ.get("MEANFIELD_DATA")
    if given:
        paths = {part: _find(name, Path(given), part) for part in _FILES}
        payloads = {part: read_payload(path) for part, path in paths.items()}
    else:
        paths = {part: _cache(name) / (file + ".gz") for part, file in _FILES.items()}
        payloads = {part: _download(name, part) for part in _FILES}
    published = all(_sha256(payloads[part]) == _SHA256[name][part] for part in _FILES)
    read = {part: parse_idx(payloads[part], str(paths[part])) for part in _FILES}
    for split in ("train", "test"):
        _require_pair(paths, read, split)
    return Dataset(
        name=name,
        task="classification",
        x_train=_flat_images(read["x_train"]),
        y_train=read["y_train"].astype(np.int32),
        x_test=_flat_images(read["x_test"]),
        y_test=read["y_test"].astype(np.int32),
        class_names=class_names,
        image_shape=read["x_train"].shape[1:],
        divisor=255.0,
        provenance="idx files, "
        + (
            "identical to the published ones" if published else "not the published ones"
        ),
    )


def _flat_images(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _require_pair(
    paths: dict[str, Path], read: dict[str, np.ndarray], split: str
) -> None:
    images, labels = read[f"x_{split}"], read[f"y_{split}"]
    require(
        images.ndim == 3 and images.dtype == np.uint8,
        f"{paths[f'x_{split}']} must hold images, bytes of shape (examples, rows, "
        f"columns); got {images.dtype} of shape {images.shape}.",
    )
    require(
        labels.shape == images.shape[:1] and labels.dtype == np.uint8,
        f"{paths[f'y_{split}']} must hold one label for each of the {len(images)} "
        f"images; got {labels.dtype} of shape {labels.shape}.",
    )
    require(
        images.shape[1:] == read["x_train"].shape[1:],
        f"{paths[f'x_{split}']} must hold images of shape {read['x_train'].shape[1:]} "
        f"as the training set does; got {images.shape[1:]}.",
    )


def _find(name: str, folder: Path, part: str) -> Path:
    candidates = [
        place / (_FILES[part] + suffix)
        for place in (folder / name, folder)
        for suffix in (".gz", "")
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{_FILES[part]} of `{name}` is not in {folder}. {_what_to_put(name, folder)}"
    )


def _cache(name: str) -> Path:
    return Path(pooch.os_cache("meanfield")) / name


def _download(name: str, part: str) -> bytes:
    """Contents of one published file, cached or downloaded; the hash is checked."""
    file = _FILES[part] + ".gz"
    path = _cache(name) / file
    downloader: Any = pooch.HTTPDownloader(progressbar=True, timeout=30)
    try:
        pooch.retrieve(
            _ADDRESS[name] + file,
            # The hash is checked below, on the unpacked contents.
            known_hash=None,
            fname=file,
            path=path.parent,
            downloader=downloader,
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"`{name}` could not be downloaded ({type(error).__name__}: {error}). "
            + _what_to_put(name, Path("DIR"))
        ) from error
    try:
        payload = read_payload(path)
        require(
            _sha256(payload) == _SHA256[name][part],
            f"the downloaded {file} of `{name}` must hold the published bytes, SHA-256 "
            f"{_SHA256[name][part]}; got {_sha256(payload)}. It was removed: try "
            "again. " + _what_to_put(name, Path("DIR")),
        )
    except ValueError:
        path.unlink()
        raise
    return payload


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _what_to_put(name: str, folder: Path) -> str:
    files = ", ".join(_FILES.values())
    return (
        f"Put the files {files} (as they are, or with .gz) in {folder / name}, and "
        f"pass `data_dir={str(folder)!r}` (--data-dir) or set $MEANFIELD_DATA to it."
    )
