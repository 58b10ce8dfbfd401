r"""Learn in stages and remove dead units in between, so that later epochs are faster.

    loss = mean NLL + T(t) · Σ KL(q‖(1 − ρ) δ + ρ N(0, s²)) / n,    ln((1 − ρ)/ρ) = c

with a given temperature T and price c (nats per connection), and a learned slab scale s
of each layer. T(t) rises exponentially over the first part of the run, so that
connections become absent one after the other and the others adapt. A stage of warmth h
has temperature T h and price c / h: while h falls to 1, the temperature falls at
constant T c, so that π tends to 0 or 1 and slabs become narrow. The optimizer's steps
shrink along a cosine over the whole run.

The selective rule, the default of `fit`, finds T and c itself and needs no stages;
stages are for the smallest possible network at a known T and c.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_pair
from meanfield.learning.fit import fit
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.optimizers import STEP_SIZE, scale_steps
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.learning.results import FitResult
from meanfield.learning.schedule import RISE_FROM, RISING
from meanfield.learning.selective import FASTER, PARAMETRIZATION

from .shrinking.narrow import Narrowed, narrow

# Number of steps from the beginning of a stage, where the optimizer starts anew, to its
# full step size.
WARM_UP = 100
# Examples on which a narrowed network is compared with the whole one.
PROBE = 32


def fit_in_stages(
    ensemble: Ensemble,
    data: Any,
    *,
    stages: Sequence[tuple[int, float]],
    temperature: float,
    price: float,
    key: PRNGKeyArray,
    likelihood: Callable[[Any], Any] = Categorical(),  # noqa: B008  (frozen)
    batch_size: int = 128,
    threshold: float = 0.01,
    augment: Callable[..., Any] | None = None,
    after: Callable[[FitResult], Any] | None = None,
    progress: bool = True,
) -> FitResult:
    """Learn in stages, and remove units without live connections in between.

    Args:
        ensemble: the initial ensemble, whose π must not be 0: see
            `meanfield.ensemble.critical`.
        data: arrays (x, y), first axis the examples.
        stages: epochs and warmth h of each stage. T rises during the first stages of
            equal warmth, but for at most two fifths of the run.
        temperature: T ≥ 0, the temperature of a stage of warmth 1.
        price: c ≥ 0, the price in a stage of warmth 1, in nats per connection.
        key: a `jax.random.key`.
        likelihood: as in `fit`.
        batch_size: as in `fit`.
        threshold: connections that are present with this probability or less are dead.
        augment: as in `fit`.
        after: called after every stage with its result, in the whole shape.
        progress: whether to show a progress bar for every stage.

    Returns:
        A `FitResult` in the whole shape of the ensemble, with π = 1 for every removed
        connection; the history covers all epochs.

    Raises:
        ValueError: a number is out of its range, or an argument does not fit `fit`.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> key = jax.random.key(0)
        >>> start = mf.ensemble.critical(slab_share=0.01, spike_prob=0.05)
        >>> ensemble = mf.Ensemble.from_model(
        ...     eqx.nn.MLP(2, 2, 8, 1, key=key), key=key, initial=start)
        >>> x = jax.random.normal(key, (64, 2))
        >>> result = mf.deploy.fit_in_stages(
        ...     ensemble, (x, (x[:, 0] > 0).astype(int)), stages=[(2, 2.0), (2, 1.0)],
        ...     temperature=0.1, price=3.0, key=key, batch_size=16, progress=False)
        >>> result.history["epoch"]
        [1, 2, 3, 4]
    """
    x, y = array_pair(data)
    require(
        len(stages) > 0 and all(epochs >= 1 and h > 0 for epochs, h in stages),
        "`stages` must have at least one pair of epochs ≥ 1 and a warmth > 0; got "
        f"{list(stages)}.",
    )
    require(
        temperature >= 0 and price >= 0,
        "`temperature` and `price` must not be negative; got "
        f"{temperature} and {price}.",
    )
    per_epoch = len(jax.tree.leaves(x)[0]) // batch_size
    steps = per_epoch * sum(epochs for epochs, _ in stages)
    hottest = [h == stages[0][1] for _, h in stages]
    rising = (hottest + [False]).index(False)
    rise = per_epoch * sum(epochs for epochs, _ in stages[:rising])
    rise = min(rise, round(RISING * steps))
    whole, history, first = ensemble, {}, 0
    result = None
    for number, (epochs, warmth) in enumerate(stages):
        stage: Narrowed | None = None
        if number > 0:
            probe = jax.tree.map(lambda leaf: leaf[:PROBE], x)
            stage = narrow(whole, probe, threshold=threshold)
        result = fit(
            whole if stage is None else stage.ensemble,
            (x, y),
            likelihood=likelihood,
            key=jax.random.fold_in(key, number),
            epochs=epochs,
            batch_size=batch_size,
            optimizer=_optimizer(first, steps),
            prior=SpikeSlabPrior(
                inclusion_prob=float(jax.nn.sigmoid(-price / warmth)),
                slab_scale="learned",
            ),
            temperature=rising_temperature(warmth * temperature, first, rise),
            parametrization=PARAMETRIZATION,
            augment=augment,
            progress=progress,
        )
        likelihood = result.likelihood
        learned = result.ensemble
        whole = learned if stage is None else stage.widen(learned)
        done = first // max(per_epoch, 1)
        rows = result.history | {"epoch": [done + n for n in result.history["epoch"]]}
        for name, values in rows.items():
            history.setdefault(name, []).extend(values)
        first += epochs * per_epoch
        result = dataclasses.replace(result, ensemble=whole, history=history)
        if after is not None:
            after(result)
        if result.stopped != "finished":
            break
    assert result is not None
    return result


def rising_temperature(temperature: float, first: int, steps: int) -> Any:
    """T as a function of the step: an exponential rise to the last T, then constant.

    Args:
        temperature: the last T.
        first: number of steps before this stage, whose own steps count from 0.
        steps: number of steps of the run after which the last T is reached.
    """

    def schedule(step: Any) -> Any:
        done = jnp.minimum((first + step) / max(steps, 1), 1.0)
        return temperature * RISE_FROM ** (1 - done)

    return schedule


def _optimizer(first: int, steps: int) -> optax.GradientTransformation:
    """Adam with a cosine schedule over the whole run, and a warm-up in every stage."""
    cosine = optax.cosine_decay_schedule(STEP_SIZE, max(steps, 1))
    return optax.chain(
        optax.scale_by_adam(),
        scale_steps(FASTER),
        optax.scale_by_learning_rate(
            lambda step: cosine(first + step) * jnp.minimum((step + 1) / WARM_UP, 1)
        ),
    )
