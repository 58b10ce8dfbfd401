"""A user's own network from the command line: made, kept, checked, refused."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest
from flax import linen, nnx

import meanfield as mf
from meanfield.ensemble.networks import cnn
from meanfield.runs.architecture import build_model
from meanfield.runs.settings import TrainSettings
from meanfield.runs.user_model import load_function, make_model, parse


def an_equinox_module(inputs, outputs, key):
    return eqx.nn.MLP(inputs, outputs, 4, 1, key=key)


def an_nnx_module(inputs, outputs, key):
    return nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))


def a_linen_module(inputs, outputs, key):
    return linen.Dense(outputs)


def a_pair(inputs, outputs, key):
    return lambda params, x: x @ params, jax.random.normal(key, (inputs, outputs))


@pytest.mark.parametrize(
    "make", [an_equinox_module, an_nnx_module, a_linen_module, a_pair]
)
def test_networks_of_every_framework_become_ensembles(make):
    model = make_model(make, 5, 3, jax.random.key(0), "make")
    ensemble = mf.Ensemble.from_model(model, key=jax.random.key(1))
    assert ensemble(np.ones((2, 5), np.float32), key=jax.random.key(2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i, o, key: an_equinox_module(i + 1, o, key), "examples of shape"),
        (lambda i, o, key: an_equinox_module(i, o + 1, key), "must give 3 outputs"),
        (lambda i, o, key: "a text", "cannot take .* must be an Equinox module"),
        (lambda i, o: None, "failed for inputs 5 and 3 outputs: TypeError"),
    ],
)
def test_a_function_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=f"make.* {message}|{message}"):
        make_model(make, 5, 3, jax.random.key(0), "make")


def test_the_folder_of_a_run_on_ones_own_network_is_needed():
    with pytest.raises(ValueError, match="`folder` must be the run folder, .*got none"):
        build_model({"kind": "file", "outputs": 1}, 0)


def test_a_file_that_cannot_be_used_is_refused(tmp_path):
    path = tmp_path / "net.py"
    with pytest.raises(ValueError, match="must be mlp, cnn, or a Python file"):
        parse("resnet")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        parse(f"{path}:make")
    path.write_text("import nosuchmodule\n")
    with pytest.raises(ValueError, match="cannot be executed: ModuleNotFoundError"):
        load_function(*parse(f"{path}:make"))
    path.write_text("def other(): pass\n")
    with pytest.raises(ValueError, match=r"no function 'make'; it has \['other'\]"):
        load_function(path, "make")


@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (6, 9, 3), (1, 1)])
def test_the_small_convolutional_network_takes_images_of_any_size(shape):
    network = cnn(shape, (6,), 4, key=jax.random.key(0))
    assert network(jax.numpy.ones(shape)).shape == (4,)
    with pytest.raises(ValueError, match="must be .rows, columns"):
        cnn((4,), (6,), 4, key=jax.random.key(0))


NET = """
import jax
import jax.numpy as jnp

def make(inputs, outputs, key):
    rows, columns = inputs
    weight = jax.random.normal(key, (columns, outputs)) / columns
    return lambda params, x: x.max(1) @ params["w"] + params["b"], {
        "w": weight, "b": jnp.zeros(outputs)
    }
"""


def test_a_run_on_ones_own_network_is_kept_with_its_file(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    x = rng.integers(0, 60, (240, 4, 3))
    x[np.arange(240), rng.integers(0, 4, 240), y] = 255
    np.savez(tmp_path / "images.npz", x=x.astype(np.uint8), y=y)
    path = tmp_path / "net.py"
    path.write_text(NET)
    out = tmp_path / "run"
    settings = TrainSettings(
        str(tmp_path / "images.npz"),
        out,
        model=f"{path}:make",
        epochs=30,
        rule="published",
        learning_rate=0.02,
        quiet=True,
    )
    run = mf.runs.train.train(settings)
    assert run.metrics["accuracy"] > 0.9
    model = json.loads((out / "config.json").read_text())["model"]
    assert (model["kind"], model["function"], model["shape"]) == (
        "file",
        "make",
        [4, 3],
    )
    path.write_text("raise SystemExit")  # From here on the copy counts.
    opened = mf.load_run(out)
    found = opened.predict(x[:20])
    assert (found["class"].astype(int) == y[:20]).mean() > 0.9
    # What is exported never names the file that is executed.
    card = mf.runs.sample.sample(opened, opened.load_data())
    shipped = out / "subnetworks"
    archive = shipped / card["subnetworks"][0]["file"]
    with pytest.raises(ValueError, match="`model` must name the Python file"):
        mf.runs.sample.serve_check(shipped)
    with pytest.raises(ValueError, match="`model` must name the Python file"):
        mf.runs.sample.export(archive, out=tmp_path / "net.onnx")
    other = tmp_path / "other.py"
    other.write_text(NET + "\n# another\n")
    with pytest.raises(ValueError, match="not the file with which the run was trained"):
        mf.runs.sample.serve_check(shipped, model=f"{other}:make")
    (checked,) = mf.runs.sample.serve_check(shipped, model=f"{out / 'model.py'}:make")
    assert checked.file == archive.name
    # A run that was stopped goes on with the copy.
    assert mf.runs.train.train(TrainSettings(resume=out)).metrics == run.metrics
    (out / "model.py").write_text(NET + "\n")
    with pytest.raises(ValueError, match="not the file with which the run was trained"):
        mf.load_run(out)
    (out / "model.py").unlink()
    with pytest.raises(FileNotFoundError, match="is missing: it makes the network"):
        mf.load_run(out)


def test_nothing_is_written_for_a_network_that_does_not_fit(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    settings = TrainSettings(
        out=tmp_path / "run", model=f"{tmp_path / 'net.py'}:make", quiet=True
    )
    x = np.eye(20)
    np.savez(tmp_path / "flat.npz", x=x, y=np.arange(20) % 2)
    flat = TrainSettings(
        str(tmp_path / "flat.npz"), tmp_path / "run", model=settings.model
    )
    with pytest.raises(ValueError, match="failed for inputs 20 and 2 outputs"):
        mf.runs.train.train(flat)
    with pytest.raises(ValueError, match="`model` cnn is for images"):
        mf.runs.train.train(
            TrainSettings(str(tmp_path / "flat.npz"), tmp_path / "run", model="cnn")
        )
    assert not (tmp_path / "run").exists()
