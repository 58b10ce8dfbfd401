"""IVON, a control of several experiments, by the published update.

A Gaussian N(m, σ²) for every weight, σ² = 1/(λ (h + δ)), and in step t

    θ ~ N(m, σ²)                     ĝ = ∇ mean NLL(θ)       ĥ = ĝ (θ − m)/σ²
    g ← β₁ g + (1 − β₁) ĝ
    h ← β₂ h + (1 − β₂) ĥ + ½ (1 − β₂)² (h − ĥ)²/(h + δ)
    m ← m − α_t (g/(1 − β₁ᵗ) + δ m)/(h + δ)

with λ the number of examples, δ the weight decay, and α_t a step size that falls along
a cosine, in units of h₀ + δ. h stays positive.

Source: Shen et al. 2024, Variational learning is effective for large deep networks,
arXiv:2402.17641, algorithm 1; the scaled step is that of the authors' PyTorch package
`ivon-opt`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Settings(NamedTuple):
    """α, h₀, β₁, β₂ and δ."""

    step_size: float = 0.1
    hessian: float = 0.5
    momentum: float = 0.9
    hessian_momentum: float = 0.999
    decay: float = 1e-4


class Posterior(NamedTuple):
    """Means and standard deviations, and the network's own state."""

    mean: Any
    deviation: Any
    state: Any

    def draw(self, key: jax.Array) -> Any:
        """Parameters drawn from the posterior."""
        return jax.tree.map(
            lambda mean, deviation, noise: mean + deviation * noise,
            self.mean,
            self.deviation,
            _normal(self.mean, key),
        )


def _normal(tree: Any, key: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    return structure.unflatten(noise)


@functools.partial(jax.jit, static_argnames="loss")
def train_ivon(
    loss: Callable[..., Any],
    mean: Any,
    state: Any,
    data: Any,
    batches: jax.Array,
    num_data: int,
    key: jax.Array,
    settings: Settings = Settings(),  # noqa: B008  (a tuple of numbers)
) -> Posterior:
    """Learn a Gaussian around every weight, in one compiled loop.

    Args:
        loss: ``loss(params, state, batch, key)``, the mean NLL of a batch in nats, and
            the network's state after it.
        mean: where to start.
        state: the network's own state, such as batch statistics; may be empty.
        data: a tree of arrays, first axis the examples.
        batches: indices (steps, batch) of the examples of every step.
        num_data: λ.
        key: a `jax.random.key`.
        settings: see `Settings`.
    """
    rate, start, beta1, beta2, decay = settings
    gradient = jax.value_and_grad(loss, has_aux=True)

    def step(carry: Any, now: Any) -> Any:
        mean, momentum, hessian, state = carry
        number, rows, key = now
        draw_key, loss_key = jax.random.split(key)
        deviation = jax.tree.map(lambda h: (num_data * (h + decay)) ** -0.5, hessian)
        theta = Posterior(mean, deviation, state).draw(draw_key)
        batch = jax.tree.map(lambda array: array[rows], data)
        (value, state), found = gradient(theta, state, batch, loss_key)
        momentum = jax.tree.map(
            lambda g, new: beta1 * g + (1 - beta1) * new, momentum, found
        )

        def curved(h: Any, new: Any, theta: Any, mean: Any, deviation: Any) -> Any:
            new = new * (theta - mean) / deviation**2
            change = 0.5 * (1 - beta2) ** 2 * (h - new) ** 2 / (h + decay)
            return beta2 * h + (1 - beta2) * new + change

        hessian = jax.tree.map(curved, hessian, found, theta, mean, deviation)
        size = rate * (start + decay) * 0.5 * (1 + jnp.cos(jnp.pi * number / steps))
        bias = 1 - beta1 ** (number + 1)
        mean = jax.tree.map(
            lambda m, g, h: m - size * (g / bias + decay * m) / (h + decay),
            mean,
            momentum,
            hessian,
        )
        return (mean, momentum, hessian, state), value

    steps = len(batches)
    zeros = jax.tree.map(jnp.zeros_like, mean)
    first = jax.tree.map(lambda m: jnp.full_like(m, start), mean)
    keys = jax.random.split(key, steps)
    inputs = (jnp.arange(steps, dtype=jnp.float32), batches, keys)
    carry, _ = jax.lax.scan(step, (mean, zeros, first, state), inputs)
    mean, _, hessian, state = carry
    deviation = jax.tree.map(lambda h: (num_data * (h + decay)) ** -0.5, hessian)
    return Posterior(mean, deviation, state)
