"""README, command by command, after `lbdsl demo`, with a tiny model and a quick recipe in the places of the real ones."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lbdsl.cli import demo
from lbdsl.core import resources
from tests.export_cases import small_tokenizer
from tests.readme_commands import readme_steps
from tests.tiny_model import save_tiny_model

RECIPE = """lbr 1
recipe "quickstart"
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
lowest 2 by kl(swa(window=16)) swa(window=16, sinks=learned)
else keep
eval { data = "builtin:pydoc"; tokens = 512; seq = 64 }
assert kv(1Ki) <= 80%
"""


def bring(folder: Path) -> None:
    """A tiny model where pip would put the real one, with a merge: llama.cpp reads no tokenizer of single bytes."""
    small_tokenizer().save_pretrained(save_tiny_model(folder / demo.MODEL.name, eos_token_id=258))


def test_what_readme_says_to_do_after_the_demo(workplace: Path, monkeypatch: pytest.MonkeyPatch, lbdsl) -> None:
    Path("recipes").mkdir()
    Path("recipes/quickstart.lbr").write_text(RECIPE)
    real = resources.resource_folder
    monkeypatch.setattr(resources, "resource_folder", lambda name: Path(name) if name == "recipes" else real(name))
    monkeypatch.setattr(demo, "_bring", bring)
    done = lbdsl("demo", "demo-out")
    assert done.code == 0, done.err
    assert Path("demo-out/report.html").is_file()
    for kind, text in readme_steps():
        if kind == "python":
            exec(text, {})
            continue
        done = lbdsl(*shlex.split(text)[1:])
        assert done.code == 0, (text, done.err)
    assert {path.name for path in Path().glob("smollm2-compressed*")} >= {"smollm2-compressed", "smollm2-compressed-gguf"}
