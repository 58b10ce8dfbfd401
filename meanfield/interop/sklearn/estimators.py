"""Ensembles as scikit-learn estimators with `fit` and `predict`."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    column_or_1d,
    validate_data as _validate,
)

from meanfield.checks import require
from meanfield.learning.likelihoods import Categorical, Gaussian

from .base import MeanFieldEstimator
from .frames import FrameEncoder, has_categories, mean_and_spread
from .weighting import check_weights


class MeanFieldClassifier(ClassifierMixin, MeanFieldEstimator):
    """A classifier whose every weight is a spike-and-slab distribution.

    Args:
        hidden: widths of the hidden layers.
        model: instead of `hidden`, a function ``model(num_features, num_outputs, *,
            key)`` that makes an Equinox module acting on one example.
        prior: "selective" or a `Selective`, the rule that chooses temperature and price
            on a held-out part of the examples, and epochs and step sizes by their
            number; a `SpikeSlabPrior`; or None for the published rule without a prior.
            Under the selective rule, `partial_fit` uses a prior of inclusion
            probability ½ with learned slab scales, at temperature 0.05, because it
            cannot plan a run.
        temperature: weight of the prior's KL term, 1 for the evidence bound; under the
            selective rule, the largest temperature that it may choose.
        epochs: passes over the data (at most, with early stopping). None: as many as
            the selective rule needs, at least 800 steps; 100 with other priors.
        batch_size: examples per step; "auto" is an eighth of all examples, at most 64.
        learning_rate: first step size of Adam, which falls to 0 along a cosine. None:
            0.005, or the choice of the selective rule.
        early_stopping: hold out part of the data, and stop when the loss on it no
            longer falls.
        validation_fraction: fraction of the data that is held out.
        patience: epochs without improvement before stopping.
        num_samples: number of drawn sub-networks averaged in a prediction.
        random_state: seed of everything random.

    Attributes:
        ensemble_: the trained `Ensemble`.
        classes_: the labels.
        history_: losses by epoch.
        encoder_: makes features of columns: numbers standardised, categories one-hot.
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
            sample_weight: a number ≥ 0 for each example. A whole number w is equivalent
                to w copies of the example; otherwise only ratios matter. The order of
                the examples does not matter.

        Raises:
            ValueError: an argument does not fit; the message says which and why.
        """
        X, codes, weights = self._prepare(X, y, sample_weight, reset=True)
        self.encoder_ = FrameEncoder.learn(X, weights)
        features = self.encoder_.apply(X)
        self.likelihood_ = self._likelihood()
        self._start(features.shape[1], len(self.classes_))
        self._learn(features, codes, weights, whole_run=True)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> "MeanFieldClassifier":
        """One further pass over some data; the first needs all labels in `classes`."""
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
        self._learn(features, codes, weights, whole_run=False)
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
            f"`y` must hold labels among the classes {self.classes_.tolist()}; got "
            f"{str(y[np.argmin(known)])!r}. Name all classes with `classes`.",
        )
        codes = np.searchsorted(self.classes_, y).astype(np.int32)
        return X, codes, check_weights(weights, len(y))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "examples classes"]:
        """Predictive probability of every class, averaged over the ensemble."""
        probs, _ = self._predictive(X)
        return probs / probs.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label."""
        choice = self.predict_proba(X).argmax(1)
        return self.classes_[choice]

    def _likelihood(self) -> Categorical:
        return Categorical()


class MeanFieldRegressor(RegressorMixin, MeanFieldEstimator):
    """A regressor whose every weight is a spike-and-slab distribution.

    The noise of the targets is learned. There may be one target or several.

    Args:
        hidden: widths of the hidden layers.
        model: as for `MeanFieldClassifier`.
        prior: as for `MeanFieldClassifier`.
        temperature: as for `MeanFieldClassifier`.
        epochs: as for `MeanFieldClassifier`.
        batch_size: as for `MeanFieldClassifier`.
        learning_rate: as for `MeanFieldClassifier`.
        early_stopping: as for `MeanFieldClassifier`.
        validation_fraction: as for `MeanFieldClassifier`.
        patience: epochs without improvement before stopping.
        num_samples: as for `MeanFieldClassifier`.
        random_state: as for `MeanFieldClassifier`.

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
        self._learn(features, self._scaled(y), weights, whole_run=True)
        return self

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "MeanFieldRegressor":
        """One further pass over some data."""
        first = not hasattr(self, "ensemble_")
        X, y, weights = self._prepare(X, y, sample_weight, reset=first)
        if first:
            self._begin(X, y, weights)
        features = self.encoder_.apply(X)
        self._learn(features, self._scaled(y), weights, whole_run=False)
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
        return X, y, check_weights(weights, len(y))

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        return ((y - self._shift) / self._scale).astype(np.float32)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predictive mean and, with `return_std`, standard deviation of the target.

        The standard deviation includes the noise and the uncertainty of the weights.
        """
        mean, var = self._predictive(X)
        shape = (len(mean), *np.shape(self._shift))
        mean = mean.reshape(shape) * self._scale + self._shift
        if not return_std:
            return mean
        return mean, np.sqrt(var).reshape(shape) * self._scale

    def _likelihood(self) -> Gaussian:
        # Each of several targets has its own noise.
        return Gaussian("learned", initial_scale=np.full(np.shape(self._shift), 0.5))

    def __sklearn_tags__(self) -> Any:
        """State that several targets are supported."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
