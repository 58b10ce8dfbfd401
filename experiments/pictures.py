"""Pictures with classes or ages as targets, and networks for them.

Faces (gender and age) need DIR/utkface; digits come with scikit-learn, Fashion-MNIST is
downloaded. The first part of the faces is for training, the next for comparing
settings, and the rest for testing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

import meanfield as mf
from meanfield.data import load
from meanfield.ensemble.networks import mlp

NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 5000, 4000, 8000
HIDDEN = (128, 64)
CHANNELS = (8, 16, 64)  # two convolutions and a dense layer
FACES = "utkface/utkface_gray32_all.npz"


class Task(NamedTuple):
    """Images (examples, height, width), their targets, and the kind of score."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    likelihood: Any
    outputs: int
    scale: float  # size of one unit of the target; 0 for classes


class CNN(eqx.Module):
    """Two strided convolutions and a dense layer."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    dense: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, side, one, two, width, outputs, *, key):
        keys = jax.random.split(key, 4)
        conv = lambda a, b, k: eqx.nn.Conv2d(a, b, 3, stride=2, padding=1, key=k)
        self.first, self.second = conv(1, one, keys[0]), conv(one, two, keys[1])
        side = (side + 3) // 4  # halved twice, rounded up
        self.dense = eqx.nn.Linear(two * side**2, width, key=keys[2])
        self.out = eqx.nn.Linear(width, outputs, key=keys[3])

    def __call__(self, x):
        """Outputs for one image (1, height, width)."""
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(x))))
        return self.out(jax.nn.relu(self.dense(x.ravel())))


def faces(folder: Path, validation: bool = False) -> list[Task]:
    """Gender and age; copies of a picture are in the same part of the split.

    With `validation`, the test part consists of the faces for comparing settings.
    """
    path = folder / FACES
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing. It holds the aligned UTKFace pictures (for research "
            "that is not commercial; susanqq.github.io/UTKFace) as arrays images "
            "(N, 32, 32), age, gender, and dup_of (the index of the first identical "
            "picture). Put it there and pass --data-dir, or try --data digits."
        )
    with np.load(path) as arrays:
        images, age, gender, group = (
            arrays[name] for name in ("images", "age", "gender", "dup_of")
        )
    clash = (age != age[group]) | (gender != gender[group])
    first = np.arange(len(group)) == group
    rows = np.flatnonzero(first & ~np.isin(group, group[clash]))  # one of each picture
    rows = np.random.default_rng(0).permutation(rows)
    train, others = rows[:NUM_TRAIN], rows[NUM_TRAIN:]
    part = slice(NUM_VALIDATION) if validation else slice(NUM_VALIDATION, None)
    rows = np.concatenate([train, others[part][:NUM_TEST]])
    x = (images[rows] / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    cut = lambda y: ((x[:NUM_TRAIN], y[:NUM_TRAIN]), (x[NUM_TRAIN:], y[NUM_TRAIN:]))
    years = age[rows].astype(np.float32)
    center, spread = years[:NUM_TRAIN].mean(), years[:NUM_TRAIN].std()
    classes, noise = mf.Categorical(), mf.Gaussian(scale=1.0)
    return [
        Task("gender", *cut(gender[rows].astype(np.int32)), classes, 2, 0.0),
        Task("age", *cut((years - center) / spread), noise, 1, float(spread)),
    ]


def images(name: str, folder: Path | str | None) -> list[Task]:
    """Digits or Fashion-MNIST."""
    data = load(name, **({} if name == "digits" else {"data_dir": folder}))
    shape = (-1, *data.image_shape[:2])
    train = data.x_train.reshape(shape)[:NUM_TRAIN], data.y_train[:NUM_TRAIN]
    test = data.x_test.reshape(shape)[:NUM_TEST], data.y_test[:NUM_TEST]
    return [Task(name, train, test, mf.Categorical(), len(data.class_names), 0.0)]


class Kind(NamedTuple):
    """A family of networks: how to make one, its layers' widths, how images enter."""

    name: str
    make: Callable[..., Any]
    widths: dict[str, int]
    enter: Callable[[np.ndarray], np.ndarray]


def kinds(task: Task) -> list[Kind]:
    """The perceptron and the convolutional network of a task."""
    side = task.train[0].shape[1]
    perceptron = lambda widths, key: mlp((side**2, *widths, task.outputs), key=key)
    convolutional = lambda widths, key: CNN(side, *widths, task.outputs, key=key)
    dense = {f"layers/{i}": width for i, width in enumerate(HIDDEN)}
    conv = dict(zip(("first", "second", "dense"), CHANNELS, strict=True))
    return [
        Kind("MLP", perceptron, dense, lambda x: x.reshape(len(x), -1)),
        Kind("CNN", convolutional, conv, lambda x: x[:, None]),
    ]
