"""The built wheel in an empty environment: minutes, so only where it is asked for."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from meanfield.version import DISTRIBUTION, VERSION

ROOT = Path(__file__).parents[1]


def test_the_distribution_has_one_name_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert project["name"] == DISTRIBUTION
    assert extras["all"] == [f"{DISTRIBUTION}[flax,notebooks,onnx]"]
    # The notebooks show Flax and ONNX.
    assert set(extras["flax"] + extras["onnx"]) <= set(extras["notebooks"])


@pytest.mark.skipif(
    "MEANFIELD_WHEEL" not in os.environ,
    reason="installs all packages anew, minutes; MEANFIELD_WHEEL=1 runs it",
)
def test_the_first_command_works_from_the_wheel_in_an_empty_environment(tmp_path):
    def run(*words):
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        clean["MEANFIELD_CACHE"] = "off"
        done = subprocess.run(
            list(map(str, words)),
            capture_output=True,
            text=True,
            env=clean,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps")
    run(*pip, ROOT, "--wheel-dir", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"{DISTRIBUTION.replace('-', '_')}-{VERSION}-")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests", "experiments"))]
    venv.create(tmp_path / "alone", with_pip=True)
    binaries = tmp_path / "alone" / "bin"
    run(binaries / "pip", "install", "-q", wheel)
    assert run(binaries / "meanfield", "--version").strip() == f"meanfield {VERSION}"
    out = tmp_path / "run"
    words = ("train", "--data", "digits", "--epochs", 2, "--hidden", 16, "--out", out)
    assert "test accuracy" in run(binaries / "meanfield", *words)
    words = ("-c", "import meanfield; print(meanfield.__file__)")
    assert str(tmp_path) in run(binaries / "python", *words)
