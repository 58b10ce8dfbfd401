"""What files can hold, and what a refusal advises instead."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deploy_networks import batch, dense

from meanfield.deploy.formats.formats import export, load_predictor
from meanfield.deploy.formats.together import export_together
from meanfield.deploy.shrinking.shrink import shrink

pytest.importorskip("onnxruntime")
KEY = jax.random.key(0)
W = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


READS = {
    "slice": lambda p, x: x[:, 1:4] @ p[:3],
    "step": lambda p, x: x[:, ::2] @ p[:3],
    "backward": lambda p, x: x[:, ::-1] @ p,
    "indices": lambda p, x: x[:, np.array([4, 1, 1])] @ p[:3],
    "one and slice": lambda p, x: x.reshape(-1, 2, 3)[:, 1, :2] @ p[:2],
    "last axis": lambda p, x: (
        x.reshape(-1, 2, 3)[:, :, np.array([2, 0])].sum(1) @ p[:2]
    ),
}


@pytest.mark.parametrize("read", READS)
def test_reads_at_fixed_places_go_into_files(read, tmp_path):
    x, model = batch((6,), 5), (READS[read], W)
    for format in ("numpy", "onnx"):
        export(model, tmp_path / format, probe=x, format=format)
        found = load_predictor(tmp_path / format, format)(x[:2])
        np.testing.assert_allclose(found, READS[read](W, x[:2]), atol=1e-5)


def test_units_that_are_read_at_fixed_places_are_removed():
    def apply(params, x):
        h = jax.nn.relu(x @ params["in"])
        return h[:, 1:4] @ params["a"] + h[:, np.array([5, 0])] @ params["b"]

    first = batch((4, 6), 1)[0]
    first[:, [2, 4]] = 0
    params = {"in": first, "a": batch((3, 2), 1)[0], "b": batch((2, 2), 1)[0]}
    found = shrink((apply, params), batch((4,)))
    assert found.largest_difference <= 1e-5


@pytest.mark.parametrize("kind", [np.float64, list])
def test_inputs_get_the_types_in_which_the_network_computes(kind, tmp_path):
    x = batch((8,))
    given = x.tolist() if kind is list else x.astype(kind)
    export(dense(KEY), tmp_path / "n", probe=given, format="onnx")
    ids = {"ids": np.arange(5) % 6, "x": np.ones((5, 6))}
    model = (lambda p, x: p[x["ids"]] + x["x"] @ p, W)
    export(model, tmp_path / "m", probe=ids, format="onnx")


def called_back(params, x):
    y = x @ params
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(y.shape, y.dtype), y)


LACKING = {
    "sort": lambda p, x: jnp.sort(x @ p),
    "complex": lambda p, x: jnp.abs(jnp.fft.fft(x @ p)),
    "brain": lambda p, x: x.astype("bfloat16") @ p.astype("bfloat16"),
    "half": lambda p, x: x.astype("float16") @ p.astype("float16"),
    "callback": called_back,
    "cpu": lambda p, x: jax.vmap(lambda y: jnp.abs(jnp.linalg.eigvals(y * W[:3])))(
        x @ p
    ),
    "examples": lambda p, x: jax.lax.map(lambda one: one @ p, x),
}


@pytest.mark.parametrize("name", LACKING)
def test_formats_that_a_refusal_names_can_hold_the_network(name, tmp_path):
    model, settings = (LACKING[name], W), {"probe": batch((6,), 60), "link": "none"}
    advised = set()
    for format in ("numpy", "onnx", "onnx-int8", "stablehlo"):
        try:
            export(model, tmp_path / format, format=format, **settings)
        except ValueError as error:
            way_out = str(error).split("xport ")[-1]
            named = re.findall(r"'([a-z0-9-]+)'", way_out)
            advised |= set(named) - {"jax2onnx"}
            advised |= {"numpy"} if "another format" in way_out else set()
    assert advised
    for format in advised:
        export(model, tmp_path / f"advised-{format}", format=format, **settings)


def test_a_refusal_does_not_advise_what_was_tried_or_what_cannot_be_combined(tmp_path):
    pair = {"a": batch((6,)), "b": batch((6,))}
    model = (lambda p, x: jnp.sort(x["a"] @ p) + x["b"] @ p, W)
    with pytest.raises(ValueError, match="`sort`") as error:
        export(model, tmp_path / "n", probe=pair, fallback="jax2onnx")
    assert "jax2onnx" not in str(error.value)
    with pytest.raises(ValueError, match="`sort`.*no raw inputs"):
        export((LACKING["sort"], W), tmp_path / "n", probe=batch((6,)), raw=True)
    with pytest.raises(ValueError, match="`sort`. Ship without `together`"):
        export_together([(LACKING["sort"], W)], tmp_path / "n", probe=batch((6,)))
