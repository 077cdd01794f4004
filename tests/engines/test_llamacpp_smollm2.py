"""SmolLM2 with dropped attentions, windows or smaller parts in real llama.cpp: tokens, text and perplexity of the hybrid
model in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lbdsl.artifact.record import read_record
from lbdsl.artifact.restore import load_artifact
from lbdsl.bench.environments import engines_folder
from lbdsl.data.blocks import token_blocks
from lbdsl.data.split import TextPart
from lbdsl.export.gguf import write_model
from lbdsl.export.gguf_target import target_of
from lbdsl.session.exporting import artifact_subject, export_artifact
from lbdsl.session.model import OpenModel
from tests.engines.environments import kept_artifact
from tests.engines.test_llamacpp import python, run_llamacpp  # noqa: F401  (the fixture)
from tests.engines.test_llamacpp_tokens import TEXTS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800), pytest.mark.usefixtures("all_cores")]

RECIPES = {
    "drop8": """lbr 1
measure { data = "builtin:pydoc"; tokens = 1Ki; seq = 512 }
layers 4-7, 17, 25, 26, 29 drop
else keep
""",
    "window12": """lbr 1
measure { data = "builtin:pydoc"; tokens = 1Ki; seq = 512 }
layers 4-7, 10, 12, 15, 17, 22, 25, 26, 29 swa(window=128)
else keep
""",
    "learned": """lbr 1
measure { data = "builtin:pydoc"; tokens = 4Ki; seq = 512 }
layers 1-7, 9-24 swa(window=256, sinks=learned)
else keep
""",
    "sizes": """lbr 1
measure { data = "builtin:pydoc"; tokens = 1Ki; seq = 512 }
layers 4-7 drop
layers 10, 13, 16, 19, 22, 25 kv_heads(1)
layers 2-27 width(87.5%)
else keep
""",
    "patched": """lbr 1
measure { data = "builtin:pydoc"; tokens = 8Ki; seq = 1Ki }
layers 14, 25 drop(block, patch=linear)
layers 4-7, 17, 26 drop(patch=linear)
layers 12 drop(mlp, patch=linear)
else keep
""",
    "base": """lbr 1
measure { data = "builtin:pydoc"; tokens = 1Ki; seq = 512 }
else keep
""",
}
ARCHITECTURES = {
    "drop8": "deci",
    "sizes": "deci",
    "patched": "deci",
    "window12": "granite_swa",
    "learned": "granite_swa",
    "base": "llama",
}
PAST_THE_WINDOW = (257, 258, 264, 272, 288, 300, 320, 350, 384, 400, 448, 500, 511, 512, 513, 600, 640, 700, 768, 900)
"""Tokens of 20 prompts that are all longer than the window of "learned"."""
LENGTHS = (5, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224, 256, 300, 400, 512)
PROMPTS = {
    "drop8": LENGTHS,
    "sizes": LENGTHS,
    "patched": LENGTHS[::2],
    "window12": LENGTHS[-6:],
    "learned": PAST_THE_WINDOW,
    "base": LENGTHS[::4],
}
NEW = 64
NEAR = {"F32": 0.02, "F16": 0.1}
"""Gaps of the two best logits below which rounding may choose either."""


def artifact_of(name: str, smollm2: str) -> Path:
    """The artifact of one recipe in float32, without healing; made once and kept."""
    home = engines_folder() / "artifacts"
    home.mkdir(parents=True, exist_ok=True)
    recipe = home / f"llamacpp-{name}.lbr"
    recipe.write_text(RECIPES[name])
    return kept_artifact(recipe, smollm2, "--no-heal", "--dtype", "float32")


@pytest.fixture(scope="module")
def texts(smollm2) -> dict[str, Any]:
    """Prompts by their length in tokens, and 2,048 tokens to score, of text that nothing was measured on."""
    tokenizer = OpenModel(smollm2).tokenizer
    ids = token_blocks("builtin:pydoc", TextPart.EVAL, tokenizer, 16 * 1024, 1024).ids
    lengths = sorted({*LENGTHS, *PAST_THE_WINDOW})
    prompts = {length: ids[i % len(ids), 100 : 100 + length].tolist() for i, length in enumerate(lengths)}
    return {"tokenizer": tokenizer, "prompts": prompts, "blocks": [ids[0].tolist(), ids[1].tolist()]}


@torch.inference_mode()
def in_transformers(model, prompts: list[list[int]], blocks: list[list[int]]) -> dict[str, Any]:
    model.generation_config.eos_token_id = None
    greedy = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = [row[0].topk(2).values for row in out.logits]
        greedy.append({"tokens": out.sequences[0, len(prompt) :].tolist(), "gaps": [float(b[0] - b[1]) for b in best]})
    nll = [
        torch.nn.functional.cross_entropy(model(torch.tensor([block])).logits[0, :-1].double(), torch.tensor(block[1:]))
        for block in blocks
    ]
    return {"greedy": greedy, "nll": float(sum(nll) / len(nll))}


@pytest.mark.parametrize("name", RECIPES)
def test_same_tokens_and_perplexity(name, smollm2, texts, python, tmp_path):  # noqa: F811
    folder = artifact_of(name, smollm2)
    record = read_record(folder).unwrap()
    prompts = [texts["prompts"][length] for length in PROMPTS[name]]
    model = load_artifact(folder, record.plan, device="cpu", dtype=torch.float32)
    expected = in_transformers(model, prompts, texts["blocks"])
    done = export_artifact(folder, "gguf", output=tmp_path / "gguf")
    files = {"F32": done.folder / "model.gguf", "F16": tmp_path / "f16.gguf"}
    target = target_of(artifact_subject(folder, record)).unwrap()
    assert target.graph.name == ARCHITECTURES[name]
    write_model(folder, target, files["F16"], numbers="F16")
    assert files["F16"].stat().st_size < 0.52 * files["F32"].stat().st_size
    for numbers, path in files.items():
        answer = run_llamacpp(
            python, tmp_path, model=str(path), context=1024, prompts=prompts, new=NEW, blocks=texts["blocks"], texts=TEXTS
        )
        tokenizer = texts["tokenizer"]
        assert answer["tokens"] == [tokenizer(text)["input_ids"] for text in TEXTS]
        nll = sum(answer["nll"]) / len(answer["nll"])
        same = compare(answer["greedy"], expected["greedy"], NEAR[numbers])
        print(f"{name} {numbers}: {same} of {len(prompts)} continuations equal, nll {nll:.5f}, {expected['nll']:.5f} here")
        assert same >= 0.95 * len(prompts) - (0 if numbers == "F32" else 3)
        assert abs(torch.tensor(nll - expected["nll"]).exp() - 1) < 0.01


@pytest.mark.parametrize("name", ["drop8", "sizes"])
def test_cache_is_the_planned_one(name, smollm2, python, tmp_path):  # noqa: F811
    """With flash attention; without it llama.cpp gives every layer room for the values of the most KV heads."""
    folder = artifact_of(name, smollm2)
    done = export_artifact(folder, "gguf", output=tmp_path / "gguf")
    plan = read_record(folder).unwrap().plan
    planned = plan.after.kv_bytes["1024"]
    for flash, bytes_held in ((True, planned), (False, planned / 2 + plan.before.kv_bytes["1024"] / 2)):
        answer = run_llamacpp(python, tmp_path, model=str(done.folder / "model.gguf"), context=1024, flash=flash)
        assert f"KV buffer size = {bytes_held / 2**20:8.2f} MiB" in answer["log"]


def compare(got: list[dict[str, Any]], expected: list[dict[str, Any]], near: float) -> int:
    """How many continuations are equal; where one is not, the two best logits were as good as equal."""
    same = 0
    for ours, theirs in zip(got, expected, strict=True):
        if ours["tokens"] == theirs["tokens"]:
            same += 1
            continue
        at = next(i for i, pair in enumerate(zip(ours["tokens"], theirs["tokens"], strict=True)) if pair[0] != pair[1])
        assert theirs["gaps"][at] < near, (at, theirs["gaps"][at], ours["gaps"][at])
        print(f"differs at token {at}: gaps {theirs['gaps'][at]:.4f} and {ours['gaps'][at]:.4f}")
    return same
