"""The built wheel in an empty environment: minutes, so only where it is asked for."""

import os
import shutil
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


slow = pytest.mark.skipif(
    "MEANFIELD_WHEEL" not in os.environ,
    reason="installs all packages anew, minutes; MEANFIELD_WHEEL=1 runs it",
)


def execute(*words, cwd):
    """Run a command as a user of an installed package does; it must succeed."""
    hidden = ("PYTHONPATH", "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    clean = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        env=clean | {"MEANFIELD_CACHE": "off"},
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with the built wheel, and an environment that has nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps")
    execute(*pip, ROOT, "--wheel-dir", folder, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith(f"{DISTRIBUTION.replace('-', '_')}-{VERSION}-")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests", "experiments"))]
    venv.create(folder / "alone", with_pip=True)
    execute(folder / "alone" / "bin" / "pip", "install", "-q", wheel, cwd=folder)
    return folder


@slow
def test_the_first_command_works_from_the_wheel_in_an_empty_environment(alone):
    binaries, out = alone / "alone" / "bin", alone / "run"
    said = execute(binaries / "meanfield", "--version", cwd=alone).strip()
    assert said == f"meanfield {VERSION}"
    words = ("train", "--data", "digits", "--epochs", 2, "--hidden", 16, "--out", out)
    assert "test accuracy" in execute(binaries / "meanfield", *words, cwd=alone)
    words = ("-c", "import meanfield; print(meanfield.__file__)")
    assert str(alone) in execute(binaries / "python", *words, cwd=alone)


@slow
def test_the_three_walks_end_well_from_the_wheel(alone):
    binaries, walks = alone / "alone" / "bin", alone / "walks"
    (wheel,) = alone.glob("*.whl")
    words = ("install", "-q", f"{wheel}[onnx]", "pytest")
    execute(binaries / "pip", *words, cwd=alone)
    walks.mkdir()
    for name in ("test_walks.py", "command_line.py"):
        shutil.copy(ROOT / "tests" / name, walks)
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_walks.py")
    said = execute(binaries / "python", *words, cwd=walks)
    assert " passed" in said
    assert "skipped" not in said
