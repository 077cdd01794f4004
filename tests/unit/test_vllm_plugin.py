"""The vLLM plug-in as far as it can be seen without vLLM; `tests/engines/test_vllm.py` runs it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lbdsl.vllm as plugin
from lbdsl.families import ARTIFACT_PREFIX, FAMILIES
from tests.specs import attention_layer, layer_of

FOLDER = Path(plugin.__file__).parent
ROOT = FOLDER.parents[1]


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, and of lbdsl the whole module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        found |= {name if name.startswith("lbdsl") else name.split(".")[0] for name in names}
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_it_needs_only_what_vllm_brings(path: Path) -> None:
    ours = {"lbdsl.vllm", "lbdsl.vllm.layers", "lbdsl.vllm.configurations", "lbdsl.model.hybrid.lbdsl_layers"}
    allowed = {"vllm", "torch", "transformers"} | ours | set(sys.stdlib_module_names)
    assert imported(path) <= allowed


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, lbdsl.vllm; assert callable(lbdsl.vllm.register); "
        "assert not {'torch', 'transformers', 'vllm', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vllm_finds_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"lbdsl": "lbdsl.vllm:register"}


def test_names_are_those_of_artifacts() -> None:
    tree = ast.parse((FOLDER / "models.py").read_text(encoding="utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for family, name in plugin.CLASSES.items():
        assert name == f"Lbdsl{FAMILIES[family].architecture}"
        assert name in classes
    assert set(plugin.CLASSES) == set(plugin.FAMILIES)


@pytest.mark.torch
def test_configurations_read_what_artifacts_say() -> None:
    from lbdsl.vllm import configurations

    assert {found.model_type for found in configurations.CONFIGURATIONS} == {
        ARTIFACT_PREFIX + family for family in plugin.FAMILIES
    }
    own = attention_layer(heads=32, kv_heads=32, head_dim=128, width=11008)
    stub = {"version": 2, "base_model_type": "llama", "layers": [layer_of(own, attention=False), own]}
    config = configurations.LbdslLlamaVllmConfig(lbdsl=stub, num_hidden_layers=2)
    assert config.lbdsl == stub
    assert configurations.LbdslLlamaVllmConfig(num_hidden_layers=2).lbdsl["layers"] == [own] * 2
    with pytest.raises(ValueError, match="is for 'llama', not for 'qwen2'"):
        configurations.LbdslQwen2VllmConfig(lbdsl=stub, num_hidden_layers=2)
    with pytest.raises(ValueError, match="describes 2 layers, the model has 3"):
        configurations.LbdslLlamaVllmConfig(lbdsl=stub, num_hidden_layers=3)
