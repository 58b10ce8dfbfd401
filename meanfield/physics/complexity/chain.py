r"""Joint entropy of many binary units by the chain rule with classifiers.

    H(z₁ … z_n) = Σ_t H(z_t | z_1 … z_{t−1}) ≤ Σ_t CE_t

Every conditional entropy is bounded by the cross-entropy of a classifier that
predicts z_t from the units before it, measured on examples held out from its training.
There are three classifiers: a constant, logistic regression and boosted trees. Each
fold uses the classifier that is best on the *other* folds, so that the choice causes no
bias. In a wide layer, the trees use only the 96 predictors whose correlation with z_t
on the training examples is largest; the bound remains valid with fewer predictors.

The gain over the constant is the information that the earlier units give about z_t:

    TC ≥ Σ_t (CE_t^constant − CE_t)        total correlation, bits

In wide layers there are too many terms to fit all. Then the order is divided into
strata of equal length, and one term is drawn from each stratum, with a probability
proportional to the entropy c_t of its unit. The sum is estimated by Σ_strata ρ Σ c_t,
where ρ is the gain of the drawn term divided by its c_t. This estimate is unbiased, and
its standard error follows from the spread of ρ between neighbouring strata.
"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float64, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from .boosted_trees import boosted_trees
from .entropy import unit_entropies

# Boosted trees learn what is not linearly separable (an exclusive or) but are slow with
# many predictors. Fewer predictors are padded to this number, so that all terms use one
# program.
MAX_TREE_PREDICTORS = 96
# The bound holds with fewer predictors too; more than this number would take too long.
MAX_PREDICTORS = 512
# With fewer examples than this in a unit's rarer state, no classifier is trained.
MIN_MINORITY = 10


@dataclasses.dataclass(frozen=True)
class ChainGain:
    """Information of earlier units about later ones: a lower bound on TC.

    Args:
        bits: Σ_t (CE_t^constant − CE_t), estimated from the fitted terms.
        per_example: contribution of each example; their mean is `bits`.
        term_error: standard error due to the terms that were left out; 0 if none.
        num_terms: terms fitted.
    """

    bits: float
    per_example: Float64[np.ndarray, " examples"]
    term_error: float
    num_terms: int


def chain_gain(
    states: Bool[np.ndarray, "examples units"],
    *,
    rng: np.random.Generator,
    num_terms: int = 32,
    num_folds: int = 3,
) -> ChainGain:
    """Information of units about each other, by out-of-fold classifiers.

    Args:
        states: which units were on; every unit must change at some example.
        rng: draws the order of the units, the terms and the folds.
        num_terms: largest number of terms of the chain to fit.
        num_folds: folds of the examples.
    """
    num_examples, num_units = states.shape
    order = rng.permutation(num_units)
    bits = unit_entropies(states)[0][order]
    # Position t has t units before it; position 0 has no units before it, and no gain.
    strata = np.array_split(np.arange(1, num_units), max(1, min(num_terms, num_units)))
    strata = [stratum for stratum in strata if len(stratum)]
    if not strata:
        return ChainGain(0.0, np.zeros(num_examples), 0.0, 0)
    sizes = np.array([bits[stratum].sum() for stratum in strata])
    positions = [
        int(rng.choice(stratum, p=bits[stratum] / size))
        for stratum, size in zip(strata, sizes, strict=True)
    ]
    predictors = [
        rng.permutation(order[:position])[:MAX_PREDICTORS] for position in positions
    ]
    folds = np.zeros(num_examples, dtype=np.int64)
    splitter = KFold(num_folds, shuffle=True, random_state=int(rng.integers(2**31)))
    for number, (_, held_out) in enumerate(splitter.split(states)):
        folds[held_out] = number
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        gains = pool.map(
            lambda at, others: _term_gain(
                states[:, others], states[:, order[at]], folds
            ),
            positions,
            predictors,
        )
    shares = np.stack(list(gains)) / bits[positions][:, None]  # (terms, examples)
    per_example = sizes @ shares
    left_out = 1 - len(strata) / (num_units - 1)
    steps = np.diff(shares.mean(axis=1))
    spread = 0.5 * np.mean(steps**2) if len(steps) else 0.0
    term_error = float(np.sqrt(np.sum(sizes**2) * spread * left_out))
    return ChainGain(float(per_example.mean()), per_example, term_error, len(strata))


def _term_gain(
    predictors: Bool[np.ndarray, "examples predictors"],
    target: Bool[np.ndarray, " examples"],
    folds: Int[np.ndarray, " examples"],
) -> Float64[np.ndarray, " examples"]:
    """Bits saved on each held-out example, by the classifier best on other folds."""
    if min(target.sum(), (~target).sum()) < MIN_MINORITY:
        return np.zeros(len(target))
    learned = folds != np.arange(folds.max() + 1)[:, None]  # (folds, examples)
    constant = [target[train].all() or not target[train].any() for train in learned]
    usual = [(target[train].sum() + 0.5) / (train.sum() + 1) for train in learned]
    losses = np.empty((3, len(target)))
    trees = _tree_probabilities(predictors, target, learned)
    for fold, train in enumerate(learned):
        test = ~train
        losses[:, test] = _log_loss(np.full(test.sum(), usual[fold]), target[test])
        if constant[fold]:
            continue
        line = LogisticRegression(solver="liblinear", C=0.1, tol=1e-2)
        line.fit(predictors[train], target[train])
        # A finite sample does not justify certainty, so odds are limited to about 2N to
        # 1.
        floor = 0.5 / train.sum()
        for row, probability in enumerate(
            (line.predict_proba(predictors[test])[:, 1], trees[fold, test]), start=1
        ):
            bounded = np.clip(probability, floor, 1 - floor)
            losses[row, test] = _log_loss(bounded, target[test])
    chosen = np.empty(len(target))
    for train in learned:
        best = int(np.argmin(losses[:, train].mean(axis=1)))
        chosen[~train] = losses[best, ~train]
    return losses[0] - chosen


def _tree_probabilities(
    predictors: Bool[np.ndarray, "examples predictors"],
    target: Bool[np.ndarray, " examples"],
    learned: Bool[np.ndarray, "folds examples"],
) -> Float64[np.ndarray, "folds examples"]:
    """Probabilities by boosted trees, trained on the training examples of each fold."""
    num_examples, num_predictors = predictors.shape
    shown = np.zeros((len(learned), MAX_TREE_PREDICTORS, num_examples), dtype=bool)
    for fold, train in enumerate(learned):
        columns = np.arange(num_predictors)
        if num_predictors > MAX_TREE_PREDICTORS:
            columns = _most_correlated(predictors[train], target[train])
        shown[fold, : len(columns)] = predictors[:, columns].T
    return np.asarray(boosted_trees(shown, target, learned), dtype=np.float64)


def _most_correlated(
    predictors: Bool[np.ndarray, "examples predictors"],
    target: Bool[np.ndarray, " examples"],
) -> Int[np.ndarray, " chosen"]:
    """The predictors that correlate most with a target."""
    covariance = np.abs((target - target.mean()) @ predictors)
    share = predictors.mean(axis=0)
    deviation = np.sqrt(share * (1 - share))
    strength = covariance / np.where(deviation > 0, deviation, np.inf)
    return np.argsort(-strength, kind="stable")[:MAX_TREE_PREDICTORS]


def _log_loss(probability: np.ndarray, target: np.ndarray) -> np.ndarray:
    return -np.log2(np.where(target, probability, 1 - probability))
