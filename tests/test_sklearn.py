import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import (
    check_dict_unchanged,
    check_estimators_dtypes,
    check_estimators_nan_inf,
    check_estimators_pickle,
    check_n_features_in,
    check_parameters_default_constructible,
)

import meanfield as mf

SMALL = {"hidden": (8,), "epochs": 20, "num_samples": 8, "random_state": 0}
rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4))
LABELS = np.array(["left", "right"])[(X[:, 0] + X[:, 1] > 0).astype(int)]
TARGETS = 3.0 + 100 * X[:, 0]


@pytest.fixture(scope="module")
def classifier():
    return mf.MeanFieldClassifier(**SMALL | {"epochs": 100}).fit(X, LABELS)


@pytest.fixture(scope="module")
def regressor():
    return mf.MeanFieldRegressor(**SMALL | {"epochs": 200}).fit(X, TARGETS)


@pytest.mark.parametrize(
    "check",
    [
        check_parameters_default_constructible,
        check_dict_unchanged,
        check_n_features_in,
        check_estimators_pickle,
        check_estimators_nan_inf,
        check_estimators_dtypes,
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
    assert mean.shape == std.shape == (5,) and (std > 0).all()


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
    grid = GridSearchCV(
        model, {"meanfieldclassifier__temperature": [0.1, 1.0]}, cv=2
    ).fit(X, LABELS)
    assert 0 <= grid.best_score_ <= 1
    assert clone(model).get_params() is not None


def test_the_same_seed_gives_the_same_model():
    one, two = (mf.MeanFieldClassifier(**SMALL).fit(X, LABELS) for _ in range(2))
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))


def test_frames_with_categories_are_encoded_and_unknown_ones_named():
    frame = pd.DataFrame({"size": X[:, 0], "colour": np.where(X[:, 1] > 0, "a", "b")})
    model = mf.MeanFieldClassifier(**SMALL).fit(frame, LABELS)
    assert list(model.feature_names_in_) == ["size", "colour"]
    assert model.predict_proba(frame).shape == (90, 2)
    strange = frame.assign(colour="green")
    with pytest.raises(ValueError, match="'colour' holds the category 'green'"):
        model.predict(strange)


def test_partial_fit_goes_on_from_where_it_was():
    model = mf.MeanFieldClassifier(**SMALL)
    model.partial_fit(X[:40], LABELS[:40], classes=["left", "right"])
    before = model.predict_proba(X)
    for _ in range(5):
        model.partial_fit(X[40:], LABELS[40:])
    assert model.n_iter_ == 6
    assert not np.array_equal(model.predict_proba(X), before)
    with pytest.raises(ValueError, match="holds the label 'up'"):
        model.partial_fit(X[:2], ["up", "left"])


def test_examples_without_weight_do_not_count():
    wrong = np.where(np.arange(90) < 45, LABELS, np.roll(LABELS, 1))
    weights = (np.arange(90) < 45).astype(float)
    settings = SMALL | {"epochs": 150}
    model = mf.MeanFieldClassifier(**settings).fit(X, wrong, sample_weight=weights)
    assert model.score(X[:45], LABELS[:45]) > 0.9


def test_a_drawn_network_is_an_ordinary_model(classifier):
    network = classifier.sample_network(random_state=1)
    outputs = network(classifier.encoder_.apply(X[:1])[0])
    assert outputs.shape == (2,)


def test_early_stopping_ends_before_the_last_epoch():
    settings = SMALL | {"epochs": 300, "early_stopping": True, "patience": 3}
    model = mf.MeanFieldRegressor(**settings, learning_rate=0.05).fit(X, TARGETS)
    assert model.n_iter_ < 300 and "val_nll" in model.history_


def test_an_unfitted_estimator_says_so():
    with pytest.raises(NotFittedError):
        mf.MeanFieldClassifier().predict(X)
