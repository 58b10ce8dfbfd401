import pickle

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import (
    check_estimators_nan_inf,
    check_parameters_default_constructible,
    check_sample_weight_equivalence_on_dense_data,
)

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.interop.sklearn.frames import FrameEncoder
from meanfield.interop.sklearn.fresh import fresh_perceptron

# Equal settings wherever possible: fits of equal shape share one compiled program.
SMALL = {
    "hidden": (8,),
    "prior": mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned"),
    "temperature": 0.05,
    "epochs": 60,
    "learning_rate": 0.02,
    "num_samples": 8,
    "random_state": 0,
}
rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4))
LABELS = np.array(["left", "right"])[(X[:, 0] + X[:, 1] > 0).astype(int)]
TARGETS = 3.0 + 100 * X[:, 0]


@pytest.fixture(scope="module")
def classifier():
    return mf.MeanFieldClassifier(**SMALL).fit(X, LABELS)


@pytest.fixture(scope="module")
def regressor():
    return mf.MeanFieldRegressor(**SMALL).fit(X, TARGETS)


@pytest.mark.parametrize(
    "check",
    [
        check_parameters_default_constructible,
        check_estimators_nan_inf,
        check_sample_weight_equivalence_on_dense_data,
    ],
    ids=lambda check: check.__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_the_classifier_keeps_the_conventions_of_scikit_learn(check):
    check("MeanFieldClassifier", mf.MeanFieldClassifier(**SMALL | {"epochs": 2}))


def test_the_classifier_learns_and_names_its_classes(classifier):
    assert classifier.score(X, LABELS) > 0.9
    probs = classifier.predict_proba(X)
    np.testing.assert_allclose(probs.sum(1), 1)
    assert set(classifier.predict(X)) == {"left", "right"}
    assert set(classifier.connection_labels_) == {"layers/0/weight", "layers/1/weight"}


def test_the_regressor_works_in_the_units_of_the_targets(regressor):
    assert regressor.score(X, TARGETS) > 0.9
    mean, std = regressor.predict(X[:5], return_std=True)
    assert mean.shape == std.shape == (5,)
    assert (std > 0).all()


def test_a_prediction_depends_on_its_example_alone(classifier):
    order = rng.permutation(len(X))
    whole = classifier.predict_proba(X)
    np.testing.assert_array_equal(classifier.predict_proba(X[order]), whole[order])
    np.testing.assert_array_equal(classifier.predict_proba(X[7:9]), whole[7:9])


def test_pickling_keeps_every_prediction(classifier, regressor):
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    twin = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_array_equal(twin.predict(X), regressor.predict(X))


def test_it_works_in_a_pipeline_and_a_grid_search():
    model = make_pipeline(MinMaxScaler(), mf.MeanFieldClassifier(**SMALL))
    grid = GridSearchCV(model, {"meanfieldclassifier__num_samples": [4, 8]}, cv=2).fit(
        X, LABELS
    )
    assert 0 <= grid.best_score_ <= 1
    assert clone(model).get_params() is not None


def test_the_same_seed_gives_the_same_model():
    one, two = (mf.MeanFieldClassifier(**SMALL).fit(X, LABELS) for _ in range(2))
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))


COLOUR = np.where(X[:, 1] > 0, "a", "b")


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_frames_with_categories_are_encoded_and_unknown_ones_named(library):
    frame = library.DataFrame({"size": X[:, 0], "colour": COLOUR})
    model = mf.MeanFieldClassifier(**SMALL).fit(frame, LABELS)
    assert list(model.feature_names_in_) == ["size", "colour"]
    assert model.n_features_in_ == 2
    features = model.encoder_.apply(frame)
    np.testing.assert_allclose(features[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_array_equal(features[:, 1], COLOUR == "a")
    assert model.predict_proba(frame).shape == (90, 2)
    strange = library.DataFrame({"size": X[:2, 0], "colour": ["a", "green"]})
    with pytest.raises(ValueError, match="'colour' of `X` must .*got 'green'"):
        model.predict(strange)
    numbers = library.DataFrame({"size": X[:2, 0], "colour": X[:2, 0]})
    with pytest.raises(ValueError, match="'colour' of `X` must hold categor"):
        model.predict(numbers)
    swapped = library.DataFrame({"colour": COLOUR, "size": X[:, 0]})
    with pytest.raises(ValueError, match="feature names"):
        model.predict(swapped)
    with (
        pytest.warns(UserWarning, match="valid feature names"),
        pytest.raises(ValueError, match="must be a frame with the columns"),
    ):
        model.predict(X[:, :2])


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_frames_of_numbers_give_what_their_arrays_give(library):
    frame = library.DataFrame({name: X[:, i] for i, name in enumerate("abcd")})
    model = mf.MeanFieldRegressor(**SMALL).fit(frame, TARGETS)
    plain = mf.MeanFieldRegressor(**SMALL).fit(X, TARGETS)
    np.testing.assert_array_equal(model.predict(frame), plain.predict(X))
    texts = library.DataFrame({"a": ["x"], "b": [1.0], "c": [1.0], "d": [1.0]})
    with pytest.raises(ValueError, match="'a'.*must hold numbers"):
        model.predict(texts)


def test_the_columns_of_a_frame_are_read_by_their_type():
    frame = pd.DataFrame(
        {
            "code": pd.Categorical([3, 1, 3]),
            "count": pd.array([1, 2, 3], dtype="Int64"),
            "word": ["x", None, "y"],
            "flag": [True, False, True],
        }
    )
    encoder = FrameEncoder.learn(frame)
    kinds = dict(encoder.columns or ())
    assert kinds["code"] == ("1", "3")
    assert kinds["word"] == ("(missing)", "x", "y")
    assert kinds["count"] is None
    assert kinds["flag"] is None
    np.testing.assert_allclose(encoder.apply(frame).mean(0)[[2, 6]], 0, atol=1e-6)
    holes = frame.assign(count=pd.array([1, None, 3], dtype="Int64"))
    with pytest.raises(ValueError, match="'count' of `X` must be finite; got NaN"):
        encoder.apply(holes)
    with pytest.raises(ValueError, match="'count' .* must hold numbers"):
        encoder.apply(frame.assign(count=["one", "two", "three"]))
    dates = frame.assign(flag=pd.to_datetime(["2020-01-01"] * 3))
    with pytest.raises(ValueError, match="column 'flag' of `X` .* got dates"):
        FrameEncoder.learn(dates)
    with pytest.raises(ValueError, match="no rows"):
        FrameEncoder.learn(frame[:0])
    with pytest.raises(ValueError, match="must have different column names"):
        FrameEncoder.learn(pd.concat([frame[["word"]]] * 2, axis=1))


def test_partial_fit_goes_on_from_where_it_was():
    model = mf.MeanFieldClassifier(**SMALL)
    model.partial_fit(X[:45], LABELS[:45], classes=["left", "right"])
    before = model.predict_proba(X)
    for _ in range(5):
        model.partial_fit(X[45:], LABELS[45:])
    assert model.n_iter_ == 6
    assert not np.array_equal(model.predict_proba(X), before)
    with pytest.raises(ValueError, match="`y` must .*got 'up'"):
        model.partial_fit(X[:2], ["up", "left"])


def test_examples_without_weight_do_not_count():
    wrong = np.where(np.arange(90) < 45, LABELS, np.roll(LABELS, 1))
    weights = (np.arange(90) < 45).astype(float)
    model = mf.MeanFieldClassifier(**SMALL).fit(X, wrong, sample_weight=weights)
    assert model.score(X[:45], LABELS[:45]) > 0.9


def test_weights_that_are_no_whole_numbers_count_by_their_ratios():
    weights = np.where(np.arange(90) < 45, 0.5, 1e-6)
    wrong = np.where(np.arange(90) < 45, LABELS, np.roll(LABELS, 1))
    model = mf.MeanFieldClassifier(**SMALL).fit(X, wrong, sample_weight=weights)
    assert model.score(X[:45], LABELS[:45]) > 0.9
    for bad in ([1.0, -1.0], [np.nan, 1.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="must be finite numbers ≥ 0"):
            model.fit(X[:2], ["a", "b"], sample_weight=bad)
    with pytest.raises(ValueError, match="one number for each of the 2 examples"):
        model.fit(X[:2], ["a", "b"], sample_weight=[1, 2, 3])


def test_the_order_of_the_examples_does_not_matter():
    order = rng.permutation(len(X))
    one = mf.MeanFieldRegressor(**SMALL).fit(X, TARGETS)
    two = mf.MeanFieldRegressor(**SMALL).fit(X[order], TARGETS[order])
    np.testing.assert_array_equal(one.predict(X), two.predict(X))


def test_calibration_and_cross_validation_take_it():
    model = mf.MeanFieldClassifier(**SMALL)
    assert cross_val_score(model, X, LABELS, cv=2).min() > 0.5
    calibrated = CalibratedClassifierCV(model, cv=2, method="sigmoid").fit(X, LABELS)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(1), 1)
    frozen = FrozenEstimator(model.fit(X, LABELS))
    again = CalibratedClassifierCV(frozen, method="isotonic").fit(X, LABELS)
    assert again.score(X, LABELS) > 0.8


def wide(num_features, num_outputs, *, key):
    return eqx.nn.MLP(num_features, num_outputs, 6, 2, jax.nn.tanh, key=key)


def test_a_factory_of_ones_own_makes_the_network():
    model = mf.MeanFieldClassifier(model=wide, **SMALL).fit(X, LABELS)
    assert isinstance(model.sample_network(0), eqx.nn.MLP)
    shapes = {name: label.shape for name, label in model.connection_labels_.items()}
    assert shapes["layers/1/weight"] == (6, 6)
    assert len(shapes) == 3
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="got a tuple"):
        mf.MeanFieldClassifier(model=lambda i, o, *, key: (1, 2)).fit(X, LABELS)


def test_several_targets_are_learned_at_once():
    both = np.stack([TARGETS, -TARGETS / 50], 1)
    model = mf.MeanFieldRegressor(**SMALL).fit(X, both)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (90, 2)
    assert model.score(X, both) > 0.9


def test_every_target_has_a_noise_of_its_own():
    noisy = np.random.default_rng(1).normal(size=90)
    both = np.stack([TARGETS, 1000 * noisy], 1)
    model = mf.MeanFieldRegressor(**SMALL).fit(X, both)
    noise = np.asarray(model.likelihood_.scale)
    # The second is noise and nothing else; the first has none.
    assert noise.shape == (2,)
    assert noise[1] > 0.7
    assert noise[0] < 0.6 * noise[1]
    _, std = model.predict(X, return_std=True)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X, return_std=True)[1], std)
    assert (std[:, 1] > 0.7 * 1000).all()


def test_a_drawn_network_is_an_ordinary_model(classifier):
    network = classifier.sample_network(random_state=1)
    outputs = network(classifier.encoder_.apply(X[:1])[0])
    assert outputs.shape == (2,)


def test_early_stopping_ends_before_the_last_epoch():
    settings = SMALL | {"early_stopping": True, "patience": 2, "learning_rate": 0.2}
    model = mf.MeanFieldRegressor(**settings).fit(X, TARGETS)
    assert model.n_iter_ < 60
    assert "val_nll" in model.history_


def test_an_unfitted_estimator_says_so():
    with pytest.raises(NotFittedError):
        mf.MeanFieldClassifier().predict(X)


def test_the_perceptron_starts_as_from_model_would_start_it():
    widths, key = (200, 150, 3), jax.random.key(0)
    own = fresh_perceptron(widths, 0)
    usual = mf.Ensemble.from_model(mlp(widths, key=key), key=key)
    assert jax.tree.structure(own.params) == jax.tree.structure(usual.params)
    for name, weight in own.weights().items():
        other = usual.weights()[name]
        assert (weight.spike_prob == other.spike_prob).all()
        np.testing.assert_allclose(weight.slab_var, other.slab_var, rtol=1e-6)
        error = 5 / np.sqrt(2 * weight.slab_mean.size)  # Five standard errors.
        np.testing.assert_allclose(
            weight.slab_mean.std() * np.sqrt(weight.shape[1] / 1.8), 1, atol=error
        )
    biases = np.asarray(own.params.layers[0].bias)
    assert np.abs(biases).max() < 200**-0.5
    assert np.isclose(biases.std(), 200**-0.5 / np.sqrt(3), rtol=0.2)
