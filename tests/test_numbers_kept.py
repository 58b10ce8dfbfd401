"""Numbers that a conversion would change in silence are kept, or refused by name."""

import datetime
import decimal
import gzip
import io
import warnings
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import check_all_zero_sample_weights_error

import meanfield as mf
from meanfield.checks import require_whole
from meanfield.data import arrays, read_idx, read_table, table
from meanfield.learning.arguments import check_arguments
from meanfield.learning.batches import warn_of_raw_images

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)


def learn(x, y, **options):
    net = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(net, key=KEY)
    settings = {"epochs": 1, "batch_size": 20, "progress": False, "key": KEY}
    settings["prior"] = None
    return mf.fit(ensemble, (x, y), **settings | options)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y + 2**32, r"must fit int32; got the whole number 4294967297"),
        (X, Y - 2**40, r"the whole number -1099511627776"),
        (np.asarray(X * 0 + 2**35, np.int64), Y, r"the whole number 34359738368"),
        (np.ma.masked_less(X, -1.0), Y, r"no masked entries; the first of \d+"),
        (X * 1e-50, Y, "too small for float32"),
        (X * 1e39, Y, "must be finite"),
    ],
)
def test_numbers_that_would_change_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        learn(x, y)


def test_a_mask_that_hides_nothing_is_no_matter():
    learn(np.ma.array(X, mask=False), Y)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (1e-2, "must be an Optax gradient transformation; got float 0.01"),
        (optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)), "optax.contrib.sam"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_named(optimizer, message):
    with pytest.raises(ValueError, match=message):
        learn(X, Y, optimizer=optimizer)


def test_the_history_averages_examples_not_batches():
    parts = [(X[:50], Y[:50]), (X[50:], Y[50:])]
    net = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    certain = mf.Ensemble.from_points(net)
    found = mf.fit(
        certain,
        parts,
        key=KEY,
        epochs=1,
        optimizer=optax.sgd(0.0),
        progress=False,
        prior=None,
    )
    logits = jax.vmap(net)(jnp.asarray(X, jnp.float32))
    each = -jax.nn.log_softmax(logits)[np.arange(60), Y]
    np.testing.assert_allclose(found.history["nll"][0], each.mean(), rtol=1e-5)


def test_held_out_examples_count_by_their_weights():
    bad = np.arange(60) % 2 == 0
    weights = np.where(bad, 0.0, 2.0)
    held = (X, np.where(bad, 1 - Y, Y), weights)
    with_weights = learn(X, Y, validation=held).history
    without = learn(X, Y, validation=(X[~bad], Y[~bad])).history
    # Noise differs with the rows; the draws are few, so only the level is compared.
    assert abs(with_weights["val_accuracy"][0] - without["val_accuracy"][0]) < 0.2
    with pytest.raises(ValueError, match="`validation` weights `w` must be finite"):
        learn(X, Y, validation=(X, Y, -weights))


# scikit-learn estimators


def classifier(**settings):
    settings = {
        "hidden": (8,),
        "epochs": 15,
        "num_samples": 8,
        "prior": None,
    } | settings
    return mf.MeanFieldClassifier(random_state=0, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"batch_size": "all"}, "`batch_size` must be"),
        ({"num_samples": 0}, "`num_samples` must be a whole number ≥ 1; got 0"),
        ({"hidden": 8}, "`hidden` must be a sequence"),
        ({"hidden": (0,)}, "`hidden` must be a sequence"),
        ({"learning_rate": -1}, "`learning_rate` must be None or a positive"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be None or a positive"),
        ({"validation_fraction": -1}, "`validation_fraction` must be a number inside"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must be a number inside"),
        ({"epochs": 0}, "`epochs` must be None or a whole number"),
        ({"patience": 0}, "`patience` must be a whole number"),
        ({"temperature": -0.1}, "`temperature` must be a number ≥ 0"),
        ({"early_stopping": "yes"}, "`early_stopping` must be True or False"),
    ],
)
def test_settings_of_an_estimator_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        classifier().set_params(**settings).fit(X, Y)


def test_examples_of_weight_zero_are_as_if_they_were_not_there():
    bad = np.arange(60) % 2 == 0
    labels = np.where(bad, 1 - Y, Y)
    weights = np.where(bad, 0.0, 0.5)
    model = classifier(early_stopping=True)
    weighted = model.fit(X, labels, weights).predict_proba(X)
    dropped = classifier(early_stopping=True).fit(X[~bad], labels[~bad], weights[~bad])
    # Their columns are standardised over the same rows.
    np.testing.assert_allclose(dropped.predict_proba(X), weighted, atol=1e-6)
    check_all_zero_sample_weights_error("MeanFieldClassifier", classifier())


@pytest.mark.parametrize("scale", [1e-46, 1e-200, 1.0, 1e39, 1e200])
def test_features_of_any_scale_keep_their_spread(scale):
    plain = classifier().fit(X, Y).predict_proba(X)
    scaled = classifier().fit(X * scale, Y).predict_proba(X * scale)
    np.testing.assert_allclose(scaled, plain, atol=1e-3)
    regressor = mf.MeanFieldRegressor(
        hidden=(8,), epochs=30, random_state=0, prior=None
    )
    target = X[:, 0]
    expected = regressor.fit(X, target).predict(X)
    found = regressor.fit(X, target * scale).predict(X)
    np.testing.assert_allclose(found / scale, expected, atol=1e-3)


def test_decimals_are_numbers_and_dates_of_any_kind_are_refused():
    exact = pd.DataFrame({"a": [decimal.Decimal(f"{v:.3f}") for v in X[:, 0]]})
    plain = pd.DataFrame({"a": [float(f"{v:.3f}") for v in X[:, 0]]})
    np.testing.assert_array_equal(
        classifier().fit(exact, Y).predict(exact),
        classifier().fit(plain, Y).predict(plain),
    )
    day = datetime.date(2024, 1, 1)
    for column in (
        [day + datetime.timedelta(i) for i in range(60)],
        pd.date_range("2024", periods=60, tz="UTC"),
        pd.date_range("2024", periods=60),
        [datetime.timedelta(i) for i in range(60)],
    ):
        frame = pd.DataFrame({"d": column, "c": X[:, 0]})
        with pytest.raises(ValueError, match="column 'd' .*got dates or durations"):
            classifier().fit(frame, Y)


def test_a_text_spelled_like_a_missing_entry_is_refused():
    texts = ["a", "(missing)", None] * 20
    with pytest.raises(ValueError, match=r"missing entries and the text '\(missing\)'"):
        classifier().fit(pd.DataFrame({"c": texts}), Y)


# Files


def save(path, **contents):
    np.savez(path, **contents)
    return path


def test_one_scale_serves_training_and_test_images(tmp_path):
    images = RNG.integers(0, 256, (20, 4, 4))
    y = np.arange(20) % 2
    mixed = save(
        tmp_path / "mixed.npz",
        x=images.astype(np.uint8),
        y=y,
        x_test=images / 255,
        y_test=y,
    )
    with pytest.raises(ValueError, match="must all be bytes"):
        arrays(mixed)
    as_bytes = arrays(save(tmp_path / "bytes.npz", x=images.astype(np.uint8), y=y))
    as_floats = arrays(save(tmp_path / "floats.npz", x=images.astype(float), y=y))
    np.testing.assert_array_equal(as_bytes.x_train, as_floats.x_train)
    assert as_floats.x_train.max() <= 1
    assert "inputs divided by 255" in as_floats.provenance
    table_like = arrays(
        save(tmp_path / "flat.npz", x=images.reshape(20, 16).astype(float), y=y)
    )
    assert table_like.x_train.max() > 1


@pytest.mark.parametrize(
    ("low", "high", "kind", "divisor"),
    [
        (0, 255, np.uint8, 255),
        (0, 250, float, 255),
        (0, 200, np.int64, 255),
        (0, 16, np.uint8, 16),
        (0, 16, float, 16),
        (3, 100, np.int32, 100),
        (0, 1, np.uint8, 1),
        (0, 1, float, 1),
        (0, 4095, np.uint16, 4095),
        (-1000, 3000, np.int16, 3000),
        (-3, 2, float, 1),
    ],
)
def test_images_are_scaled_by_the_range_that_occurs(tmp_path, low, high, kind, divisor):
    x = np.linspace(low, high, 20 * 12).astype(kind).reshape(20, 4, 3)
    path = save(tmp_path / "images.npz", x=x, y=np.arange(20) % 2)
    found = arrays(path)
    assert found.divisor == divisor
    both = np.concatenate([found.x_train, found.x_test])
    whole = np.sort(x.reshape(20, 12), 0) / divisor
    np.testing.assert_allclose(np.sort(both, 0), whole, rtol=1e-6, atol=1e-7)
    top = 255 if divisor == 255 else high
    said = f"inputs of 4 × 3, {min(low, 0)} to {top}: divided by {divisor}"
    assert found.notes == (() if divisor == 1 else (said,))


def test_images_of_two_ranges_are_refused(tmp_path):
    images, y = RNG.integers(0, 256, (20, 4, 4)).astype(float), np.arange(20) % 2
    images[0, 0, 0] = 255
    path = save(tmp_path / "two.npz", x=images, y=y, x_test=images / 255, y_test=y)
    with pytest.raises(ValueError, match="up to 255 to train with, and up to 1 to"):
        arrays(path)


def test_numbers_too_small_for_float32_are_refused_in_a_file(tmp_path):
    path = save(tmp_path / "small.npz", x=X * 1e-60, y=Y)
    with pytest.raises(ValueError, match="`x` holds numbers too small for float32"):
        arrays(path)


def test_classes_beyond_what_a_float_tells_apart_keep_their_names(tmp_path):
    large = 2**53
    y = np.array([large, large + 1] * 10)
    found = arrays(save(tmp_path / "large.npz", x=np.ones((20, 2)), y=y))
    assert found.class_names == (str(large), str(large + 1))
    path = tmp_path / "large.csv"
    rows = "\n".join(f"{i},{label}" for i, label in enumerate(y))
    path.write_text("a,c\n" + rows + "\n")
    found = table(path, target="c", task="classification")
    assert found.class_names == (str(large), str(large + 1))


def test_a_decimal_comma_is_no_category(tmp_path):
    path = tmp_path / "comma.csv"
    rows = "\n".join(f'{i},"{i},5"' for i in range(45))
    path.write_text("a,price\n" + rows + "\n")
    with pytest.raises(ValueError, match="column 'price' holds numbers with a decimal"):
        table(path, target="price")


def test_truth_values_spelled_in_several_ways_are_two_classes(tmp_path):
    path = tmp_path / "truth.csv"
    spellings = ["True", "TRUE", "false", "true", "False"]
    rows = "\n".join(f"{i},{spellings[i % 5]},{i % 3}" for i in range(40))
    path.write_text("a,flag,c\n" + rows + "\n")
    assert table(path, target="flag").class_names == ("false", "true")
    schema = table(path, target="c").schema
    frame = pd.DataFrame({"a": ["1"], "flag": ["TRUE"]})
    assert schema.encode(frame)[0, 1:].tolist() == [0.0, 1.0]


# Files that announce more than they hold


def test_a_gzip_file_unpacks_to_what_its_header_says_and_no_further(tmp_path):
    header = bytes([0, 0, 8, 1, 0, 0, 0, 2])
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(header + bytes([7, 3])))
    assert read_idx(path).tolist() == [7, 3]
    path.write_bytes(gzip.compress(header + bytes(10_000_000)))
    with pytest.raises(ValueError, match="must unpack to at most 10 bytes"):
        read_idx(path)
    huge = bytes([0, 0, 8, 3]) + b"\xff" * 12
    path.write_bytes(gzip.compress(huge + bytes(100)))
    with pytest.raises(ValueError, match="It is truncated or not an idx file"):
        read_idx(path)


def test_an_array_larger_than_its_file_is_refused_by_its_header(tmp_path):
    path = tmp_path / "large.npz"
    buffer = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(ValueError, match=r"states the shape \(1000000, 1000000\)"):
        arrays(path)


def test_a_table_of_many_columns_is_read_in_linear_time(tmp_path):
    path = tmp_path / "wide.csv"
    names = ",".join(f"c{i}" for i in range(50_000))
    path.write_text(names + "\n" + ",".join("1" * 50_000) + "\n")
    assert read_table(path).shape == (1, 50_000)
    # A sign that separates nothing, in one of the headings.
    path.write_text("a|b," + names + "\n" + ",".join("1" * 50_001) + "\n")
    assert read_table(path).shape == (1, 50_001)


PIXELS = np.random.default_rng(1).integers(0, 256, (12, 8, 8))


@pytest.mark.parametrize(
    ("x", "warned"),
    [
        (PIXELS, True),
        (PIXELS.astype(np.uint8).reshape(12, 64), True),
        (PIXELS.astype(np.float32), True),
        (PIXELS.reshape(12, 64).astype(np.float64), True),
        (PIXELS / 255, False),
        (PIXELS - 128, False),
        (PIXELS.reshape(12, 64), False),  # Tokens.
        (PIXELS[:, 0], False),  # A table of a few columns.
        (PIXELS % 17, False),
        ({"image": PIXELS, "age": PIXELS[:, 0, 0]}, True),
    ],
)
def test_raw_images_are_warned_of(x, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_raw_images(x)
    assert len(caught) == warned
    assert not warned or "divide by 255" in str(caught[0].message)


def test_fit_warns_of_raw_images():
    net = eqx.nn.MLP(64, 2, 4, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(net, key=KEY)
    data = PIXELS.reshape(12, 64).astype(np.float32), np.arange(12) % 2
    with pytest.warns(UserWarning, match="look like raw images.*0 to 25"):
        mf.fit(
            ensemble, data, key=KEY, epochs=1, batch_size=4, progress=False, prior=None
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "hot"}, "`temperature` must be a finite number ≥ 0"),
        (
            {"sample_weight": np.ma.masked_equal(np.ones(60), 1)},
            "`sample_weight` must have no masked entries; the first of 60",
        ),
        (
            {"validation": (X, Y, np.ma.masked_equal(np.ones(60), 1))},
            "`validation` weights `w` must have no masked entries",
        ),
    ],
)
def test_weights_and_temperatures_that_are_none_are_named(settings, message):
    net = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(net, key=KEY)
    defaults = {
        "epochs": 1,
        "batch_size": 20,
        "prior": None,
        "temperature": 1.0,
        "validation": None,
        "patience": None,
        "accumulate": 1,
        "hold": None,
        "compute_dtype": None,
        "num_data": None,
        "sample_weight": None,
        "augment": None,
    }
    with pytest.raises(ValueError, match=message):
        check_arguments(ensemble, (X, Y), mf.Categorical(), **(defaults | settings))


def test_masked_weights_of_an_estimator_are_refused():
    weights = np.ma.masked_equal(np.ones(60), 1)
    with pytest.raises(ValueError, match="`sample_weight` must have no masked entries"):
        classifier().fit(X, Y, weights)


@pytest.mark.parametrize("value", [1.5, True, "3", None, np.float64(2)])
def test_a_count_is_a_whole_number(value):
    with pytest.raises(ValueError, match="`epochs` must be a whole number, at least 1"):
        require_whole("epochs", value)
    require_whole("epochs", np.int64(3))
