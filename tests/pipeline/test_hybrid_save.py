"""A saved hybrid model loads in a process that cannot import lbdsl, and with `import lbdsl.hf`, with the same logits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from lbdsl.artifact.contents import file_hashes
from lbdsl.artifact.runtime_files import write_runtime
from lbdsl.artifact.save import save_model
from tests.clean_process import CleanProcess
from tests.hybrid_cases import NONE, hybrid_of, plans, tiny_base
from tests.tiny_model import byte_tokenizer

WITHOUT_LBDSL = """
import sys
sys.modules["lbdsl"] = None            # any import of lbdsl fails
import torch
from transformers import AutoModelForCausalLM
folder, ids, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
ids = torch.load(ids)
with torch.no_grad():
    logits = model(input_ids=ids).logits
tokens = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)
torch.save((logits, tokens, sum(p.numel() for p in model.parameters())), out)
model.save_pretrained(folder + "-again")
"""

WITH_HF = """
import sys, torch
import lbdsl.hf
from transformers import AutoModelForCausalLM
folder, ids, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder).eval()
assert type(model).__module__.startswith("lbdsl."), type(model)
ids = torch.load(ids)
with torch.no_grad():
    logits = model(input_ids=ids).logits
tokens = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)
torch.save((logits, tokens, sum(p.numel() for p in model.parameters())), out)
"""


@pytest.mark.parametrize("name", ["drop + swa first", "two window sizes"])
def test_saved_models_load_anywhere(tmp_path: Path, name: str, clean_process: CleanProcess) -> None:
    def run(script: str, folder: Path) -> tuple:
        ids, out = tmp_path / "ids.pt", tmp_path / "out.pt"
        done = clean_process.run(script, folder, ids, out, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(out)

    model = hybrid_of(tiny_base(), plans()[name])
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    write_runtime(folder, model.config)
    ids = torch.randint(1, 101, (2, 25))
    torch.save(ids, tmp_path / "ids.pt")
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    tokens = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)
    params = sum(p.numel() for p in model.parameters())
    for script in (WITHOUT_LBDSL, WITH_HF):
        loaded = run(script, folder)
        assert torch.equal(loaded[0], logits)
        assert torch.equal(loaded[1], tokens)
        assert loaded[2] == params
    # What that user saved again loads again.
    again = run(WITHOUT_LBDSL, tmp_path / "saved-again")
    assert torch.equal(again[0], logits)


def test_others_may_read_all_that_was_saved_and_enter_its_folders(tmp_path: Path) -> None:
    """safetensors makes files for their owner alone; several chat templates lie in a folder of their own."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    before = os.umask(0o022)
    try:
        save_model(hybrid_of(tiny_base(), plans()["drop 0"]), tokenizer, tmp_path / "saved")
    finally:
        os.umask(before)
    inner = tmp_path / "saved" / "additional_chat_templates"
    assert inner.stat().st_mode & 0o777 == 0o755
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert inner / "tools.jinja" in files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    assert {"chat_template.jinja", "additional_chat_templates/tools.jinja"} <= set(file_hashes(tmp_path / "saved"))


def test_only_what_the_plan_needs_is_copied(tmp_path: Path) -> None:
    model = hybrid_of(tiny_base(), [NONE] * 4)
    model.save_pretrained(tmp_path)
    write_runtime(tmp_path, model.config)
    names = {path.name for path in tmp_path.glob("*.py")}
    assert "lbdsl_part_gated_mlp.py" in names
    assert "lbdsl_part_attention.py" not in names
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_lbdsl_llama.LbdslLlamaForCausalLM"
    assert config["lbdsl"]["layers"][0] == NONE
    assert {"model.safetensors", "config.json", "lbdsl_parts.py"} <= set(file_hashes(tmp_path))


TOKENIZER = """
import sys
sys.modules["lbdsl"] = None
from transformers import AutoTokenizer
folder, *said = sys.argv[1:]
given = {"trust_remote_code": False} if said else {}
print(AutoTokenizer.from_pretrained(folder, **given)("Some text, with 3 numbers.").input_ids)
"""


@pytest.mark.parametrize("said", [["False"], []])
def test_the_tokenizer_runs_no_code_of_the_folder(tmp_path: Path, said: list[str], clean_process: CleanProcess) -> None:
    """Said or not: where nothing is said and there is a terminal, transformers asks, for it looks at the configuration
    first, and goes on without an answer."""
    save_model(hybrid_of(tiny_base(), plans()["drop + swa first"]), byte_tokenizer(), tmp_path / "saved")
    code = sorted((tmp_path / "saved").glob("*.py"))
    assert code
    for path in code:
        path.write_text("raise SystemExit('code of the folder was run')\n")
    modules = tmp_path / "modules"
    done = clean_process.run(TOKENIZER, tmp_path / "saved", *said, cwd=tmp_path, HF_MODULES_CACHE=modules, HF_HUB_OFFLINE=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].endswith(str(byte_tokenizer()("Some text, with 3 numbers.").input_ids))
    assert bool(said) == ("Do you wish to run" not in done.stdout)
    assert not list(modules.rglob("*lbdsl*"))
