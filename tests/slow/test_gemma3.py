"""Gemma 3 270M, a second real family, with windows of its own; `make test-slow` brings the model and runs this."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lbdsl.artifact.record import read_record
from lbdsl.artifact.restore import load_artifact
from lbdsl.model.hybrid.lbdsl_cache import cache_storage_bytes
from lbdsl.parts.attention import Window
from tests.hybrid_cases import cache_of
from tests.real_model import GEMMA3, model_folder, run_lbdsl

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_cores")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The recipe of tests/recipes/gemma3.lbr applied; the folder and what the commands wrote."""
    folder = tmp_path_factory.mktemp("gemma3")
    planned = run_lbdsl(
        "plan", "tests/recipes/gemma3.lbr", model_folder(GEMMA3), "-o", str(folder / "x.lbplan"), "--ctx", "4096", cwd=ROOT
    )
    applied = run_lbdsl("apply", str(folder / "x.lbplan"), "-o", str(folder / "out"), cwd=ROOT)
    said = planned.stdout + applied.stdout
    return folder / "out", said


def test_planned_as_what_it_is(artifact: tuple[Path, str]) -> None:
    folder, said = artifact
    record = read_record(folder).unwrap()
    specs = record.plan.specs
    own = Window(size=512)
    windows = [spec.mixer and spec.mixer.window for spec in specs]
    assert windows.count(own) == 15 - sum(spec.mixer is None for spec in specs)
    assert windows[11] == Window(size=512, sink_tokens=4)
    # 256 elements of keys and of values in bf16 a token and layer; 15 layers hold 512 tokens at most.
    assert record.plan.before.kv_bytes["4096"] == 1024 * (15 * 512 + 3 * 4096)
    assert "windows of their own" in said


def test_healed_and_holding_what_was_planned(artifact: tuple[Path, str]) -> None:
    folder, _ = artifact
    record = read_record(folder).unwrap()
    model = load_artifact(folder, record.plan, device="cpu")
    assert sum(p.numel() for p in model.parameters()) == record.plan.after.params
    ids = torch.randint(1000, 50_000, (1, 4096), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids, use_cache=True, logits_to_keep=1))
    assert cache_storage_bytes(cache) == record.plan.after.kv_bytes["4096"]
    assert record.evaluation is not None
    assert record.evaluation["perplexity"]["artifact"] < 1.6 * record.evaluation["perplexity"]["base"]
    assert record.heal is not None
    assert record.heal["curve"][-1][1] < 0.6 * record.heal["curve"][0][1]


def test_generates_sensibly(artifact: tuple[Path, str]) -> None:
    """Where lbdsl cannot be imported: words, not one of them over and over."""
    folder, _ = artifact
    script = (
        "import sys; sys.modules['lbdsl'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "ids = tokenizer('The capital of France is', return_tensors='pt')\n"
        "out = model.generate(**ids, max_new_tokens=40, do_sample=False)\n"
        "print(tokenizer.decode(out[0][ids['input_ids'].shape[1]:], skip_special_tokens=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    words = re.findall(r"[A-Za-z]+", done.stdout)
    assert len(words) >= 20, done.stdout
    assert len(set(words)) >= 8, done.stdout
