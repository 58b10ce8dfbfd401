import errno
import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import meanfield as mf
from meanfield.tensors import load_arrays, load_tree, save_tree

DTYPES = (
    "float32 float16 bfloat16 int8 int16 int32 uint8 uint16 uint32 bool complex64"
).split()


def bits(array):
    return np.asarray(array).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4), (1, 1)])
def test_every_type_and_shape_comes_back_to_the_bit(tmp_path, dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) - 1
    tree = {"a": jnp.asarray(values).astype(dtype)}
    save_tree(tmp_path / "t.safetensors", tree)
    back, _ = load_tree(tmp_path / "t.safetensors", tree)
    assert back["a"].dtype == tree["a"].dtype
    assert back["a"].shape == shape
    assert bits(back["a"]) == bits(tree["a"])


def test_numbers_that_are_no_ordinary_numbers_come_back_to_the_bit(tmp_path):
    tree = [jnp.array([jnp.nan, jnp.inf, -jnp.inf, -0.0, 1e-45, 3.4e38])]
    save_tree(tmp_path / "t.safetensors", tree)
    back, _ = load_tree(tmp_path / "t.safetensors", tree)
    assert bits(back[0]) == bits(tree[0])


def test_an_array_that_is_not_contiguous_comes_back_in_its_order(tmp_path):
    tree = [np.arange(12.0, dtype=np.float32).reshape(3, 4).T[::2]]
    save_tree(tmp_path / "t.safetensors", tree)
    back, _ = load_tree(tmp_path / "t.safetensors", tree)
    np.testing.assert_array_equal(back[0], tree[0])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_go_on_to_the_same_draws(tmp_path, impl):
    tree = {"one": jax.random.key(5, impl=impl)}
    tree["many"] = jax.random.split(tree["one"], 3)
    like = jax.tree.map(jnp.zeros_like, tree)
    save_tree(tmp_path / "t.safetensors", tree)
    back, _ = load_tree(tmp_path / "t.safetensors", like)
    assert jax.random.key_impl(back["one"]) == jax.random.key_impl(tree["one"])
    assert jax.random.bits(back["many"][2]) == jax.random.bits(tree["many"][2])


def test_what_is_no_array_stays_as_it_is_in_the_tree_to_fill(tmp_path):
    layer = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    ensemble = mf.Ensemble.from_model(layer, key=jax.random.key(1))
    other = mf.Ensemble.from_model(layer, key=jax.random.key(2))
    save_tree(tmp_path / "t.safetensors", ensemble)
    back, _ = load_tree(tmp_path / "t.safetensors", other)
    assert eqx.tree_equal(back, ensemble)
    assert back.params.activation is layer.activation


def test_metadata_come_back(tmp_path):
    about = {"epoch": 3, "history": {"loss": [0.1, 1e300]}, "text": "π", "no": None}
    save_tree(tmp_path / "t.safetensors", [jnp.ones(2)], about)
    _, metadata = load_arrays(tmp_path / "t.safetensors")
    assert metadata == about


def test_the_file_is_ordinary_safetensors_with_path_names(tmp_path):
    save_tree(tmp_path / "t.safetensors", {"layer": [jnp.ones(2), jnp.zeros(())]})
    plain = safetensors.numpy.load_file(tmp_path / "t.safetensors")
    assert {name: array.shape for name, array in plain.items()} == {
        "layer/0": (2,),
        "layer/1": (),
    }


def test_names_that_cannot_be_told_apart_are_refused(tmp_path):
    tree = {"a": {"b": jnp.ones(1)}, "a/b": jnp.zeros(1)}
    with pytest.raises(ValueError, match="2 arrays but 1 names"):
        save_tree(tmp_path / "t.safetensors", tree)
    assert not (tmp_path / "t.safetensors").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no file .*gone\.safetensors"
    ):
        load_arrays(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, part):
    path = tmp_path / "t.safetensors"
    save_tree(path, [jnp.arange(1000.0)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="not a whole safetensors file.*truncated"):
        load_arrays(path)


def test_a_change_of_any_byte_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tree(path, {"weight": jnp.arange(8.0), "step": jnp.int32(7)}, {"epoch": 3})
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match="was (truncated|changed)|not written|has"):
            load_arrays(path)


def test_a_change_of_the_metadata_alone_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tree(path, [jnp.ones(2)], {"epoch": 3})
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        text = file.metadata()["metadata"]
    assert '"epoch": 3' in text
    changed = {"metadata": text.replace('"epoch": 3', '"epoch": 4')}
    safetensors.numpy.save_file(arrays, path, changed)
    with pytest.raises(ValueError, match="does not match its own checksum"):
        load_arrays(path)


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, path)
    with pytest.raises(ValueError, match="not written by meanfield"):
        load_arrays(path)


def test_a_file_of_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    seal = json.dumps({"seal": {"format": 99, "sha256": "0"}})
    safetensors.numpy.save_file({"a": np.ones(2)}, path, {"metadata": seal})
    with pytest.raises(ValueError, match="format version 99.*Update meanfield"):
        load_arrays(path)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": jnp.zeros((2, 3))}, "has the unknown array `b`"),
        (
            {"a": jnp.zeros((2, 3)), "b": jnp.zeros(1), "c": jnp.zeros(1)},
            "lacks the array `c`",
        ),
        (
            {"a": jnp.zeros((3, 2)), "b": jnp.zeros(1)},
            r"must hold `a` as float32\[3, 2\]; got float32\[2, 3\]",
        ),
        (
            {"a": jnp.zeros((2, 3)), "b": jnp.zeros(1, jnp.int32)},
            r"must hold `b` as int32\[1\]; got float32\[1\]",
        ),
    ],
)
def test_another_structure_is_refused_and_its_first_difference_named(
    tmp_path, like, message
):
    path = tmp_path / "t.safetensors"
    save_tree(path, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(1)})
    with pytest.raises(ValueError, match=message):
        load_tree(path, like)


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    save_tree(path, [jnp.ones(3)])

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk is full"):
        save_tree(path, [jnp.zeros(3)])
    arrays, _ = load_arrays(path)
    np.testing.assert_array_equal(arrays["0"], np.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["t.safetensors"]


def test_metadata_that_are_no_json_leave_no_file(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_tree(tmp_path / "t.safetensors", [jnp.ones(1)], {"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_the_same_tree_gives_the_same_bytes(tmp_path):
    tree = {"b": jnp.ones(2), "a": jnp.zeros((2, 2))}
    for name in ("one", "two"):
        save_tree(tmp_path / name, tree, json.loads('{"x": 1, "a": 2}'))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
