r"""Fitted decimation: the best single layer for several layers of a trained network.

    z = W' h + b' + noise of variance τ,     ĥ = φ(z)

h is the state below the block and z the pre-activation at its end. W' and b' are fitted
by least squares on half of the examples; the quality of the fit is measured on the
other half. A block whose R² is low has no effective layer of this form. It is reported
with the verdict "poor", and its position in the flow has no meaning.

    R² = 1 − Σ |h_end − φ(W' h + b')|² / Σ |h_end − mean|²

This measured flow is this project's own construction, in the spirit of
arXiv:2410.00396. A good fit is no evidence of universality.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.keys import numpy_generator

from .activations import Activation, find_activation

EXAMPLES_PER_PARAMETER = 2
GOOD_FIT = 0.9

DenseLayer = tuple[Float[np.ndarray, "out in"], Float[np.ndarray, " out"]]


@dataclass(frozen=True)
class EffectiveLayer:
    """One layer that stands for a block of layers.

    Args:
        first: index of the block's first layer.
        block: number of layers that it replaces.
        weight: W', (out, in).
        bias: b', (out,).
        weight_var: σ_w² = in · mean W'².
        bias_var: σ_b² = mean b'².
        fit_noise: part of σ_w² that is estimation noise, s² tr (XᵀX)⁻¹, with X the
            centred states and s² the residual variance of the fit; 0 for a layer of the
            network itself.
        noise_var: τ, mean square residual of z on held-out examples; 0 for a layer of
            the network itself.
        gradient: χ₁ = σ_w² mean φ'(W' h + b')², with the states h that the block reads,
            on held-out examples; for a layer of the network itself, on all examples.
        depth_scale: ξ = −1/ln χ₁ in blocks, `None` if χ₁ ≥ 1.
        r_squared: R² of φ(z) on held-out examples; 1 for a layer of the network itself.
        verdict: "good" (R² ≥ 0.9), "poor", or "cannot tell".
    """

    first: int
    block: int
    weight: Float[np.ndarray, "out in"]
    bias: Float[np.ndarray, " out"]
    weight_var: float
    bias_var: float
    fit_noise: float
    noise_var: float
    gradient: float
    depth_scale: float | None
    r_squared: float
    verdict: str


def fit_effective_layer(
    states: Float[np.ndarray, "examples in"],
    preactivations: Float[np.ndarray, "examples out"],
    activation: str | Activation,
    *,
    key: PRNGKeyArray,
    first: int = 0,
    block: int = 2,
) -> EffectiveLayer:
    """Best single layer from states below a block to pre-activations at its end.

    Args:
        states: h below the block.
        preactivations: z at its end.
        activation: φ of the network.
        key: a typed key for the split of the examples into two halves.
        first: index of the block's first layer, copied to the result.
        block: number of layers in the block, copied to the result.

    Raises:
        ValueError: NaN, or fewer than 4 (in + 1) examples, so that one half would have
            fewer than two for every coefficient of an output unit.
    """
    examples, inputs = states.shape
    needed = 2 * EXAMPLES_PER_PARAMETER * (inputs + 1)
    require(
        examples >= needed,
        f"`states` must hold at least {needed} examples for {inputs} units; got "
        f"{examples}. Give more examples, or narrow the network.",
    )
    require(
        bool(np.isfinite(states).all() and np.isfinite(preactivations).all()),
        "`states` and `preactivations` must be finite; got NaN or infinity. Look for "
        "a layer that diverges.",
    )
    phi = find_activation(activation)
    order = numpy_generator(key, spawn_key=(1,)).permutation(examples)
    fit, test = order[: examples // 2], order[examples // 2 :]
    design = np.concatenate([states, np.ones((examples, 1))], axis=1)
    solution = np.linalg.lstsq(design[fit], preactivations[fit], rcond=None)[0]
    weight, bias = solution[:-1].T, solution[-1]
    left = np.sum(np.square(preactivations[fit] - design[fit] @ solution))
    unexplained = float(left) / (fit.size - inputs - 1) / bias.size
    predicted = design[test] @ solution
    residual = preactivations[test] - predicted
    truth = phi.value(preactivations[test])
    total = float(np.sum(np.square(truth - truth.mean(axis=0))))
    missed = float(np.sum(np.square(truth - phi.value(predicted))))
    quality = 1 - missed / total if total > 0 else math.nan
    noise_var = float(np.mean(np.square(residual)))
    return _effective_layer(
        weight,
        bias,
        predicted,
        phi,
        first=first,
        block=block,
        fit_noise=unexplained * _inverse_trace(states[fit]),
        noise_var=noise_var,
        r_squared=quality,
    )


def decimate_network(
    layers: Sequence[DenseLayer],
    inputs: Float[np.ndarray, "examples in"],
    activation: str | Activation,
    *,
    key: PRNGKeyArray,
    block: int = 2,
) -> list[list[EffectiveLayer]]:
    """Flow of a network under fitted decimation: at level k, one layer for b^k.

    Level 0 is the network itself. Each further level fits one effective layer to the
    network's states before and after every whole block, until fewer layers than one
    block are left.

    Args:
        layers: (W, b) from input to output, W of shape (out, in), all followed by φ.
        inputs: examples; the flow is measured on their distribution.
        activation: φ.
        key: a typed key.
        block: b ≥ 2.

    Returns:
        Levels of `EffectiveLayer`s. Three controls to compare with: the network at
        initialisation, the trained network with its layers in another order, and
        `redrawn_network`.

    Raises:
        ValueError: fewer than b layers, b < 2, or too few examples.

    Example:
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> layers = [(rng.normal(size=(8, 8)) / 3, np.zeros(8)) for _ in range(2)]
        >>> x = rng.normal(size=(500, 8))
        >>> levels = decimate_network(layers, x, "tanh", key=jax.random.key(0))
        >>> [len(level) for level in levels]
        [2, 1]
    """
    require(block >= 2, f"`block` must be at least 2; got {block}. Use 2.")
    require(
        len(layers) >= block,
        f"`layers` must hold at least {block} layers to decimate; got {len(layers)}. "
        "A network this shallow has no depth to coarse-grain.",
    )
    phi = find_activation(activation)
    states, preactivations = propagate(layers, inputs, phi)
    levels = [
        [
            _effective_layer(w, b, preactivations[i], phi, first=i, block=1)
            for i, (w, b) in enumerate(layers)
        ]
    ]
    size = block
    while size <= len(layers):
        starts = range(0, len(layers) - size + 1, size)
        levels.append(
            [
                fit_effective_layer(
                    states[i],
                    preactivations[i + size - 1],
                    phi,
                    key=key,
                    first=i,
                    block=size,
                )
                for i in starts
            ]
        )
        size *= block
    return levels


def propagate(
    layers: Sequence[DenseLayer],
    inputs: Float[np.ndarray, "examples in"],
    activation: str | Activation,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """States h^0 … h^M and pre-activations z^1 … z^M of a network of dense layers."""
    phi = find_activation(activation)
    states, preactivations = [np.asarray(inputs, np.float64)], []
    for weight, bias in layers:
        z = states[-1] @ np.asarray(weight, np.float64).T + np.asarray(bias, np.float64)
        preactivations.append(z)
        states.append(phi.value(z))
    return states, preactivations


def redrawn_network(
    layers: Sequence[DenseLayer], *, key: PRNGKeyArray
) -> list[DenseLayer]:
    """Gaussian layers of the same shapes and the same σ_w² and σ_b²: a null model."""
    rng = numpy_generator(key, spawn_key=(1,))
    return [
        (
            rng.normal(size=w.shape) * math.sqrt(np.mean(np.square(w))),
            rng.normal(size=b.shape) * math.sqrt(np.mean(np.square(b))),
        )
        for w, b in layers
    ]


def _inverse_trace(states: np.ndarray) -> float:
    """tr (XᵀX)⁺ of centred states X; ⁺ is the pseudo-inverse."""
    singular = np.linalg.svd(states - states.mean(axis=0), compute_uv=False)
    occurs = singular > 1e-12 * singular.max(initial=0.0)
    return float(np.sum(1 / np.square(singular[occurs])))


def _effective_layer(
    weight: np.ndarray,
    bias: np.ndarray,
    preactivations: np.ndarray,
    phi: Activation,
    *,
    first: int,
    block: int,
    fit_noise: float = 0.0,
    noise_var: float = 0.0,
    r_squared: float = 1.0,
) -> EffectiveLayer:
    weight = np.asarray(weight, np.float64)
    bias = np.asarray(bias, np.float64)
    weight_var = float(weight.shape[1] * np.mean(np.square(weight)))
    gradient = weight_var * float(np.mean(np.square(phi.derivative(preactivations))))
    verdict = "good" if r_squared >= GOOD_FIT else "poor"
    return EffectiveLayer(
        first=first,
        block=block,
        weight=weight,
        bias=bias,
        weight_var=weight_var,
        bias_var=float(np.mean(np.square(bias))),
        fit_noise=fit_noise,
        noise_var=noise_var,
        gradient=gradient,
        depth_scale=-1 / math.log(gradient) if 0 < gradient < 1 else None,
        r_squared=r_squared,
        verdict="cannot tell" if math.isnan(r_squared) else verdict,
    )
