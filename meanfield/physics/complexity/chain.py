r"""Joint entropy of many binary units by the chain rule with classifiers.

    H(z₁ … z_n) = Σ_t H(z_t | z_1 … z_{t−1}) ≤ Σ_t CE_t

Every conditional entropy is bounded by the cross-entropy of a classifier that
predicts z_t from the units before it, measured on examples the classifier has not
seen. Three classifiers compete (none at all, logistic regression, boosted trees); for
each fold the one that did best on the *other* folds is taken, so that the choice adds
no optimism. Trees of a wide layer see the 96 predictors that correlate most with z_t on
the examples they learn from: leaving predictors out keeps the bound a bound.

The gain over no classifier is the information that the earlier units hold:

    TC ≥ Σ_t (CE_t^none − CE_t)        total correlation, bits

Wide layers have too many terms to fit them all. Then the order is cut in strata of
equal length and one term is drawn from each with a chance in proportion to its unit's
own entropy c_t; with ρ the share of c_t that is gained, the sum is Σ_strata ρ Σ c_t. It
has no bias, and the spread of ρ between neighbouring strata gives its standard error.
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

# Boosted trees see what no line separates (an exclusive or) but slow down with the
# number of predictors. Fewer are filled up, so that one program serves all terms.
MAX_TREE_PREDICTORS = 96
# Dropping predictors keeps the bound a bound; more than this cost too much.
MAX_PREDICTORS = 512
# A unit that left its usual state this rarely cannot train a classifier.
MIN_MINORITY = 10


@dataclasses.dataclass(frozen=True)
class ChainGain:
    """What earlier units tell of later ones: the total correlation's lower estimate.

    Args:
        bits: Σ_t (CE_t^none − CE_t), from the terms fitted.
        per_example: its parts, one an example (their mean is `bits`).
        term_error: standard error that comes from leaving terms out; 0 if none was.
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
    """Information that units hold of each other, by out-of-fold classifiers.

    Args:
        states: which units were on; every unit must change at some example.
        rng: draws the order of the units, the terms and the folds.
        num_terms: terms of the chain to fit at most.
        num_folds: folds of the examples.
    """
    num_examples, num_units = states.shape
    order = rng.permutation(num_units)
    bits = unit_entropies(states)[0][order]
    # Position t has t units before it; position 0 has none, and no gain.
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
    """Bits saved on each held-out example by the classifier the other folds prefer."""
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
        # No finite sample makes anything certain: at most odds of 2N to 1.
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
    """What boosted trees say that learned from each fold's examples."""
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
