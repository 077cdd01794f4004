"""From a recipe to an artifact on a tiny model, by the command line."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import lbdsl.hf  # noqa: F401
from lbdsl.actions.patches import patches_in
from lbdsl.artifact.contents import check_files
from lbdsl.artifact.record import read_record
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.files import umask
from lbdsl.data.sources import read_documents
from lbdsl.layer.difference import window_size
from lbdsl.measure import fingerprint
from lbdsl.model.hybrid.lbdsl_cache import cache_storage_bytes
from lbdsl.plan.file import load_plan
from lbdsl.run.output import check_place
from tests.export_cases import small_tokenizer
from tests.hybrid_cases import cache_of
from tests.tiny_model import RECIPE, save_tiny_model


def test_apply_makes_a_whole_artifact_that_keeps_the_plan(workplace: Path, lbdsl) -> None:
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "x.lbplan", "--ctx", "100", "--json").code == 0
    done = lbdsl("apply", "x.lbplan", "-o", "out")
    assert done.code == 0, done.err
    record = read_record(workplace / "out").unwrap()
    check_files(workplace / "out", record)
    assert record.status == "accepted"
    assert not (workplace / "out.lbdsl-work").exists()
    plan = record.plan
    assert plan.changes == {"without attention": 2, "windowed": 2}

    model = AutoModelForCausalLM.from_pretrained("out").eval()
    assert sum(p.numel() for p in model.parameters()) == plan.after.params
    ids = torch.randint(0, 256, (1, 100))
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids, use_cache=True))
    assert cache_storage_bytes(cache) == plan.after.kv_bytes["100"]

    assert record.heal["tokens"] == 2048
    assert record.evaluation["tokens"] == 8 * 63
    assert {item.text: item.status for item in record.asserts} == {"kv(1Ki) <= 80%": "pass", "ppl_increase < 300%": "pass"}
    card = (workplace / "out" / "README.md").read_text()
    assert "lowest 2 of rest by sensitivity drop" in card
    assert f"{record.evaluation['perplexity']['artifact']:.2f}" in card
    for name in ("healing.png", "tokenizer.json", "generation_config.json", "modeling_lbdsl_llama.py"):
        assert (workplace / "out" / name).is_file(), name


def test_apply_again_is_a_no_op_and_another_output_is_refused(workplace: Path, lbdsl) -> None:
    first = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal")
    assert first.code == 0, first.err
    before = (workplace / "out" / "lbdsl.json").read_bytes()
    again = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal")
    assert again.code == 0
    assert "up to date" in again.err
    assert (workplace / "out" / "lbdsl.json").read_bytes() == before

    other = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal", "--set", "window=8")
    assert other.code == 1
    assert "LB460" in other.err
    forced = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal", "--set", "window=8", "--force")
    assert forced.code == 0, forced.err
    assert (workplace / "out.old" / "lbdsl.json").read_bytes() == before
    record = read_record(workplace / "out").unwrap()
    assert record.plan.recipe.set_params == ("window",)
    assert record.no_heal
    assert record.heal is None
    windows = {window_size(spec) for spec in record.plan.specs}
    assert windows == {None, 8}


def test_a_failed_gate_sets_the_result_aside(workplace: Path, lbdsl) -> None:
    (workplace / "strict.lbr").write_text(RECIPE.replace("ppl_increase < 300%", "agreement > 99.9%"))
    done = lbdsl("apply", "strict.lbr", "model", "-o", "out", "--yes")
    assert done.code == 4
    assert "LB468" in done.err
    assert "heal longer, or change less" in " ".join(done.err.split())
    assert not (workplace / "out").exists()
    record = read_record(workplace / "out.rejected").unwrap()
    assert record.status == "rejected"
    assert "**Rejected.**" in (workplace / "out.rejected" / "README.md").read_text()
    assert "Not applyable" not in lbdsl("show", "out.rejected").out
    unhealed = lbdsl("apply", "strict.lbr", "model", "-o", "unhealed", "--yes", "--no-heal")
    assert unhealed.code == 4
    assert "heal it (without --no-heal), or change less" in " ".join(unhealed.err.split())
    assert "heal: nothing, the damage stays" in unhealed.out
    assert "apply takes about: healing" not in unhealed.out


def test_a_static_assert_that_fails_ends_in_the_plan(workplace: Path, lbdsl) -> None:
    (workplace / "small.lbr").write_text(RECIPE.replace("kv(1Ki) <= 80%", "kv(1Ki) <= 1%"))
    assert lbdsl("plan", "small.lbr", "model").code == 5
    assert lbdsl("apply", "small.lbr", "model", "--yes", "-o", "out").code == 5
    assert not (workplace / "out").exists()


def test_off_a_terminal_apply_wants_yes(workplace: Path, lbdsl) -> None:
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "out")
    assert done.code == 2
    assert "--yes" in done.err
    assert not (workplace / "out").exists()


def test_eval_and_show_read_the_artifact(workplace: Path, lbdsl) -> None:
    assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes").code == 0
    record = read_record(workplace / "out").unwrap()
    judged = lbdsl("eval", "out", "--json", "--quiet")
    assert judged.code == 0, judged.err
    result = json.loads(judged.out)
    # The same text, the same weights: the same numbers as when it was saved.
    assert result["perplexity"] == pytest.approx(record.evaluation["perplexity"], rel=1e-6)
    assert result["asserts"][1]["status"] == "pass"
    shown = lbdsl("show", "out")
    assert shown.code == 0
    assert "perplexity" in shown.out
    assert json.loads(lbdsl("show", "out", "--json").out)["status"] == "accepted"
    assert lbdsl("inspect", "out", "--json").code == 0
    for words, file in ((), "out.html"), (("-o", "x.html"), "x.html"):
        assert lbdsl("report", "out", *words).out.endswith(f"{file}\n")
        assert "thousand tokens seen" in Path(file).read_text(encoding="utf-8")
    Path("x.html").write_text("mine")
    assert "LB046" in lbdsl("report", "out", "-o", "x.html").err
    assert "LB047" in lbdsl("report", "out", "-o", "none/x.html").err

    again = lbdsl("plan", "tiny.lbr", "out")
    assert again.code == 1
    assert "LB467" in again.err


def test_an_edited_artifact_is_refused(workplace: Path, lbdsl) -> None:
    assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal").code == 0
    shutil.copytree("out", "edited")
    content = json.loads(Path("edited/lbdsl.json").read_text())
    content["evaluation"]["kl"] = 0.0
    Path("edited/lbdsl.json").write_text(json.dumps(content))
    done = lbdsl("eval", "edited")
    assert done.code == 6
    assert "LB465" in done.err
    weights = Path("out/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    done = lbdsl("eval", "out")
    assert done.code == 6
    assert "changed after it was saved" in done.err


def test_plan_exit_codes_and_json(workplace: Path, lbdsl) -> None:
    done = lbdsl("plan", "tiny.lbr", "model", "--json", "--detailed-exitcode", "--quiet")
    assert done.code == 10
    plan = json.loads(done.out)
    assert plan["complete"]
    assert plan["applyable"]
    assert set(plan["loss"]["scores"]) == {"nll", "kl"}
    assert [layer["index"] for layer in plan["layers"]] == list(range(6))
    (workplace / "keep.lbr").write_text("else keep\n")
    assert lbdsl("plan", "keep.lbr", "model", "--detailed-exitcode").code == 0


def test_an_all_kept_artifact_is_the_base_bit_for_bit(workplace: Path, lbdsl) -> None:
    (workplace / "keep.lbr").write_text("else keep\n")
    done = lbdsl("apply", "keep.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    assert "warning[LB470]: the finished model was not judged" in done.err
    ids = torch.randint(0, 256, (2, 50))
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained("out").eval()(input_ids=ids).logits
        theirs = AutoModelForCausalLM.from_pretrained("model").eval()(input_ids=ids).logits
    assert torch.equal(ours, theirs)


def test_a_plan_is_applied_and_judged_from_another_folder(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "flag.lbr").write_text(RECIPE.replace("param $window", "param $unused: bool = false\nparam $window"))
    assert lbdsl("plan", "flag.lbr", "model", "-o", "x.lbplan", "--set", "unused=true").code == 0
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    done = lbdsl("apply", "../x.lbplan", "-o", "out", "--no-heal")
    assert done.code == 0, done.err
    assert "LB472" not in done.err
    monkeypatch.chdir(workplace)
    assert lbdsl("eval", "elsewhere/out").code == 0
    # An edit of the recipe is seen from there, too.
    recipe = workplace / "flag.lbr"
    recipe.write_text(recipe.read_text() + "layers 1 keep\n")
    monkeypatch.chdir(workplace / "elsewhere")
    assert lbdsl("apply", "../x.lbplan", "-o", "out2", "--no-heal").code == 3


def test_eval_refuses_another_base_unless_it_is_named(workplace: Path, lbdsl, tmp_path: Path) -> None:
    from tests.tiny_model import save_tiny_model, tiny_llama

    (workplace / "model").unlink()
    save_tiny_model(workplace / "model")
    assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal").code == 0
    shutil.rmtree("model")
    save_tiny_model(workplace / "model", seed=1)
    done = lbdsl("eval", "out")
    assert done.code == 1
    assert "LB473" in done.err
    named = lbdsl("eval", "out", "--against", "model")
    assert "warning[LB473]" in named.err
    # A base with more layers judges, too; one with another vocabulary cannot.
    save_tiny_model(workplace / "deeper", layers=8)
    deeper = lbdsl("eval", "out", "--against", "deeper")
    assert deeper.code in (0, 4), deeper.err
    tiny_llama(vocab_size=300).save_pretrained(workplace / "wider")
    shutil.copy("model/tokenizer.json", "wider")
    wider = lbdsl("eval", "out", "--against", "wider")
    assert wider.code == 1
    assert "error[LB473]" in wider.err
    assert "same vocabulary" in wider.err


def test_an_artifact_that_does_not_load_is_a_coded_error(workplace: Path, lbdsl) -> None:
    assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal").code == 0
    (workplace / "out" / "config.json").unlink()
    done = lbdsl("eval", "out")
    assert done.code == 6
    assert "LB465" in done.err


def test_saved_files_are_readable_by_others(workplace: Path, lbdsl) -> None:
    assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal").code == 0
    for path in (workplace / "out").iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, path


@pytest.fixture
def gguf_base(workplace: Path, lbdsl, new_cache: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file with a tokenizer, and a cache folder of its own."""
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(new_cache(workplace / "cache")))
    tokenizer = small_tokenizer()
    save_tiny_model(Path("plain"), vocab_size=len(tokenizer))
    tokenizer.save_pretrained("plain")
    Path("keep.lbr").write_text("else keep\n")
    assert lbdsl("apply", "keep.lbr", "plain", "-o", "kept", "--yes").code == 0
    assert lbdsl("export", "kept", "--to", "gguf", "-o", "exported").code == 0
    return Path("exported/model.gguf")


def test_an_artifact_of_a_gguf_file_has_files_of_its_own(gguf_base: Path, lbdsl) -> None:
    """Others can read them, the user can write them, and what is written there is not in the cached copy of the base."""
    Path("r.lbr").write_text("layers 2 swa(window=16)\nelse keep\n")
    done = lbdsl("apply", "r.lbr", gguf_base, "-o", "out", "--yes")
    assert done.code == 0, done.err
    for path in Path("out").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask(), path
    (copied,) = Path("cache").glob("gguf/*/*/model.safetensors")
    assert not os.path.samefile(copied, "out/model.safetensors")
    assert load_file(copied).keys() == load_file("out/model.safetensors").keys()
    for path in (path for path in Path("cache/gguf").rglob("*") if path.is_file()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444 & ~umask(), path


def test_a_damaged_copy_of_a_gguf_file_is_made_again(gguf_base: Path, lbdsl) -> None:
    """Also where its shapes are those of the file."""
    Path("r.lbr").write_text("layers 2 drop\nelse keep\n")
    assert lbdsl("apply", "r.lbr", gguf_base, "-o", "out", "--yes").code == 0
    for name in ("model.safetensors", "tokenizer.json"):
        (copied,) = Path("cache").glob(f"gguf/*/*/{name}")
        before = copied.read_bytes()
        copied.chmod(0o644)
        with copied.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"9" * 50)
        done = lbdsl("apply", "r.lbr", gguf_base, "-o", f"after-{name}", "--yes")
        assert done.code == 0, done.err
        assert copied.read_bytes() == before
        assert read_record(Path(f"after-{name}")).unwrap().files == read_record(Path("out")).unwrap().files
    added = copied.with_name("evil.py")
    added.write_text("raise SystemExit('ran')\n")
    assert lbdsl("apply", "r.lbr", gguf_base, "-o", "after-code", "--yes").code == 0
    assert not added.exists()


def test_a_plan_is_of_the_conversion_of_a_gguf_file(gguf_base: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of transformers may make other weights of the same file."""
    Path("r.lbr").write_text("measure { tokens = 256; seq = 64 }\nlowest 1 by nll(drop) drop\nelse keep\n")
    first = lbdsl("plan", "r.lbr", gguf_base, "-o", "x.lbplan")
    assert " of weights in memory" in first.err
    assert " of weights in memory" not in lbdsl("plan", "r.lbr", gguf_base).err
    own = fingerprint.version
    monkeypatch.setattr(fingerprint, "version", lambda name: "99.1.0" if name == "transformers" else own(name))
    assert " of weights in memory" in lbdsl("plan", "r.lbr", gguf_base).err
    done = lbdsl("apply", "x.lbplan", "-o", "out")
    assert done.code == 3
    assert "LB342" in done.err
    told = " ".join(done.err.split())
    assert f"transformers {own('transformers')} converted it when planned, 99.1.0 does now" in told


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that this user may not look into."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_folders_that_may_not_be_looked_into(locked: Path) -> None:
    for act, code in (
        (lambda: check_place(locked / "out", ()), "LB463"),
        (lambda: read_record(locked / "artifact").unwrap(), "LB465"),
        (lambda: read_documents(str(locked / "a.txt")), "LB441"),
    ):
        with pytest.raises(LbdslError, match="denied") as problem:
            act()
        assert [d.code for d in problem.value.diagnostics] == [code]


def test_documents_that_another_source_heals_on_are_not_judged_on(workplace: Path) -> None:
    from lbdsl.data import TextPart, read_parts
    from lbdsl.recipe.schema import Evaluate, Heal, Measure
    from lbdsl.session.model import OpenModel
    from lbdsl.session.texts import eval_blocks

    lines = [json.dumps({"text": f"Document {i}: " + f"word{i} " * 20}) for i in range(300)]
    Path("all.jsonl").write_text("\n".join(lines))
    Path("some.jsonl").write_text("\n".join(lines[:100]))
    bench = OpenModel("model")
    healing = set(read_parts("all.jsonl").texts(TextPart.HEAL))
    assert healing & set(read_parts("some.jsonl").texts(TextPart.EVAL))
    (blocks,) = eval_blocks(
        Evaluate(data=("some.jsonl",), tokens=512, seq=64),
        Measure(),
        Heal(data="all.jsonl", tokens=512, seq=64),
        bench,
        Path(),
    )
    judged = bench.tokenizer.decode(blocks.ids.flatten())
    assert not any(text.split(":")[0] + ":" in judged for text in healing)


def test_inspect_says_what_an_artifact_lacks(workplace: Path, lbdsl) -> None:
    (workplace / "x.lbr").write_text(
        "layers 1-2 drop\nlayers 3 swa(window=16, sinks=2)\nlayers 4 drop(mlp)\nlayers 5 drop(block)\nlayers 0 keep\n"
    )
    assert lbdsl("apply", "x.lbr", "model", "-o", "out", "--yes").code == 0
    found = json.loads(lbdsl("inspect", "out", "--json").out)
    assert found["dropped"] == {"attention": [1, 2, 5], "mlp": [4, 5]}
    assert found["windows"] == [{"size": 16, "sink_tokens": 2, "layers": [3]}]
    base = json.loads(lbdsl("inspect", "model", "--json").out)
    assert base["dropped"] == {"attention": [], "mlp": []}
    assert base["windows"] == []
    assert base["base"] is None
    same = ("params", "weight_bytes", "kv_bytes_per_token", "kv_bytes_at_positions")
    assert found["base"] == {"model": "model", **{name: base[name] for name in same}}
    shown = " ".join(lbdsl("inspect", "out").out.split())
    assert "dropped attention of layers 1-2, 5; MLP of layers 4-5" in shown
    assert "windows 16 tokens and 2 sinks in layer 3" in shown
    assert f"({base['params']:,} in the base)" in shown
    # A record that cannot be read hides nothing of the model itself.
    (workplace / "out" / "lbdsl.json").write_text("{")
    assert json.loads(lbdsl("inspect", "out", "--json").out)["base"] is None


def test_the_pace_of_healing_is_not_that_of_watching_it(
    workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, new_cache
) -> None:
    Path("tiny.lbr").write_text(RECIPE.replace("tokens = 2048", "tokens = 512"))
    cache = new_cache(workplace / "own")
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(cache))
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    heal = json.loads(Path("out/lbdsl.json").read_text())["heal"]
    (pace,) = (found["heal"] for path in cache.glob("pace-*.json") if "heal" in (found := json.loads(path.read_text())))
    # Each time they go forward through two models; a step takes four such passes.
    watched = 2 * 64 * len(heal["validation"])
    assert watched >= heal["tokens"] / 2
    assert pace == pytest.approx((heal["tokens"] + watched / 2) / heal["seconds"], rel=1e-9)


def test_a_plan_names_the_kv_heads_that_stay_full(workplace: Path, lbdsl) -> None:
    measure = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }'
    recipe = f"{measure}\nlayers 1, 3 swa(window=16, sinks=2, full_heads=1)\nelse keep"
    (workplace / "heads.lbr").write_text(recipe)
    done = lbdsl("plan", "heads.lbr", "model", "-o", "x.lbplan", "--no-recall")
    assert done.code == 0, done.err
    plan = load_plan(workplace / "x.lbplan").unwrap()
    heads = {layer.index: action.full_heads for layer in plan.changed for action in layer.changing}
    assert [len(named) for named in heads.values()] == [1, 1]
    for layer, (head,) in heads.items():
        assert f"KV head {head} full" in done.out
        named = f"layers {layer} swa(window=16, sinks=2, full_heads=[{head}])"
        recipe = recipe.replace("else keep", f"{named}\nelse keep")
    (workplace / "named.lbr").write_text(recipe.replace("layers 1, 3 swa(window=16, sinks=2, full_heads=1)\n", ""))
    assert lbdsl("apply", "x.lbplan", "-o", "decided").code == 0
    assert lbdsl("apply", "named.lbr", "model", "-o", "named", "--yes", "--no-recall").code == 0
    assert json.loads(lbdsl("diff", "decided", "named", "--json").out)["differences"] == []
    (workplace / "other.lbr").write_text(f"layers 1 swa(window=16, sinks=2, full_heads=[{1 - heads[1][0]}])\nelse keep")
    assert lbdsl("plan", "other.lbr", "model", "-o", "other.lbplan", "--no-recall").code == 0
    differences = json.loads(lbdsl("diff", "x.lbplan", "other.lbplan", "--json").out)["differences"]
    assert f"layer 1: KV head {heads[1][0]} full -> KV head {1 - heads[1][0]} full" in differences
    decided, named = (load_file(workplace / folder / "model.safetensors") for folder in ("decided", "named"))
    assert decided.keys() == named.keys()
    assert all(torch.equal(tensor, named[name]) for name, tensor in decided.items())


def test_a_patch_stays_around_what_full_heads_make(workplace: Path, lbdsl) -> None:
    measure = 'measure { data = "builtin:pydoc"; tokens = 2Ki; seq = 64 }'
    change = "layers 2, 5 swa(window=16, sinks=2, full_heads=1) + drop(mlp, patch=linear)"
    (workplace / "heads.lbr").write_text(f"{measure}\n{change}\nelse keep")
    done = lbdsl("plan", "heads.lbr", "model", "-o", "x.lbplan", "--no-recall")
    assert done.code == 0, done.err
    changed = load_plan(workplace / "x.lbplan").unwrap().changed
    patched = [layer for layer in changed if "patch for layer" in layer.reason]
    assert patched
    assert all(list(patches_in(layer.weights)) for layer in patched)
    assert all("full_heads=[" in layer.changing[0].text() for layer in changed)


def test_a_tokenizer_that_an_engine_cannot_read_is_said_before_the_work(workplace: Path, lbdsl) -> None:
    """llama.cpp reads none of single bytes."""
    Path("r.lbr").write_text("lbr 1\nlayers 1 drop\n")
    said = json.loads(lbdsl("plan", "r.lbr", "model", "--target", "llamacpp", "--no-recall", "--json").out)
    (target,) = said["targets"]
    (export,) = target["exports"]
    assert (target["can"], export["kind"]) == (False, "gguf")
    assert [finding["code"] for finding in export["findings"] if finding["severity"] == "error"] == ["LB522"]
    (engine,) = (engine for engine in said["serving"] if engine["engine"] == "llama.cpp")
    assert "no merges" in engine["obstacle"]
