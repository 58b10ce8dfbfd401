"""From an ensemble to a folder of verified files: sampling, choosing, shipping."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.shipping import served, ship as ship_module
from meanfield.deploy.shipping.manifest import write_manifest
from meanfield.deploy.shipping.scores import choices, score, score_average
from meanfield.deploy.shipping.selection import choose_best, measure_diversity
from meanfield.deploy.shipping.served import check_shipped, convert
from meanfield.deploy.shipping.subnetworks import hash_masks, sample_subnetworks
from meanfield.trees import named_leaves

pytest.importorskip("onnxruntime")
KEY = jax.random.key(0)
PAGE = Path(__file__).parent.parent / "docs/how-to/ship.md"


def network(key=KEY):
    return eqx.nn.MLP(6, 3, 10, 2, key=key)


def laws(name, array, fan_in, key):
    """Spikes of every kind: certain, impossible and in between."""
    spike = jax.random.choice(key, jnp.array([0.0, 0.3, 0.6, 1.0]), array.shape)
    return mf.SpikeSlab(spike, array, jnp.full_like(array, 0.01))


@pytest.fixture(scope="module")
def ensemble():
    return mf.Ensemble.from_model(network(), key=KEY, initial=laws)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0)


@pytest.fixture(scope="module")
def labels(ensemble):
    return mf.label_connections(ensemble, tolerance=0.0)


def weights_of(model):
    arrays = as_network(model).arrays
    return {n: np.asarray(a) for n, a in arrays.items() if a.ndim == 2}


def test_the_rule_draw_follows_the_spikes(ensemble):
    drawn = sample_subnetworks(ensemble, 200, key=KEY)
    for name, weight in ensemble.weights().items():
        rate = np.mean([one.masks[name] for one in drawn], 0)
        present = 1 - np.asarray(weight.spike_prob)
        error = np.sqrt(present * (1 - present) / 200)
        assert (np.abs(rate - present) <= 5 * error).all()
        for one in drawn[:3]:
            stored = weights_of(one.model)[name]
            np.testing.assert_array_equal(stored != 0, one.masks[name])


def test_the_rule_labels_keeps_the_important_and_drops_the_absent(ensemble, labels):
    drawn = sample_subnetworks(ensemble, 20, key=KEY, rule="labels", labels=labels)
    varied = False
    for name, codes in labels.labels.items():
        masks = np.stack([one.masks[name] for one in drawn])
        assert masks[:, codes == mf.Label.IMPORTANT].all()
        assert not masks[:, codes == mf.Label.ABSENT].any()
        variable = masks[:, codes == mf.Label.VARIABLE]
        varied |= bool((variable.any(0) & ~variable.all(0)).any())
    assert varied


def test_labels_of_a_mapping_overrule_the_spikes(ensemble):
    codes = {
        name: np.full(weight.shape, mf.Label.IMPORTANT, np.int8)
        for name, weight in ensemble.weights().items()
    }
    (drawn,) = sample_subnetworks(ensemble, 1, key=KEY, rule="labels", labels=codes)
    assert drawn.num_nonzero == drawn.num_weights == ensemble.num_weights


def test_the_median_network_has_the_likely_connections_at_their_slab_mean(ensemble):
    (median,) = sample_subnetworks(ensemble, 1, rule="median")
    for name, weight in ensemble.weights().items():
        expected = np.where(weight.spike_prob < 0.5, weight.slab_mean, 0)
        np.testing.assert_array_equal(weights_of(median.model)[name], expected)
    assert median.key_data is None
    assert median.rule == "median"


def test_the_rule_mean_keeps_the_likely_connections_at_their_mean(ensemble):
    (drawn,) = sample_subnetworks(ensemble, 1, rule="mean")
    assert drawn.rule == "mean"
    arrays = named_leaves(drawn.model)
    for name, weight in ensemble.weights().items():
        pi, m = np.asarray(weight.spike_prob), np.asarray(weight.slab_mean)
        wanted = np.where(pi < 0.5, (1 - pi) * m, 0)
        np.testing.assert_allclose(arrays[name], wanted, rtol=1e-6)


def test_a_coalition_alone_runs_its_outsiders_at_their_mean(ensemble, data):
    inside = np.arange(10) < 6
    (drawn,) = sample_subnetworks(
        ensemble, 1, key=KEY, rule="coalition", coalition={"layers/0": inside}
    )
    x = data[0]
    shrunk = mf.deploy.shrink(drawn.model, x, coalition=drawn.coalition, data=x)
    assert shrunk.model.layers[0].out_features <= 6
    layers = drawn.model.layers
    hidden = jax.nn.relu(x @ layers[0].weight.T + layers[0].bias)
    hidden = np.where(inside, hidden, hidden.mean(0))
    expected = layers[2].weight @ jax.nn.relu(
        layers[1].weight @ hidden.T + layers[1].bias[:, None]
    )
    got = jax.vmap(shrunk.model)(shrunk.select_inputs(x))
    np.testing.assert_allclose(got, expected.T + layers[2].bias, atol=1e-5)


def test_a_network_can_be_drawn_again_from_its_record(ensemble):
    first = sample_subnetworks(ensemble, 2, key=KEY)
    more = sample_subnetworks(ensemble, 5, key=KEY)
    assert [one.mask_hash for one in first] == [one.mask_hash for one in more[:2]]
    assert len({one.mask_hash for one in more}) == 5
    record = more[3]
    data = jnp.array(record.key_data, jnp.uint32)
    again = ensemble.sample(jax.random.wrap_key_data(data, impl=record.key_impl))
    for one, other in zip(
        jax.tree.leaves(as_network(again).arrays),
        jax.tree.leaves(as_network(record.model).arrays),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_masks_hash_alike_in_another_process(ensemble, tmp_path):
    (drawn,) = sample_subnetworks(ensemble, 1, key=KEY)
    np.savez(tmp_path / "masks.npz", **drawn.masks)
    program = (
        "import hashlib, numpy as np\n"
        "masks = np.load('masks.npz')\n"
        "digest = hashlib.sha256()\n"
        "for name in sorted(masks.files):\n"
        "    mask = masks[name]\n"
        "    digest.update(f'{name} {list(mask.shape)}\\n'.encode())\n"
        "    digest.update(np.packbits(mask, axis=None).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == drawn.mask_hash == hash_masks(drawn.masks)
    flipped = {name: mask.copy() for name, mask in drawn.masks.items()}
    flipped["layers/1/weight"][3, 4] ^= True
    assert hash_masks(flipped) != drawn.mask_hash


@pytest.mark.parametrize(
    ("count", "given", "message"),
    [
        (0, {"key": KEY}, "`num_networks` must be at least 1; got 0"),
        (1, {"key": KEY, "rule": "best"}, "`rule` must be one of draw, labels"),
        (2, {"rule": "median"}, "`num_networks` must be 1 for the rule 'median'"),
        (2, {"rule": "mean"}, "`num_networks` must be 1 for the rule 'mean'"),
        (1, {}, "`key` is needed for the rule 'draw'"),
        (1, {"key": KEY, "rule": "labels"}, "`labels` must give an array of labels"),
        (1, {"key": KEY, "rule": "coalition"}, "`coalition` is needed for the rule"),
    ],
)
def test_bad_wishes_for_a_sample_are_named(ensemble, count, given, message):
    with pytest.raises(ValueError, match=message):
        sample_subnetworks(ensemble, count, **given)


def test_labels_of_another_shape_are_refused(ensemble):
    codes = {name: np.zeros((2, 2), np.int8) for name in ensemble.weights()}
    said = r"`labels` of '.*' must have the shape of the weight, .*; got \(2, 2\)"
    with pytest.raises(ValueError, match=said):
        sample_subnetworks(ensemble, 1, key=KEY, rule="labels", labels=codes)


def test_the_best_is_the_highest_payoff_and_the_first_of_equals():
    assert choose_best([0.2, 0.9, 0.9]) == 1
    for bad in ([], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="`payoffs` must be numbers"):
            choose_best(bad)


def test_diversity_is_counted_by_hand():
    masks = [{"w": np.array([1, 1, 0], bool)}, {"w": np.array([1, 0, 1], bool)}]
    found = measure_diversity([[0, 1, 2, 2], [0, 1, 1, 0]], masks)
    assert (found.agreement, found.disagreement) == (0.5, 0.5)
    assert found.mask_overlap == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="`choices` must be"):
        measure_diversity([[0, 1]], masks)


def test_scores_are_those_of_a_slow_count():
    random = np.random.default_rng(0)
    members = random.normal(size=(3, 40, 4))
    y = random.integers(0, 4, 40)
    probs = np.exp(members) / np.exp(members).sum(-1, keepdims=True)
    mean = probs.mean(0)
    found = score_average(list(members), y, mf.Categorical())
    nll = -np.mean([np.log(mean[i, y[i]]) for i in range(40)])
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["accuracy"] == np.mean(mean.argmax(-1) == y)
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = (mean.max(-1) >= low) & (mean.max(-1) < low + 1 / 15)
        if inside.any():
            hits = (mean.argmax(-1) == y)[inside].mean()
            ece += inside.mean() * abs(hits - mean.max(-1)[inside].mean())
    assert found["ece"] == pytest.approx(ece, abs=1e-6)


def test_choices_of_yes_or_no_answers_are_read_from_the_logit():
    outputs = np.array([[-1.0], [2.0], [0.5]], np.float32)
    assert choices(outputs, mf.Bernoulli()).tolist() == [0, 1, 1]
    assert choices(outputs, mf.Gaussian(scale=1.0)) is None
    found = score(outputs, np.array([0, 1, 0]), mf.Bernoulli())
    assert found["accuracy"] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def shipped(ensemble, data, labels, tmp_path_factory):
    x, y = data
    out = tmp_path_factory.mktemp("ship") / "shipped"
    card = mf.deploy.ship(
        sample_subnetworks(ensemble, 3, key=KEY),
        out,
        data=(x[:30], y[:30]),
        validation=(x[30:], y[30:]),
        format="onnx",
        labels=labels,
        together=True,
        source={"run": "runs/example", "seed": 7},
    )
    return out, card


def test_a_card_says_everything_of_what_was_shipped(shipped, ensemble, data):
    out, card = shipped
    assert json.loads((out / "card.json").read_text()) == card
    assert card["rule"] == "draw"
    assert card["source"]["seed"] == 7
    assert {"python", "meanfield", "jax", "onnxruntime"} <= set(card["versions"])
    assert set(card["labels"]) == {*ensemble.weights(), "all"}
    x, y = data[0][:30], data[1][:30]
    drawn = sample_subnetworks(ensemble, 3, key=KEY)
    for entry, one in zip(card["subnetworks"], drawn, strict=True):
        path = out / entry["file"]
        assert path.stat().st_size == entry["bytes"]
        assert served.file_hash(path) == entry["sha256"]
        assert entry["mask_hash"] == one.mask_hash
        assert tuple(entry["key_data"]) == one.key_data
        assert entry["key_impl"] == one.key_impl
        before, after = entry["before"], entry
        for state in (before, after):
            numbers = "bytes num_weights num_nonzero num_parameters macs accuracy nll"
            assert set(numbers.split()) <= set(state)
            assert set(state["latency"]) == {"batch_1_us", "batch_256_us"}
        assert before["num_weights"] == ensemble.num_weights
        assert before["num_nonzero"] == one.num_nonzero
        assert after["macs"] <= before["macs"]
        assert after["bytes"] <= before["bytes"]
        assert max(entry["largest_difference"].values()) <= 1e-5
        expected = score(np.asarray(jax.vmap(one.model)(x)), y, mf.Categorical())
        assert after["accuracy"] == before["accuracy"] == expected["accuracy"]
        assert after["nll"] == pytest.approx(expected["nll"], abs=1e-5)
    text = (out / "card.md").read_text()
    for word in ("before → after", "Chosen by validation payoff", "runs/example"):
        assert word in text


def test_the_choice_is_made_on_validation_alone(shipped, ensemble, data):
    _, card = shipped
    xv, yv = data[0][30:], data[1][30:]
    drawn = sample_subnetworks(ensemble, 3, key=KEY)
    payoffs = [
        float((np.asarray(jax.vmap(one.model)(xv)).argmax(-1) == yv).mean())
        for one in drawn
    ]
    assert card["selection"]["payoffs"] == pytest.approx(payoffs)
    assert card["selection"]["best"] == int(np.argmax(payoffs))
    assert card["selection"]["num_validation"] == 30


def test_shipped_files_pass_their_check_and_changed_ones_do_not(shipped, tmp_path):
    out, _ = shipped
    names = [done.file for done in check_shipped(out)]
    assert names == [f"subnetwork-{i}.onnx" for i in range(3)] + ["ensemble.onnx"]
    for file, change, error, message in [
        ("subnetwork-1.onnx", None, FileNotFoundError, "is missing; its manifest"),
        ("subnetwork-1.onnx", b"x", ValueError, "not the file that was shipped"),
        ("probe.safetensors", b"x", ValueError, "not the file that was shipped"),
        ("card.json", b"{", ValueError, "is not a card, or was edited"),
        ("card.json", b'{"version": 99}', ValueError, "card version 99.*Update"),
        ("card.json", None, FileNotFoundError, "holds no shipped sub-networks"),
    ]:
        copy = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        copy.mkdir()
        for path in out.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        (copy / file).unlink() if change is None else (copy / file).write_bytes(change)
        with pytest.raises(error, match=message):
            check_shipped(copy)


def test_a_file_that_answers_otherwise_does_not_pass(shipped, tmp_path):
    out, _ = shipped
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = (tmp_path / "subnetwork-1.onnx").read_bytes()
    (tmp_path / "subnetwork-0.onnx").write_bytes(other)
    forged = json.loads((tmp_path / "card.json").read_text())
    forged["subnetworks"][0]["sha256"] = forged["subnetworks"][1]["sha256"]
    (tmp_path / "card.json").write_text(json.dumps(forged))
    with pytest.raises(ValueError, match="card.json is not the file that was shipped"):
        check_shipped(tmp_path)
    write_manifest(tmp_path)
    with pytest.raises(ValueError, match="subnetwork-0.onnx, loaded back, must"):
        check_shipped(tmp_path)


def test_an_archive_becomes_every_other_format(ensemble, data, labels, tmp_path):
    out = tmp_path / "shipped"
    drawn = sample_subnetworks(ensemble, 1, key=KEY, rule="labels", labels=labels)
    mf.deploy.ship(drawn, out, data=data, measure=False, labels=labels, dtype="float16")
    archive = out / "subnetwork-0.safetensors"
    for format, suffix in (("onnx", "onnx"), ("npz", "npz"), ("stablehlo", "hlo")):
        path = tmp_path / f"again.{suffix}"
        done = convert(archive, path, format=format, like=network())
        assert done.largest_difference <= 1e-5
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        convert(archive, path, format="onnx", like=network())
    with pytest.raises(ValueError, match="`archive` must be a .safetensors file"):
        convert(path, tmp_path / "new", format="onnx", like=network())
    with pytest.raises(ValueError, match="`like` is needed to read an archive"):
        check_shipped(out)
    assert "latency" not in (out / "card.md").read_text().split("## Origin")[0].lower()


def ship_badly(ensemble, data, out, **given):
    drawn = sample_subnetworks(ensemble, 1, key=KEY)
    given = {"data": data, "measure": False, **given}
    return mf.deploy.ship(given.pop("drawn", drawn), out, **given)


@pytest.mark.parametrize("format", ["safetensors", "onnx", "npz"])
def test_sixteen_bits_are_stated_and_exact(format, ensemble, data, tmp_path):
    drawn = sample_subnetworks(ensemble, 1, key=KEY)
    settings = {"data": data, "format": format, "dtype": "float16", "measure": False}
    contract = {"kind": "array", "feature_shape": [6], "divide_by": 1.0}
    source = {"input": contract | {"example": {"raw": [0.0] * 6}}}
    card = mf.deploy.ship(drawn, tmp_path / "out", source=source, **settings)
    (entry,) = card["subnetworks"]
    differences = entry["largest_difference"]
    if format == "npz":
        assert "rounding" not in differences
        return
    half = jax.tree.map(
        lambda a: a.astype(np.float16).astype(a.dtype) if eqx.is_array(a) else a,
        drawn[0].model,
    )
    whole, rounded = (as_network(one)(data[0]) for one in (drawn[0].model, half))
    moved = float(np.abs(np.asarray(whole) - np.asarray(rounded)).max())
    assert differences["rounding"] == pytest.approx(moved, rel=0.2)
    assert 0 < moved < 0.02
    assert differences["format"] < 1e-5
    file = (tmp_path / "out" / entry["file"]).read_bytes()
    # The example stays in a file of its own.
    assert b"feature_shape" in file
    assert b"example" not in file
    huge = eqx.tree_at(lambda m: m.layers[0].weight, drawn[0].model, replace_fn=far)
    with pytest.raises(
        ValueError, match="`dtype` float16 holds .* 65,504; .* has 1e.05"
    ):
        mf.deploy.ship(
            [dataclasses.replace(drawn[0], model=huge)], tmp_path / "two", **settings
        )


def far(weight):
    """The weight with numbers that 16 bits do not hold."""
    return weight.at[0].set(1e5)


def test_a_folder_with_contents_is_left_alone(ensemble, data, tmp_path):
    precious = tmp_path / "taken" / "precious"
    precious.parent.mkdir()
    precious.write_text("mine")
    for target in (precious.parent, precious):
        with pytest.raises(FileExistsError, match="exists and is not empty.*Nothing"):
            ship_badly(ensemble, data, target)
    assert precious.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_bad_wishes_for_shipping_are_named_and_leave_nothing(ensemble, data, tmp_path):
    x, y = data
    silent = eqx.tree_at(lambda m: m.layers[1].weight, network(), jnp.zeros((10, 10)))
    dead = [ship_module.Subnetwork(silent, {"w": np.zeros((1, 1), bool)}, "", "draw")]
    for given, message in [
        ({"format": "pickle"}, "`format` must be one of safetensors.*'pickle'"),
        ({"drawn": []}, "`subnetworks` must have at least one"),
        ({"validation": (x, y)}, "`validation` must have other inputs"),
        ({"validation": (x[:3], y[:2])}, "`validation` must be a pair"),
        ({"dtype": "int4"}, "`dtype` must be one of float32, float16"),
        ({"drawn": dead}, "shrunk to nothing.*Draw another.*allow_constant=True"),
    ]:
        with pytest.raises(ValueError, match=message):
            ship_badly(ensemble, data, tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []
    ship_badly(ensemble, data, tmp_path / "out", drawn=dead, allow_constant=True)


def test_a_missing_package_leaves_nothing(ensemble, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'meanfield-jax\[onnx\]'"):
        ship_badly(ensemble, data, tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_half_way_leaves_no_folder(ensemble, data, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(ship_module, "save_probe", fail)
    with pytest.raises(OSError, match="the disk is full"):
        ship_badly(ensemble, data, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["safetensors", "npz", "onnx", "stablehlo"])
def test_the_page_on_shipping_loads_each_format(format, ensemble, data, tmp_path):
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    (row,) = [row for row in rows if f"`{format}`" in row.split("|")[1]]
    lines = row.split("|")[2].split("`")[1:6:2]
    out = tmp_path / "shipped"
    drawn = sample_subnetworks(ensemble, 1, key=KEY)
    mf.deploy.ship(drawn, out, data=data, format=format, measure=False)
    np.save(out / "x.npy", data[0][:5])
    program = "import numpy as np\nx = np.load('x.npy')\n" + "\n".join(lines[:-1])
    if format == "safetensors":
        program += f"\nnp.savez('arrays.npz', **{lines[-1]})"
        subprocess.run([sys.executable, "-c", program], cwd=out, check=True)
        shrunk = as_network(mf.deploy.shrink(drawn[0].model, data[0]).model).arrays
        with np.load(out / "arrays.npz") as found:
            assert set(found.files) == set(shrunk)
            for name, array in shrunk.items():
                np.testing.assert_array_equal(found[name], array)
        return
    program += f"\nnp.save('y.npy', np.squeeze(np.asarray({lines[-1]})))"
    subprocess.run([sys.executable, "-c", program], cwd=out, check=True)
    expected = jax.vmap(drawn[0].model)(data[0][:5])
    np.testing.assert_allclose(np.load(out / "y.npy"), expected, atol=1e-5)
