import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from command_line import run, succeed

from meanfield import runs

QUICK = ["--hidden", "8", "--epochs", "2", "--quiet"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    printed = succeed("train", "--out", folder, *QUICK)
    assert "test accuracy" in printed
    assert str(folder) in printed
    return folder


def test_a_run_folder_holds_what_the_contract_says(digits):
    for name in ("ensemble.safetensors", "config.json", "history.csv"):
        assert (digits / name).is_file()
    for name in ("history", "reliability", "labels", "entropy"):
        assert (digits / "plots" / f"{name}.png").is_file()
    metrics = json.loads((digits / "metrics.json").read_text())
    needed = "accuracy nll ece num_samples train_seconds epochs num_weights labels"
    # Of the same layers, and not yet what is learned.
    assert metrics["entropy_start"].keys() == metrics["entropy"].keys()
    assert metrics["entropy_start"] != metrics["entropy"]
    assert set(needed.split()) | {"versions"} <= set(metrics)
    for fractions in metrics["labels"].values():
        assert set(fractions) == {"important", "absent", "variable"}
        assert abs(sum(fractions.values()) - 1) < 1e-9
    rule = metrics["label_rule"]
    assert rule["chosen"] == f"certified: {rule['verdict']}"
    assert set(rule["without"]) == {"important", "absent", "variable"}
    assert rule["num_examples"] == 180
    # Three pixels of the digits are always black.
    assert 3 / 64 <= metrics["never_learned"]["layers/0/weight"] < 1
    table = pd.read_csv(digits / "connections.csv")
    assert len(table) == metrics["num_weights"] == 64 * 8 + 8 * 10
    assert len(pd.read_csv(digits / "history.csv")) == 2


def test_sample_is_refused_before_anything_slow_begins(digits, monkeypatch, tmp_path):
    opened, dataset = runs.folder.open_run(digits)
    for name in ("compacted", "find_labels"):
        monkeypatch.setattr(runs.sample, name, lambda *_: pytest.fail("began"))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "precious").touch()
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        runs.sample.sample(opened, dataset, out=taken)
    free = {"out": tmp_path / "free"}
    with pytest.raises(ValueError, match="`raw` is for the formats onnx"):
        runs.sample.sample(opened, dataset, inputs="raw", format="npz", **free)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for asked in ({"format": "onnx"}, {"together": True}):
        with pytest.raises(ImportError, match="needs the package 'onnxruntime'"):
            runs.sample.sample(opened, dataset, **free, **asked)
    assert not (tmp_path / "free").exists()


def test_every_later_command_works_on_a_run(digits, monkeypatch, capsys, tmp_path):
    commands = [
        ["evaluate", digits, "--num-samples", 4],
        ["label", digits],
        ["credit", digits, "--by", "class", "--examples", 200, "--checks", 4],
        ["coalitions", digits, "--budget", 200],
        ["sample", digits, "-k", 2, "--format", "npz", "--out", tmp_path / "shipped"],
        ["report", digits],
    ]
    for words in commands:
        code, out, err = run(monkeypatch, capsys, *words)
        assert code == 0, (words, err)
        assert "wrote" in out
    card = json.loads((tmp_path / "shipped" / "card.json").read_text())
    assert len(card["subnetworks"]) == 2
    assert card["rule"] == "labels"
    assert card["source"]["labels"].startswith("certified: ")
    for entry in card["subnetworks"]:
        file = tmp_path / "shipped" / entry["file"]
        assert file.stat().st_size == entry["bytes"]
        assert {"num_weights", "num_nonzero", "accuracy", "nll"} <= set(entry)
    credit = json.loads((digits / "credit.json").read_text())
    table = pd.read_csv(digits / "connections.csv")
    assert len(table) == credit["num_players"]
    assert {"label", "value", "value_error", "rms"} <= set(table)
    total = sum(layer["sum"] for layer in credit["layers"].values())
    assert abs(table.value.sum() - total) < 1e-5
    gap = total - (credit["payoff"] - credit["empty_payoff"])
    assert abs(gap - credit["efficiency_gap"]) < 1e-5
    parts = [sum(c["layers"].values()) for c in credit["by_class"].values()]
    assert len(parts) == 10
    assert abs(sum(parts) - total) < 1e-5
    for name in ("density", "magnitude", "inputs"):
        assert (digits / "plots" / f"credit-{name}.png").is_file()
    played = json.loads((digits / "coalitions.json").read_text())
    found = played["layers"]
    assert set(found) == {"layers/0"}
    assert len(found["layers/0"]["values"]) == 8
    # One sum of the run's credit at three scales, and beside it the neurons' own game.
    scales, units = played["credit"], played["unit_game"]
    assert scales["layers"] == credit["scales"]["layers"]
    for layer, part in scales["layers"].items():
        own = table[table.layer == f"{layer}/weight"].value
        np.testing.assert_allclose(sum(part["neurons"]), own.sum(), atol=1e-6)
        np.testing.assert_allclose(part["sum"], own.sum(), atol=1e-6)
    assert abs(scales["sum"] - total) < 1e-6
    assert abs(scales["sum"] - scales["gain"] - scales["gap"]) < 1e-9
    np.testing.assert_allclose(units["layers"]["layers/0"]["sum"], units["sum"])
    links = found["layers/0"]["links"]
    into = scales["layers"]["layers/0"]
    np.testing.assert_allclose(links["value_in"], into["neurons"], atol=1e-6)
    assert links["strong_against_others"] is None or (
        links["strong_against_others"]["compared"] == "credit"
    )
    shares = found["layers/0"]["label_credit"].values()
    np.testing.assert_allclose(sum(shares), into["sum"], atol=1e-6)
    assert (digits / "plots" / "coalition-credit.png").is_file()
    page = (digits / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "One sum at three scales" in page
    assert "<script" not in page
    # Missing: the physics, and the sub-networks, which went elsewhere.
    assert page.count('class="missing"') == 2
    assert "meanfield analyze" in page


def test_one_network_of_a_selective_run_loses_units_and_learns_again(
    digits, monkeypatch, capsys, tmp_path
):
    words = ["sample", digits, "--tolerance", "0.9", "--format", "onnx", "--no-plain"]
    code, out, err = run(monkeypatch, capsys, *words, "--out", tmp_path / "one")
    assert code == 0, err
    assert "dense" in out
    card = json.loads((tmp_path / "one" / "card.json").read_text())
    assert card["rule"] == "compact"
    found = card["source"]["compact"]
    assert found["share"] == 0.375
    assert found["units"] == {"layers/0": [8, 3]}
    assert set(found["held_out"]) == {"1", "0.5", "0.375"}
    (entry,) = card["subnetworks"]
    assert entry["num_weights"] <= 3 * (64 + 10)
    assert entry["largest_difference"]["rounding"] < 0.1
    assert card["dense"]["num_weights"] == 8 * (64 + 10)
    words = ["sample", digits, "--tolerance", "1.5", "--out", tmp_path / "two"]
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 1
    assert "`tolerance` must be a decrease" in err


def test_a_shipped_archive_is_exported_and_checked(
    digits, monkeypatch, capsys, tmp_path
):
    folder, out = tmp_path / "shipped", tmp_path / "network.npz"
    code, _, err = run(monkeypatch, capsys, "sample", digits, "--out", folder)
    assert code == 0, err
    archive = folder / "subnetwork-0.safetensors"
    words = ["export", archive, "--format", "npz", "--out", out]
    code, text, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    assert str(out) in text
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 1
    assert "exists; choose another name" in err
    code, text, err = run(monkeypatch, capsys, "serve-check", folder)
    assert code == 0, err
    assert "subnetwork-0.safetensors" in text
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    code, _, err = run(monkeypatch, capsys, "serve-check", folder)
    assert code == 1
    assert "not the file that was shipped" in err
    code, _, err = run(monkeypatch, capsys, "export", tmp_path, "--out", out)
    assert code == 1
    assert "must be a file" in err
    code, _, err = run(monkeypatch, capsys, "sample", digits, "-k", "0")
    assert code == 2


@pytest.mark.parametrize("words", [[], ["train"], ["sample"], ["analyze"]])
def test_help_explains_every_option(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(monkeypatch, capsys, *words, "--help")
    assert code == 0
    options = [line for line in out.splitlines() if line.startswith("│ --")]
    assert options
    for line in options:
        # Name, type, and at least two words of explanation.
        assert len(line.strip("│ ").split()) >= 4, line


def test_the_version_is_told(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--version")
    assert code == 0
    assert out.startswith("meanfield 0.")


def test_a_terminal_that_knows_only_ascii_gets_help():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for words in (["--help"], ["train", "--help"]):
        command = [sys.executable, "-m", "meanfield", *words]
        done = subprocess.run(command, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert b"Usage" in done.stdout


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("b"), RecursionError("c")])
def test_a_fault_of_ours_is_no_traceback(error, monkeypatch, capsys, tmp_path):
    def fail(folder):
        raise error

    monkeypatch.setattr(runs.report, "write_report", fail)
    code, _, err = run(monkeypatch, capsys, "report", tmp_path)
    assert code == (1 if isinstance(error, RecursionError) else 3)
    assert "Traceback" not in err
    assert ("internal error" in err) == (code == 3)
    code, _, err = run(monkeypatch, capsys, "report", tmp_path, "--debug")
    assert "Traceback" in err
    assert "in fail" in err


def test_a_finished_run_says_so(digits, monkeypatch, capsys):
    before = (digits / "metrics.json").read_bytes()
    code, out, err = run(monkeypatch, capsys, "train", "--resume", digits)
    assert code == 0, err
    assert "was finished already" in out
    assert (digits / "metrics.json").read_bytes() == before
    code, _, err = run(monkeypatch, capsys, "train", "--resume", digits, "--seed", 1)
    assert code == 0
    assert (digits / "metrics.json").read_bytes() == before


def test_a_run_takes_the_place_of_another(digits, monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(digits, out)
    (out / "notes.txt").write_text("mine")
    (out / "coalitions.json").write_text("of the old run")
    words = ["train", "--out", out, "--overwrite", "--seed", 1, *QUICK]
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["seed"] == 1
    assert (out / "ensemble.safetensors").read_bytes() != (
        digits / "ensemble.safetensors"
    ).read_bytes()
    assert not (out / "coalitions.json").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob(".next*"))
    page = runs.report.write_report(out).read_text()
    assert "plot “history”" not in page


def test_the_selective_rule_is_asked_for_by_a_word(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--out", out, "--rule", "selective", "--batch-size", 256, *QUICK]
    code, text, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    assert "of the network of means" in text
    assert json.loads((out / "config.json").read_text())["training"]["rule"] == (
        "selective"
    )
    assert len(pd.read_csv(out / "history.csv").temperature) == 2
    search = json.loads((out / "metrics.json").read_text())["search"]
    assert search["temperature"] in [trial[0] for trial in search["trials"]]


def test_two_processes_do_not_write_to_one_run(digits, monkeypatch, capsys):
    with runs.folder.locked(digits):
        code, _, err = run(monkeypatch, capsys, "label", digits)
    assert code == 1
    assert "another process is writing to" in err


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from meanfield import cli; sys.argv = ['meanfield', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print([n for n in ('jax', 'numpyro', 'sklearn') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_run_is_not_overwritten_unasked(digits, monkeypatch, capsys):
    before = (digits / "ensemble.safetensors").read_bytes()
    code, _, err = run(monkeypatch, capsys, "train", "--out", digits, *QUICK)
    assert code == 1
    assert "holds a run already" in err
    assert (digits / "ensemble.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "--data", "nosuch"], 1, "must be one of digits"),
        (["train", "--hidden", "10,,3"], 2, "is not a list like"),
        (["train", "--hidden", "0"], 2, "must be positive"),
        (["train", "--epochs", "0"], 2, "Invalid value"),
        (["train", "--nonsense"], 2, "No such option"),
        (["train", "--learning-rate", "-1"], 1, "`learning_rate` must be a positive"),
        (["train", "--learning-rate", "nan"], 1, "`learning_rate` must be a positive"),
        (["train", "--temperature", "-2"], 1, "`temperature` must be a finite number"),
        (["train", "--inclusion-prob", "2"], 1, "`inclusion_prob` must lie strictly"),
        (["train", "--rule", "selectiv"], 1, "`rule` must be one of selective, publis"),
        (
            ["train", "--rule", "published", "--inclusion-prob", "0.1"],
            1,
            "`inclusion_prob` belongs to the rule evidence; got 0.1",
        ),
        (
            ["train", "--rule", "selective", "--learning-rate", "0.1"],
            1,
            "`learning_rate` belongs to the rules published and evidence",
        ),
        (["evaluate", "/nowhere"], 1, "is not a run folder"),
        (["train", "--resume", "/nowhere"], 1, "holds no run to resume"),
        (["sample", "/nowhere", "--format", "zip"], 2, "--format must be one of"),
        (["analyze"], 2, "either a run folder or --weights"),
    ],
)
def test_what_went_wrong_is_said_with_the_right_exit_code(
    words, code, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    got, _, err = run(monkeypatch, capsys, *words)
    assert got == code
    assert message in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_tampered_run_is_refused(digits, monkeypatch, capsys, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "ensemble.safetensors"):
        (copy / name).write_bytes((digits / name).read_bytes())
    content = bytearray((copy / "ensemble.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "ensemble.safetensors").write_bytes(bytes(content))
    code, _, err = run(monkeypatch, capsys, "evaluate", copy)
    assert code == 1
    assert "changed" in err
    (copy / "ensemble.safetensors").write_bytes(bytes(content[:200]))
    code, _, err = run(monkeypatch, capsys, "evaluate", copy)
    assert code == 1
    assert "truncated" in err
    (copy / "config.json").write_text('{"format": 1')
    code, _, err = run(monkeypatch, capsys, "evaluate", copy)
    assert code == 1
    assert "not readable JSON" in err


def test_tables_and_arrays_of_ones_own_are_learned(monkeypatch, capsys, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=80), "b": rng.choice(["x", "y"], 80)})
    frame["price"] = 1000 + 300 * frame.a + 50 * (frame.b == "x")
    frame.to_csv(tmp_path / "table.csv", index=False)
    out = tmp_path / "table"
    words = ["--data", tmp_path / "table.csv", "--target", "price", "--out", out]
    words += ["--hidden", "16", "--epochs", "100", "--rule", "selective", "--quiet"]
    code, printed, err = run(monkeypatch, capsys, "train", *words)
    assert code == 0, err
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["rmse"] < 200
    assert "test RMSE" in printed
    x = rng.normal(size=(60, 3)).astype("float32")
    y = np.stack([x[:, 0], 1000 * x[:, 1]], 1)
    np.savez(tmp_path / "arrays.npz", x=x, y=y)
    words = ["--data", tmp_path / "arrays.npz", "--out", tmp_path / "arrays"]
    code, _, err = run(monkeypatch, capsys, "train", *words, *QUICK)
    assert code == 0, err
    assert json.loads((tmp_path / "arrays" / "metrics.json").read_text())["rmse"] > 1
    frame.loc[3, "a"] = np.nan
    frame.to_csv(tmp_path / "holes.csv", index=False)
    words = ["--data", tmp_path / "holes.csv", "--target", "price"]
    words += ["--missing", "refuse"]
    code, _, err = run(monkeypatch, capsys, "train", *words, *QUICK)
    assert code == 1
    assert "'a'" in err


LONG = ["train", "--hidden", "8", "--epochs", "150", "--batch-size", "128", "--quiet"]
LONG += ["--rule", "published"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("long") / "whole"
    succeed(*LONG, "--out", out)
    return out


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_bits(blow, whole, tmp_path):
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "meanfield", *LONG, "--out", str(broken)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    folder = broken / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(folder.glob("epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, blow)
    process.communicate()
    assert process.returncode == (1 if blow == signal.SIGINT else -blow)
    if blow == signal.SIGINT:
        assert (broken / "ensemble.safetensors").is_file()
    epochs = len(list(folder.glob("epoch-*")))
    assert epochs >= 1
    succeed("train", "--quiet", "--resume", broken)
    one = (whole / "ensemble.safetensors").read_bytes()
    two = (broken / "ensemble.safetensors").read_bytes()
    assert one == two
