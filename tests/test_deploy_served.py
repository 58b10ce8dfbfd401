"""A shipped folder after accidents and after others had their hands in it."""

import json
import shutil
import subprocess
import zipfile

import equinox as eqx
import jax
import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.formats import numpy_runtime
from meanfield.deploy.formats.archive import load_archive
from meanfield.deploy.formats.formats import load_predictor
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.shipping.card import ModelCard, load_card
from meanfield.deploy.shipping.manifest import check_manifest, write_manifest
from meanfield.deploy.shipping.markdown import to_markdown
from meanfield.deploy.shipping.served import check_shipped, convert, load_probe
from meanfield.deploy.shipping.signature import check_signature, sign_shipped
from meanfield.deploy.shipping.subnetworks import sample_subnetworks
from meanfield.runs.architecture import build_model
from meanfield.runs.sample import export as run_export, serve_check
from meanfield.tensors import save_tree

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def network():
    return eqx.nn.MLP(5, 2, 6, 1, key=KEY)


@pytest.fixture(scope="module", params=["numpy", "safetensors"])
def shipped(request, tmp_path_factory):
    ensemble = mf.Ensemble.from_model(network(), key=KEY)
    out = tmp_path_factory.mktemp("served") / request.param
    drawn = sample_subnetworks(ensemble, 2, key=KEY)
    mf.deploy.ship(drawn, out, data=(X, Y), format=request.param, measure=False)
    return out


@pytest.fixture
def copy(shipped, tmp_path):
    return shutil.copytree(shipped, tmp_path / "copy")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def outputs(folder):
    """The check, and what every file answers."""
    card = load_card(folder)
    check_shipped(folder, like=network())
    return [
        load_predictor(folder / entry["file"], card.format, like=network())(X)
        for entry in card.subnetworks
    ]


def test_every_flip_cut_and_swap_is_refused_or_changes_no_number(shipped, tmp_path):
    expected = outputs(shipped)
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in shipped.iterdir())
    refused = passed = 0
    for round_ in range(240):
        copy = shutil.copytree(shipped, tmp_path / str(round_))
        path = copy / names[round_ % len(names)]
        content = bytearray(path.read_bytes())
        place = int(rng.integers(len(content)))
        match rng.integers(4):
            case 0:
                content[place] ^= 1 << int(rng.integers(8))
            case 1:
                del content[place:]
            case 2:
                content += rng.bytes(7)
            case 3:
                other = copy / str(rng.choice([n for n in names if n != path.name]))
                content, mine = bytearray(other.read_bytes()), bytes(content)
                other.write_bytes(mine)
        path.write_bytes(content)
        try:
            found = outputs(copy)
        except (ValueError, FileNotFoundError):
            refused += 1
        else:
            passed += 1
            np.testing.assert_array_equal(found, expected)
        shutil.rmtree(copy)
    # A flip of the manifest may be one of a blank.
    assert passed <= 6
    assert refused >= 230


def test_every_file_that_is_read_alone_is_refused_or_whole(shipped, tmp_path):
    rng = np.random.default_rng(1)
    format = shipped.name
    (name, *_) = [n for n in (p.name for p in shipped.iterdir()) if n.startswith("sub")]
    content = (shipped / name).read_bytes()
    expected = load_predictor(shipped / name, format, like=network())(X)
    for round_ in range(60):
        changed = bytearray(content)
        place = int(rng.integers(len(content)))
        if round_ % 3:
            changed[place] ^= 1 << int(rng.integers(8))
        else:
            del changed[place:]
        path = tmp_path / f"{round_}{'.npz' if format == 'numpy' else '.safetensors'}"
        path.write_bytes(changed)
        try:
            found = load_predictor(path, format, like=network())(X)
        except ValueError:
            continue
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("card.json", {"subnetworks": []}, "`subnetworks` lists no file"),
        ("card.json", {"subnetworks": {}}, "`subnetworks` is a dict, not a list"),
        ("card.json", {"subnetworks": [3]}, "`subnetworks` lists no file"),
        ("card.json", {"format": "pickle"}, "no format 'pickle'"),
        ("card.json", {"version": True}, "its version is True"),
        ("card.json", {"version": 3}, "card version 3.*reads up to 2. Update"),
        ("card.json", {"source": None}, "`source` is a NoneType, not a dict"),
        ("card.json", {"extra": 1}, r"unknown parts \['extra'\]"),
        ("card.json", {"rule": "best"}, "card.json is not the file that was shipped"),
        ("manifest.json", {"files": []}, "it lists no files"),
        ("manifest.json", {"files": {}}, "holds .*, which its manifest does not list"),
        ("manifest.json", {"version": 2}, "manifest version 2; this version of meanf"),
    ],
)
def test_cards_and_manifests_of_another_form_are_refused(copy, file, change, message):
    edit(copy / file, lambda content: content.update(change))
    with pytest.raises(ValueError, match=message):
        check_shipped(copy, like=network())


@pytest.mark.parametrize(
    "name", ["../x", "/etc/hosts", "a/b", "..", ".hidden", "a\\b", "C:x", "", 3, None]
)
def test_names_that_lead_out_of_the_folder_are_refused(copy, name):
    def forge(card):
        card["subnetworks"][0]["file"] = name

    edit(copy / "card.json", forge)
    write_manifest(copy)
    with pytest.raises(ValueError, match="must name files without folders"):
        check_shipped(copy, like=network())
    if not isinstance(name, str):
        return
    edit(copy / "manifest.json", lambda content: content["files"].update({name: {}}))
    with pytest.raises(
        ValueError, match="must name files without folders|not the file that w"
    ):
        check_manifest(copy)


def test_links_strangers_and_missing_files_are_refused(copy, tmp_path):
    (copy / "json.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match=r"holds \['json.py'\], which its manifest"):
        check_shipped(copy, like=network())
    (copy / "json.py").unlink()
    for name in ("masks.safetensors", "card.md", "manifest.json"):
        kept = tmp_path / name
        (copy / name).rename(kept)
        with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
            check_shipped(copy, like=network())
        (copy / name).symlink_to(kept)
        with pytest.raises(ValueError, match="must be a file and not a symbolic link"):
            check_shipped(copy, like=network())
        (copy / name).unlink()
        kept.rename(copy / name)
    assert check_shipped(copy, like=network())


def test_a_folder_of_the_first_form_has_no_manifest_and_still_passes(copy):
    edit(copy / "card.json", lambda content: content.update(version=1))
    (copy / "manifest.json").unlink()
    assert len(check_shipped(copy, like=network())) == 2


@pytest.mark.parametrize("shipped", ["safetensors"], indirect=True)
def test_what_the_folder_does_not_vouch_for_is_not_converted(copy, tmp_path):
    archive, out = copy / "subnetwork-0.safetensors", tmp_path / "n.npz"
    convert(archive, tmp_path / "good.npz", format="numpy", like=network())
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(archive, alone)
    with pytest.raises(FileNotFoundError, match="holds no shipped sub-networks"):
        convert(alone / archive.name, out, format="numpy", like=network())
    # Another network under the same name, with hashes to match.
    shutil.copy(copy / "subnetwork-1.safetensors", archive)
    with pytest.raises(ValueError, match="not the file that was shipped"):
        convert(archive, out, format="numpy", like=network())
    other = load_card(copy).subnetworks[1]["sha256"]
    edit(copy / "card.json", lambda c: c["subnetworks"][0].update(sha256=other))
    write_manifest(copy)
    with pytest.raises(ValueError, match="subnetwork-0.safetensors, loaded back, must"):
        convert(archive, out, format="numpy", like=network())
    shutil.copy(archive, copy / "stray.safetensors")
    write_manifest(copy)
    with pytest.raises(
        ValueError, match="must be one of the files that its card lists"
    ):
        convert(copy / "stray.safetensors", out, format="numpy", like=network())
    assert not out.exists()


def test_a_record_without_a_file_is_refused(copy):
    probe = load_probe(copy)
    arrays = {"x": probe.x}
    save_tree(copy / "probe.safetensors", arrays, {"link": probe.link})
    write_manifest(copy)
    with pytest.raises(ValueError, match="has no outputs of subnetwork-0"):
        check_shipped(copy, like=network())


def test_half_precision_archives_pass_their_check(tmp_path):
    ensemble = mf.Ensemble.from_model(network(), key=KEY)
    drawn = sample_subnetworks(ensemble, 1, key=KEY)
    out = tmp_path / "half"
    mf.deploy.ship(drawn, out, data=(X, Y), dtype="float16", measure=False)
    assert check_shipped(out, like=network())[0].largest_difference <= 1e-6


def test_a_signature_says_who_shipped_a_folder(copy, tmp_path, monkeypatch):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("OpenSSH signs, and its ssh-keygen is not installed")
    for name in ("ann", "bob"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
        subprocess.run([*command, str(tmp_path / name)], check=True)
    signers, others = tmp_path / "signers", tmp_path / "others"
    for file, name in ((signers, "ann"), (others, "bob")):
        public = (tmp_path / f"{name}.pub").read_text()
        file.write_text(f"{name}@bank.example {public}")
    with pytest.raises(FileNotFoundError, match="manifest.json.sig is missing"):
        check_shipped(copy, like=network(), signers=signers)
    sign_shipped(copy, tmp_path / "ann")
    assert check_signature(copy, signers) == "ann@bank.example"
    (first, *_) = check_shipped(copy, like=network(), signers=signers)
    assert first.signer == "ann@bank.example"
    with pytest.raises(ValueError, match="no key in .* fits"):
        check_shipped(copy, like=network(), signers=others)
    with pytest.raises(FileExistsError, match="remove it to sign again"):
        sign_shipped(copy, tmp_path / "ann")
    # Hashes that were made to fit again do not help.
    edit(copy / "card.json", lambda card: card.update(rule="best"))
    write_manifest(copy)
    assert check_shipped(copy, like=network())
    with pytest.raises(ValueError, match="does not belong to manifest.json"):
        check_shipped(copy, like=network(), signers=signers)
    (copy / "manifest.json.sig").unlink()
    with pytest.raises(ValueError, match="there is no .*nobody"):
        sign_shipped(copy, tmp_path / "nobody")
    with pytest.raises(ValueError, match="cannot sign"):
        sign_shipped(copy, signers)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="need ssh-keygen.*OpenSSH 8.1"):
        sign_shipped(copy, tmp_path / "ann")


def test_the_page_of_a_card_shows_texts_as_they_are():
    entry = {
        "file": "subnetwork-0.npz",
        "before": {"bytes": 9, "num_weights": 9, "macs": 9, "accuracy": 1.0, "nll": 0},
        **dict.fromkeys(("bytes", "num_weights", "num_nonzero", "macs"), 8),
        **{"accuracy": 1.0, "nll": 0.5, "latency": None},
        **{"mask_hash": "0" * 64, "sha256": "f" * 64},
    }
    bad = "a|b\n# c <script>alert(1)</script> [d](javascript:e) `f` & \\g"
    shown = (
        r"a\|b # c &lt;script&gt;alert(1)&lt;/script&gt; \[d\](javascript:e) \`f\` "
        r"&amp; \\g"
    )
    targets = {"outputs": bad, "names": [bad], "shift": [0.0], "scale": [1.0]}
    card = ModelCard(
        version=2,
        format="numpy",
        rule=bad,
        device=bad,
        subnetworks=[entry],
        labels={bad: {"important": 0.1, "absent": 0.2, "variable": 0.7}},
        versions={"python": bad},
        source={"run": bad, "targets": targets, bad: 3},
    )
    text = to_markdown(card)
    assert text.count(shown) == 8
    assert "<" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "").strip("|").split("|")
            assert len(cells) in (2, 3, 4, 9)


@pytest.mark.parametrize(
    "shape", [[10**12], [10**6, 10**6], [-8], [3], "x", None, [""]]
)
def test_an_archive_is_not_unpacked_to_more_than_it_holds(shape, tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {
        "mask:w": np.array([0b10100000], np.uint8),
        "values:w": np.ones(2, np.float32),
    }
    about = {"archive": 1, "dtype": "float32", "shapes": {"w": shape}}
    save_tree(path, {k: jax.numpy.asarray(v) for k, v in arrays.items()}, about)
    if shape == [3]:
        np.testing.assert_array_equal(load_archive(path).arrays["w"], [1, 0, 1])
        return
    with pytest.raises(
        ValueError, match="does not have the contents that its header states"
    ):
        load_archive(path)


def test_masks_values_and_labels_must_belong_together(tmp_path):
    path = tmp_path / "a.safetensors"
    good = {
        "mask:w": np.array([0b10100000], np.uint8),
        "values:w": np.ones(2, np.float32),
        "labels:w": np.array([0b10001100], np.uint8),
    }
    for name, wrong in [
        ("values:w", np.ones(3, np.float32)),
        ("mask:w", np.array([1, 2], np.uint8)),
        ("mask:w", np.array([1], np.int32)),
        ("labels:w", np.array([1, 2], np.uint8)),
        ("values:w", None),
    ]:
        arrays = {**good, name: wrong}
        arrays = {k: jax.numpy.asarray(v) for k, v in arrays.items() if v is not None}
        save_tree(path, arrays, {"archive": 1, "shapes": {"w": [3]}})
        with pytest.raises(
            ValueError, match="does not have the contents that its header states"
        ):
            load_archive(path)
    arrays = {k: jax.numpy.asarray(v) for k, v in good.items()}
    save_tree(path, arrays, {"archive": 1, "shapes": {"w": [3]}})
    assert load_archive(path).labels["w"].tolist() == [1, 2, 2]


def test_the_numpy_runtime_reads_no_more_than_is_there(tmp_path):
    path = tmp_path / "n.npz"
    np.savez_compressed(path, w=np.zeros(10**6))
    with pytest.raises(ValueError, match="is compressed"):
        numpy_runtime.load(path)
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    with zipfile.ZipFile(path, "w") as file, file.open("w.npy", "w") as part:
        np.lib.format.write_array_header_1_0(part, header)
        part.write(b"1234")
    with pytest.raises(ValueError, match="its header states 4,000,000,000,"):
        numpy_runtime.load(path)
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY", b"pickle"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a whole network"):
            numpy_runtime.load(path)
    with pytest.raises(FileNotFoundError):
        numpy_runtime.load(tmp_path / "none.npz")


def test_an_onnx_file_that_is_none_or_reads_others_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "n.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(
        ValueError, match="must be an ONNX file that ONNX Runtime supports"
    ):
        load_predictor(path, "onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../secret")
    graph = onnx.helper.make_graph([], "network", [], [], [tensor])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ValueError, match=r"it stores \['w'\] in other files"):
        load_predictor(path, "onnx")


def test_cards_larger_than_any_card_are_not_read(copy):
    with open(copy / "card.json", "r+b") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ValueError, match="a card has at most 16,777,216"):
        load_card(copy)


def test_a_structure_without_numbers_costs_no_memory():
    wide = {"kind": "mlp", "inputs": 10**7, "hidden": [10**7], "outputs": 10}
    structure = eqx.filter_eval_shape(build_model, wide, 0)
    assert structure.layers[0].weight.shape == (10**7, 10**7)
    assert as_network(structure).arrays["layers/1/weight"].shape == (10, 10**7)


def test_an_archive_is_read_into_the_structure_alone(tmp_path):
    architecture = {"kind": "mlp", "inputs": 5, "hidden": [6], "outputs": 2}
    model = build_model(architecture, 0)
    ensemble = mf.Ensemble.from_model(model, key=KEY)
    drawn = sample_subnetworks(ensemble, 1, key=KEY)
    out = tmp_path / "shipped"
    source = {"model": architecture}
    mf.deploy.ship(drawn, out, data=(X, Y), measure=False, source=source)
    assert serve_check(out)[0].largest_difference <= 1e-5
    done = run_export(
        out / "subnetwork-0.safetensors", out=tmp_path / "n.npz", format="npz"
    )
    assert done.largest_difference <= 1e-5
    predict = load_predictor(done.path, "npz")
    np.testing.assert_allclose(predict(X), jax.vmap(drawn[0].model)(X), atol=1e-5)
