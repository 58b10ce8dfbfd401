r"""The selective rule: the evidence bound, at a temperature found on held-out data.

    loss = mean NLL + T · Σ KL(q‖(1 − ρ) δ + ρ N(0, s²)) / n,     ln((1 − ρ)/ρ) = c

with s of each layer learned by empirical Bayes. The larger the temperature T, the more
the data must support a connection for it to be kept; the price c is a further cost of
every connection that is present, in nats. No single T suits both noisy tables and clean
images, so T is found on held-out examples (see `search`). T rises over the first two
fifths of a run, so that connections are removed gradually and the others adapt; the
optimizer's step size falls along a cosine. Spike probabilities have to change a lot:
the step size of their logits is ten times that of slab means. A run of fewer than 4,000
steps has proportionally larger steps, up to five times, so that parameters can change
as much as in 4,000. A connection is initially present with probability 0.95. At the
end, connections whose effects cancel are removed together (see `joint_removal`).

References:
    Li & Huang 2020, arXiv:2001.03354. Louizos, Ullrich & Welling 2017,
    arXiv:1705.08665 (a KL term whose weight rises during training).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.keys import numpy_generator
from meanfield.spikeslab import SpikeSlab

from .optimizers import STEP_SIZE, scale_steps
from .parametrization import Unconstrained
from .priors import SpikeSlabPrior
from .training import Weighted

# A logit of π has to change from −3 to 7, a slab mean by only about 0.1.
FASTER = {"spike_logit": 10.0, "log_slab_std": 3.0}
PARAMETRIZATION = Unconstrained(smallest_prob=1e-4)
SPIKE_PROB = 0.05
LARGEST_PRICE = 80.0
# Examples held out: at least a quarter of all or 500, whichever is fewer, and at most
# 10,000.
SMALL_SHARE, ENOUGH, LARGEST = 0.25, 500, 10_000
EPOCHS, STEPS, FASTEST = 30, 4000, 5.0


@dataclasses.dataclass(frozen=True)
class Selective:
    r"""Settings of the selective rule, for `prior=` of `fit`.

    Args:
        tolerance: increase of the held-out loss, in nats per example, that is accepted
            for a smaller network.
        price: c, in nats per connection. None: ln W + ½ ln n, for W connections and n
            examples.
        held_out: share of the examples that is held out during the search for the
            temperature; at least a quarter of all or 500, whichever is fewer, and at
            most 10,000. The run that follows learns from all examples.

    Raises:
        ValueError: a setting out of its range.

    Example:
        >>> import meanfield as mf
        >>> mf.Selective(tolerance=0.01).tolerance  # mf.fit(..., prior=mf.Selective())
        0.01
    """

    tolerance: float | int = 0.003
    price: float | int | None = None
    held_out: float = 0.15

    def __post_init__(self):
        require(
            math.isfinite(self.tolerance) and self.tolerance >= 0,
            "`tolerance` must be a finite number ≥ 0, in nats per example; got "
            f"{self.tolerance}.",
        )
        require(
            self.price is None or 0 <= self.price <= LARGEST_PRICE,
            f"`price` must lie in [0, {LARGEST_PRICE:g}] nats; got {self.price}.",
        )
        require(
            0 < self.held_out <= 0.5,
            f"`held_out` must lie in (0, 0.5]; got {self.held_out}.",
        )


def selective_rule(prior: Any) -> Selective | None:
    """The selective rule if `prior` names it or is one, else None.

    Raises:
        ValueError: a string other than "selective".
    """
    if isinstance(prior, str):
        require(
            prior == "selective",
            "`prior` must be 'selective', a Selective, a SpikeSlabPrior, a mapping "
            f"from path names to priors, or None (the published rule); got {prior!r}.",
        )
        return Selective()
    return prior if isinstance(prior, Selective) else None


def resolve_prior(
    prior: Any, ensemble: Ensemble
) -> tuple[Selective | None, Any, Ensemble]:
    """The selective rule or None, the prior, and the ensemble to start from.

    A network without random weights has no connections to remove, and needs no rule.

    Raises:
        ValueError: a string other than "selective".
    """
    rule = selective_rule(prior)
    if rule is None:
        return None, prior, ensemble
    if not ensemble.weights():
        return None, None, ensemble
    return rule, SpikeSlabPrior(), selective_start(ensemble)


def selective_start(ensemble: Ensemble) -> Ensemble:
    """The ensemble with π = 0.05 in every tensor whose π is 0 everywhere.

    An exact π = 0 has no finite logit, so it could not be learned. Other tensors stay
    as they are, so that the training of an ensemble can be continued.
    """
    fresh = {
        name: SpikeSlab(
            jnp.asarray(np.full(weight.spike_prob.shape, SPIKE_PROB, weight.dtype)),
            weight.slab_mean,
            weight.slab_var,
        )
        for name, weight in ensemble.weights().items()
        if not np.asarray(weight.spike_prob).any()
    }
    return ensemble.with_weights(fresh)


@functools.lru_cache  # The same object, so that a second run compiles nothing.
def selective_optimizer() -> optax.GradientTransformation:
    """Adam, with a larger step size for logits of spikes and for slab deviations."""
    return optax.chain(
        optax.scale_by_adam(),
        scale_steps(FASTER),
        optax.scale_by_learning_rate(STEP_SIZE),
    )


def selective_plan(
    num_examples: int | None, batch_size: int, own: bool = False
) -> tuple[int, float]:
    """Number of epochs of a run, and the factor of its step size.

    There are at least 30 epochs, the factor is at most 5, and the number of steps times
    the factor is at least 4,000.

    Args:
        num_examples: number of examples; None if unknown (30 epochs, factor 1).
        batch_size: examples per step.
        own: whether the user's own optimizer makes the steps; the factor is then 1.
    """
    fastest = 1.0 if own else FASTEST
    if num_examples is None:
        return EPOCHS, 1.0
    steps = max(num_examples // batch_size, 1)
    epochs = max(EPOCHS, math.ceil(STEPS / fastest / steps))
    return epochs, min(max(STEPS / (epochs * steps), 1.0), fastest)


def check_selective(
    arrays: Any, validation: Any, temperature: Any, parametrization: Any
) -> None:
    """Raise if arguments of `fit` cannot be combined with the selective rule.

    Raises:
        ValueError: a temperature schedule, a projection, or an iterable of batches
            without validation data.
    """
    require(
        not callable(temperature),
        "`temperature` must be one number, the highest that the selective rule may "
        "reach; got a schedule. The rule adjusts the temperature itself; pass "
        "prior=SpikeSlabPrior(...) to set a schedule.",
    )
    require(
        parametrization is None or isinstance(parametrization, Unconstrained),
        "`parametrization` must be Unconstrained under the selective rule, whose "
        f"spikes are learned as logits; got {type(parametrization).__name__}. Leave it "
        "out.",
    )
    require(
        arrays is not None or validation is not None,
        "`validation` is needed by the selective rule when `data` is an iterable: it "
        "takes the place of held-out examples. Pass it, or prior=None.",
    )


def held_examples(
    rule: Selective, arrays: Any, validation: Any, batch_size: int, key: PRNGKeyArray
) -> tuple[Bool[np.ndarray, " examples"] | None, Any]:
    """A mask of the held-out examples, and their inputs and targets.

    For an iterable of batches the mask is None, and the validation data take their
    place.

    Raises:
        ValueError: the other examples do not fill a batch.
    """
    if arrays is None:
        x, y, weights = validation
        if weights is not None:
            y = Weighted(y, jnp.asarray(weights, jnp.result_type(float)))
        return None, (x, y)
    mask = hold_out(rule, len(jax.tree.leaves(arrays[0])[0]), batch_size, key)
    return mask, jax.tree.map(lambda array: np.asarray(array)[mask], arrays)


def hold_out(
    rule: Selective, num_examples: int, batch_size: int, key: PRNGKeyArray
) -> Bool[np.ndarray, " examples"]:
    """A random mask of the examples that the rule holds out.

    Raises:
        ValueError: the other examples do not fill a batch.
    """
    share = max(rule.held_out * num_examples, min(SMALL_SHARE * num_examples, ENOUGH))
    count = min(int(share), LARGEST)
    require(
        count >= 1 and num_examples - count >= batch_size,
        f"`prior='selective'` holds out {count} of the {num_examples} examples, which "
        f"must leave a batch of {batch_size}. Use a smaller `batch_size`, more "
        "examples, or prior=None.",
    )
    # By NumPy: JAX compiles a program for every number of examples.
    order = numpy_generator(key).permutation(num_examples)
    mask = np.zeros(num_examples, bool)
    mask[order[:count]] = True
    return mask
