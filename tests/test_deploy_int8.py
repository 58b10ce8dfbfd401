"""Eight bits: rounding against slow versions, one gate for every way to a file."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.formats.compare import compare_int8, largest_change, worst_change
from meanfield.deploy.formats.formats import export, load_predictor
from meanfield.deploy.formats.rounding import (
    channel_scales,
    round_nearest,
    round_together,
)
from meanfield.deploy.shipping.served import check_shipped, convert
from meanfield.deploy.shipping.subnetworks import sample_subnetworks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)


def error(weight, levels, inputs, top):
    """E|ΔW x|² of a rounding, row by row."""
    scales = np.abs(weight).max(1) / top
    off = weight - levels * scales[:, None]
    return np.array([np.mean([(row @ x) ** 2 for x in inputs]) for row in off])


def test_rounding_one_by_one_is_the_nearest_level():
    weight = np.array([[0.5, -1.0, 0.26], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(round_nearest(weight, 4), [[2, -4, 1], [0, 0, 0]])
    np.testing.assert_array_equal(channel_scales(weight, 4), [0.25, 1.0])


def test_uncorrelated_inputs_leave_every_weight_on_its_nearest_level():
    weight = RANDOM.normal(size=(5, 8)).astype(np.float32)
    inputs = np.eye(8, dtype=np.float32) * RANDOM.uniform(0.5, 2, 8)
    together = round_together(weight, inputs.astype(np.float32), 15)
    np.testing.assert_array_equal(together, round_nearest(weight, 15))


def test_rounding_together_lies_between_the_best_of_all_and_one_by_one():
    weight = RANDOM.normal(size=(6, 4)).astype(np.float32)
    mix = RANDOM.normal(size=(4, 4)) @ np.diag([3, 1, 0.3, 0.1])
    inputs = (RANDOM.normal(size=(200, 4)) @ mix).astype(np.float32)
    top = 3
    together = error(weight, round_together(weight, inputs, top), inputs, top)
    single = error(weight, round_nearest(weight, top), inputs, top)
    grid = np.stack(np.meshgrid(*[np.arange(-top, top + 1)] * 4), -1).reshape(-1, 4)
    scales = np.abs(weight).max(1) / top
    best = [
        min(np.mean((inputs @ (row - level * s)) ** 2) for level in grid)
        for row, s in zip(weight, scales, strict=True)
    ]
    assert together.sum() < 0.6 * single.sum()
    assert (together >= np.array(best) - 1e-6).all()


def test_absent_connections_stay_absent_whatever_the_others_do():
    weight = RANDOM.normal(size=(20, 30)).astype(np.float32)
    weight[RANDOM.random(weight.shape) < 0.5] = 0
    inputs = (RANDOM.normal(size=(50, 5)) @ RANDOM.normal(size=(5, 30))).astype("f4")
    rounded = round_together(weight, inputs, 63)
    assert not rounded[weight == 0].any()
    assert np.abs(rounded).max() == 63
    silent = np.zeros((50, 30), np.float32)
    expected = round_nearest(weight, 63)
    np.testing.assert_array_equal(round_together(weight, silent, 63), expected)


@pytest.mark.parametrize(
    ("link", "change", "worst"),
    [
        # p = 1/2 moves to 1 / (1 + e^−0.2); logits apart by 0.2.
        ("softmax", 1 / (1 + np.exp(-0.2)) - 0.5, 0.05),
        ("sigmoid", 1 / (1 + np.exp(-0.2)) - 0.5, 0.05),
        ("none", 0.2, 0.2),
    ],
)
def test_changes_are_those_of_probabilities_or_of_targets(link, change, worst):
    expected = np.zeros((1, 2), np.float32)
    actual = np.array([[0.2, 0.0]], np.float32)
    assert largest_change(expected, actual, link) == pytest.approx(change, rel=1e-6)
    assert worst_change(expected, actual, link) == pytest.approx(worst, rel=1e-6)


def test_the_gate_looks_at_the_change_and_at_the_choices():
    expected = np.zeros((100, 2), np.float32)
    expected[:, 0] = 0.01
    assert compare_int8(expected, expected, "softmax") == (0.0, 1.0)
    flipped = expected.copy()
    flipped[:2, 1] = 0.02
    with pytest.raises(ValueError, match="by 0.005 and agrees in 98.0% of the"):
        compare_int8(expected, flipped, "softmax")
    flipped = expected.copy()
    flipped[:1, 1] = 0.02
    assert compare_int8(expected, flipped, "softmax")[1] == 0.99
    with pytest.raises(ValueError, match="by 0.05; a change of at most 0.02"):
        compare_int8(expected, expected + 0.05, "none")
    with pytest.raises(ValueError, match="`link` must be one of softmax"):
        compare_int8(expected, expected, "probit")


@pytest.fixture(scope="module")
def digits():
    """A network that learned the digits for a moment, and their data."""
    data = mf.data.load("digits")
    network = eqx.nn.MLP(64, 10, 32, 2, key=KEY)
    ensemble = mf.Ensemble.from_model(network, key=jax.random.key(1))
    train = data.x_train, data.y_train
    result = mf.fit(ensemble, train, key=KEY, epochs=8, progress=False, prior=None)
    return result.ensemble, data


def test_a_shipped_and_a_converted_network_are_the_same_eight_bits(digits, tmp_path):
    ensemble, data = digits
    drawn = sample_subnetworks(ensemble, 1, key=KEY)
    given = {
        "data": (data.x_test, data.y_test),
        "validation": (data.x_train[-200:], data.y_train[-200:]),
        "measure": False,
    }
    card = mf.deploy.ship(drawn, tmp_path / "small", format="onnx-int8", **given)
    mf.deploy.ship(drawn, tmp_path / "whole", **given)
    like = eqx.nn.MLP(64, 10, 32, 2, key=KEY)
    archive = tmp_path / "whole" / "subnetwork-0.safetensors"
    done = convert(archive, tmp_path / "n.onnx", format="onnx-int8", like=like)
    (entry,) = card.subnetworks
    shipped = (tmp_path / "small" / entry["file"]).read_bytes()
    # The same graph, to the bit; only what the files say of their origin differs.
    converted = (tmp_path / "n.onnx").read_bytes()
    first, second = (onnx.load_from_string(part) for part in (shipped, converted))
    assert first.graph.SerializeToString() == second.graph.SerializeToString()
    assert (done.precision, done.agreement) == (entry["precision"], entry["agreement"])
    assert done.largest_difference == entry["largest_difference"]["format"] <= 0.02
    assert abs(entry["accuracy"] - entry["before"]["accuracy"]) <= 0.005
    assert len(shipped) < 0.6 * entry["before"]["bytes"]
    assert check_shipped(tmp_path / "small")[0].largest_difference <= 1e-4
    # On all test data, not only on what the gate saw.
    predict = load_predictor(tmp_path / "n.onnx", "onnx-int8")
    expected = np.asarray(jax.vmap(drawn[0].model)(jnp.asarray(data.x_test)))
    change, agreement = compare_int8(expected, predict(data.x_test), "softmax")
    assert change <= 0.02
    assert agreement >= 0.99


def test_few_examples_and_links_that_say_nothing_are_refused(tmp_path):
    x = RANDOM.normal(size=(60, 6)).astype(np.float32)
    one = eqx.nn.MLP(6, 1, 16, 1, key=KEY)
    with pytest.raises(ValueError, match="`probe` must have at least 50 .* got 20"):
        export(one, tmp_path / "n", probe=x[:20], format="onnx-int8", link="none")
    with pytest.raises(ValueError, match="`link` must be 'sigmoid'.*or 'none'"):
        export(one, tmp_path / "n", probe=x, format="onnx-int8")
    done = export(one, tmp_path / "n", probe=x, format="onnx-int8", link="none")
    assert done.largest_difference <= 0.02
    assert done.agreement is None
