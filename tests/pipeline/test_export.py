"""`lbdsl export` and `lbdsl plan --target` as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbdsl.artifact.contents import file_hashes
from lbdsl.core.digest import digest_of
from tests.pipeline.conftest import Made

RECIPE = """lbr 1
recipe "small"
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 1 drop
layers 2-3 swa(window=16)
else keep
"""
SINKS = RECIPE.replace("window=16", "window=16, sinks=4").replace("layers 1 drop", "layers 0 drop")


@pytest.fixture
def artifact(workplace: Path, made: Callable[..., Made]) -> Path:
    return Path(shutil.copytree(made(RECIPE).place / "out", workplace / "out"))


def test_export_writes_beside_and_says_how_to_load(artifact: Path, lbdsl) -> None:
    done = lbdsl("export", "out", "--to", "decilm")
    assert done.code == 0, done.err
    output = artifact.with_name("out-decilm")
    assert str(output) in done.out
    assert "trust_remote_code=True" in done.out
    assert "model.safetensors" in done.out
    assert "linked" in done.out
    assert os.path.samefile(output / "model.safetensors", artifact / "model.safetensors")
    assert not os.path.samefile(output / "tokenizer.json", artifact / "tokenizer.json")
    card = (output / "README.md").read_text()
    assert "| 1 | `drop` |" in card
    assert "| 2-3 | `swa(window=16)` |" in card
    assert "SGLang's DeciLM has no sliding windows" in done.err

    assert lbdsl("export", "out", "--to", "decilm").code == 1
    (output / "mine.txt").write_text("kept")
    again = lbdsl("export", "out", "--to", "decilm", "--force", "--json", "-q")
    assert again.code == 0
    found = json.loads(again.out)
    assert (found["format_version"], found["kind"], found["engine"]) == (1, "decilm", "vllm")
    assert found["output"] == str(output)
    assert {"name": "model.safetensors", "bytes": (artifact / "model.safetensors").stat().st_size, "linked": True} in found[
        "files"
    ]
    assert found["bytes"] == sum(file["bytes"] for file in found["files"])
    assert (artifact.with_name("out-decilm.old") / "mine.txt").read_text() == "kept"
    assert "LB469" in again.err


def test_an_unknown_format_is_named(artifact: Path, lbdsl) -> None:
    done = lbdsl("export", "out", "--to", "decilmm")
    assert done.code == 2
    assert "did you mean `decilm`?" in done.err
    assert lbdsl("export", "out").code == 2


def test_what_is_no_artifact_or_was_edited_is_refused(artifact: Path, lbdsl) -> None:
    assert lbdsl("export", "model", "--to", "decilm").code == 1
    assert lbdsl("export", "nowhere", "--to", "decilm").code == 1
    config = artifact / "config.json"
    config.write_text(config.read_text().replace('"size": 16', '"size": 17'))
    done = lbdsl("export", "out", "--to", "decilm")
    assert done.code == 6
    assert "config.json changed after it was saved" in done.err
    assert not artifact.with_name("out-decilm").exists()
    record = artifact / "lbdsl.json"
    record.write_text(record.read_text().replace('"status": "accepted"', '"status": "rejected"'))
    assert lbdsl("export", "out", "--to", "decilm").code == 6


def test_all_reasons_of_a_refusal_are_given(workplace: Path, lbdsl) -> None:
    (workplace / "sinks.lbr").write_text(SINKS)
    assert lbdsl("apply", "sinks.lbr", "model", "-o", "out", "--yes", "-q").code == 0
    done = lbdsl("export", "out", "--to", "decilm")
    assert done.code == 6
    assert "LB502" in done.err
    assert "LB503" in done.err
    assert "layers 2-3" in done.err
    assert sorted(path.name for path in workplace.iterdir()) == ["model", "out", "sinks.lbr", "tiny.lbr"]


def test_a_rejected_artifact_is_exported_with_a_warning(workplace: Path, lbdsl) -> None:
    (workplace / "small.lbr").write_text(RECIPE + "eval { tokens = 256; seq = 64 }\nassert agreement > 99.99%\n")
    assert lbdsl("apply", "small.lbr", "model", "-o", "out", "--yes", "-q").code == 4
    done = lbdsl("export", "out.rejected", "--to", "vllm", "-o", "served", "-q")
    assert done.code == 0
    assert "LB507" in done.err
    assert (workplace / "served" / "config.json").is_file()


def test_an_output_inside_the_artifact_is_refused(artifact: Path, lbdsl) -> None:
    done = lbdsl("export", "out", "--to", "decilm", "-o", "out/decilm")
    assert done.code == 1
    assert "LB460" in done.err
    assert not (artifact / "decilm").exists()


def test_plan_target_says_what_an_engine_can_serve(workplace: Path, lbdsl) -> None:
    (workplace / "small.lbr").write_text(RECIPE)
    done = lbdsl("plan", "small.lbr", "model", "--target", "vllm", "--target", "transformers", "-q")
    assert done.code == 0, done.err
    assert "note[LB508] vLLM: export to `decilm`; also `vllm`" in done.out
    assert "note[LB509] vLLM's cache: 3 groups of 2 layers (2 full, 1 windowed at 16, 1 of 6 places padding)" in " ".join(
        done.out.split()
    )
    assert "transformers: the artifact itself loads there" in done.out

    (workplace / "sinks.lbr").write_text(SINKS)
    done = lbdsl("plan", "sinks.lbr", "model", "--target", "vllm", "-q")
    assert done.code == 0, "it can be applied all the same"
    text = " ".join(done.out.split())
    assert "warning[LB511] vLLM: no format can express this plan" in text
    assert "warning[LB502] vLLM, `decilm`: DeciLM needs attention in the first layer that has anything" in text
    assert "warning[LB503] vLLM, `vllm`: vLLM with lbdsl's plug-in cannot keep sink tokens (layers 2-3)" in text


def test_plan_target_in_json_and_not_in_the_plan(workplace: Path, lbdsl) -> None:
    (workplace / "small.lbr").write_text(RECIPE)
    plain = json.loads(lbdsl("plan", "small.lbr", "model", "--json", "-q").out)
    found = json.loads(lbdsl("plan", "small.lbr", "model", "--json", "--target", "vllm", "-q").out)
    assert plain["targets"] == []
    assert plain["digest"] == found["digest"]
    assert "gain" not in found["targets"][0]
    there = json.loads(lbdsl("plan", "small.lbr", "model", "--json", "--target", "vllm@H100", "-q").out)
    gain = there["targets"][0]["gain"]
    assert there["digest"] == found["digest"]
    assert gain["settings"]["memory_bytes"] == 80_000_000_000
    # With contexts so short, what vLLM reserves for windows outweighs what they save.
    assert 0 < gain["changed"]["requests"] < gain["base"]["requests"]
    assert gain["base"]["written_by_one"] < gain["changed"]["written_by_one"]
    said = lbdsl("plan", "small.lbr", "model", "--target", "vllm@H100", "-q").out
    assert "fit in its memory" in said.partition("LB508")[0]
    (target,) = found["targets"]
    assert (target["engine"], target["can"]) == ("vllm", True)
    assert {answer["kind"]: answer["can"] for answer in target["exports"]} == {
        "decilm": True,
        "granite": False,
        "vllm": True,
    }
    changed = target["cache"]["changed"]
    assert (changed["group_size"], changed["padding"]) == (2, 1)
    # So short a context has nothing to gain from windows in vLLM, and that is said.
    assert 0 < changed["capacity_tokens"] < target["cache"]["base"]["capacity_tokens"]
    assert [d["severity"] for d in target["findings"] if d["code"] == "LB509"] == ["note", "warning"]


def test_an_unknown_engine_is_named_before_anything_is_measured(workplace: Path, lbdsl) -> None:
    done = lbdsl("plan", "tiny.lbr", "model", "--target", "vlm")
    assert done.code == 2
    assert "LB501" in done.err
    assert "did you mean `vllm`?" in done.err
    assert "measuring" not in done.err


def test_what_a_hub_client_left_in_the_artifact_is_not_exported(artifact: Path, lbdsl) -> None:
    for name in (".cache/huggingface/download/config.json.metadata", ".git/objects/ab/cd"):
        (artifact / name).parent.mkdir(parents=True)
        (artifact / name).write_text("x")
    (artifact / "LICENSE").symlink_to(artifact.parent / "secret")
    (artifact.parent / "secret").write_text("key")
    done = lbdsl("export", "out", "--to", "vllm")
    assert done.code == 0, done.err
    output = artifact.with_name("out-vllm")
    assert not (output / ".cache").exists()
    assert not (output / ".git").exists()
    assert not (output / "LICENSE").exists()
    assert os.path.samefile(output / "model.safetensors", artifact / "model.safetensors")


def sealed(folder: Path, **changes: Any) -> None:
    """The record again as if it had been written so, with the hashes of the files that are there."""
    content = json.loads((folder / "lbdsl.json").read_text())
    del content["digest"]
    content |= {"files": file_hashes(folder), **changes}
    (folder / "lbdsl.json").write_text(json.dumps({**content, "digest": digest_of(content)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {}},
        {"heal": {}},
        {"evaluation": {"data": "x", "tokens": 1, "perplexity": {"base": "x"}}},
    ],
    ids=str,
)
def test_a_record_with_half_of_its_results_is_refused(artifact: Path, lbdsl, changes: dict[str, Any]) -> None:
    sealed(artifact, **changes)
    for words in (("show", "out"), ("export", "out", "--to", "decilm")):
        done = lbdsl(*words)
        assert done.code == 6
        assert "LB465" in done.err


@pytest.mark.parametrize("layers", [[], [5] * 6, [{"attn": "swa"}] * 6, [{"attn": "full"}] * 7], ids=str)
@pytest.mark.parametrize("kind", ["decilm", "gguf", "native", "vllm"])
def test_layers_that_are_none_are_refused(artifact: Path, lbdsl, kind: str, layers: list[Any]) -> None:
    config = json.loads((artifact / "config.json").read_text())
    config["lbdsl"]["layers"] = layers
    (artifact / "config.json").write_text(json.dumps(config))
    sealed(artifact)
    done = lbdsl("export", "out", "--to", kind)
    assert (done.code, "LB402" in done.err) == (6, True)
    assert not artifact.with_name(f"out-{kind}").exists()


@pytest.mark.parametrize("part", ["model", "added_tokens", "pre_tokenizer", "normalizer", "post_processor"])
def test_a_tokenizer_of_another_form_is_a_coded_error(artifact: Path, lbdsl, part: str) -> None:
    tokenizer = json.loads((artifact / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [["a", "b"]]
    tokenizer["model"]["vocab"]["ab"] = 257
    tokenizer[part] = [5]
    (artifact / "tokenizer.json").write_text(json.dumps(tokenizer))
    (artifact / "config.json").write_text((artifact / "config.json").read_text().replace('"size": 16', '"size": 512'))
    sealed(artifact)
    done = lbdsl("export", "out", "--to", "gguf")
    assert done.code != 0
    assert "LB522" in done.err
    assert not artifact.with_name("out-gguf").exists()
