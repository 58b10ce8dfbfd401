"""Slow, obvious versions: the exact posterior of a spike-and-slab linear model."""

import itertools

import numpy as np
from scipy.special import betaln, logsumexp
from scipy.stats import multivariate_normal


def linear_posterior(x, y, noise_scale, slab_scale, log_prior_of_mask):
    """Sum over all 2ⁿ spikes of y = X w + noise.

    Returns the log-evidence, and the exact mean and variance of every weight and its
    probability to be present.
    """
    rows, n = x.shape
    logs, means, seconds, masks = [], [], [], []
    for mask in itertools.product([False, True], repeat=n):
        mask = np.array(mask)
        chosen = x[:, mask]
        cov = noise_scale**2 * np.eye(rows) + slab_scale**2 * chosen @ chosen.T
        logs.append(
            multivariate_normal.logpdf(y, np.zeros(rows), cov) + log_prior_of_mask(mask)
        )
        precision = chosen.T @ chosen / noise_scale**2
        precision += np.eye(mask.sum()) / slab_scale**2
        inverse = np.linalg.inv(precision) if mask.any() else np.zeros((0, 0))
        mean, second = np.zeros(n), np.zeros(n)
        mean[mask] = inverse @ chosen.T @ y / noise_scale**2
        second[mask] = np.diag(inverse) + mean[mask] ** 2
        means.append(mean)
        seconds.append(second)
        masks.append(mask)
    logs = np.array(logs)
    weights = np.exp(logs - logsumexp(logs))
    mean = weights @ np.array(means)
    var = weights @ np.array(seconds) - mean**2
    return logsumexp(logs), mean, var, weights @ np.array(masks)


def best_mask_bound(x, y, noise_scale, slab_scale, log_prior_of_mask):
    """The best bound of a posterior that knows its spikes and factorises otherwise.

    For one mask the joint is Gaussian; independent Gaussians lose
    ½ (Σ ln Λ_jj − ln det Λ) of it, with Λ the posterior precision. A mean-field
    optimum over all spike probabilities cannot be worse than the best of these.
    """
    rows, n = x.shape
    best = -np.inf
    for mask in itertools.product([False, True], repeat=n):
        mask = np.array(mask)
        chosen = x[:, mask]
        cov = noise_scale**2 * np.eye(rows) + slab_scale**2 * chosen @ chosen.T
        precision = chosen.T @ chosen / noise_scale**2
        precision += np.eye(mask.sum()) / slab_scale**2
        lost = np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]
        joint = multivariate_normal.logpdf(y, np.zeros(rows), cov)
        best = max(best, joint + log_prior_of_mask(mask) - 0.5 * lost)
    return best


def independent_masks(inclusion_prob):
    """log P(mask) of independent spikes."""
    return lambda mask: np.where(
        mask, np.log(inclusion_prob), np.log1p(-inclusion_prob)
    ).sum()


def beta_masks(a, b):
    """log P(mask) with the inclusion probability integrated over Beta(a, b)."""
    return lambda mask: betaln(a + mask.sum(), b + (~mask).sum()) - betaln(a, b)


def fit_mean_field(x, y, noise_scale, slab_scale, log_odds_of, start, sweeps=300):
    """Coordinate ascent for independent spike-and-slab factors, to convergence.

    `log_odds_of(inclusion)` gives the prior log-odds of presence, which may depend on
    the present inclusion probabilities (a hyper-prior); `start` is where the slab
    means begin. The optimum is a local one. Returns π, m, Ξ.
    """
    n = x.shape[1]
    inclusion, mean = np.full(n, 0.5), np.array(start, float)
    gram, projection = x.T @ x / noise_scale**2, x.T @ y / noise_scale**2
    var = 1 / (np.diag(gram) + 1 / slab_scale**2)
    for _ in range(sweeps):
        for j in range(n):
            others = gram[j] @ (inclusion * mean) - gram[j, j] * inclusion[j] * mean[j]
            mean[j] = var[j] * (projection[j] - others)
            logit = log_odds_of(inclusion)
            logit += 0.5 * np.log(var[j] / slab_scale**2) + mean[j] ** 2 / (2 * var[j])
            inclusion[j] = 1 / (1 + np.exp(-logit))
    return 1 - inclusion, mean, var


def expected_log_likelihood(x, y, noise_scale, mean, var):
    """E_q ln N(y | X w, noise²) for independent weights of this mean and variance."""
    square = np.sum((y - x @ mean) ** 2) + np.sum(var * np.sum(x**2, axis=0))
    constant = len(y) * np.log(2 * np.pi * noise_scale**2)
    return -0.5 * (constant + square / noise_scale**2)
