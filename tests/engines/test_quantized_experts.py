"""Quantized models of experts in real engines: what is served, and what no kernel computes on this CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lbdsl
from lbdsl.api.applying import ApplyOptions
from lbdsl.artifact.restore import load_artifact
from lbdsl.session.exporting import export_artifact
from lbdsl.session.options import RunOptions
from tests.engines.test_llamacpp import python, run_llamacpp  # noqa: F401  (the fixture)
from tests.engines.test_quantized import W4A16
from tests.engines.test_vllm import random_prompts
from tests.engines.vllm_side import serve
from tests.export_cases import small_tokenizer
from tests.family_cases import family_base

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

PLAIN = {"use_sliding_window": False, "attention_bias": False, "mlp_only_layers": [], "initializer_range": 0.1}
SIZES = {"vocab_size": 260, "hidden_size": 128, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 64}
EXPERTS = (
    'layers 1 drop(block)\nlayers all experts(4)\nmodules "*.experts.*" quantize(bits={bits})\nelse quantize(bits=8)\n'
)
ATTENTION = 'layers 1 drop(block)\nlayers all experts(4)\nmodules "*.self_attn.*" quantize(bits=4)\n'


def artifact_of(family: str, recipe: str, folder: Path) -> Path:
    olmoe = {"num_key_value_heads": 4} if family == "olmoe" else {}
    family_base(family, **{**SIZES, **PLAIN, **olmoe}).save_pretrained(folder / "base")
    small_tokenizer().save_pretrained(folder / "base")
    (folder / "r.lbr").write_text('measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\n' + recipe)
    run = RunOptions(cache_dir=folder / "cache")
    planned = lbdsl.plan_recipe(folder / "r.lbr", str(folder / "base"), options=run)
    done = lbdsl.apply_plan(planned, chosen=ApplyOptions(output=folder / "made"))
    assert done.exit_code == 0, done.diagnostics
    return folder / "made"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "olmoe", "granitemoe"])
def test_llamacpp_serves_experts_as_integers(family: str, bits: int, python, tmp_path: Path) -> None:  # noqa: F811
    folder = artifact_of(family, EXPERTS.format(bits=bits), tmp_path)
    export_artifact(folder, "gguf", output=tmp_path / "gguf")
    ids = torch.randint(0, 256, (1, 90), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = load_artifact(folder, device="cpu")(input_ids=ids, use_cache=False).logits[0]
    model = str(tmp_path / "gguf" / "model.gguf")
    answer = run_llamacpp(python, tmp_path, model=model, context=128, batch=128, threads=1, logits=[ids[0].tolist()])
    error = (torch.tensor(answer["logits"][0]) - expected).norm(dim=-1) / expected.norm(dim=-1)
    # It rounds inputs to 8 bits, too: now and then a token goes to another expert.
    print(f"{family}, {bits} bits: median {error.median():.4f}, 90 % {error.quantile(0.9):.4f}")
    assert error.median() < 0.06
    assert error.quantile(0.9) < 0.15


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "olmoe", "granitemoe"])
def test_vllm_serves_quantized_attention_beside_experts(family: str, tmp_path: Path) -> None:
    folder = artifact_of(family, ATTENTION, tmp_path)
    native = export_artifact(folder, "native", output=tmp_path / "native").folder
    prompts = random_prompts(41, 90)
    options = {"max_tokens": 1, "max_model_len": 256, "dtype": "float16", "environment": W4A16}
    served = serve(native, prompts, tmp_path, score=True, **options)
    model = load_artifact(folder, device="cpu", dtype=torch.float32)
    apart = []
    for prompt, said in zip(prompts, served.scores, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            ours = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        apart.append((ours.gather(-1, ids[0, 1:, None])[:, 0] - torch.tensor(said)).abs())
    error = torch.cat(apart)
    print(f"{family}: mean {error.mean():.4f}, most {error.max():.4f}")
    assert error.quantile(0.9) < 0.02


@pytest.mark.skipif(torch.cpu._is_amx_tile_supported(), reason="a CPU with AMX has the kernel")
def test_vllm_has_no_kernel_for_experts_as_integers_on_this_cpu(tmp_path: Path) -> None:
    folder = artifact_of("qwen3_moe", EXPERTS.format(bits=4).replace("bits=8", "bits=4"), tmp_path)
    native = export_artifact(folder, "native", output=tmp_path / "native").folder
    with pytest.raises(AssertionError, match="No WNA16 MoE backend"):
        serve(native, random_prompts(41), tmp_path, max_tokens=1, max_model_len=256, dtype="bfloat16")
