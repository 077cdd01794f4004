"""Measuring a model of 1.2 GB from disk: the peak of memory is a layer and the head, not the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_model import byte_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MB = 1e6
RECIPE = 'measure { data = "builtin:pydoc"; tokens = 512; seq = 256 }\nlowest 3 by nll(drop) drop\n'

# measure or nothing, from disk or loaded; numbers and VmHWM (this process's peak of resident memory) on stdout.
MEASURE = """
import json, sys
from pathlib import Path
import lbdsl.measure.scores, lbdsl.run.apply, lbdsl.model.load
from lbdsl.session.options import RunOptions
from lbdsl.api.planning import measure_model
from lbdsl.session.model import OpenModel
mode, recipe, folder, cache = sys.argv[1:]
found = {}
options = RunOptions(cache_dir=Path(cache), low_memory=mode == "disk")
if mode == "nothing":
    bench = OpenModel(folder, options)
    bench.digest, bench.tokenizer
else:
    found = measure_model(recipe, folder, options=options).to_json()
status = Path("/proc/self/status").read_text()
print(json.dumps({**found, "peak": int(status.split("VmHWM:")[1].split()[0]) * 1024}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("measured")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "base", max_shard_size="300MB")
    byte_tokenizer().save_pretrained(folder / "base")
    (folder / "x.lbr").write_text(RECIPE)
    yield folder
    shutil.rmtree(folder)


def run(mode: str, folder: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, mode, str(folder / "x.lbr"), str(folder / "base"), str(folder / mode)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_peak_memory_of_measuring_from_disk(base):
    weights = sum(file.stat().st_size for file in (base / "base").glob("*.safetensors"))
    assert weights > 1.1e9
    nothing, disk, loaded = (run(mode, base) for mode in ("nothing", "disk", "loaded"))
    over = {name: (found["peak"] - nothing["peak"]) / MB for name, found in (("disk", disk), ("loaded", loaded))}
    print(
        f"\nweights {weights / MB:.0f} MB; nothing measured {nothing['peak'] / MB:.0f} MB; from disk +{over['disk']:.0f} "
        f"MB; loaded +{over['loaded']:.0f} MB"
    )
    assert {**disk, "peak": 0} == {**loaded, "peak": 0}, "the same numbers, to the last bit"
    layer, head = 88, 131
    assert over["disk"] < layer + head + 250, "a layer, the head, and states and logits in between"
    assert over["loaded"] > 0.9 * weights / MB
