"""Tensors of networks by name, and their fan-in."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.fan_ins import fan_in
from meanfield.physics.microstructure.lognormal_fit import (
    analyze_microstructure,
)
from meanfield.physics.named_weights import parent_name, read_tensors


def test_trees_mappings_and_bare_arrays_are_read_by_name():
    w = np.random.default_rng(0).normal(size=(20, 30))
    tree = {"b": [w, {"bias": w[0]}], "activation": jnp.tanh, "key": jax.random.key(0)}
    assert list(analyze_microstructure(tree)) == ["b/0", "b/1/bias"]
    proxy = types.MappingProxyType({"layers/0/weight": w, "tok_embed": w})
    kinds = {name: fit.kind for name, fit in analyze_microstructure(proxy).items()}
    assert kinds == {"layers/0/weight": "connections", "tok_embed": "embedding"}
    assert list(analyze_microstructure(w)) == ["weights"]


def test_a_spike_slab_is_read_in_four_ways():
    rng = np.random.default_rng(0)
    shape = (80, 100)
    mean = rng.lognormal(-2.0, 0.65, shape) * rng.choice([-1, 1], shape)
    spike = np.where(rng.random(shape) < 0.3, 0.0, rng.uniform(0.1, 0.9, shape))
    var = np.where(spike == 0, 0.0, 0.05)
    weight = mf.SpikeSlab(spike, mean, var)
    network = {"layers/0/weight": weight}
    found = analyze_microstructure(network, key=jax.random.key(1))
    assert list(found) == [
        f"layers/0/weight:{reading}"
        for reading in ("slab_mean", "posterior_mean", "drawn", "important")
    ]
    slab, posterior, drawn, important = found.values()
    assert slab.verdict == "lognormal"
    assert important.num_weights == int(np.sum(spike == 0))
    assert posterior.mu < slab.mu
    assert drawn.num_zeros > 0.2 * mean.size
    again = analyze_microstructure(network, key=jax.random.key(1))
    assert again["layers/0/weight:drawn"].mu == drawn.mu
    assert "layers/0/weight:drawn" not in analyze_microstructure(network)
    mask = np.asarray(weight.slab_mean) > 0
    masked = analyze_microstructure(network, important={"layers/0/weight": mask})
    assert masked["layers/0/weight:important"].num_weights == int(mask.sum())


def test_networks_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="at least one array of numbers; got none"):
        analyze_microstructure({"name": "mlp", "act": jnp.tanh})
    with pytest.raises(ValueError, match="`weights` must be real; got complex"):
        analyze_microstructure({"w": np.ones((9, 9), complex)})
    weight = mf.SpikeSlab(jnp.zeros((9, 9)), jnp.ones((9, 9)), jnp.zeros((9, 9)))
    with pytest.raises(ValueError, match="`important` must name `SpikeSlab`s"):
        analyze_microstructure({"w": weight}, important={"v": np.ones((9, 9), bool)})
    with pytest.raises(ValueError, match="boolean masks of the weight's shape"):
        analyze_microstructure({"w": weight}, important={"w": np.ones((9, 9))})


def test_layouts_tell_the_fan_in():
    assert fan_in("layers/0/weight", (16, 3, 5, 5)) == 75
    assert fan_in("Conv_0/kernel", (5, 5, 3, 16)) == 75
    assert fan_in("cell.weights", (256, 512), layout="in_out") == 256
    assert parent_name("layers/0/weight") == "layers/0"
    assert parent_name("conv1.weight") == "conv1"
    assert parent_name("weight") == ""
    with pytest.raises(ValueError, match="`layout` must be one of"):
        fan_in("w", (3, 4), layout="rows")
    with pytest.raises(ValueError, match="two or more dimensions"):
        fan_in("b", (3,))


def test_real_networks_are_read_from_their_files(data_dir):
    path = data_dir / "pretrained_weights" / "charrnn_lstm128x2_shakespeare.npz"
    with np.load(path) as tensors:
        found = analyze_microstructure(tensors)
    kinds = {fit.kind for fit in found.values()}
    assert kinds == {"embedding", "connections", "vector"}
    verdicts = {"lognormal", "not lognormal", "cannot tell"}
    assert {fit.verdict for fit in found.values()} <= verdicts


def test_readings_of_a_network_keep_their_order():
    tensors = read_tensors({"b": np.ones((2, 2)), "a": np.ones(3)})
    assert [(t.name, t.kind, t.reading) for t in tensors] == [
        ("b", "connections", "weights"),
        ("a", "vector", "weights"),
    ]
    layers = {f"layers/{i}": {"weight": np.ones((2, 2))} for i in range(12)}
    names = [tensor.name for tensor in read_tensors(layers)]
    assert names == [f"layers/{i}/weight" for i in range(12)]
