"""Cooperative games of small models on scikit-learn's tables, all 2^n payoffs known.

| family            | players, and what a coalition earns                          |
|-------------------|--------------------------------------------------------------|
| local             | features of one row: the mean output with the others taken   |
|                   | from other rows                                              |
| global            | features: minus the squared error of that output over rows   |
| feature selection | features: the score of a model trained on them alone         |
| data valuation    | parts of the rows: the score of a model trained on them      |
| ensemble          | models: the score of their mean prediction                   |

Every payoff comes from models trained in this script. A family has one game for each
table, kind of model and seed. Nothing is downloaded.
"""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from meanfield.games.exact import all_coalitions, marginal_values, shapley_weights

FEATURES = 10
BACKGROUND, ROWS = 16, 24
PARTS = 10

# Classification is treated as regression: 1 for the first class, 0 for the others.
TABLES = {
    "diabetes": load_diabetes,
    "wine": load_wine,
    "cancer": load_breast_cancer,
    "digits": load_digits,
}
SMOOTH: dict[str, Callable] = {
    "network": lambda seed: MLPRegressor(
        hidden_layer_sizes=(16,), max_iter=300, random_state=seed
    ),
    "boosting": lambda seed: GradientBoostingRegressor(
        n_estimators=40, random_state=seed
    ),
    "forest": lambda seed: RandomForestRegressor(
        n_estimators=10, max_depth=6, random_state=seed
    ),
    "kernel": lambda seed: SVR(),
}
FAST: dict[str, Callable] = {
    "tree": lambda seed: DecisionTreeRegressor(max_depth=5, random_state=seed),
    "neighbours": lambda seed: KNeighborsRegressor(5),
    "ridge": lambda seed: Ridge(),
}


def tabular_games(seeds: Iterable[int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By "family: table, model, seed", payoffs of all coalitions and Shapley values."""
    games = {}
    for table, seed in itertools.product(TABLES, seeds):
        train, test = split(table, seed)
        for name, make in SMOOTH.items():
            model = make(seed).fit(*train)
            label = f"{table}, {name}, {seed}"
            games[f"local: {label}"] = explained(model, train[0], test, 1, None)
            games[f"global: {label}"] = explained(model, train[0], test, ROWS, test[1])
        for name, make in FAST.items():
            label = f"{table}, {name}, {seed}"
            games[f"feature selection: {label}"] = selected(make, train, test, seed)
            games[f"data valuation: {label}"] = valued(make, train, test, seed)
        games[f"ensemble: {table}, trees, {seed}"] = joined(train, test, seed)
    return {name: (payoffs, exact(payoffs)) for name, payoffs in games.items()}


def exact(payoffs: np.ndarray) -> np.ndarray:
    """Shapley values by enumeration."""
    return marginal_values(payoffs, shapley_weights(int(np.log2(len(payoffs))) - 1))


def split(table: str, seed: int):
    """Standardised training and test rows of some of the features, with targets."""
    data = TABLES[table]()
    x, y = data.data, np.asarray(data.target, float)
    if table != "diabetes":
        y = (y == 0).astype(float)
    x = x[:, x.std(0) > 0]
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    rng = np.random.default_rng(seed)
    # Half of the features are those most correlated with y, half are random others.
    ranked = np.argsort(-np.abs(x.T @ y))
    chosen = np.concatenate([ranked[:5], rng.permutation(ranked[5:])[: FEATURES - 5]])
    rows = rng.permutation(len(x))[:400]
    cut = 2 * len(rows) // 3
    take = lambda part: (x[part][:, chosen], y[part])
    return take(rows[:cut]), take(rows[cut:])


def explained(model, background, test, num_rows: int, targets) -> np.ndarray:
    """Mean outputs, absent features from other rows; minus error² if given targets."""
    masks = all_coalitions(background.shape[1])
    others = background[:BACKGROUND]
    payoffs = np.zeros(len(masks))
    for row in range(num_rows):
        mixed = np.where(masks[:, None], test[0][row], others)
        flat = mixed.reshape(-1, background.shape[1])
        output = model.predict(flat).reshape(len(masks), -1).mean(1)
        payoffs += output if targets is None else -np.square(output - targets[row])
    return payoffs / num_rows


def selected(make, train, test, seed: int) -> np.ndarray:
    """R² on test rows of a model trained on the features of each coalition."""
    masks = all_coalitions(train[0].shape[1])
    payoffs = np.zeros(len(masks))
    for number, mask in enumerate(masks[1:], 1):
        model = make(seed).fit(train[0][:, mask], train[1])
        payoffs[number] = score(model.predict(test[0][:, mask]), test[1])
    return payoffs


def valued(make, train, test, seed: int) -> np.ndarray:
    """R² of a model trained on the parts of the rows, whose sizes are 1 : 2 : 3 …"""
    sizes = np.arange(1, PARTS + 1)
    ends = np.cumsum(sizes) * len(train[0]) // sizes.sum()
    part = np.searchsorted(ends, np.arange(len(train[0])), side="right")
    masks = all_coalitions(PARTS)
    payoffs = np.zeros(len(masks))
    for number, mask in enumerate(masks[1:], 1):
        rows = np.append(mask, False)[np.minimum(part, PARTS)]
        if rows.sum() >= 5:
            model = make(seed).fit(train[0][rows], train[1][rows])
            payoffs[number] = score(model.predict(test[0]), test[1])
    return payoffs


def joined(train, test, seed: int) -> np.ndarray:
    """R² of the mean prediction of trees trained on different features and rows."""
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(PARTS):
        features = rng.permutation(FEATURES)[:4]
        rows = rng.integers(0, len(train[0]), 60)
        tree = DecisionTreeRegressor(max_depth=5, random_state=0)
        tree.fit(train[0][rows][:, features], train[1][rows])
        answers.append(tree.predict(test[0][:, features]))
    masks = all_coalitions(PARTS)
    means = masks @ np.array(answers) / np.maximum(masks.sum(1), 1)[:, None]
    return np.array([score(mean, test[1]) for mean in means])


def score(answer: np.ndarray, target: np.ndarray) -> float:
    """R², at least −1."""
    left = np.square(answer - target).sum() / np.square(target - target.mean()).sum()
    return max(1 - float(left), -1.0)
