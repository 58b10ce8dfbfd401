r"""One step of learning: the loss, its gradient, and the update.

    loss = mean NLL(one ε draw) + temperature · Σ KL(q‖prior) / num_data

in nats per example. Its gradient by back-propagation through pre-activations G + ε Δ
(mean G, variance Δ²) is generalized back-propagation (Li & Huang 2020,
arXiv:2001.03354); with a prior and temperature 1 the loss is the negative evidence
bound of stochastic variational inference.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from meanfield.ensemble.ensemble import Ensemble
from meanfield.propagation import mean_field
from meanfield.propagation.noise import fold_in
from meanfield.trees import named_leaves

from .accumulation import in_parts
from .divergence import total_kl
from .parametrization import (
    AbstractParametrization,
    decode_all,
    divergence_of,
    encode_all,
    project_all,
    spread_alone,
)
from .precision import computed_in, trained_in
from .schedule import Schedule
from .state import NOTHING, Moving, TrainState
from .targets import log_prob

Temperature = float | Callable[[Array], Any]


class Weighted(eqx.Module):
    """Targets with a weight for each example; the weights have mean 1."""

    targets: PyTree
    weights: Float[Array, " batch"]


class AbstractRestriction(eqx.Module):
    """Restricts the ensemble in every step, and adds a penalty to the loss.

    Its arrays are arguments of the compiled step, so they can change between epochs
    without a new compilation.
    """

    @abc.abstractmethod
    def restrict(self, ensemble: Ensemble, key: PRNGKeyArray) -> Ensemble:
        """The restricted ensemble that a step uses."""

    @abc.abstractmethod
    def penalty(self, ensemble: Ensemble, x: Any) -> Float[Array, ""]:
        """A cost of the whole ensemble on a batch, in nats per example."""


class Recipe(eqx.Module):
    """Everything about a run that no step changes."""

    fixed: PyTree
    prior: Any
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    parametrization: AbstractParametrization = eqx.field(static=True)
    temperature: Temperature = eqx.field(static=True)
    num_data: int = eqx.field(static=True)
    accumulate: int = eqx.field(static=True, default=1)
    compute_dtype: Any = eqx.field(static=True, default=None)
    shard_batch: Any = eqx.field(static=True, default=None)
    hold: str | None = eqx.field(static=True, default=None)
    restriction: AbstractRestriction | None = None
    augment: Any = eqx.field(static=True, default=None)
    schedule: Schedule | None = None

    def ensemble_and_likelihood(
        self, learned: PyTree, moving: Moving = NOTHING
    ) -> tuple[Ensemble, Any]:
        """The ensemble and the likelihood that the learned parameters represent."""
        numbers, likelihood = eqx.combine(learned, self.fixed)
        params = decode_all(self.parametrization, numbers.params)
        ensemble = eqx.tree_at(lambda e: e.params, numbers, params)
        return ensemble.with_state(moving), likelihood


def split_learned(
    ensemble: Ensemble,
    likelihood: Any,
    parametrization: AbstractParametrization,
    hold: str | None = None,
) -> tuple[PyTree, PyTree]:
    """Split ensemble and likelihood into two trees: learned parameters and the rest."""
    numbers = encode_all(parametrization, ensemble.params)
    if hold == "means":
        mask = spread_alone(numbers)
    else:
        frozen, names = set(ensemble.frozen), iter(named_leaves(numbers))
        mask = jax.tree.map(
            lambda leaf: next(names) not in frozen and eqx.is_inexact_array(leaf),
            numbers,
        )
    whole = (eqx.tree_at(lambda e: e.params, ensemble, numbers), likelihood)
    masks = (
        eqx.tree_at(lambda e: e.params, ensemble, mask),
        jax.tree.map(eqx.is_inexact_array, likelihood),
    )
    return eqx.partition(whole, masks)


def losses(
    learned: PyTree,
    recipe: Recipe,
    x: Any,
    y: Any,
    step: Array,
    key: PRNGKeyArray,
    moving: Moving = NOTHING,
) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], Moving]]:
    """Loss of a batch, its parts in nats per example, and the network's new state."""
    moving = dict(moving)
    ensemble, likelihood = recipe.ensemble_and_likelihood(learned, moving)
    whole, costs = ensemble, {}
    if recipe.restriction is not None:
        key, own_key = jax.random.split(key)
        ensemble = recipe.restriction.restrict(whole, own_key)
        costs["penalty"] = recipe.restriction.penalty(whole, x)
    # With `hold="means"` the network is called in inference mode.
    if ensemble.training is None or recipe.hold == "means":
        apply_fn = computed_in(recipe.compute_dtype, ensemble.apply_fn)
        network = mean_field(apply_fn, noise=ensemble.noise)
        outputs = network(ensemble.params, x, key=key)
    else:
        key, own_key = jax.random.split(key)
        train_fn = trained_in(recipe.compute_dtype, ensemble.training)
        network = mean_field(train_fn, noise=ensemble.noise)
        outputs, moving = network(ensemble.params, x, own_key, key=key)
    targets = y.targets if isinstance(y, Weighted) else y
    log_probs = log_prob(likelihood, outputs, targets)
    # A sum over many examples or weights needs more precision than bfloat16 has.
    log_probs = log_probs.astype(jnp.promote_types(log_probs.dtype, jnp.float32))
    nll = -jnp.mean(y.weights * log_probs if isinstance(y, Weighted) else log_probs)
    kl, loss = jnp.zeros_like(nll), nll + sum(costs.values())
    if recipe.prior is not None:
        divergence = None
        if recipe.restriction is None:  # otherwise the weights differ from `learned`
            numbers, _ = eqx.combine(learned, recipe.fixed)
            divergence = divergence_of(recipe.parametrization, numbers.params)
        total = total_kl(ensemble.weights(), recipe.prior, divergence)
        kl = total.astype(nll.dtype) / recipe.num_data
        loss = loss + _temperature(recipe, step) * kl
    return loss, ({"loss": loss, "nll": nll, "kl": kl, **costs}, moving)


def _temperature(recipe: Recipe, step: Array) -> Any:
    if recipe.schedule is not None:
        return recipe.schedule.temperature_at(step)
    weight = recipe.temperature
    return weight(step) if callable(weight) else weight


def gradients(
    learned: PyTree,
    recipe: Recipe,
    x: Any,
    y: Any,
    step: Array,
    key: PRNGKeyArray,
    moving: Moving = NOTHING,
) -> tuple[tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], Moving]], PyTree]:
    """The results of `losses`, and the gradient of the loss.

    The batch is processed in `accumulate` parts, one after the other, and the gradients
    are averaged; memory for activations is divided by this number.
    """
    gradient = jax.value_and_grad(losses, has_aux=True)

    def part(x: Any, y: Any, key: PRNGKeyArray, moving: Moving) -> tuple[Any, Moving]:
        (loss, (parts, moving)), change = gradient(
            learned, recipe, x, y, step, key, moving
        )
        return (loss, parts, change), moving

    (loss, parts, change), moving = in_parts(
        recipe.accumulate, part, x, y, key, dict(moving)
    )
    return (loss, (parts, moving)), change


def take_step(
    state: TrainState, recipe: Recipe, x: Any, y: Any, key: PRNGKeyArray
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step of the optimizer; no change if loss, gradient or state is not finite."""
    key = fold_in(key, state.step)
    if recipe.augment is not None:
        key, augment_key = jax.random.split(key)
        x = recipe.augment(x, key=augment_key)
    (loss, (parts, moving)), gradient = gradients(
        state.learned, recipe, x, y, state.step, key, state.moving
    )
    healthy = state.healthy & jnp.isfinite(loss) & jnp.isfinite(_gradient_sum(gradient))
    numbers = [array for array in moving.values() if eqx.is_inexact_array(array)]
    for array in numbers:
        healthy &= jnp.isfinite(array).all()

    def loss_at(learned: PyTree) -> Float[Array, ""]:
        def part(x: Any, y: Any, key: PRNGKeyArray, moving: Moving) -> Any:
            found, (_, moving) = losses(learned, recipe, x, y, state.step, key, moving)
            return found, moving

        return in_parts(recipe.accumulate, part, x, y, key, state.moving)[0]

    optimizer = optax.with_extra_args_support(recipe.optimizer)
    change, optimizer_state = optimizer.update(
        gradient,
        state.optimizer_state,
        state.learned,
        # For optimizers with a line search, which evaluate the loss at other points
        # too.
        value=loss,
        grad=gradient,
        value_fn=loss_at,
    )
    if recipe.schedule is not None:
        change = recipe.schedule.shrink(change, state.step)
    # The change is masked, which XLA fuses with the update; the optimizer's state is
    # not. After a step that is not finite it is invalid, but all later changes are 0.
    change = jax.tree.map(lambda array: jnp.where(healthy, array, 0), change)
    learned = optax.apply_updates(state.learned, change)
    learned = project_all(recipe.parametrization, learned)
    step = state.step + healthy
    moving = jax.tree.map(
        lambda new, old: jnp.where(healthy, new, old), moving, state.moving
    )
    return TrainState(learned, optimizer_state, step, healthy, moving), parts


def _gradient_sum(gradient: PyTree) -> Float[Array, ""]:
    """A number that is finite if and only if the gradient is (overflow aside)."""
    return sum(map(jnp.sum, jax.tree.leaves(gradient)), start=jnp.zeros(()))
