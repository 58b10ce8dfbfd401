"""What the documents say is run: README code, docstring examples, notebooks."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import meanfield

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(meanfield.__path__, "meanfield.")
    if not module.name.endswith("__main__")
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_python_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch):
    assert len(BLOCKS) >= 2
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert names["metrics"].accuracy > 0.9
    assert names["noisy"].shape == names["moments"].mean.shape


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_docstring_are_right(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {"jax": jax, "np": np, "mf": meanfield}
    result = doctest.testmod(
        module,
        extraglobs=names,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.failed == 0


def test_every_public_name_can_be_loaded():
    for name in meanfield.__all__:
        assert getattr(meanfield, name) is not None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert any(cell.get("outputs") for cell in notebook.cells), "commit it executed"
    assert path.stat().st_size < 300_000
    assert notebook.cells[0].source.startswith("# ")
    assert "For " in notebook.cells[0].source, "say for whom it is"
    assert "## Try it" in notebook.cells[-1].source
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
