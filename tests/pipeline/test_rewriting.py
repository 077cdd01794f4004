"""A plan without healing is carried out on disk: the same artifact as by loading, changing and saving the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lbdsl.artifact.contents import check_files
from lbdsl.artifact.record import read_record
from lbdsl.model.checkpoint import read_tensors
from lbdsl.solve.case import Case
from tests.family_cases import each_family, family_base
from tests.tiny_model import byte_tokenizer, tiny_llama

DROPS = """recipe "drops"
layers 1, 4 drop
layers 0, 2-3 swa(window=16, sinks=2)
"""
WINDOWS = """recipe "windows"
else swa(window=16)
"""


def save_base(folder: Path, *, shards: bool = False, tied: bool = True, dtype: torch.dtype = torch.float32) -> Path:
    model = tiny_llama(1, tie_word_embeddings=tied).to(dtype)
    model.generation_config.temperature, model.generation_config.do_sample = 0.5, True
    model.save_pretrained(folder, max_shard_size="30KB" if shards else "1GB")
    byte_tokenizer().save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def apply_both_ways(lbdsl, recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[Path, Path]:
    """The artifact made on disk, for which the base is never loaded, and the one made by loading."""
    Path("x.lbr").write_text(recipe)
    assert lbdsl("plan", "x.lbr", folder, "-o", "x.lbplan", *words).code == 0

    def never(*_, **__):
        raise AssertionError("the model was loaded")

    with monkeypatch.context() as patch:
        patch.setattr("lbdsl.session.model.OpenModel.base", property(never))
        done = lbdsl("apply", "x.lbplan", "-o", "rewritten")
        assert done.code == 0, done.err
    with monkeypatch.context() as patch:
        patch.setattr("lbdsl.run.apply.rewriting_of", lambda *_: None)
        done = lbdsl("apply", "x.lbplan", "-o", "loaded")
        assert done.code == 0, done.err
    return Path("rewritten"), Path("loaded")


def assert_same(one: Path, other: Path) -> None:
    """Equal file for file, and tensor for tensor."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name
    names = [{path.name for path in folder.iterdir() if "safetensors" not in path.name} for folder in (one, other)]
    assert names[0] == names[1]
    for name in names[0] - {"lbdsl.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    records = [read_record(folder).unwrap() for folder in (one, other)]
    check_files(one, records[0])
    different = {"files"}
    assert records[0].model_dump(exclude=different) == records[1].model_dump(exclude=different)
    assert {k: v for k, v in records[0].files.items() if "safetensors" not in k} == {
        k: v for k, v in records[1].files.items() if "safetensors" not in k
    }


@pytest.mark.parametrize(
    ("shards", "tied", "recipe"),
    [(False, False, DROPS), (False, True, WINDOWS), (True, False, WINDOWS), (True, True, DROPS)],
    ids=["one file, untied, drops", "one file, tied, windows", "shards, untied, windows", "shards, tied, drops"],
)
def test_equal_to_loading(workplace, lbdsl, monkeypatch, shards, tied, recipe):
    base = save_base(workplace / "base", shards=shards, tied=tied)
    rewritten, loaded = apply_both_ways(lbdsl, recipe, base, monkeypatch)
    assert_same(rewritten, loaded)
    linked = {path.stat().st_ino for path in rewritten.iterdir()} & {path.stat().st_ino for path in base.iterdir()}
    shard_count = len(list(base.glob("*.safetensors")))
    if recipe is WINDOWS:
        assert len(linked) == shard_count
    elif shards:
        assert 0 < len(linked) < shard_count


@pytest.mark.parametrize(("kept", "wanted"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_cast_on_the_way(workplace, lbdsl, monkeypatch, kept, wanted):
    base = save_base(workplace / "base", shards=True, dtype=getattr(torch, kept))
    rewritten, loaded = apply_both_ways(lbdsl, DROPS, base, monkeypatch, "--dtype", wanted)
    assert_same(rewritten, loaded)
    assert {info.dtype for info in read_tensors(rewritten).values()} == {wanted}


def test_casting_rounds_as_torch_does():
    from lbdsl.run.rewrite import cast

    values = torch.cat([torch.randn(10_000), torch.tensor([0.0, -0.0, 1e-40, 3.4e38, 65520.0, float("inf"), float("nan")])])
    for old in ("float32", "float64", "float16", "bfloat16"):
        for new in ("float32", "float16", "bfloat16"):
            data = values.to(getattr(torch, old))
            changed = cast(bytearray(data.view(torch.uint8).numpy().tobytes()), old, new)
            assert bytes(changed) == data.to(getattr(torch, new)).view(torch.uint8).numpy().tobytes()


def test_a_tied_matrix_under_the_heads_name(workplace, lbdsl, monkeypatch):
    base = save_base(workplace / "base")
    from safetensors.torch import save_file

    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert_same(*apply_both_ways(lbdsl, DROPS, base, monkeypatch))


def test_an_artifact_changed_again(workplace, lbdsl, monkeypatch):
    base = save_base(workplace / "base", shards=True)
    (workplace / "x.lbr").write_text(DROPS)
    assert lbdsl("apply", "x.lbr", base, "-o", "first", "--yes").code == 0
    (workplace / "y.lbr").write_text("layers 5 drop\n")
    folders = []
    for name in ("rewritten", "loaded"):
        done = lbdsl("apply", "y.lbr", "first", "-o", name, "--yes", "--again")
        assert done.code == 0, done.err
        folders.append(Path(name))
        monkeypatch.setattr("lbdsl.run.apply.rewriting_of", lambda *_: None)
    assert_same(*folders)


LOGITS = """
import sys
sys.modules["lbdsl"] = None            # any import of lbdsl fails
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(torch.arange(60)[None]).logits, sys.argv[2])
"""


def test_it_loads_in_a_clean_process_with_the_logits_of_the_changed_model(workplace, lbdsl, monkeypatch, clean_process):
    from lbdsl.model.load import load_base
    from lbdsl.model.source import resolve_source
    from lbdsl.model.surgery import to_hybrid

    base = save_base(workplace / "base", shards=True, tied=False)
    rewritten, _ = apply_both_ways(lbdsl, DROPS, base, monkeypatch)
    done = clean_process.run(LOGITS, rewritten, "logits.pt", cwd=workplace, HF_MODULES_CACHE=workplace / "modules")
    assert done.returncode == 0, done.stderr[-3000:]
    model = to_hybrid(load_base(resolve_source(str(base)), device="cpu"))
    for layer, spec in enumerate(json.loads((rewritten / "config.json").read_text())["lbdsl"]["layers"]):
        model.set_layer(layer, spec)
    with torch.no_grad():
        assert torch.equal(torch.load("logits.pt"), model(torch.arange(60)[None]).logits)


def test_what_only_a_loaded_model_can_do(workplace, lbdsl, monkeypatch):
    """State that the checkpoint does not have: None, and the model is loaded."""
    from lbdsl.model.inspect import inspect_model
    from lbdsl.model.source import resolve_source
    from lbdsl.plan.file import load_plan
    from lbdsl.run import rewrite as rewriting

    base = save_base(workplace / "base")
    (workplace / "x.lbr").write_text(DROPS)
    assert lbdsl("plan", "x.lbr", base, "-o", "x.lbplan").code == 0
    plan = load_plan(workplace / "x.lbplan").unwrap()
    facts = inspect_model(resolve_source(str(base))).unwrap()
    assert rewriting.rewriting_of(plan, facts, base) is not None
    real = rewriting.skeleton_of

    def with_more(folder, facts):
        model = real(folder, facts)
        model.model.norm.register_buffer("more", torch.ones(1))
        return model

    monkeypatch.setattr(rewriting, "skeleton_of", with_more)
    assert rewriting.rewriting_of(plan, facts, base) is None


def test_room_is_needed_only_for_what_is_written(workplace, lbdsl, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    base = save_base(workplace / "base", shards=True)
    for name, recipe in (("drops", DROPS), ("windows", WINDOWS)):
        (workplace / f"{name}.lbr").write_text(recipe)
        assert lbdsl("plan", f"{name}.lbr", base, "-o", f"{name}.lbplan").code == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 0, 2**20 + 1000))
    done = lbdsl("apply", "drops.lbplan", "-o", "out")
    assert (done.code, "LB463" in done.err) == (1, True)
    assert not (workplace / "out.lbdsl-work").exists()
    assert lbdsl("apply", "windows.lbplan", "-o", "out").code == 0


def test_interrupted_and_resumed(workplace, lbdsl, monkeypatch):
    base = save_base(workplace / "base", shards=True)
    (workplace / "x.lbr").write_text(DROPS)
    assert lbdsl("plan", "x.lbr", base, "-o", "x.lbplan").code == 0
    assert lbdsl("apply", "x.lbplan", "-o", "unbroken").code == 0
    from lbdsl.run import shards

    copy, calls = shards.copy_range, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        copy(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "copy_range", stop)
        done = lbdsl("apply", "x.lbplan", "-o", "out")
    assert done.code == 130
    assert "--resume" in done.err
    assert not (workplace / "out").exists()
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--resume")
    assert done.code == 0, done.err
    assert read_record(workplace / "out").unwrap().files == read_record(workplace / "unbroken").unwrap().files
    assert not (workplace / "out.lbdsl-work").exists()


@pytest.mark.parametrize("notes", ["{}", "{ cut"])
def test_force_throws_away_a_run_that_had_saved(workplace, lbdsl, monkeypatch, notes):
    """Whatever is left of it: the new run looks for room, and does not load the model."""
    from lbdsl.run import apply as run

    base = save_base(workplace / "base", shards=True)
    (workplace / "x.lbr").write_text(DROPS)
    assert lbdsl("plan", "x.lbr", base, "-o", "x.lbplan").code == 0
    (workplace / "out.lbdsl-work" / "artifact").mkdir(parents=True)
    for name in ("run.json", "artifact.json"):
        (workplace / "out.lbdsl-work" / name).write_text(notes)
    assert "LB462" in lbdsl("apply", "x.lbplan", "-o", "out").err
    looked = []
    real = run.check_room
    monkeypatch.setattr(run, "check_room", lambda *words: looked.append(words) or real(*words))
    monkeypatch.setattr(run, "_make", None)
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--force")
    assert done.code == 0, done.err
    assert looked
    assert not (workplace / "out.lbdsl-work").exists()


@pytest.mark.parametrize("name", each_family())
def test_every_family(tmp_path, name):
    """Drops of attention, MLP and both, and a window: the files that loading, changing and saving gives."""
    from lbdsl.artifact.save import save_model
    from lbdsl.model.inspect import inspect_model
    from lbdsl.model.load import load_base
    from lbdsl.model.source import resolve_source
    from lbdsl.model.surgery import to_hybrid
    from lbdsl.plan.build import build
    from lbdsl.plan.made_from import ModelRef
    from lbdsl.recipe.load import recipe_from_text
    from lbdsl.run.changes import apply_changes
    from lbdsl.run.rewrite import rewriting_of
    from lbdsl.solve.select import select

    base, out, loaded = (tmp_path / part for part in ("base", "out", "loaded"))
    family_base(name).save_pretrained(base, max_shard_size="30KB")
    source = resolve_source(str(base))
    facts = inspect_model(source, "bfloat16").unwrap()
    recipe = recipe_from_text(
        "layers 0 swa(window=5, sinks=2)\nlayers 1 drop\nlayers 2 drop(mlp)\nlayers 3 drop(block)\n", "x.lbr", {}
    ).unwrap()
    ref = ModelRef(
        source=str(base), digest="0" * 64, family=facts.family, layers=facts.layers, dtype=facts.dtype, facts=facts
    )
    plan = build(Case(recipe, facts), select(Case(recipe, facts), {}).unwrap(), {}, None, ref, None).unwrap()
    rewriting = rewriting_of(plan, facts, base)
    assert rewriting is not None
    out.mkdir()
    rewriting.save(byte_tokenizer(), out)
    model = to_hybrid(load_base(source, dtype="bfloat16", device="cpu"))
    assert apply_changes(model, plan) == rewriting.records
    save_model(model, byte_tokenizer(), loaded)
    first, second = weights(out), weights(loaded)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first)
    names = [{path.name for path in folder.iterdir() if "safetensors" not in path.name} for folder in (out, loaded)]
    assert names[0] == names[1]
    for file in names[0]:
        assert (out / file).read_bytes() == (loaded / file).read_bytes(), file
