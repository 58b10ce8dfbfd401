import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from deploy_networks import (
    STRUCTURES,
    Attention,
    Recurrent,
    batch,
    dense,
    gru,
    mask,
    sizes,
)

from meanfield.deploy.formats import archive, numpy_runtime
from meanfield.deploy.formats.archive import load_archive, load_subnetwork, save_archive
from meanfield.deploy.formats.formats import export, load_predictor, onnx_predictor
from meanfield.deploy.formats.numpy_writer import save_numpy
from meanfield.deploy.formats.onnx_ensemble import ensemble_to_onnx
from meanfield.deploy.formats.onnx_writer import (
    OPSET,
    save_onnx,
    to_onnx,
)
from meanfield.deploy.formats.quantize import int8_part
from meanfield.deploy.formats.stablehlo import load_stablehlo
from meanfield.deploy.formats.together import combine, export_together
from meanfield.deploy.formats.whole_inputs import portable_graph
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.deploy.shipping.costs import count_macs, count_weights
from meanfield.deploy.shrinking.shrink import shrink

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
KEY = jax.random.key(0)


def run(model, x):
    return np.asarray(jax.jit(jax.vmap(model))(x))


def sequential(*layers):
    return eqx.nn.Sequential(
        [one if isinstance(one, eqx.Module) else eqx.nn.Lambda(one) for one in layers]
    )


def runtimes(model, x, folder):
    """A network, traced once, in ONNX Runtime and in the NumPy runtime."""
    graph = portable_graph(as_network(model), {}, x)
    save_onnx(folder / "network.onnx", to_onnx(graph))
    save_numpy(folder / "network.npz", graph)
    formats = {"onnx": "network.onnx", "numpy": "network.npz"}
    return [load_predictor(folder / file, name) for name, file in formats.items()]


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_gives_the_same_outputs_for_every_length_of_batch(
    name, tmp_path
):
    make, shape = STRUCTURES[name]
    model, x = mask(make(KEY), 0.5, 0), batch(shape, 64)
    expected = run(model, x)
    for predict in runtimes(model, x[:7], tmp_path):
        for size in (1, 7, 64):
            outputs = predict(x[:size])
            np.testing.assert_allclose(outputs, expected[:size], atol=1e-5)
            assert outputs.dtype == np.float32


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([jax.nn.relu, jax.nn.leaky_relu, jax.nn.elu, jax.nn.selu], (5,)),
        ([jnp.tanh, jax.nn.sigmoid, jax.nn.softplus, jax.nn.silu], (5,)),
        ([jax.nn.relu6, jax.nn.hard_swish, jax.nn.mish, jax.nn.log_sigmoid], (5,)),
        ([jax.nn.gelu, lambda x: jax.nn.gelu(x, approximate=False)], (5,)),
        ([jax.nn.softmax, jax.nn.log_softmax, jnp.sin, jnp.abs], (5,)),
        ([eqx.nn.LayerNorm(6), eqx.nn.RMSNorm(6)], (6,)),
        ([eqx.nn.GroupNorm(2, 4), eqx.nn.AvgPool1d(3, 2, padding=1)], (4, 9)),
        ([eqx.nn.MaxPool2d(3, 2, padding=1), eqx.nn.AvgPool2d(2)], (2, 9, 8)),
        ([eqx.nn.AdaptiveAvgPool1d(2), lambda x: -x.max(0), jnp.cos], (3, 7)),
        ([eqx.nn.Conv1d(4, 6, 3, 2, dilation=2, groups=2, key=KEY)], (4, 15)),
        ([eqx.nn.Conv2d(2, 3, 3, padding="SAME", key=KEY)], (2, 6, 5)),
        ([eqx.nn.ConvTranspose2d(2, 3, 3, 2, 1, 1, 2, key=KEY)], (2, 5, 5)),
        ([lambda x: jnp.pad(x, 1), lambda x: x[::-1, 1:4], lambda x: x.T], (3, 5)),
        ([lambda x: jnp.where(x > 0, x**3, x**-2), jnp.sum], (5,)),
        ([lambda x: jnp.stack([jnp.exp(x), jnp.log1p(x * x)]), jnp.ravel], (5,)),
        (
            [lambda x: jnp.clip(jnp.round(3 * x), -2, 2), jnp.sign, jnp.abs, jnp.sqrt],
            (1,),
        ),
        ([jnp.arctan, jnp.arcsinh, jnp.sinh, jnp.tan, lambda x: x - x.argmin()], (4,)),
        ([lambda x: jnp.tile(x, 3).reshape(3, 2, 2), lambda x: x[0] @ x[1]], (4,)),
        ([lambda x: jnp.argmax(x) * x, lambda x: x / (1 + jnp.max(x))], (5,)),
        ([lambda x: jnp.einsum("ij,kj->ik", x, x), lambda x: x @ x], (3, 4)),
        ([eqx.nn.AdaptiveAvgPool1d(6), eqx.nn.AdaptiveMaxPool1d(6)], (4, 6)),
        ([lambda x: jnp.max(x, ()) + jnp.sum(x, ()), lambda x: jnp.prod(x, ())], (3,)),
        ([lambda x: jnp.any(x > 0, ()) * 1.0, lambda x: jnp.all(x > 0, ()) * x], (3,)),
    ],
)
def test_common_layers_survive_export(layers, shape, tmp_path):
    model, x = sequential(*layers), batch(shape, 5, seed=3)
    expected = run(model, x)
    for predict in runtimes(model, x, tmp_path):
        for size in (5, 2):
            np.testing.assert_allclose(
                predict(x[:size]), expected[:size], rtol=1e-6, atol=1e-5
            )


def test_attention_and_embedding_survive_export(tmp_path):
    words = np.random.default_rng(0).integers(0, 7, (5, 6)).astype(np.int32)
    model = Attention(KEY)
    expected = run(model, words)
    for predict in runtimes(model, words, tmp_path):
        np.testing.assert_allclose(predict(words[:1]), expected[:1], atol=1e-5)


def test_a_recurrent_network_may_run_backward_and_return_all_its_steps(tmp_path):
    cell = eqx.nn.GRUCell(3, 4, key=KEY)

    def apply(params, x):
        def network(rows):
            def step(h, row):
                h = params["cell"](row, h)
                return h, (h * 2, row.sum())

            last, (states, sums) = jax.lax.scan(step, jnp.ones(4), rows, reverse=True)
            return last + (states * sums[:, None]).sum(0) + states[0]

        return jax.vmap(network)(x)

    model, x = (apply, {"cell": cell}), batch((5, 3), 6)
    expected = apply(model[1], x)
    for predict in runtimes(model, x, tmp_path):
        np.testing.assert_allclose(predict(x[:2]), expected[:2], atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "numpy"])
def test_a_loop_that_only_counts_survives_export(format, tmp_path):
    def apply(params, x):
        step = lambda _, h: jnp.tanh(h @ params["w"])
        return jax.lax.fori_loop(0, 3, step, x)

    params = {"w": jnp.asarray(batch((3,), 3))}
    x = batch((3,), 4)
    export((apply, params), tmp_path / "network", probe=x, format=format)
    outputs = load_predictor(tmp_path / "network", format)(x[:1])
    np.testing.assert_allclose(outputs, apply(params, x[:1]), atol=1e-5)


@pytest.mark.parametrize("format", ["safetensors", "numpy", "onnx", "stablehlo"])
def test_every_format_takes_whole_inputs_of_a_network_that_reads_some(format, tmp_path):
    model, x = mask(dense(KEY), 0.2, 3), batch((8,), 9)
    shrunk = shrink(model, x)
    assert shrunk.kept_inputs
    path = tmp_path / "network"
    assert export(shrunk, path, probe=x, format=format).largest_difference <= 1e-5
    predict = load_predictor(path, format, like=dense(KEY))
    np.testing.assert_allclose(predict(x[:2]), run(model, x[:2]), atol=1e-5)


def test_an_onnx_file_is_plain_small_and_the_same_every_time(tmp_path):
    x = batch((8,))
    for name in ("one.onnx", "two.onnx"):
        export(dense(KEY), tmp_path / name, probe=x)
    one = (tmp_path / "one.onnx").read_bytes()
    assert one == (tmp_path / "two.onnx").read_bytes()
    model = onnx.load(tmp_path / "one.onnx")
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, 8) == (17, 8)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == [*["Gemm", "Relu"] * 3, "Gemm", "Identity"]
    names = {tensor.name for tensor in model.graph.initializer}
    assert names == {f"layers/{i}/{n}" for i in range(4) for n in ("weight.T", "bias")}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_dense_step_of_a_recurrent_cell_is_one_node_each():
    graph = portable_graph(as_network(gru(KEY)), {}, batch((4, 5)))
    (loop,) = [node for node in graph.nodes if node.body is not None]
    kinds = [node.op for node in loop.loop.nodes]
    assert kinds.count("linear") == kinds.count("matmul") == 1
    assert "transpose" not in kinds


def test_the_numpy_runtime_needs_numpy_alone(tmp_path):
    x = batch((8,), 3)
    export(dense(KEY), tmp_path / "network.npz", probe=x, format="npz")
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys, numpy as np, numpy_runtime\n"
        "predict = numpy_runtime.load('network.npz')\n"
        "np.save('y.npy', predict(np.load('x.npy')))\n"
        "assert not {'jax', 'meanfield', 'equinox'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    outputs = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(outputs, run(dense(KEY), x), atol=1e-5)
    source = (tmp_path / "numpy_runtime.py").read_text()
    assert "allow_pickle=False" in source
    assert "import meanfield" not in source


def test_stablehlo_is_written_for_three_platforms(tmp_path):
    x = batch((8,))
    path = tmp_path / "network.stablehlo"
    export(dense(KEY), path, probe=x, format="stablehlo")
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape[0]) == "batch"


def test_a_stablehlo_file_that_jax_cannot_read_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "old").write_bytes(b"StableHLO of another age")
    with pytest.raises(ValueError, match="about six months; export again"):
        load_stablehlo(tmp_path / "old")


def test_eight_bits_change_little_and_are_really_there(tmp_path):
    x = batch((8,), 256)
    model = eqx.nn.MLP(8, 3, 32, 2, key=KEY)
    done = export(model, tmp_path / "small.onnx", probe=x, format="onnx-int8")
    assert 0 < done.largest_difference <= 2e-2
    stored = onnx.load(tmp_path / "small.onnx")
    assert int8_part(stored) > 0.9
    plain = onnx_predictor(tmp_path / "small.onnx")
    # One example's answer does not depend on the others in its batch.
    np.testing.assert_allclose(plain(x)[:1], plain(x[:1]), atol=1e-6)


def test_eight_bits_that_would_leave_the_weights_as_they_are_are_refused(tmp_path):
    model = Recurrent(eqx.nn.GRUCell, KEY, hidden=16)
    with pytest.raises(ValueError, match="become 8-bit integers; got 3%"):
        export(model, tmp_path / "n.onnx", probe=batch((4, 5)), format="onnx-int8")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_keeps_arrays_masks_labels_and_notes(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "sparse": random.normal(size=(9, 7)).astype(np.float32)
        * (random.random((9, 7)) < 0.2),
        "full": random.normal(size=(3, 5)).astype(np.float32),
        "bias": np.zeros(11, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float32(2.5),
        "codes": np.arange(6, dtype=np.int32).reshape(2, 3),
    }
    labels = {"sparse": random.integers(0, 3, (9, 7)).astype(np.int8)}
    path = tmp_path / "network.safetensors"
    kept = {0: np.array([1, 4, 5])}
    save_archive(path, arrays, kept_inputs=kept, labels=labels, about={"seed": 3})
    archive = load_archive(path)
    assert archive.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(archive.arrays[name], array)
        assert archive.arrays[name].shape == np.shape(array)
    np.testing.assert_array_equal(archive.labels["sparse"], labels["sparse"])
    np.testing.assert_array_equal(archive.kept_inputs[0], kept[0])
    assert archive.about["seed"] == 3
    stored = safetensors.numpy.load_file(path)
    assert stored["mask:sparse"].nbytes == 8
    assert "array:full" in stored


def test_an_archive_is_read_without_meanfield_as_its_documentation_says(tmp_path):
    model, x = mask(dense(KEY), 0.2, 0), batch((8,))
    path = tmp_path / "subnetwork-0.safetensors"
    export(model, path, probe=x, format="safetensors")
    after = archive.__doc__.split("can be read without meanfield by\n\n")[1]
    text = after.split("\n\n`inputs:A`")[0]
    program = "\n".join(line.removeprefix("    ") for line in text.splitlines())
    assert len(program.splitlines()) <= 11
    program += "\nimport sys; assert not {'jax', 'meanfield'} & set(sys.modules)"
    program += "\nnp.savez('arrays.npz', **arrays)"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    with np.load(tmp_path / "arrays.npz") as arrays:
        for name, array in as_network(model).arrays.items():
            np.testing.assert_array_equal(arrays[name], array)


def test_a_subnetwork_is_loaded_into_a_model_of_its_own_sizes(tmp_path):
    model, x = mask(gru(KEY), 0.08, 2), batch((4, 5))
    shrunk = shrink(model, x, allow_constant=True)
    path = tmp_path / "network.safetensors"
    export(shrunk, path, probe=x, format="safetensors", about={"rule": "draw"})
    loaded, archive = load_subnetwork(path, like=gru(jax.random.key(9)))
    assert sizes(loaded) == sizes(shrunk.model)
    assert loaded.cell.hidden_size == shrunk.model.cell.hidden_size
    assert archive.about["rule"] == "draw"


def test_half_precision_halves_the_values(tmp_path):
    model, x = eqx.nn.MLP(30, 3, 64, 2, key=KEY), batch((30,))
    size = {}
    for dtype in ("float32", "float16"):
        path = tmp_path / dtype
        done = export(model, path, probe=x, format="safetensors", dtype=dtype)
        size[dtype] = done.bytes
        archive = load_archive(path)
        assert {a.dtype for a in archive.arrays.values()} == {np.dtype(np.float32)}
    assert size["float16"] < 0.55 * size["float32"]


def test_a_changed_archive_is_refused(tmp_path):
    path = tmp_path / "network.safetensors"
    export(dense(KEY), path, probe=batch((8,)), format="safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not match its own checksum"):
        load_subnetwork(path, like=dense(KEY))


def test_an_archive_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "network.safetensors"
    monkeypatch.setattr(archive, "VERSION", archive.VERSION + 1)
    save_archive(path, {"weight": np.ones((2, 2), np.float32)})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="archive version 2.*Update meanfield"):
        load_archive(path)


def test_an_archive_of_another_structure_is_refused(tmp_path):
    path = tmp_path / "network.safetensors"
    export(dense(KEY), path, probe=batch((8,)), format="safetensors")
    with pytest.raises(ValueError, match="another structure than `like`"):
        load_subnetwork(path, like=gru(KEY))


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "none"])
def test_members_together_give_mean_spread_and_mutual_information(link, tmp_path):
    x = batch((8,), 20)
    models = [shrink(mask(dense(jax.random.key(i)), 0.4, i), x) for i in range(4)]
    path = tmp_path / "ensemble.onnx"
    done = export_together(models, path, probe=x, link=link)
    assert done.largest_difference <= 1e-5
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input": x[:3]}), strict=True))
    members = [
        np.asarray(jax.vmap(one.model)(one.select_inputs(x[:3])), np.float64)
        for one in models
    ]
    # Example by example, by the definitions.
    for i in range(3):
        outputs = [one[i] for one in members]
        if link == "softmax":
            probs = [np.exp(z) / np.exp(z).sum() for z in outputs]
            entropy = lambda p: -(p * np.log(p)).sum()
        else:
            probs = [1 / (1 + np.exp(-z)) for z in outputs]
            entropy = lambda p: -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
        values = outputs if link == "none" else probs
        np.testing.assert_allclose(found["mean"][i], np.mean(values, 0), atol=1e-6)
        np.testing.assert_allclose(found["std"][i], np.std(values, 0), atol=1e-5)
        if link == "none":
            assert "mutual_information" not in found
        else:
            gain = entropy(np.mean(probs, 0)) - np.mean([entropy(p) for p in probs])
            np.testing.assert_allclose(found["mutual_information"][i], gain, atol=1e-5)


def test_a_stem_that_members_share_is_stored_and_computed_once(tmp_path):
    x, models = batch((8,), 20), [dense(jax.random.key(i)) for i in range(3)]
    stem = [as_network(one).arrays for one in models][0]
    models = [
        eqx.tree_at(lambda m: m.layers[0], one, models[0].layers[0]) for one in models
    ]
    done = export_together(models, tmp_path / "ensemble.onnx", probe=x)
    alone = export(models[0], tmp_path / "alone.onnx", probe=x)
    assert done.largest_difference <= 1e-5
    graphs = [onnx.load(path).graph for path in (done.path, alone.path)]
    shared = stem["layers/0/weight"].shape[::-1]
    for graph in graphs:
        shapes = [tuple(tensor.dims) for tensor in graph.initializer]
        assert shapes.count(shared) + shapes.count(shared[::-1]) == 1
    kinds = [[n.op_type for n in graph.node].count("Gemm") for graph in graphs]
    assert kinds[0] == 3 * kinds[1] - 2


def test_loops_of_members_keep_their_own_weights_and_share_the_rest(tmp_path):
    x, models = batch((4, 5), 6), [gru(jax.random.key(i)) for i in range(2)]
    once = export_together(models[:1], tmp_path / "one.onnx", probe=x)
    twice = export_together([models[0]] * 2, tmp_path / "equal.onnx", probe=x)
    both = export_together(models, tmp_path / "both.onnx", probe=x)
    assert max(once.largest_difference, twice.largest_difference) <= 1e-5
    assert both.largest_difference <= 1e-5
    assert twice.bytes < once.bytes + 0.6 * (both.bytes - once.bytes)


def test_identical_members_disagree_on_nothing():
    outputs = np.tile(batch((3,), 5), (4, 1, 1)).astype(np.float64)
    found = combine(outputs, "softmax")
    np.testing.assert_allclose(found["std"], 0, atol=1e-12)
    np.testing.assert_allclose(found["mutual_information"], 0, atol=1e-12)


def test_members_that_do_not_fit_together_are_refused():
    one = portable_graph(as_network(dense(KEY)), {}, batch((8,)))
    two = portable_graph(as_network(eqx.nn.Linear(8, 4, key=KEY)), {}, batch((8,)))
    with pytest.raises(ValueError, match="`graphs` must have the same"):
        ensemble_to_onnx([one, two])
    with pytest.raises(ValueError, match="`link` must be 'softmax'"):
        ensemble_to_onnx([one], "probit")
    with pytest.raises(ValueError, match="`graphs` must hold at least one"):
        ensemble_to_onnx([])


def sorting(params, x):
    return jnp.sort(x @ params["w"])


@pytest.mark.parametrize("format", ["onnx", "numpy"])
def test_an_operation_that_a_format_does_not_have_is_named(format, tmp_path):
    model = (sorting, {"w": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match="know.*`sort`.*stablehlo"):
        export(model, tmp_path / "network", probe=batch((3,)), format=format)
    assert list(tmp_path.iterdir()) == []


def test_stablehlo_takes_what_the_other_formats_do_not(tmp_path):
    model, x = (sorting, {"w": jnp.ones((3, 2))}), batch((3,))
    export(model, tmp_path / "network", probe=x, format="stablehlo")
    outputs = load_predictor(tmp_path / "network", "stablehlo")(x[:2])
    np.testing.assert_allclose(outputs, sorting(model[1], x[:2]), atol=1e-6)


def test_a_file_that_exists_is_not_overwritten(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        export(dense(KEY), path, probe=batch((8,)))
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        export_together([dense(KEY)], path, probe=batch((8,)))
    assert path.read_text() == "precious"


def test_another_runtime_beside_the_weights_is_not_overwritten(tmp_path):
    (tmp_path / "numpy_runtime.py").write_text("mine")
    with pytest.raises(FileExistsError, match="numpy_runtime.py exists and differs"):
        export(dense(KEY), tmp_path / "n.npz", probe=batch((8,)), format="numpy")
    assert (tmp_path / "numpy_runtime.py").read_text() == "mine"
    (tmp_path / "numpy_runtime.py").unlink()
    for name in ("one.npz", "two.npz"):
        export(dense(KEY), tmp_path / name, probe=batch((8,)), format="numpy")


def test_a_program_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("meanfield.deploy.formats.numpy_writer.OF_ONE_INPUT", 3)
    graph = portable_graph(as_network(dense(KEY)), {}, batch((8,)))
    save_numpy(tmp_path / "n.npz", graph)
    with pytest.raises(ValueError, match="has format 3; this runtime reads up to 2"):
        numpy_runtime.load(tmp_path / "n.npz")


def test_an_unknown_format_dtype_or_fallback_is_refused(tmp_path):
    x, path = batch((8,)), tmp_path / "network"
    with pytest.raises(ValueError, match="`format` must be one of safetensors, .*'pt'"):
        export(dense(KEY), path, probe=x, format="pt")
    with pytest.raises(ValueError, match="`dtype` must be one of float32, float16"):
        export(dense(KEY), path, probe=x, format="safetensors", dtype="int4")
    with pytest.raises(ValueError, match="`fallback` must be None or 'jax2onnx'"):
        export(dense(KEY), path, probe=x, fallback="tf2onnx")
    with pytest.raises(ValueError, match="`like` is needed to read an archive"):
        load_predictor(path, "safetensors")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_says_what_to_install(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'meanfield-jax\[onnx\]'"):
        export(dense(KEY), tmp_path / "network.onnx", probe=batch((8,)))
    assert list(tmp_path.iterdir()) == []


def test_the_fallback_asks_for_its_own_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    model = (sorting, {"w": jnp.ones((3, 2))})
    with pytest.raises(ImportError, match="pip install 'jax2onnx'"):
        export(model, tmp_path / "n", probe=batch((3,)), fallback="jax2onnx")


def test_a_format_that_disagrees_is_not_kept(tmp_path, monkeypatch):
    wrong = lambda path: lambda x: np.zeros((len(x), 3), np.float32)
    monkeypatch.setattr(numpy_runtime, "load", wrong)
    with pytest.raises(ValueError, match="numpy file, loaded back, must give"):
        export(dense(KEY), tmp_path / "n.npz", probe=batch((8,)), format="numpy")
    assert list(tmp_path.iterdir()) == []


def test_infinite_outputs_agree_and_nan_is_refused(tmp_path):
    x = batch((3,))
    barred = (lambda p, x: jnp.where(p["bar"], -jnp.inf, x), {"bar": np.eye(3)[0] > 0})
    done = export(barred, tmp_path / "n.onnx", probe=x)
    assert done.largest_difference == 0
    broken = (lambda p, x: jnp.log(x * p["w"]), {"w": jnp.full(3, -1.0)})
    with pytest.raises(ValueError, match="must give no NaN on `probe`"):
        export(broken, tmp_path / "broken.onnx", probe=abs(x))


def test_costs_count_what_is_stored_and_multiplied():
    model = mask(dense(KEY), 0.5, 0)
    arrays = as_network(model).arrays
    counts = count_weights(arrays)
    weights = [layer.weight for layer in model.layers]
    assert counts["num_weights"] == 8 * 12 + 12 * 12 * 2 + 12 * 3
    assert counts["num_nonzero"] == sum(int((w != 0).sum()) for w in weights)
    assert counts["num_parameters"] == counts["num_weights"] + 12 * 3 + 3
    graph = trace_symbolic(as_network(model), batch((8,)))
    assert count_macs(graph, batch((8,))) == counts["num_weights"]


def test_costs_of_convolutions_and_loops_are_counted_in_full():
    conv = eqx.nn.Conv2d(2, 5, 3, padding=1, key=KEY)
    graph = trace_symbolic(as_network(conv), batch((2, 6, 4)))
    assert count_macs(graph, batch((2, 6, 4))) == 6 * 4 * 5 * 2 * 9
    cell = Recurrent(eqx.nn.LSTMCell, KEY, hidden=3)
    graph = trace_symbolic(as_network(cell), batch((4, 5)))
    assert count_macs(graph, batch((4, 5))) == 4 * (12 * 5 + 12 * 3) + 3 * 2


def test_the_program_of_the_numpy_runtime_is_plain_json(tmp_path):
    export(dense(KEY), tmp_path / "n.npz", probe=batch((8,)), format="numpy")
    with np.load(tmp_path / "n.npz", allow_pickle=False) as file:
        program = json.loads(str(file["program"]))
        kinds = [step["op"] for step in program["steps"]]
        assert kinds == ["linear", "max"] * 3 + ["linear"]
        assert set(program["constants"]) == set(file.files) - {"program"}


def test_an_onnx_model_passes_the_checker_with_full_shape_inference():
    graph = portable_graph(as_network(gru(KEY)), {}, batch((4, 5)))
    onnx.checker.check_model(to_onnx(graph), full_check=True)


W = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


@pytest.mark.parametrize("format", ["numpy", "onnx", "stablehlo"])
def test_shapes_may_use_the_size_of_the_batch(format, tmp_path):
    x = batch((4, 6), 5)
    zeros = lambda p, x: x @ p + jnp.zeros((x.shape[0], 4, 3))
    export((zeros, W), tmp_path / "n", probe=x, format=format)
    found = load_predictor(tmp_path / "n", format)(x[:2])
    np.testing.assert_allclose(found, x[:2] @ W, atol=1e-5)


@pytest.mark.parametrize("format", ["numpy", "onnx", "onnx-int8"])
@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda p, x: {"a": x @ p, "b": x}, "one array for a batch; got a dict.* a, b"),
        (lambda p, x: (x @ p, x), "one array for a batch; got 2 arrays in a tuple"),
        (lambda p, x: None, "one array for a batch; got no array"),
        (lambda p, x: (x @ p).sum(), r"each example; got shape \(\) for 5 examples"),
        (lambda p, x: (x @ p)[::2], r"each example; got shape \(3, 4, 3\) for 5"),
        (
            lambda p, x: (x @ p) / len(x),
            "computes with the length of the batch",
        ),
        (lambda p, x: x @ p - (x @ p).mean(0), "computes with the length of the batch"),
        (
            lambda p, x: x.astype("bfloat16") @ p.astype("bfloat16"),
            "must compute in types that ONNX Runtime and NumPy support; got bfloat16",
        ),
    ],
)
def test_outputs_and_types_that_no_file_can_hold_are_named(
    apply, message, format, tmp_path
):
    with pytest.raises(ValueError, match=message):
        export((apply, W), tmp_path / "n", probe=batch((4, 6), 5), format=format)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_network_itself_is_not_called_one_of_the_batch(tmp_path):
    def apply(params, x):
        raise RuntimeError("this layer is out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        export((apply, W), tmp_path / "n", probe=batch((4, 6)), format="stablehlo")


def test_brain_floats_are_kept_whole_in_an_archive_that_numpy_reads(tmp_path):
    weights = jnp.asarray(W, jnp.bfloat16)
    save_archive(tmp_path / "a.safetensors", {"w": weights})
    stored = load_archive(tmp_path / "a.safetensors").arrays["w"]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, np.asarray(weights, np.float32))
    like = (lambda p, x: x @ p["w"], {"w": weights})
    (_, params), _ = load_subnetwork(tmp_path / "a.safetensors", like)
    assert params["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["w"], weights)
