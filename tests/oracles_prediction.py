"""Slow, obvious versions of predictive scores: NumPy loops over draws and examples."""

import equinox as eqx
import jax
import numpy as np
from scipy import special, stats

import meanfield as mf


def outputs_of_draws(ensemble, x, *, key, num_samples, chunk):
    """Network outputs (samples, examples, outputs), one draw after the other."""
    network = eqx.filter_jit(mf.mean_field(ensemble.apply_fn))
    parts = []
    for number, start in enumerate(range(0, len(x), chunk)):
        rows = np.minimum(np.arange(start, start + chunk), len(x) - 1)
        keys = jax.random.split(jax.random.fold_in(key, number), num_samples)
        draws = [network(ensemble.params, x[rows], key=each) for each in keys]
        parts.append(np.asarray(draws, np.float64))
    return np.concatenate(parts, axis=1)[:, : len(x)]


def class_probs(logits):
    """Softmax of every draw and example."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def binary_probs(logits):
    """Sigmoid of every draw and example, as two classes."""
    p = special.expit(logits)
    return np.stack([1 - p, p], -1)


def entropy(probs):
    """Entropy in nats over the last axis."""
    terms = [p * np.log(p) if p > 0 else 0.0 for p in probs.ravel()]
    return -np.reshape(terms, probs.shape).sum(-1)


def class_scores(probs, labels, bins=15):
    """NLL, accuracy, Brier score and ECE of averaged draws, example by example."""
    mean = probs.mean(0)
    nll, hits, brier, confidence = [], [], [], []
    for p, label in zip(mean, labels, strict=True):
        nll.append(-np.log(p[label]))
        hits.append(np.argmax(p) == label)
        brier.append(sum((p[k] - (k == label)) ** 2 for k in range(len(p))))
        confidence.append(p.max())
    ece = 0.0
    for b in range(bins):
        inside = [
            i
            for i, c in enumerate(confidence)
            if b / bins <= c < (b + 1) / bins or (b == bins - 1 and c == 1)
        ]
        if inside:
            gap = np.mean([hits[i] - confidence[i] for i in inside])
            ece += len(inside) / len(labels) * abs(gap)
    return {
        "nll": np.mean(nll),
        "accuracy": np.mean(hits),
        "brier": np.mean(brier),
        "ece": ece,
    }


def target_scores(log_probs, means, levels, targets):
    """NLL, RMSE and 95 % coverage from per-draw numbers of every target."""
    # ln of the average density: of an example, whose outputs are independent.
    joint = log_probs.reshape(*log_probs.shape[:2], -1).sum(-1)
    nll = -np.mean([np.log(np.mean(np.exp(joint[:, i]))) for i in range(len(targets))])
    rmse = np.sqrt(np.mean((means.mean(0) - targets) ** 2))
    scores = {"nll": nll, "rmse": rmse}
    if levels is not None:
        level = levels.mean(0)
        scores["coverage"] = np.mean((level >= 0.025) & (level <= 0.975))
    return scores


def gaussian(outputs, targets, scale):
    """Per-draw log densities, means, variances and levels of normal noise."""
    law = stats.norm(outputs, scale)
    return law.logpdf(targets), outputs, law.var(), law.cdf(targets)


def student(outputs, targets, scale, df):
    """Per-draw log densities, means, variances and levels of Student's noise."""
    law = stats.t(df, outputs, scale)
    return law.logpdf(targets), outputs, law.var(), law.cdf(targets)


def poisson(outputs, targets):
    """Per-draw log probabilities, means and variances of counts."""
    law = stats.poisson(np.exp(outputs))
    return law.logpmf(targets), law.mean(), law.var(), None
