"""The vLLM plug-in as far as it can be seen without vLLM; `tests/engines/test_vllm.py` runs it."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lbdsl.vllm.served as plugin
from lbdsl.export.vllm import VllmPlugin
from lbdsl.families import ARTIFACT_PREFIX, FAMILIES
from lbdsl.parts import Slot
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


PYDANTIC = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
"""What vLLM itself depends on."""

OURS = {"lbdsl.families", "lbdsl.families.engines", "lbdsl.model.hybrid.lbdsl_layers"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_it_needs_only_what_vllm_brings(path: Path) -> None:
    found = {name for name in imported(path) if not name.startswith("lbdsl.vllm")}
    assert found <= {"vllm", "torch", "transformers"} | OURS | set(sys.stdlib_module_names)


def test_what_it_needs_of_lbdsl_needs_no_more() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        f"import {', '.join(sorted(OURS))}, lbdsl.vllm.served; assert lbdsl.vllm.served.served()\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before if not name.startswith('_')}\n"
        f"assert new <= {{'lbdsl', *{sorted(PYDANTIC)}, *sys.stdlib_module_names}}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, lbdsl.vllm; assert callable(lbdsl.vllm.register); "
        "assert not {'torch', 'transformers', 'vllm', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vllm_finds_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"lbdsl": "lbdsl.vllm:register"}


def test_it_serves_what_its_families_say() -> None:
    said = {slot.value: {kind: tuple(of) for kind, of in VllmPlugin.expresses.kinds(slot).items()} for slot in Slot}
    assert said == plugin.KNOWN
    for family, name in plugin.served().items():
        assert name == f"Lbdsl{FAMILIES[family].architecture}"
        path = ROOT / f"{plugin.layers_of(family).module.replace('.', '/')}.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assigned = {name.id for node in tree.body if isinstance(node, ast.Assign) for name in node.targets}
        listed = {name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names}
        makers = {"gated_mlp": "mlp", "moe": "moe", "attention": "attention"}
        assert {makers[kind] for kind in FAMILIES[family].rows} <= functions | assigned | listed


@pytest.mark.torch
def test_configurations_read_what_artifacts_say() -> None:
    from lbdsl.vllm import configurations

    assert {found.model_type for found in configurations.CONFIGURATIONS} == {
        ARTIFACT_PREFIX + family for family in plugin.served()
    }
    own = attention_layer(heads=32, kv_heads=32, head_dim=128, width=11008)
    for found in configurations.CONFIGURATIONS:
        assert pickle.loads(pickle.dumps(found)) is found
    stub = {"version": 2, "base_model_type": "llama", "layers": [layer_of(own, attention=False), own]}
    config = configurations.LbdslLlamaVllmConfig(lbdsl=stub, num_hidden_layers=2)
    assert config.lbdsl == stub
    assert configurations.LbdslLlamaVllmConfig(num_hidden_layers=2).lbdsl["layers"] == [own] * 2
    with pytest.raises(ValueError, match="is for 'llama', not for 'qwen2'"):
        configurations.LbdslQwen2VllmConfig(lbdsl=stub, num_hidden_layers=2)
    with pytest.raises(ValueError, match="describes 2 layers, the model has 3"):
        configurations.LbdslLlamaVllmConfig(lbdsl=stub, num_hidden_layers=3)


SIZES = {"heads": 32, "kv_heads": 32, "head_dim": 128, "width": 11008}
"""Of LlamaConfig by default."""


@pytest.mark.torch
def test_layers_have_kv_heads_and_widths_of_their_own() -> None:
    from lbdsl.vllm import configurations
    from lbdsl.vllm.layers import sizes_of

    own, thin = attention_layer(**SIZES), attention_layer(**{**SIZES, "kv_heads": 8, "width": 100})
    half = layer_of(attention_layer(**{**SIZES, "width": 64}), attention=False)
    stub = {"version": 2, "base_model_type": "llama", "layers": [own, thin, half]}
    config = configurations.LbdslLlamaVllmConfig(lbdsl=stub, num_hidden_layers=3)
    assert config.lbdsl == stub
    assert [sizes_of(spec, config) for spec in stub["layers"]] == [
        {"num_key_value_heads": 32, "intermediate_size": 11008},
        {"num_key_value_heads": 8, "intermediate_size": 100},
        {"intermediate_size": 64},
    ]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"heads": 16, "kv_heads": 16}, "no layers with another heads: 16, not 32"),
        ({"head_dim": 64}, "no layers with another head_dim: 64, not 128"),
        ({"kv_heads": 5}, "32 query heads cannot share 5 KV heads"),
        ({"kv_heads": 0}, "num_key_value_heads is 0"),
        ({"width": "wide"}, "intermediate_size is 'wide'"),
    ],
)
def test_other_sizes_are_refused_by_name(size: dict, message: str) -> None:
    from lbdsl.vllm import configurations

    layers = [attention_layer(**SIZES), attention_layer(**{**SIZES, **size})]
    stub = {"version": 2, "base_model_type": "llama", "layers": layers}
    with pytest.raises(ValueError, match=rf"layers\[1\].*{message}"):
        configurations.LbdslLlamaVllmConfig(lbdsl=stub, num_hidden_layers=2)
