"""gpt-oss as it is on the hub, with experts in MXFP4: what they mean, loaded, streamed, planned and saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lbdsl.measure.tensor_files import TensorFiles
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load import load_base
from lbdsl.model.source import resolve_source
from tests.family_cases import family_base
from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.torch
NUMBERS = (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)


def meant(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Number by number, by the format's definition."""
    experts, rows, groups, size = blocks.shape
    found = np.zeros((experts, 2 * size * groups, rows))
    for expert, row, group, at in np.ndindex(blocks.shape):
        byte, scale = int(blocks[expert, row, group, at]), 2.0 ** (int(scales[expert, row, group]) - 127)
        column = 2 * (size * group + at)
        found[expert, column, row] = NUMBERS[byte % 16] * scale
        found[expert, column + 1, row] = NUMBERS[byte // 16] * scale
    return found


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A checkpoint with packed experts, and the stock model with the numbers that they mean."""
    folder, draw = tmp_path_factory.mktemp("mxfp4"), np.random.default_rng(0)
    base = family_base("gpt_oss", intermediate_size=64, vocab_size=260, dtype="bfloat16").to(torch.bfloat16)
    base.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    state = base.state_dict()
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        blocks = draw.integers(0, 256, (experts, rows, columns // 32, 16), dtype=np.uint8)
        scales = draw.integers(118, 124, (experts, rows, columns // 32), dtype=np.uint8)
        tensors |= {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(scales)}
        state[name].copy_(torch.from_numpy(meant(blocks, scales)))
    # Scales lie in another file than their blocks.
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith("_scales")}
    files = {"model-00001-of-00002.safetensors": tensors, "model-00002-of-00002.safetensors": scales}
    for file, each in files.items():
        save_file(each, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, each in files.items() for name in each}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, base


def test_it_is_read_as_the_numbers_that_it_means(packed: tuple[Path, torch.nn.Module]) -> None:
    folder, base = packed
    files, state = TensorFiles(folder, torch.bfloat16, "cpu"), base.state_dict()
    assert files.infos.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(files.read(name), tensor), name


def test_it_loads_as_the_stock_model_and_says_what_it_takes(packed: tuple[Path, torch.nn.Module]) -> None:
    folder, base = packed
    source = resolve_source(str(folder))
    found = inspect_model(source)
    (note,) = found.diagnostics
    assert note.code == "LB421"
    experts = [tensor for name, tensor in base.state_dict().items() if name.endswith(("gate_up_proj", "down_proj"))]
    assert found.unwrap().params == sum(parameter.numel() for parameter in base.parameters())
    assert f"{2 * sum(tensor.numel() for tensor in experts) / 1024:.0f} KiB in bfloat16" in note.message.replace(".0 ", " ")
    loaded = load_base(source)
    assert not hasattr(loaded.config, "quantization_config")
    read = loaded.state_dict()
    assert read.keys() == base.state_dict().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in base.state_dict().items())


@pytest.mark.slow
def test_an_artifact_of_it_has_these_numbers(packed, tmp_path: Path, monkeypatch, new_cache) -> None:
    from lbdsl import apply_plan, plan_recipe
    from lbdsl.api.applying import ApplyOptions
    from lbdsl.artifact.restore import load_artifact

    folder, base = packed
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(new_cache(tmp_path / "cache")))
    text = "lbr 1\nmeasure { tokens = 512; seq = 64 }\nlayers 1 experts(3)\nlayers 3 drop\nelse keep\n"
    (tmp_path / "r.lbr").write_text(text)
    planned = plan_recipe(tmp_path / "r.lbr", str(folder))
    done = apply_plan(planned, chosen=ApplyOptions(output=tmp_path / "out"))
    model = load_artifact(done.folder, done.record.plan, device="cpu")
    router = base.model.layers[1].mlp.experts.gate_up_proj
    kept = model.model.layers[1].mlp.experts.gate_up_proj
    assert kept.shape[0] == 3
    assert all(any(torch.equal(one, other) for other in router) for one in kept)
    for name in ("gate_up_proj", "down_proj"):
        assert torch.equal(
            getattr(model.model.layers[0].mlp.experts, name), getattr(base.model.layers[0].mlp.experts, name)
        )
