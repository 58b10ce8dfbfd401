"""scikit-learn estimators: an ensemble behind `fit` and `predict`."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data as _validate,
)

from meanfield.checks import require
from meanfield.credit.labelling import label_connections
from meanfield.ensemble.ensemble import Ensemble
from meanfield.ensemble.networks import mlp
from meanfield.learning.fit import fit
from meanfield.learning.likelihoods import Categorical, Gaussian
from meanfield.learning.optimizers import cosine_adam, steady_adam
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.learning.results import FitResult

from .frames import FrameEncoder, has_categories, mean_and_spread

BLOCK = 256
# Mean weight up to which whole-number weights become repetitions.
MOST_REPETITIONS = 10


class _MeanField(BaseEstimator):
    """What the classifier and the regressor share."""

    _likelihood: Callable[[], Any]
    ensemble_: Ensemble
    likelihood_: Any
    encoder_: FrameEncoder

    # Settings of any type are taken, as scikit-learn wants it, and checked in `fit`.
    def __init__(
        self,
        hidden: Any = (100,),
        *,
        model: Callable[..., Any] | None = None,
        prior: Any = "default",
        temperature: Any = 0.05,
        epochs: Any = 100,
        batch_size: Any = "auto",
        learning_rate: Any = 5e-3,
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
        """Checked inputs: a frame with categories as it is, everything else numbers."""
        frame = hasattr(x, "columns")
        if has_categories(x) or (frame and not reset and self.encoder_.columns):
            _validate(self, x, reset=reset, skip_check_array=True)
            return x
        return _validate(self, x, reset=reset, dtype=[np.float64, np.float32])

    def _check_settings(self) -> None:
        """Refuse settings out of range before anything is read."""
        rules = {
            "epochs": (_is_count, "a whole number ≥ 1"),
            "num_samples": (_is_count, "a whole number ≥ 1"),
            "patience": (_is_count, "a whole number ≥ 1"),
            "batch_size": (
                lambda value: value == "auto" or _is_count(value),
                '"auto" or a whole number ≥ 1',
            ),
            "learning_rate": (lambda v: _is_real(v) and v > 0, "a positive number"),
            "temperature": (
                lambda v: callable(v) or (_is_real(v) and v >= 0),
                "a number ≥ 0 or a schedule",
            ),
            "validation_fraction": (
                lambda v: _is_real(v) and 0 < v < 1,
                "a number inside (0, 1)",
            ),
            "hidden": (
                lambda v: np.ndim(v) == 1 and all(map(_is_count, v)),
                "a sequence of whole numbers ≥ 1, such as (100,)",
            ),
        }
        for name, (fits, needed) in rules.items():
            value = getattr(self, name)
            require(fits(value), f"`{name}` must be {needed}; got {value!r}.")

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
        """The ensemble before learning."""
        num_features, num_outputs = self._widths
        key = jax.random.fold_in(self._key, 0)
        if self.model is None:
            widths = (num_features, *map(int, self.hidden), num_outputs)
            self.ensemble_ = _fresh_ensemble(widths, key)
            return
        model_key, weight_key = jax.random.split(key)
        network = self.model(num_features, num_outputs, key=model_key)
        require(
            isinstance(network, eqx.Module),
            "`model` must be a function of (num_features, num_outputs, *, key) that "
            f"makes an Equinox module; it made a {type(network).__name__}.",
        )
        self.ensemble_ = Ensemble.from_model(network, key=weight_key)

    def __getstate__(self) -> dict[str, Any]:
        """Arrays only: functions inside a network need not survive pickling."""
        state: dict[str, Any] = {**super().__getstate__()}  # type: ignore[dict-item]
        for name in ("ensemble_", "likelihood_"):
            if name in state:
                arrays = jax.tree.leaves(eqx.filter(state.pop(name), eqx.is_array))
                state[f"_{name}arrays"] = [np.asarray(array) for array in arrays]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network anew, and put the arrays into it."""
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

    def _learn(
        self, x: Any, y: Any, weights: Any, epochs: int, schedule: bool
    ) -> FitResult:
        x, y, weights = _in_order(*_counted(x, y, weights))
        validation, patience = None, None
        if self.early_stopping and schedule:
            x, y, weights, validation = self._hold_out(x, y, weights)
            patience = self.patience
        x, y, weights = _repeated(x, y, weights)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = min(64, -(-len(x) // 8))
        batch_size = min(int(batch_size), len(x))
        steps = epochs * (len(x) // batch_size)
        rate = self.learning_rate
        prior = (
            SpikeSlabPrior(0.5, "learned") if self.prior == "default" else self.prior
        )
        result = fit(
            self.ensemble_,
            (x, y),
            likelihood=self.likelihood_,
            key=jax.random.fold_in(self._key, 1 + self.n_iter_),
            epochs=epochs,
            batch_size=batch_size,
            optimizer=cosine_adam(rate, steps) if schedule else steady_adam(rate),
            prior=prior,
            temperature=self.temperature,
            validation=validation,
            patience=patience,
            sample_weight=weights,
            progress=False,
        )
        self.ensemble_, self.likelihood_ = result.ensemble, result.likelihood
        for name, values in result.history.items():
            self.history_.setdefault(name, []).extend(values)
        self.n_iter_ += len(result.history["epoch"])
        return result

    def _hold_out(self, x: Any, y: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
        """Split off validation data, before any row is repeated."""
        order = np.random.default_rng(
            np.asarray(jax.random.key_data(self._key))
        ).permutation(len(x))
        count = max(1, round(self.validation_fraction * len(x)))
        require(
            count < len(x),
            f"`validation_fraction` = {self.validation_fraction} leaves none of the "
            f"{len(x)} examples to learn from.",
        )
        held, rest = order[:count], order[count:]
        if weights is None:
            return x[rest], y[rest], None, (x[held], y[held])
        return x[rest], y[rest], weights[rest], (x[held], y[held], weights[held])

    def _predictive(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the target, averaged over drawn sub-networks.

        The same sub-networks judge every example, in blocks of one size: a prediction
        depends neither on the example's place nor on its company.
        """
        check_is_fitted(self, "ensemble_")
        features = self.encoder_.apply(self._read(x, reset=False))
        keys = jax.random.split(jax.random.fold_in(self._key, 0), self.num_samples)
        blocks = []
        for start in range(0, len(features), BLOCK):
            rows = features[start : start + BLOCK]
            padded = np.zeros((BLOCK, features.shape[1]), np.float32)
            padded[: len(rows)] = rows
            block = _subnetwork_average(self.ensemble_, self.likelihood_, padded, keys)
            blocks.append([np.asarray(part)[: len(rows)] for part in block])
        mean, var = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return mean.astype(np.float64), var.astype(np.float64)

    def sample_network(self, random_state: Any = None) -> Any:
        """Draw a sub-network: an ordinary Equinox model with exact zeros.

        It takes features as `encoder_.apply` gives them, one example at a time.
        """
        check_is_fitted(self, "ensemble_")
        seed = check_random_state(random_state).randint(2**31 - 1)
        return self.ensemble_.sample(jax.random.key(seed))

    @property
    def connection_labels_(self) -> dict[str, np.ndarray]:
        """Label of every connection by layer; see `meanfield.label_connections`."""
        check_is_fitted(self, "ensemble_")
        return label_connections(self.ensemble_).labels


class MeanFieldClassifier(ClassifierMixin, _MeanField):
    """A classifier whose every weight is a spike-and-slab distribution.

    Args:
        hidden: widths of the hidden layers.
        model: instead of `hidden`, a function ``model(num_features, num_outputs, *,
            key)`` that makes an Equinox module acting on one example.
        prior: "default", a spike-and-slab prior with inclusion probability ½ and slab
            scales learned for each layer; a `SpikeSlabPrior`; or None for the
            published rule without a prior.
        temperature: weight of the prior's KL term. 1 is the evidence bound, which
            underfits a few hundred examples; the default is a cold posterior.
        epochs: passes over the data (at most, with early stopping).
        batch_size: examples a step; "auto" is an eighth of them, at most 64.
        learning_rate: first step of Adam, falling to 0 along a cosine.
        early_stopping: hold out part of the data and stop when it no longer gains.
        validation_fraction: that part.
        patience: epochs without a gain before stopping.
        num_samples: noise draws behind a prediction.
        random_state: seed of everything random.

    Attributes:
        ensemble_: the trained `Ensemble`.
        classes_: the labels.
        history_: losses by epoch.
        encoder_: how columns become features: numbers standardised, categories one-hot.
        n_features_in_: number of columns seen in `fit`.

    Example:
        >>> import meanfield as mf
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> model = mf.MeanFieldClassifier(epochs=20, random_state=0).fit(x, y)
        >>> model.predict_proba(x[:2]).shape
        (2, 3)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MeanFieldClassifier":
        """Learn from inputs (examples, columns) and labels (examples,).

        Args:
            X: an array of numbers, or a frame of pandas or Polars; its columns of texts
                or categories become one-hot features.
            y: labels of any type.
            sample_weight: a number ≥ 0 for each example. Whole numbers count as
                repetitions of the example, others by their ratios. The order of the
                examples does not matter.

        Raises:
            ValueError: an argument does not fit; the message says which and why.
        """
        X, codes, weights = self._prepare(X, y, sample_weight, reset=True)
        self.encoder_ = FrameEncoder.learn(X, weights)
        features = self.encoder_.apply(X)
        self.likelihood_ = self._likelihood()
        self._start(features.shape[1], len(self.classes_))
        self._learn(features, codes, weights, self.epochs, schedule=True)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> "MeanFieldClassifier":
        """One more pass over some data; `classes` names all labels the first time."""
        first = not hasattr(self, "ensemble_")
        if first and classes is not None:
            self._all_classes = np.unique(classes)
        X, codes, weights = self._prepare(X, y, sample_weight, reset=first)
        if first:
            self.encoder_ = FrameEncoder.learn(X, weights)
            self.likelihood_ = self._likelihood()
        features = self.encoder_.apply(X)
        if first:
            self._start(features.shape[1], len(self.classes_))
        self._learn(features, codes, weights, 1, schedule=False)
        return self

    def _prepare(self, X: Any, y: Any, weights: Any, reset: bool) -> Any:
        self._check_settings()
        if y is None:
            raise ValueError(
                "requires y to be passed, but the target y is None: a classifier "
                "learns from labels."
            )
        X = self._read(X, reset=reset)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        check_consistent_length(X, y)
        if reset:
            self.classes_ = getattr(self, "_all_classes", np.unique(y))
            self.__dict__.pop("_all_classes", None)
        known = np.isin(y, self.classes_)
        require(
            bool(known.all()),
            f"`y` holds the label {str(y[np.argmin(known)])!r}, which is not among the "
            f"classes {self.classes_.tolist()}. Name all of them with `classes`.",
        )
        codes = np.searchsorted(self.classes_, y).astype(np.int32)
        return X, codes, _weights(weights, len(y))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "examples classes"]:
        """Predictive probability of every class, averaged over the ensemble."""
        probs, _ = self._predictive(X)
        return probs / probs.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label."""
        choice = self.predict_proba(X).argmax(1)
        return self.classes_[choice]

    def _likelihood(self) -> Categorical:
        return Categorical()


class MeanFieldRegressor(RegressorMixin, _MeanField):
    """A regressor whose every weight is a spike-and-slab distribution.

    The noise of the targets is learned. Targets may be a column or several.

    Args:
        hidden: widths of the hidden layers.
        model: as for `MeanFieldClassifier`.
        prior: as for `MeanFieldClassifier`.
        temperature: weight of the prior's KL term. 1 is the evidence bound, which
            underfits a few hundred examples; the default is a cold posterior.
        epochs: passes over the data (at most, with early stopping).
        batch_size: examples a step; "auto" is an eighth of them, at most 64.
        learning_rate: first step of Adam, falling to 0 along a cosine.
        early_stopping: hold out part of the data and stop when it no longer gains.
        validation_fraction: that part.
        patience: epochs without a gain before stopping.
        num_samples: noise draws behind a prediction.
        random_state: seed of everything random.

    Example:
        >>> import meanfield as mf
        >>> from sklearn.datasets import load_diabetes
        >>> x, y = load_diabetes(return_X_y=True)
        >>> model = mf.MeanFieldRegressor(epochs=20, random_state=0).fit(x, y)
        >>> mean, std = model.predict(x[:2], return_std=True)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MeanFieldRegressor":
        """Learn from inputs (examples, columns) and real targets.

        Args:
            X: as in `MeanFieldClassifier.fit`.
            y: targets (examples,) or (examples, targets).
            sample_weight: as in `MeanFieldClassifier.fit`.

        Raises:
            ValueError: an argument does not fit; the message says which and why.
        """
        X, y, weights = self._prepare(X, y, sample_weight, reset=True)
        self._begin(X, y, weights)
        features = self.encoder_.apply(X)
        self._learn(features, self._scaled(y), weights, self.epochs, schedule=True)
        return self

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "MeanFieldRegressor":
        """One more pass over some data."""
        first = not hasattr(self, "ensemble_")
        X, y, weights = self._prepare(X, y, sample_weight, reset=first)
        if first:
            self._begin(X, y, weights)
        features = self.encoder_.apply(X)
        self._learn(features, self._scaled(y), weights, 1, schedule=False)
        return self

    def _begin(self, X: Any, y: np.ndarray, weights: Any) -> None:
        self.encoder_ = FrameEncoder.learn(X, weights)
        self._shift, self._scale = mean_and_spread(y, weights)
        self.likelihood_ = self._likelihood()
        self._start(self.encoder_.apply(X[:1]).shape[1], y.reshape(len(y), -1).shape[1])

    def _prepare(self, X: Any, y: Any, weights: Any, reset: bool) -> Any:
        self._check_settings()
        if y is None:
            raise ValueError(
                "requires y to be passed, but the target y is None: a regressor learns "
                "from targets."
            )
        if has_categories(X):
            X, y = self._read(X, reset=reset), np.asarray(y, np.float64)
            check_consistent_length(X, y)
        else:
            X, y = _validate(
                self,
                X,
                y,
                reset=reset,
                dtype=[np.float64, np.float32],
                multi_output=True,
                y_numeric=True,
            )
        y = np.asarray(y, np.float64)
        return X, y, _weights(weights, len(y))

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        return ((y - self._shift) / self._scale).astype(np.float32)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predictive mean and, if asked for, the standard deviation of the target.

        The latter holds noise and uncertainty about the weights.
        """
        mean, var = self._predictive(X)
        shape = (len(mean), *np.shape(self._shift))
        mean = mean.reshape(shape) * self._scale + self._shift
        if not return_std:
            return mean
        return mean, np.sqrt(var).reshape(shape) * self._scale

    def _likelihood(self) -> Gaussian:
        # Several targets have a noise each.
        return Gaussian("learned", initial_scale=np.full(np.shape(self._shift), 0.5))

    def __sklearn_tags__(self) -> Any:
        """Several targets at once are fine."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(float(value))


def _is_count(value: Any) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= 1


@eqx.filter_jit
def _fresh_ensemble(widths: tuple[int, ...], key: Any) -> Ensemble:
    """A perceptron before learning; compiled as one program, for speed."""
    model_key, weight_key = jax.random.split(key)
    return Ensemble.from_model(mlp(widths, key=model_key), key=weight_key)


@eqx.filter_jit
def _subnetwork_average(
    ensemble: Ensemble, likelihood: Any, x: Any, keys: Any
) -> tuple[Any, Any]:
    def judge(key: Any) -> Any:
        network = ensemble.sample(key)
        distribution = likelihood(jax.vmap(network)(x))
        if isinstance(likelihood, Categorical):
            probs = distribution.probs
            return probs, jnp.square(probs), jnp.zeros_like(probs)
        mean = distribution.mean
        return mean, jnp.square(mean), distribution.variance

    def add(sums: Any, key: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, judge(key)), None

    sums, _ = jax.lax.scan(add, judge(keys[0]), keys[1:])
    mean, square, noise = jax.tree.map(lambda s: s / len(keys), sums)
    return mean, noise + jnp.maximum(square - jnp.square(mean), 0)


def _weights(weights: Any, count: int) -> np.ndarray | None:
    if weights is None:
        return None
    weights = np.asarray(weights, np.float64)
    require(
        weights.shape in ((), (count,)),
        f"`sample_weight` must hold one number for each of the {count} examples; got "
        f"shape {weights.shape}.",
    )
    good = np.isfinite(weights) & (weights >= 0)
    require(
        bool(good.all()) and bool(weights.any()),
        "`sample_weight` must be finite numbers ≥ 0, and at least one weight must not "
        "be zero. Leave out the examples that shall not count.",
    )
    return np.broadcast_to(weights, (count,))


def _counted(x: np.ndarray, y: np.ndarray, weights: Any) -> tuple[Any, Any, Any]:
    """The examples that count: those of weight 0 are as if they were not there."""
    if weights is None or weights.all():
        return x, y, weights
    kept = weights > 0
    return x[kept], y[kept], weights[kept]


def _in_order(x: np.ndarray, y: np.ndarray, weights: Any) -> tuple[Any, Any, Any]:
    """The examples in the order of their contents, so that theirs does not matter."""
    targets = y.reshape(len(y), -1).astype(np.float32)
    rows = np.ascontiguousarray(np.concatenate([x, targets], 1, dtype=np.float32))
    order = rows.view(f"V{rows[0].nbytes}").ravel().argsort(kind="stable")
    return x[order], y[order], None if weights is None else weights[order]


def _repeated(x: np.ndarray, y: np.ndarray, weights: Any) -> tuple[Any, Any, Any]:
    """Whole-number weights as repetitions, unless that makes the data much longer."""
    if weights is None:
        return x, y, None
    whole = np.array_equal(weights, np.rint(weights))
    if not whole or weights.sum() > MOST_REPETITIONS * len(x):
        return x, y, weights
    times = weights.astype(int)
    return np.repeat(x, times, axis=0), np.repeat(y, times, axis=0), None
