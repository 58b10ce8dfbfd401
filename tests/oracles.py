"""Slow, obvious versions of the formulas of one weight and of its learning."""

import math

import numpy as np
from scipy import integrate, stats


def draw_spike_slab(rng, spike_prob, slab_mean, slab_var, number):
    """Weights drawn one by one: a coin for the spike, else a Gaussian."""
    shape = (number, *np.shape(slab_mean))
    slab = slab_mean + np.sqrt(slab_var) * rng.standard_normal(shape)
    return np.where(rng.random(shape) < spike_prob, 0.0, slab)


def mean_and_errors(draws):
    """Mean and variance over the first axis, each with its standard error."""
    draws = np.asarray(draws, np.float64)
    number = len(draws)
    mean, var = draws.mean(0), draws.var(0)
    fourth = ((draws - mean) ** 4).mean(0)
    var_error = np.sqrt(np.maximum(fourth - var**2, 0) / number)
    return mean, np.sqrt(var / number), var, var_error


def assert_same_law(first, second, floor=1e-6):
    """Two sets of draws agree in mean and variance at 5 standard errors."""
    mean, mean_error, var, var_error = mean_and_errors(first)
    mean2, mean_error2, var2, var_error2 = mean_and_errors(second)
    assert mean.shape == mean2.shape
    scale = 1 + np.abs(mean) + var
    off = np.abs(mean - mean2) / (np.hypot(mean_error, mean_error2) + floor * scale)
    assert off.max() < 5, f"means are {off.max():.1f} standard errors apart"
    off = np.abs(var - var2) / (np.hypot(var_error, var_error2) + floor * scale)
    assert off.max() < 5, f"variances are {off.max():.1f} standard errors apart"


def assert_same_mean(first, second, floor=1e-6):
    """Two sets of draws agree in mean at 5 standard errors."""
    mean, error, *_ = mean_and_errors(first)
    mean2, error2, *_ = mean_and_errors(second)
    off = np.abs(mean - mean2) / (np.hypot(error, error2) + floor * (1 + np.abs(mean)))
    assert off.max() < 5, f"means are {off.max():.1f} standard errors apart"


def quad(function, low, high, *breaks):
    """Integral by adaptive quadrature, cut at the given points."""
    edges = sorted({low, high, *(b for b in breaks if low < b < high)})
    return sum(
        integrate.quad(function, a, b, epsabs=1e-11, epsrel=1e-11, limit=200)[0]
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    )


def plus_x_log(p):
    return p * math.log(p) if p > 0 else 0.0


def entropy_by_quadrature(spike_prob, slab_mean, slab_var, resolution=0.0):
    """Minus the integral of P ln P over counting at 0 plus Lebesgue.

    The mass of the slab within (−resolution, resolution) belongs to the spike.
    """
    present, std = 1 - spike_prob, math.sqrt(slab_var)
    slab = stats.norm(slab_mean, std)
    inside = slab.cdf(resolution) - slab.cdf(-resolution)

    def minus_p_log_p(w):
        return -present * slab.pdf(w) * (math.log(present) + slab.logpdf(w))

    reach = abs(slab_mean) + 40 * std + resolution
    breaks = [slab_mean + k * std for k in (-8, -3, 0, 3, 8)]
    outside = 0.0
    if present > 0:
        outside = quad(minus_p_log_p, resolution, reach, *breaks)
        outside += quad(minus_p_log_p, -reach, -resolution, *breaks)
    return outside - plus_x_log(spike_prob + present * inside)


def kl_by_quadrature(q, prior):
    """KL of two spike-and-slab laws (π, m, Ξ) with slabs of positive width."""
    (pi, m, var), (pi0, m0, var0) = q, prior
    slab, slab0 = stats.norm(m, math.sqrt(var)), stats.norm(m0, math.sqrt(var0))

    def integrand(w):
        ratio = math.log((1 - pi) / (1 - pi0)) + slab.logpdf(w) - slab0.logpdf(w)
        return (1 - pi) * slab.pdf(w) * ratio

    reach = 40 * math.sqrt(var)
    breaks = [m + k * math.sqrt(var) for k in (-8, -3, 0, 3, 8)]
    spike = pi * math.log(pi / pi0) if pi > 0 else 0.0
    return spike + quad(integrand, m - reach, m + reach, *breaks)


def gbp_layer(spike_prob, slab_mean, slab_var, a, noise):
    """One layer of Li & Huang 2020: z = (μ a + ε D)/√N for every unit and example.

    Returns z and, for the backward pass, D.
    """
    fan_in = a.shape[1]
    mean = (1 - spike_prob) * slab_mean
    var = (1 - spike_prob) * (slab_var + slab_mean**2) - mean**2
    d = np.sqrt(np.maximum(a**2 @ var, 0))
    return (a @ mean + noise * d) / np.sqrt(fan_in), d


def gbp_gradients(spike_prob, slab_mean, slab_var, a, noise, d, error):
    """The published rule, unit by unit: gradients of π, m, Ξ and of the input a.

    `error` is K_i = ∂C/∂z_i for every example; terms with D = 0 vanish.
    """
    examples, fan_in = a.shape
    units = slab_mean.shape[1]
    root = np.sqrt(fan_in)
    grads = [np.zeros_like(slab_mean) for _ in range(3)]
    grad_a = np.zeros_like(a)
    for example in range(examples):
        for i in range(units):
            k = error[example, i]
            pi, m, xi = spike_prob[:, i], slab_mean[:, i], slab_var[:, i]
            mu, x = (1 - pi) * m, a[example]
            var = (1 - pi) * (xi + m**2) - mu**2
            width = d[example, i]
            ratio = noise[example, i] / width if width > 0 else 0.0
            d_pi = -(m * x + ratio / 2 * x**2 * ((2 * pi - 1) * m**2 + xi)) / root
            d_m = ((1 - pi) * x + ratio * x**2 * mu * pi) / root
            d_xi = ratio / 2 * x**2 * (1 - pi) / root
            for grad, step in zip(grads, (d_pi, d_m, d_xi), strict=True):
                grad[:, i] += k * step
            grad_a[example] += k * (mu + ratio * var * x) / root
    return grads, grad_a
