"""Tables whose labels or targets are noisy, with columns of numbers and of texts.

For planted tables the truth is known: the probability of every class, or mean and
deviation of the target, is a function of the columns. So the smallest possible expected
loss, the entropy of the labels given the columns, is known for every row. Two tables of
surveys are part of statsmodels, if it is installed.
"""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit


class Table(NamedTuple):
    """Columns, labels or targets, and the least expected loss of every row."""

    x: pd.DataFrame
    y: np.ndarray
    least: np.ndarray | None = None


def columns(rng: np.random.Generator, rows: int, numbers: int) -> pd.DataFrame:
    """Columns of normal and of skewed numbers in alternation, a colour and a city."""
    x = rng.normal(size=(rows, numbers))
    x[:, 1::2] = np.exp(x[:, 1::2] / 2)
    frame = pd.DataFrame(x, columns=[f"number {n}" for n in range(numbers)])
    frame["colour"] = pd.Categorical(rng.choice(["red", "green", "blue"], rows))
    frame["city"] = pd.Categorical(rng.choice([f"city {n}" for n in range(8)], rows))
    return frame


def centred(frame: pd.DataFrame) -> np.ndarray:
    """The numbers, before the transformation of the skewed ones."""
    x = frame.select_dtypes("number").to_numpy().copy()
    x[:, 1::2] = 2 * np.log(x[:, 1::2])
    return x


def is_colour(frame: pd.DataFrame, colour: str) -> np.ndarray:
    """1 in rows of this colour."""
    return (frame["colour"] == colour).to_numpy().astype(float)


def drawn(rng: np.random.Generator, x: pd.DataFrame, probs: np.ndarray) -> Table:
    """Labels drawn from the probabilities, which need not add up to 1."""
    probs = probs / probs.sum(1, keepdims=True)
    y = (probs.cumsum(1) < rng.random((len(x), 1))).sum(1)
    entropy = -(probs * np.log(np.maximum(probs, 1e-12))).sum(1)
    return Table(x, y.clip(max=probs.shape[1] - 1), entropy)


def flipped(rows: int, numbers: int, share: float) -> Table:
    """Two classes by the sign of a sum and a product, a fraction flipped."""
    rng = np.random.default_rng(rows)
    frame = columns(rng, rows, numbers)
    x = centred(frame)
    signal = x[:, 0] + x[:, 1] * x[:, 2] + is_colour(frame, "red") - 0.5
    positive = np.where(signal > 0, 1 - share, share)
    return drawn(rng, frame, np.stack([1 - positive, positive], 1))


def rare(rows: int) -> Table:
    """Logistic probabilities, a fifth of the labels positive: as in credit scoring."""
    rng = np.random.default_rng(rows)
    frame = columns(rng, rows, 10)
    x = centred(frame)
    city = frame["city"].isin(["city 1", "city 2"]).to_numpy()
    positive = expit(x[:, 0] - 0.8 * x[:, 1] + city - 2.3)
    return drawn(rng, frame, np.stack([1 - positive, positive], 1))


def anew(rows: int, numbers: int, share: float) -> Table:
    """Three classes by a sum of two numbers, with a fraction of labels drawn anew."""
    rng = np.random.default_rng(rows)
    frame = columns(rng, rows, numbers)
    x = centred(frame)
    place = np.digitize(x[:, 0] - x[:, 1] + is_colour(frame, "blue"), [-0.5, 1.0])
    probs = np.where(place[:, None] == np.arange(3), 1 - share, 0) + share / 3
    return drawn(rng, frame, probs)


def smooth(rows: int, numbers: int, noise: float) -> Table:
    """A smooth function of three numbers and a colour, with noise of one deviation."""
    rng = np.random.default_rng(rows)
    frame = columns(rng, rows, numbers)
    x = centred(frame)
    mean = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + is_colour(frame, "red")
    y = mean + noise * rng.normal(size=rows)
    least = 0.5 * np.log(2 * np.pi * np.e * noise**2) if noise else -np.inf
    return Table(frame, y, np.full(rows, least))


def survey(name: str, target: Callable[[pd.DataFrame], pd.Series]) -> Table:
    """A table of statsmodels, without the columns that the target is made of."""
    module = importlib.import_module(f"statsmodels.datasets.{name}")
    frame = module.load_pandas().data.astype(float)
    y = target(frame).astype(int).to_numpy()
    own = {"fair": ["affairs"], "anes96": ["vote", "expected"]}[name]
    return Table(frame.drop(columns=[c for c in own if c in frame]), y)


NOISY = {
    "flipped 30 %, 500 rows": lambda: flipped(500, 6, 0.3),
    "rare, 1,000 rows": lambda: rare(1000),
    "flipped 10 %, 1,500 rows": lambda: flipped(1500, 40, 0.1),
    "flipped 20 %, 2,000 rows": lambda: flipped(2000, 8, 0.2),
    "anew 15 %, 3,000 rows": lambda: anew(3000, 12, 0.15),
    "flipped 5 %, 10,000 rows": lambda: flipped(10_000, 10, 0.05),
}
SURVEYS = {
    "votes, 944 rows": lambda: survey("anes96", lambda frame: frame["vote"]),
    "affairs, 6,366 rows": lambda: survey("fair", lambda frame: frame["affairs"] > 0),
}
if importlib.util.find_spec("statsmodels"):
    NOISY |= SURVEYS
NUMBERS = {
    "smooth, no noise, 1,000 rows": lambda: smooth(1000, 8, 0.0),
    "smooth, noise ½, 1,000 rows": lambda: smooth(1000, 8, 0.5),
    "smooth, noise 1, 5,000 rows": lambda: smooth(5000, 8, 1.0),
}
