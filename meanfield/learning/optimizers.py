"""The default optimizer of `fit`, and step sizes that differ between parameters."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from meanfield.checks import require
from meanfield.trees import map_named, named_leaves

STEP_SIZE = 2e-3


@functools.lru_cache(maxsize=64)
def cosine_adam(step_size: float, steps: int) -> optax.GradientTransformation:
    """Adam with a step size that falls to 0 along a cosine.

    Equal arguments return the same object, so that a second run of the same shape uses
    the compiled program of the first.

    Args:
        step_size: size of the first step.
        steps: length of the run.
    """
    return optax.adam(optax.cosine_decay_schedule(step_size, max(steps, 1)))


@functools.lru_cache(maxsize=64)
def steady_adam(step_size: float) -> optax.GradientTransformation:
    """Adam with a constant step size."""
    return optax.adam(step_size)


def default_optimizer(steps: int | None) -> optax.GradientTransformation:
    """`cosine_adam`, or `steady_adam` for a run of unknown length."""
    return steady_adam(STEP_SIZE) if steps is None else cosine_adam(STEP_SIZE, steps)


def check_optimizer(optimizer: Any, learned: Any) -> None:
    """Raise unless `optimizer` can minimize a loss by its gradients.

    Args:
        optimizer: the argument of `fit`.
        learned: the parameters that it is to update.

    Raises:
        ValueError: it is not an Optax transformation, or it increases the loss at every
            other step (`optax.contrib.sam`), or it cannot take a step from the
            arguments that `fit` passes.
    """
    advice = _advice(optimizer)
    require(
        isinstance(optimizer, optax.GradientTransformation),
        "`optimizer` must be an Optax gradient transformation; got "
        f"{type(optimizer).__name__} {optimizer!r}. {advice}",
    )
    learned = eqx.filter(learned, eqx.is_array)
    try:
        state = jax.eval_shape(optimizer.init, learned)
        require(
            not _has_sam(state),
            "`optimizer` must decrease the loss at every step; got "
            "optax.contrib.sam, which increases it at every other step, to take the "
            f"next gradient there. `fit` would keep these steps. {advice}",
        )
        step = jax.eval_shape(lambda *trees: _step(optimizer, *trees), learned, state)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            "`optimizer` cannot take a step in `fit`, which passes the gradient, its "
            f"state, the parameters, `value`, `grad` and `value_fn`: {error}. {advice}"
        ) from error
    require(
        jax.tree.structure(step) == jax.tree.structure(learned),
        "`optimizer` must return a step for every parameter; got "
        f"{jax.tree.structure(step)}. {advice}",
    )


def _advice(optimizer: Any) -> str:
    if isinstance(optimizer, optax.MultiSteps):
        return "Pass its .gradient_transformation(), or fit(..., accumulate=...)."
    return "Pass for example optax.adam(1e-3), or leave `optimizer` out."


def _has_sam(state: Any) -> bool:
    def is_sam(node: Any) -> bool:
        return isinstance(node, optax.contrib.SAMState)

    return any(map(is_sam, jax.tree.leaves(state, is_leaf=is_sam)))


def _step(optimizer: optax.GradientTransformation, learned: Any, state: Any) -> Any:
    """A step for a gradient equal to the parameters; only its shapes matter."""
    loss = jnp.zeros(())
    change, _ = optax.with_extra_args_support(optimizer).update(
        learned, state, learned, value=loss, grad=learned, value_fn=lambda _: loss
    )
    return change


def scale_steps(factors: Mapping[str, float]) -> optax.GradientTransformation:
    r"""Multiply the steps of some parameters; for the end of an `optax.chain`.

        step of θ  ←  factor(θ) · step of θ

    A logit has to change from 0 to ±7 before a connection is certain, a slab mean only
    by about 0.1: with one step size for both, logits learn slowly or means are noisy.

    Args:
        factors: factor ≥ 0 by name, for every parameter whose path ends in that name:
            `"spike_logit"`, `"slab_mean"`, `"log_slab_std"` with `Unconstrained`,
            `"spike_prob"`, `"slab_mean"`, `"slab_var"` with `Projected`, `"bias"` for
            the biases, or a longer end such as `"layers/0/weight/slab_mean"`. The first
            name that fits a path is used; other parameters keep their step.

    Returns:
        An Optax transformation without a state.

    Raises:
        ValueError: a factor is negative or not finite, or (raised when learning starts)
            no path ends in one of the names.

    Example:
        >>> import meanfield as mf, optax
        >>> faster = mf.learning.scale_steps({"spike_logit": 10.0})
        >>> optimizer = optax.chain(optax.adam(1e-3), faster)
    """
    for name, factor in factors.items():
        require(
            math.isfinite(factor) and factor >= 0,
            f"`factors` must be finite numbers ≥ 0; got {factor} for {name!r}.",
        )
    factors = dict(factors)

    def factor_of(path: str) -> float:
        fits = (f for name, f in factors.items() if _ends_in(path, name))
        return next(fits, 1.0)

    def start(params: Any) -> optax.EmptyState:
        paths = list(named_leaves(params))
        for name in factors:
            require(
                any(_ends_in(path, name) for path in paths),
                "`factors` must be named by the end of a learned parameter's path; got "
                f"{name!r}. The paths are {paths[:8]}{' …' if len(paths) > 8 else ''}.",
            )
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return map_named(lambda path, step: step * factor_of(path), updates), state

    return optax.GradientTransformation(start, update)


def _ends_in(path: str, name: str) -> bool:
    return f"/{path}".endswith(f"/{name}")
