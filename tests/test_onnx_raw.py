"""ONNX files that take raw rows or images, against the predictions of the run."""

import functools
import json
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import optax
import pandas as pd
import pytest

import meanfield as mf
from meanfield.data.table import read_table
from meanfield.deploy.formats.onnx_raw import take_raw
from meanfield.deploy.shipping.answers import answers, compare_answers
from meanfield.ensemble.networks import mlp
from meanfield.runs.config import config_of
from meanfield.runs.contract import input_contract
from meanfield.runs.predictions import predict_rows
from meanfield.runs.sample import takes_raw
from meanfield.runs.settings import TrainSettings
from meanfield.runs.standardization import Standardization, describe
from meanfield.runs.tasks import build_likelihood

# Target columns of the table for each likelihood.
CASES = {"categorical": "kind", "gaussian": "price,v1"}
# The other likelihoods, and their outputs for two targets or for one.
OTHERS = {
    "bernoulli": 2,
    "poisson": 1,
    "heteroscedastic": 2,
    "student_t": 2,
    "heteroscedastic_student_t": 2,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A table with everything that preprocessing must reproduce."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            # Far from 0 and narrow: in single precision nothing would be left of it.
            "built": 1e7 + rng.uniform(0, 2, 120).round(3),
            "town": rng.choice(["Ulm", "Köln", "a b"], 120),
            "output": rng.normal(size=120),
            "garden": rng.choice(["True", "False"], 120),
            "area": rng.uniform(40, 200, 120).round(1),
            "heating": rng.choice(["gas", "oil", "?"], 120),
            "kind": rng.choice(["flat", "house", "hut"], 120),
            "visits": rng.poisson(30, 120),
            "sold": rng.integers(0, 2, 120),
            "rented": rng.integers(0, 2, 120),
            "price": rng.lognormal(12, 1, 120).round(),
            "v1": rng.normal(3, 2, 120),
        }
    )
    frame.loc[::5, "area"] = np.nan
    path = tmp_path_factory.mktemp("table") / "houses.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def shipped(path, tmp_path_factory):
    """Runs of one network with random weights, and the folders that ship them."""

    @functools.cache
    def made(likelihood):
        wanted = ["built", "town", "output", "garden", "area", "heating"]
        target = CASES[likelihood]
        dataset = mf.data.table(path, target=target, features=wanted)
        settings = TrainSettings(str(path), target=target, likelihood=likelihood)
        config = config_of(settings, dataset)
        standard = Standardization.learn(dataset)
        scales = {"target_shift": standard.shift, "target_scale": standard.scale}
        config["data"] |= scales
        config["model"]["kind"] = "mlp"
        config = json.loads(json.dumps(config))
        model = config["model"]
        own = build_likelihood(likelihood, model["targets"])
        network = mlp([model["inputs"], 7, model["outputs"]], key=jax.random.key(1))
        ensemble = mf.Ensemble.from_model(network, key=jax.random.key(2))
        # A single network: every connection is there, and has one value.
        fixed = {
            name: mf.SpikeSlab(jnp.zeros(w.shape), 2 * w.slab_mean, jnp.zeros(w.shape))
            for name, w in ensemble.weights().items()
        }
        ensemble = ensemble.with_weights(fixed)
        folder = tmp_path_factory.mktemp(likelihood) / "out"
        mf.deploy.ship(
            mf.deploy.sample_subnetworks(ensemble, 1, key=jax.random.key(3)),
            folder,
            data=(dataset.x_test, dataset.y_test),
            format="onnx",
            likelihood=standard.likelihood(own),
            measure=False,
            source={
                "targets": describe(config, own),
                "input": input_contract(config, dataset),
            },
            raw=True,
        )
        run = SimpleNamespace(config=config, ensemble=ensemble, likelihood=own)
        run.standardization = standard
        return run, folder, dataset

    return made


def feed_of(session, frame):
    """Columns of a frame as a user would pass them."""
    return {
        one.name: frame[[one.name]].fillna("").to_numpy(object)
        if one.type == "tensor(string)"
        else frame[[one.name]].to_numpy(float)
        for one in session.get_inputs()
    }


@pytest.mark.parametrize("likelihood", CASES)
def test_raw_rows_give_the_predictions_of_the_run(path, shipped, likelihood):
    run, folder, _ = shipped(likelihood)
    session = onnxruntime.InferenceSession(folder / "subnetwork-0.onnx")
    names = [output.name for output in session.get_outputs()]
    frame = pd.read_csv(path, dtype={"garden": str})
    found = dict(zip(names, session.run(None, feed_of(session, frame)), strict=True))
    expected = predict_rows(run, read_table(path), num_samples=1)
    if likelihood == "categorical":
        assert found["kind"][:, 0].tolist() == expected["kind"].tolist()
        probs = [f"kind_prob_{name}" for name in ("flat", "house", "hut")]
        wanted = expected[probs].to_numpy()
        np.testing.assert_allclose(found["kind_prob"], wanted, rtol=2e-5)
        return
    for name in ("price", "price_std", "v1", "v1_std"):
        wanted = expected[name].to_numpy()
        atol = 2e-6 * np.abs(wanted).max()
        np.testing.assert_allclose(
            found[name][:, 0], wanted, rtol=2e-5, atol=atol, err_msg=name
        )


def linear(weight):
    """x · weight as an ONNX model."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "network",
        [helper.make_tensor_value_info("input", kind, [None, weight.shape[0]])],
        [helper.make_tensor_value_info("output", kind, [None, weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


@pytest.mark.parametrize(("likelihood", "outputs"), OTHERS.items())
def test_other_likelihoods_answer_as_their_distributions(likelihood, outputs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    weight = 2 * rng.normal(size=(3, outputs)).astype(np.float32)
    own, standard = build_likelihood(likelihood), Standardization()
    names = ["y", "z"] if likelihood in ("bernoulli", "student_t") else ["y"]
    targets = {"likelihood": likelihood, "names": names}
    if likelihood not in ("bernoulli", "poisson"):
        shift, scale = (5.0, 1.0)[: len(names)], (3.0, 2.0)[: len(names)]
        standard = Standardization(shift, scale)
        targets |= {"shift": list(shift), "scale": list(scale)}
    if likelihood.endswith("student_t"):
        targets["df"] = 4.0
    if likelihood == "student_t":
        own = mf.StudentT(scale=[0.5, 3.0])
        targets["noise"] = [1.5, 6.0]
    model = linear(weight)
    contract = {"kind": "array", "shape": [3], "feature_shape": [3], "divide_by": 2.0}
    whole = take_raw(model, {"input": contract, "targets": targets})
    onnx.checker.check_model(whole, full_check=True)
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input": 2 * x}), strict=True))
    np.testing.assert_allclose(found.pop(names[-1]), x @ weight, rtol=1e-5, atol=1e-6)
    expected = answers(x @ weight, standard.likelihood(own), targets)
    compare_answers(found, expected, "file")
    with pytest.raises(ValueError, match="must give 'y' by decoding its own outputs"):
        compare_answers(found, expected | {"y": expected["y"] + 1}, "file")
    with pytest.raises(ValueError, match=r"must return \['y'"):
        compare_answers({}, expected, "file")


def test_the_folder_says_how_a_raw_file_is_fed(shipped):
    _, folder, _ = shipped("categorical")
    file = folder / "subnetwork-0.onnx"
    session = onnxruntime.InferenceSession(file)
    kinds = {one.name: one.type for one in session.get_inputs()}
    assert kinds["built"] == "tensor(double)"
    assert kinds["town"] == "tensor(string)"
    names = [one.name for one in session.get_outputs()]
    assert names == ["kind", "kind_prob", "network/output"]
    about = json.loads(session.get_modelmeta().custom_metadata_map["meanfield"])
    assert about["inputs"] == "raw"
    assert about["source"]["targets"]["class_names"] == ["flat", "house", "hut"]
    example = json.loads((folder / "example.json").read_text())
    feed = {
        name: np.asarray([[cell]], object if "string" in kinds[name] else float)
        for name, cell in example["raw_input"].items()
    }
    name, probs = session.run(["kind", "kind_prob"], feed)
    answer = example["answers"][file.name]
    assert [name[0, 0]] == answer["kind"]
    np.testing.assert_allclose(probs[0], answer["kind_prob"], atol=1e-4)
    assert "takes the columns of the table" in (folder / "card.md").read_text()
    assert mf.deploy.check_shipped(folder)[0].largest_difference < 1e-5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of 5 × 4 from 0 to 16 with class names, and a network that tells them."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 500)
    x = rng.integers(0, 9, (500, 5, 4))
    x[np.arange(500), 2 * (y == 1), y] = 16
    path = tmp_path_factory.mktemp("pictures") / "parts.npz"
    np.savez(path, x=x, y=np.array(["cog", "nut", "rod"])[y])
    dataset = mf.data.load(path)
    assert dataset.divisor == 16
    config = config_of(TrainSettings(str(path)), dataset)
    config["model"]["kind"] = "mlp"
    config["data"] |= {"target_shift": None, "target_scale": None}
    learned = mf.fit(
        mf.Ensemble.from_points(mlp([20, 16, 3], key=jax.random.key(0))),
        (dataset.x_train, dataset.y_train),
        key=jax.random.key(1),
        epochs=60,
        batch_size=32,
        optimizer=optax.adam(0.01),
        prior=None,
        progress=False,
    )
    return json.loads(json.dumps(config)), dataset, learned.ensemble, x


@pytest.mark.parametrize("format", ["onnx", "onnx-int8"])
def test_one_raw_image_goes_in_and_its_class_comes_out(pictures, tmp_path, format):
    config, dataset, ensemble, x = pictures
    contract = input_contract(config, dataset)
    assert contract["raw_range"] == [0, 16]
    assert takes_raw(None, format, contract)
    own = build_likelihood("categorical")
    mf.deploy.ship(
        mf.deploy.sample_subnetworks(ensemble, 1, key=jax.random.key(3)),
        tmp_path / "out",
        data=(dataset.x_test, dataset.y_test),
        format=format,
        calibration=dataset.x_train,
        measure=False,
        source={"targets": describe(config, own), "input": contract},
        raw=True,
    )
    (file,) = (tmp_path / "out").glob("*.onnx")
    session = onnxruntime.InferenceSession(file)
    (given,) = session.get_inputs()
    assert (given.name, given.shape[1:]) == ("input", [5, 4])
    names, probs = session.run(["class", "class_prob"], {"input": x.astype(np.float32)})
    network = ensemble.mean_network()
    logits = jax.vmap(network)(jnp.asarray(x.reshape(-1, 20) / 16, jnp.float32))
    wanted = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(probs, wanted, atol=1e-4 if format == "onnx" else 0.03)
    sure = np.sort(wanted, -1)[:, -1] > 0.6
    expected = np.array(dataset.class_names)[wanted.argmax(-1)]
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(names[sure, 0], expected[sure])
    assert "A file takes raw numbers" in (tmp_path / "out" / "card.md").read_text()
    assert mf.deploy.check_shipped(tmp_path / "out")


def test_missing_and_unknown_cells_are_treated_as_by_the_run(shipped):
    _, folder, _ = shipped("categorical")
    session = onnxruntime.InferenceSession(folder / "subnetwork-0.onnx")
    example = json.loads((folder / "example.json").read_text())
    row = {name: np.asarray([[cell]], object if isinstance(cell, str) else float)
           for name, cell in example["raw_input"].items()}  # fmt: skip
    row["heating"] = np.asarray([["gas"]], object)

    def probs(**changed):
        feed = {n: np.asarray([[v]], row[n].dtype) for n, v in changed.items()}
        return session.run(["kind_prob"], row | feed)[0]

    assert np.isfinite(probs(area=np.nan)).all()
    assert np.isnan(probs(built=np.nan)).all()
    np.testing.assert_array_equal(probs(heating="?"), probs(heating=""))
    assert not np.array_equal(probs(heating="gas"), probs(heating=""))
    np.testing.assert_array_equal(probs(garden="TRUE"), probs(garden="true"))
    for name in ("town", "garden"):
        with pytest.raises(Exception, match="Unknown Category"):
            probs(**{name: "nowhere"})


def test_names_that_cannot_be_told_apart_are_refused():
    model = linear(np.ones((1, 1), np.float32))
    number = {"name": "y", "features": [0, 1], "subtract": 0.0, "divide_by": 1.0}
    contract = {"kind": "table", "columns": [number]}
    targets = {"likelihood": "poisson", "names": ["y"]}
    with pytest.raises(ValueError, match="columns and of answers must differ"):
        take_raw(model, {"input": contract, "targets": targets})
    targets = {"likelihood": "gaussian", "names": ["z"]}
    with pytest.raises(ValueError, match="Ship again, or with inputs='features'"):
        take_raw(model, {"input": contract, "targets": targets})


def test_what_a_file_takes_is_chosen_by_the_data(tmp_path):
    table, image = {"kind": "table"}, {"kind": "image"}
    cases = [
        (None, "onnx", table, True),
        (None, "onnx-int8", table, True),
        (None, "npz", table, False),
        (None, "onnx", image, True),
        (None, "onnx-int8", image, True),
        (None, "safetensors", image, False),
        (None, "onnx", {}, False),  # A card of an earlier version.
        ("raw", "onnx", image, True),
        ("features", "onnx", image, False),
    ]
    for *given, wanted in cases:
        assert takes_raw(*given) == wanted, given
    with pytest.raises(ValueError, match="`inputs` must be raw or features; got 'x'"):
        takes_raw("x", "onnx", table)
    network = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="`raw` is for the formats onnx and onnx-int8"):
        mf.deploy.export(
            network, tmp_path / "a", probe=np.ones((2, 2)), format="npz", raw=True
        )
