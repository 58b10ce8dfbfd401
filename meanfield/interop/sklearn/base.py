"""The base class of the classifier and the regressor: settings and training."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    check_is_fitted,
    validate_data as _validate,
)

from meanfield.checks import require
from meanfield.credit.labelling import label_connections
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.fit import fit
from meanfield.learning.optimizers import cosine_adam, steady_adam
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.learning.results import FitResult
from meanfield.learning.selective import selective_rule

from .averages import average_prediction
from .frames import FrameEncoder, has_categories
from .fresh import fresh_perceptron
from .weighting import counted, in_order, repeated

# Defaults if the selective rule does not choose them.
EPOCHS, LEARNING_RATE = 100, 5e-3
# The selective rule cannot plan a single pass, so `partial_fit` uses these.
PASS_PRIOR = SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned")
PASS_TEMPERATURE = 0.05


class MeanFieldEstimator(BaseEstimator):
    """The base class of the classifier and the regressor."""

    _likelihood: Callable[[], Any]
    ensemble_: Ensemble
    likelihood_: Any
    encoder_: FrameEncoder

    # As scikit-learn requires, settings of any type are accepted and checked in `fit`.
    def __init__(
        self,
        hidden: Any = (100,),
        *,
        model: Callable[..., Any] | None = None,
        prior: Any = "selective",
        temperature: Any = 1.0,
        epochs: Any = None,
        batch_size: Any = "auto",
        learning_rate: Any = None,
        early_stopping: bool = False,
        validation_fraction: Any = 0.1,
        patience: Any = 10,
        num_samples: Any = 64,
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.model = model
        self.prior = prior
        self.temperature = temperature
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.num_samples = num_samples
        self.random_state = random_state

    def _read(self, x: Any, reset: bool) -> Any:
        """Checked inputs: a frame with categories as it is, other data as numbers."""
        frame = hasattr(x, "columns")
        if has_categories(x) or (frame and not reset and self.encoder_.columns):
            _validate(self, x, reset=reset, skip_check_array=True)
            return x
        return _validate(self, x, reset=reset, dtype=[np.float64, np.float32])

    def _check_settings(self) -> None:
        """Raise for settings out of range, before any data are read."""
        rules = {
            "epochs": (
                lambda value: value is None or _is_count(value),
                "None or a whole number ≥ 1",
            ),
            "num_samples": (_is_count, "a whole number ≥ 1"),
            "patience": (_is_count, "a whole number ≥ 1"),
            "batch_size": (
                lambda value: value == "auto" or _is_count(value),
                '"auto" or a whole number ≥ 1',
            ),
            "learning_rate": (
                lambda v: v is None or (_is_real(v) and v > 0),
                "None or a positive number",
            ),
            "temperature": (
                lambda v: callable(v) or (_is_real(v) and v >= 0),
                "a number ≥ 0 or a schedule",
            ),
            "validation_fraction": (
                lambda v: _is_real(v) and 0 < v < 1,
                "a number inside (0, 1)",
            ),
            "early_stopping": (lambda v: v in (True, False), "True or False"),
            "hidden": (
                lambda v: np.ndim(v) == 1 and all(map(_is_count, v)),
                "a sequence of whole numbers ≥ 1, such as (100,)",
            ),
        }
        for name, (fits, needed) in rules.items():
            value = getattr(self, name)
            require(fits(value), f"`{name}` must be {needed}; got {value!r}.")
        require(
            self.learning_rate is None or selective_rule(self.prior) is None,
            "`learning_rate` must be None under the selective rule, which chooses "
            f"the step size; got {self.learning_rate!r}. Leave it out, or pass a "
            "`prior`.",
        )

    def _start(self, num_features: int, num_outputs: int) -> None:
        self._seed = check_random_state(self.random_state).randint(2**31 - 1)
        self._widths = num_features, num_outputs
        self._build()
        self.history_: dict[str, list[Any]] = {}
        self.n_iter_ = 0

    @property
    def _key(self) -> Any:
        return jax.random.key(self._seed)

    def _build(self) -> None:
        """Build the ensemble before training."""
        num_features, num_outputs = self._widths
        if self.model is None:
            widths = (num_features, *map(int, self.hidden), num_outputs)
            self.ensemble_ = fresh_perceptron(widths, self._seed)
            return
        key = jax.random.fold_in(self._key, 0)
        model_key, weight_key = jax.random.split(key)
        network = self.model(num_features, num_outputs, key=model_key)
        require(
            isinstance(network, eqx.Module),
            "`model` must be a function of (num_features, num_outputs, *, key) that "
            f"returns an Equinox module; got a {type(network).__name__}.",
        )
        self.ensemble_ = Ensemble.from_model(network, key=weight_key)

    def __getstate__(self) -> dict[str, Any]:
        """Arrays only, because functions inside a network may not be picklable."""
        state: dict[str, Any] = {**super().__getstate__()}  # type: ignore[dict-item]
        for name in ("ensemble_", "likelihood_"):
            if name in state:
                arrays = jax.tree.leaves(eqx.filter(state.pop(name), eqx.is_array))
                state[f"_{name}arrays"] = [np.asarray(array) for array in arrays]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network again, and put the arrays into it."""
        state = dict(state)
        saved = {
            n: state.pop(f"_{n}arrays", None) for n in ("ensemble_", "likelihood_")
        }
        super().__setstate__(state)
        if saved["ensemble_"] is None:
            return
        self._build()
        self.likelihood_ = self._likelihood()
        for name, arrays in saved.items():
            slots, rest = eqx.partition(getattr(self, name), eqx.is_array)
            filled = jax.tree.unflatten(
                jax.tree.structure(slots), map(jnp.asarray, arrays)
            )
            setattr(self, name, eqx.combine(filled, rest))

    def _learn(self, x: Any, y: Any, weights: Any, whole_run: bool) -> FitResult:
        """Learn in a whole run, or in one further pass."""
        x, y, weights = in_order(*counted(x, y, weights))
        validation, patience = None, None
        if self.early_stopping and whole_run:
            x, y, weights, validation = self._hold_out(x, y, weights)
            patience = self.patience
        x, y, weights = repeated(x, y, weights)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = min(64, -(-len(x) // 8))
        batch_size = min(int(batch_size), len(x))
        rate = self.learning_rate or LEARNING_RATE
        settings = {"prior": self.prior, "temperature": self.temperature}
        if not whole_run:
            settings |= {"epochs": 1, "optimizer": steady_adam(rate)}
            if selective_rule(self.prior) is not None:
                settings |= {"prior": PASS_PRIOR, "temperature": PASS_TEMPERATURE}
        elif selective_rule(self.prior) is not None:
            require(
                len(x) > 1,
                "`X` must have at least 2 examples, because one is held out; got "
                "n_samples=1. Pass more, or another `prior`.",
            )
            settings["epochs"] = self.epochs
        else:
            epochs = self.epochs or EPOCHS
            steps = epochs * (len(x) // batch_size)
            settings |= {"epochs": epochs, "optimizer": cosine_adam(rate, steps)}
        result = fit(
            self.ensemble_,
            (x, y),
            likelihood=self.likelihood_,
            key=jax.random.fold_in(self._key, 1 + self.n_iter_),
            batch_size=batch_size,
            validation=validation,
            patience=patience,
            sample_weight=weights,
            progress=False,
            **settings,
        )
        self.ensemble_, self.likelihood_ = result.ensemble, result.likelihood
        for name, values in result.history.items():
            self.history_.setdefault(name, []).extend(values)
        self.n_iter_ += len(result.history["epoch"])
        return result

    def _hold_out(self, x: Any, y: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
        """Hold out part of the data, before any row is repeated."""
        order = np.random.default_rng(
            np.asarray(jax.random.key_data(self._key))
        ).permutation(len(x))
        count = max(1, round(self.validation_fraction * len(x)))
        require(
            count < len(x),
            "`validation_fraction` must leave examples to learn from; got "
            f"{self.validation_fraction} of {len(x)} examples.",
        )
        held, rest = order[:count], order[count:]
        if weights is None:
            return x[rest], y[rest], None, (x[held], y[held])
        return x[rest], y[rest], weights[rest], (x[held], y[held], weights[held])

    def _predictive(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the target; see `average_prediction`."""
        check_is_fitted(self, "ensemble_")
        features = self.encoder_.apply(self._read(x, reset=False))
        keys = jax.random.split(jax.random.fold_in(self._key, 0), self.num_samples)
        return average_prediction(self.ensemble_, self.likelihood_, features, keys)

    def sample_network(self, random_state: Any = None) -> Any:
        """Draw a sub-network: an ordinary Equinox model with exact zeros.

        Its input is the features of one example, from `encoder_.apply`.
        """
        check_is_fitted(self, "ensemble_")
        seed = check_random_state(random_state).randint(2**31 - 1)
        return self.ensemble_.sample(jax.random.key(seed))

    @property
    def connection_labels_(self) -> dict[str, np.ndarray]:
        """Label of every connection by layer; see `meanfield.label_connections`."""
        check_is_fitted(self, "ensemble_")
        return label_connections(self.ensemble_).labels


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(float(value))


def _is_count(value: Any) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= 1
