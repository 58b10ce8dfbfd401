"""`fit`: train an ensemble."""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.propagation.noise_kinds import Noise

from .arguments import check_arguments
from .checkpoint import Checkpoint
from .fingerprint import run_fingerprint
from .interrupt import stop_on_interrupt
from .likelihoods import Categorical
from .loop import Loop
from .optimizers import check_optimizer, default_optimizer
from .parametrization import AbstractParametrization, Projected, Unconstrained
from .results import EpochReport, FitResult, Search
from .schedule import RISING
from .search import Trials, message_length
from .selective import (
    EPOCHS,
    PARAMETRIZATION,
    check_selective,
    held_examples,
    resolve_prior,
    selective_optimizer,
    selective_plan,
)
from .sharding import Layout
from .state import copied, starting_state
from .training import AbstractRestriction, Recipe, Temperature, split_learned


def fit(
    ensemble: Ensemble,
    data: Any,
    *,
    likelihood: Callable[[Any], Any] = Categorical(),  # noqa: B008  (frozen)
    key: PRNGKeyArray,
    epochs: int | None = None,
    batch_size: int = 128,
    optimizer: Any = None,
    prior: Any = "selective",
    temperature: Temperature = 1.0,
    parametrization: AbstractParametrization | None = None,
    validation: tuple[Any, ...] | None = None,
    patience: int | None = None,
    callbacks: Sequence[Callable[[EpochReport], Any]] = (),
    checkpoint: Checkpoint | str | os.PathLike | None = None,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    compute_dtype: Any = None,
    num_data: int | None = None,
    sample_weight: Any = None,
    restriction: AbstractRestriction | None = None,
    augment: Callable[..., Any] | None = None,
    noise: Noise | None = None,
    hold: str | None = None,
    progress: bool = True,
) -> FitResult:
    r"""Learn an ensemble by generalized back-propagation.

        loss = mean NLL(one ε draw) + temperature · Σ KL(q‖prior) / num_data

    in nats per example. By default, the selective rule chooses temperature and prior
    on a held-out part of the data, so that as many connections as possible become
    absent; with a `prior` and temperature 1, the loss is the negative evidence bound,
    and with ``prior=None`` learning follows the published rule. Point values (biases,
    norm scales) are learned too. A model in training mode is called in that mode:
    dropout draws a mask in every step, and batch statistics follow the noisy
    activations.

    Args:
        ensemble: the initial ensemble; it is not changed.
        data: arrays (x, y), first axis the examples, for which whole epochs are one
            compiled program; or, for data that do not fit in memory, an iterable of
            (x, y) batches that can be iterated again in each epoch, or a function that
            returns one.
        likelihood: maps outputs to a NumPyro distribution; `Categorical()` by default.
        key: a `jax.random.key`; the same key gives bitwise equal results.
        epochs: passes over the data. Default: 30. Under the selective rule, at least 30
            and, for arrays, enough for 800 steps (4,000 with your own `optimizer`).
        batch_size: examples per step, for arrays. The last examples of an epoch's
            random order that do not fill a batch are left out of that epoch.
        optimizer: any Optax optimizer. Default: Adam with a step size that falls from
            0.002 to 0 along a cosine.
        prior: "selective" (default) or `Selective(...)`, the rule that chooses the
            temperature and the price of a connection by short runs, on a held-out part
            of the data (or on `validation`, if `data` is an iterable); a
            `SpikeSlabPrior`; a mapping from path names to priors; or None, the
            published rule. A network without random weights is trained without a prior.
        temperature: weight T ≥ 0 of the KL term, a number or a schedule (a function of
            the step). A warm-up over 500 steps is `optax.linear_schedule(0.0, 1.0,
            500)`. Under the selective rule, the largest T that it may choose.
        parametrization: `Projected()` (default without a prior) or `Unconstrained()`
            (default with one, and under the selective rule).
        validation: arrays (x, y), or (x, y, weights), scored after every epoch.
        patience: stop after this number of epochs without a better validation NLL, and
            return the best epoch's ensemble. Under the selective rule only epochs with
            the final temperature and price count.
        callbacks: called with an `EpochReport` after every epoch; one that returns
            True ends the training.
        checkpoint: a `Checkpoint` or a folder; if it holds checkpoints of this run, the
            run continues.
        mesh: a `jax.sharding.Mesh` whose axis "data" splits each batch, and whose axis
            "model", if any, splits wide weight matrices.
        accumulate: number of parts into which every batch is divided; gradients are
            computed part by part and averaged, for the same step with less memory.
        compute_dtype: a floating-point type, such as `jnp.bfloat16`, in which the
            network computes; parameters, optimizer and loss keep their types.
        num_data: number of training examples; needed with a prior if `data` is an
            iterable.
        sample_weight: for arrays, a weight ≥ 0 for each example; only the ratios of
            weights matter.
        restriction: restricts the ensemble in every step and adds a penalty to the
            loss; a callback may change it for later epochs. The result has the whole
            ensemble.
        augment: ``augment(x, key=key)``, a random change of a batch of inputs that
            keeps their shapes, such as `meanfield.data.shift_images`. It is compiled
            into every step; validation data are not augmented.
        noise: "preactivations", "weights", or a mapping or function from path names to
            either; by default that of the ensemble, see `Ensemble.with_noise`. Weights
            are drawn once per batch, or with ``accumulate=n`` once for each of its n
            parts. The resulting ensemble has the same noise.
        hold: "means" learns π and Ξ around a trained network: slab means, point values
            and the network's own state do not change at all, and the network is called
            in inference mode. (Parameters of the likelihood are learned.)
        progress: whether to show a progress bar.

    Returns:
        A `FitResult`. Ctrl-C stops the training after the current epoch and returns its
        result.

    Raises:
        ValueError: an argument does not fit; the message says which and why.
        NonFiniteLossError: the loss was not finite; the error has the last finite
            state.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> x = jax.random.normal(jax.random.key(2), (64, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> result = mf.fit(ensemble, (x, y), key=jax.random.key(3), epochs=2,
        ...                 batch_size=16, progress=False)
        >>> len(result.history["nll"])
        2

    References:
        Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
    """
    ensemble = ensemble if noise is None else ensemble.with_noise(noise)
    rule, prior, ensemble = resolve_prior(prior, ensemble)
    arguments = check_arguments(
        ensemble,
        data,
        likelihood,
        epochs=epochs,
        batch_size=batch_size,
        prior=prior,
        temperature=temperature,
        validation=validation,
        patience=patience,
        accumulate=accumulate,
        compute_dtype=compute_dtype,
        num_data=num_data,
        sample_weight=sample_weight,
        augment=augment,
        hold=hold,
    )
    arrays, validation = arguments.arrays, arguments.validation
    given = None if arrays is None else len(jax.tree.leaves(arrays[0])[0])
    price, chosen, speed = 0.0, None, 1.0
    if epochs is None and rule is not None:
        epochs, speed = selective_plan(given, batch_size, own=optimizer is not None)
    epochs = epochs or EPOCHS
    steps = None if given is None else epochs * (given // batch_size)
    cools = optimizer is None
    if rule is not None:
        check_selective(arrays, validation, temperature, parametrization)
        price = rule.price
        if price is None:
            price = message_length(ensemble.num_weights, arguments.num_data)
        parametrization = parametrization or PARAMETRIZATION
        optimizer = optimizer or selective_optimizer()
    if parametrization is None:
        parametrization = Projected() if prior is None else Unconstrained()
    if isinstance(parametrization, Projected) and prior is not None:
        parametrization = Projected(max(parametrization.smallest_var, 1e-8))
    learned, fixed = split_learned(ensemble, likelihood, parametrization, hold)
    optimizer = optimizer or default_optimizer(steps)
    check_optimizer(optimizer, learned)
    recipe = Recipe(
        fixed=fixed,
        prior=prior,
        optimizer=optimizer,
        parametrization=parametrization,
        temperature=temperature if callable(temperature) else float(temperature),
        num_data=arguments.num_data,
        accumulate=accumulate,
        compute_dtype=arguments.compute_dtype,
        restriction=restriction,
        augment=augment,
        hold=hold,
    )
    state = starting_state(learned, recipe.optimizer, ensemble.state())
    layout = Layout(mesh, None if arrays is None else batch_size, accumulate)
    trials = None
    if rule is not None and not callable(temperature):
        held, held_data = held_examples(rule, arrays, validation, batch_size, key)
        trials = Trials(
            recipe=recipe,
            learned=learned,
            moving=ensemble.state(),
            data=data,
            arrays=arrays,
            held=held,
            held_data=held_data,
            epochs=epochs,
            batch_size=batch_size,
            cools=cools,
            speed=speed,
            key=key,
            layout=layout,
            progress=progress,
            ceiling=float(temperature),
            price=price,
            tolerance=rule.tolerance,
        )
    best = () if patience is None else state.network
    require(
        checkpoint is None or restriction is None,
        "`checkpoint` must be left out with a `restriction`, which it cannot store.",
    )
    if isinstance(checkpoint, str | os.PathLike):
        checkpoint = Checkpoint(checkpoint)
    history, first, settling = {}, 0, 0
    searching: dict[str, Any] = {}
    if checkpoint is not None:
        fingerprint = run_fingerprint(
            recipe, state, key, data, arrays, batch_size=batch_size, patience=patience
        )
        if rule is not None:
            fingerprint["prior"], fingerprint["epochs"] = str(rule), epochs
        found = checkpoint.restore((state, *best), fingerprint)
        if found is not None:
            (state, *best), metadata = found
            history, first = metadata["history"], metadata["epoch"]
            chosen = metadata.get("search") and Search.restored(metadata["search"])
        elif trials is not None:
            searching = {"found": checkpoint.restore_search(fingerprint)}
            searching["keep"] = partial(checkpoint.keep_search, fingerprint=fingerprint)
    if trials is not None:
        chosen = chosen or trials.search(**searching)
        recipe = trials.recipe_at(chosen.temperature, chosen.price, epochs)
        settling = math.ceil(RISING * epochs)
    run = Loop(recipe, state, key, history, validation, layout, settling)
    arrays, stopped = layout.everywhere(arrays), "finished"
    best = copied(best)
    watched = bool(callbacks) or checkpoint is not None or validation is not None
    bar = tqdm(
        total=epochs, initial=first, disable=not progress, unit="epoch", leave=False
    )
    with bar, stop_on_interrupt() as wish:
        while first < epochs:
            if patience is not None and run.epochs_since_best() >= patience:
                stopped = "early"
                break
            most = 1 if watched else epochs - first
            done = run.learn(data, arrays, first, batch_size, most)
            run.settle(first)
            first += done
            bar.update(done)
            bar.set_postfix(run.summary())
            if patience is not None and run.epochs_since_best() == 0:
                best = copied(run.state.network)
            if checkpoint is not None:
                metadata = {"history": run.history, "fingerprint": fingerprint}
                if chosen is not None:
                    metadata["search"] = chosen.kept()
                checkpoint.offer(first, (run.state, *best), metadata, run.scores()[-1])
            answers = [callback(run.report(epochs)) for callback in callbacks]
            if any(answer is True for answer in answers):
                stopped = "callback"
                break
            if wish.asked:
                stopped = "interrupted"
                break
    result = run.result(stopped, best)
    if trials is None or chosen is None:
        return result
    return trials.finish(result, chosen)
