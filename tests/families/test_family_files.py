"""A family is one file: nothing else of lbdsl names it, and its two flat files are written from it."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import lbdsl
from lbdsl.families import FAMILIES
from lbdsl.families.engines import VllmLayers
from lbdsl.model.hybrid.rendered import flat_files
from tests.clean_process import CleanProcess

PACKAGE = Path(lbdsl.__file__).parent
GOLDEN = Path(__file__).parents[1] / "golden" / "flat"
SHOWN = "gemma2"
"""The family whose flat files are kept to read: it has most that a family can have."""

ALLOWED = {
    "cli/demo.py": "the name of the export",
    "api/explaining.py": "the model that an explanation without a model is about",
    "export/granite.py": "the name of the export, which is of another class of the same makers",
    "export/gguf_tokenizer.py": "llama.cpp's name for SentencePiece tokenizers",
    "model/gguf_splitting.py": "llama.cpp's name for a way to split text",
}


def named(path: Path) -> set[str]:
    """The families that a file names in a string of its own."""
    text = path.read_text(encoding="utf-8")
    if not any(f'"{name}"' in text for name in FAMILIES):
        return set()
    constants = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)} & set(FAMILIES)


def test_no_other_file_names_a_family() -> None:
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    naming = {name for name, path in paths.items() if not name.startswith("families/") and named(path)}
    assert naming == set(ALLOWED)
    # A second file beside the family's own makes vLLM's layers of it, and of others that vLLM builds alike.
    layers = {row.vllm.module for row in FAMILIES.values() if isinstance(row.vllm, VllmLayers)}
    assert layers <= {f"lbdsl.vllm.{name}" for name in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_flat_files_are_python_that_needs_only_transformers(family: str) -> None:
    for module, text in flat_files(FAMILIES[family]).items():
        tree = ast.parse(text)
        compile(tree, module, "exec")
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert all(isinstance(node, ast.ImportFrom) for node in imports)
        assert all(node.level == 1 or node.module.split(".")[0] == "transformers" for node in imports)
        assert max(map(len, text.splitlines())) <= 124
        assert "\n\n\n\n" not in text
        assert text.endswith("\n")
        assert not text.endswith("\n\n")


def test_flat_files_are_as_they_were() -> None:
    """After a wanted change: `LBDSL_UPDATE_GOLDEN=1 pytest tests/families/test_family_files.py`, then read the diff."""
    for module, text in flat_files(FAMILIES[SHOWN]).items():
        path = GOLDEN / f"{module}.py.txt"
        if os.environ.get("LBDSL_UPDATE_GOLDEN"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text


PICKLED = """
import pickle, sys
model = pickle.load(open(sys.argv[1], "rb"))
assert type(model).__module__ == "lbdsl.model.hybrid.modeling_lbdsl_llama", type(model)
assert "window_attention" in str(model.model.layers[1].self_attn)
import inspect
assert "class LbdslLlamaModel" in inspect.getsource(sys.modules[type(model).__module__])
"""


@pytest.mark.torch
def test_a_model_can_be_pickled_for_another_process(tmp_path: Path, clean_process: CleanProcess) -> None:
    import pickle

    from tests.hybrid_cases import FULL, NONE, hybrid_of, swa, tiny_base
    from tests.specs import LEARNED

    model = hybrid_of(tiny_base(), [FULL, swa(20), swa(20, LEARNED), NONE])
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    done = clean_process.run(PICKLED, tmp_path / "model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
