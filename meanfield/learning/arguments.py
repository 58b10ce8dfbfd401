"""The arguments of `fit`, checked before anything is compiled."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import refuse_masked, require, require_whole
from meanfield.ensemble.ensemble import Ensemble
from meanfield.ensemble.opened import check_training

from .batches import (
    array_data,
    array_pair,
    check_augment,
    check_batch,
    warn_of_raw_images,
)
from .precision import check_precision
from .training import Weighted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The checked and converted arguments.

    Attributes:
        arrays: (x, y) on the device, y `Weighted` if examples have weights; None for an
            iterable.
        validation: validation data (x, y, weights or None), or None.
        num_data: number of training examples; 0 if unknown and not needed.
        compute_dtype: the type that the network computes in, or None.
    """

    arrays: tuple[Any, Any] | None
    validation: tuple[Any, Any, Any] | None
    num_data: int
    compute_dtype: Any


def check_arguments(
    ensemble: Ensemble,
    data: Any,
    likelihood: Any,
    *,
    epochs: int | None,
    batch_size: int,
    prior: Any,
    temperature: Any,
    validation: Any,
    patience: int | None,
    accumulate: int,
    compute_dtype: Any,
    num_data: Any,
    sample_weight: Any,
    augment: Any,
    hold: Any,
) -> Arguments:
    """Check all arguments of `fit`; they are described there.

    Raises:
        ValueError: an argument does not fit; the message says which and why.
    """
    require(
        num_data is None or (num_data >= 1 and num_data == num_data // 1),
        "`num_data` must be a whole number, at least 1; got "
        f"{num_data}. It is the number of training examples that the KL term is "
        "divided by.",
    )
    _check_hold(ensemble, hold)
    arrays = array_data(data)
    validation = _check_numbers(epochs, batch_size, temperature, patience, validation)
    compute_dtype = _check_compute(accumulate, compute_dtype)
    if arrays is not None:
        given = len(jax.tree.leaves(arrays[0])[0])
        num_data = given if num_data is None else num_data
        require(
            batch_size <= given,
            f"`batch_size` must not exceed the number of examples; got {batch_size} "
            f"for {given} examples. Use a smaller batch.",
        )
        check_batch(ensemble, likelihood, *arrays)
        check_training(ensemble.params, ensemble.training, arrays[0])
        check_precision(compute_dtype, ensemble, arrays[0], hold)
        warn_of_raw_images(arrays[0])
        check_augment(augment, arrays[0], batch_size)
        if sample_weight is not None:
            arrays = (arrays[0], _weighted(arrays[1], sample_weight, given))
    if validation is not None:
        check_batch(ensemble, likelihood, *validation[:2], name="validation")
    require(
        arrays is not None or sample_weight is None,
        "`sample_weight` must be left out unless `data` are arrays (x, y); got an "
        "iterable. Draw its batches in proportion to the weights instead.",
    )
    require(
        num_data is not None or prior is None,
        "`num_data` is needed with a prior when `data` is an iterable: the KL term is "
        "divided by the number of training examples. Pass num_data=....",
    )
    return Arguments(arrays, validation, int(num_data or 0), compute_dtype)


def _check_numbers(epochs, batch_size, temperature, patience, validation) -> Any:
    counts = {"epochs": epochs, "batch_size": batch_size, "patience": patience}
    for name, value in counts.items():
        if value is not None:
            require_whole(name, value)
    require(
        epochs is None or epochs >= 1, f"`epochs` must be at least 1; got {epochs}."
    )
    require(batch_size >= 1, f"`batch_size` must be at least 1; got {batch_size}.")
    require(
        callable(temperature) or _is_weight(temperature),
        f"`temperature` must be a finite number ≥ 0 or a schedule; got {temperature}. "
        "0 leaves the prior out, 1 is the evidence bound.",
    )
    if callable(temperature):
        first = np.asarray(temperature(jnp.asarray(0)))
        require(
            first.shape == () and bool(np.isfinite(first)) and bool(first >= 0),
            f"`temperature` must be a schedule of one finite number ≥ 0; at step 0 it "
            f"gives {first}.",
        )
    require(
        patience is None or (patience >= 1 and validation is not None),
        f"`patience` must be at least 1 and needs `validation` data; got {patience}.",
    )
    return None if validation is None else _held_out(validation)


def _check_hold(ensemble: Ensemble, hold: Any) -> None:
    require(hold in (None, "means"), f"`hold` must be 'means' or None; got {hold!r}.")
    require(
        hold is None or bool(ensemble.weights()),
        "`hold='means'` leaves only π and Ξ of random weights to learn; the ensemble "
        "has no random weights. Make it by Ensemble.from_model(model) without a key, "
        "whose slab means are the weights of a trained model.",
    )


def _is_weight(value: Any) -> bool:
    """Whether a value is a finite number ≥ 0, and not a text."""
    kind = np.asarray(value).dtype.kind
    return kind in "iufb" and np.ndim(value) == 0 and 0 <= float(value) < math.inf


def _held_out(validation: Any) -> tuple[Any, Any, Any]:
    """Validation inputs, targets and, if given, the weights of the examples."""
    weights = None
    if isinstance(validation, tuple) and len(validation) == 3:
        *pair, weights = validation
        validation = tuple(pair)
    x, y = array_pair(validation, name="validation")
    if weights is not None:
        count = len(jax.tree.leaves(x)[0])
        weights = _checked_weights(weights, count, "validation` weights `w")
    return x, y, weights


def _check_compute(accumulate, compute_dtype) -> Any:
    require_whole("accumulate", accumulate)
    require(accumulate >= 1, f"`accumulate` must be at least 1; got {accumulate}.")
    if compute_dtype is None:
        return None
    dtype = jnp.dtype(compute_dtype)
    require(
        jnp.issubdtype(dtype, jnp.floating),
        f"`compute_dtype` must be a floating-point type such as jnp.bfloat16; got "
        f"{dtype}.",
    )
    return dtype


def _checked_weights(weights: Any, num_examples: int, name: str) -> np.ndarray:
    refuse_masked(name, weights)
    weights = np.asarray(weights, np.float64)
    require(
        weights.shape == (num_examples,),
        f"`{name}` must have one number for each of the {num_examples} examples; got "
        f"shape {weights.shape}.",
    )
    good = np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0
    require(
        bool(good),
        f"`{name}` must be finite, not negative, and not all zero; got minimum "
        f"{weights.min()} and sum {weights.sum()}.",
    )
    return weights


def _weighted(y: Any, weights: Any, num_examples: int) -> Weighted:
    weights = _checked_weights(weights, num_examples, "sample_weight")
    return Weighted(y, jnp.asarray(weights / weights.mean(), jnp.result_type(float)))
