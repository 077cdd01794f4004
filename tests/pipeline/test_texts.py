"""Healing and measuring on mixtures and on text that the model writes, by the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lbdsl.artifact.record import read_record

pytestmark = pytest.mark.torch

RULES = "layers 2 drop\nlayers 3 swa(window=8)\nelse keep\n"
HEAL = "tokens = 2048; seq = 64; batch = 2; lr = 2e-3; method = lora(rank=4, alpha=8)"


def recipe(place: Path, data: str, measured: str = '"builtin:pydoc"') -> str:
    measure = f"measure {{ data = {measured}; tokens = 256; seq = 64 }}"
    judge = 'eval { data = "builtin:wikitext"; tokens = 256; seq = 64 }\nassert ppl_increase < 10000%'
    (place / "texts.lbr").write_text(f"lbr 1\n{measure}\n{RULES}heal {{ data = {data}; {HEAL} }}\n{judge}\n")
    return "texts.lbr"


@pytest.fixture
def cache(workplace: Path, new_cache: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = new_cache(workplace / "cache")
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(folder))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_healed_on_a_mixture(workplace: Path, lbdsl, cache: Path) -> None:
    data = 'mix("builtin:pydoc", "builtin:docs", self(tokens=256), weights=[2, 1, 1])'
    done = lbdsl("apply", recipe(workplace, data), "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    record = read_record(workplace / "out").unwrap()
    assert record.heal["data"] == data
    # A quarter of 2048 tokens of the model's 256: two passes over that text.
    assert record.heal["passes"] == 2
    assert "passes 2.0 times" in done.err
    assert data in (workplace / "out" / "README.md").read_text()
    assert (cache / "written").is_dir()
    (before, _), *_, (last, loss) = record.heal["validation"]
    assert (before, last) == (0, 2048)
    assert f"{loss:.3f} after {record.heal['kept']} tokens" in (workplace / "out" / "README.md").read_text()
    again = lbdsl("apply", "texts.lbr", "model", "-o", "again", "--yes")
    assert again.code == 0, again.err
    found = weights(workplace / "again")
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(workplace / "out").items())
    said = json.loads(lbdsl("plan", "texts.lbr", "model", "--json").out)
    assert said["heal"]["data"]["node"] == "mix"
    assert said["estimate"]["passes"] == pytest.approx(2.0)


@pytest.mark.slow
def test_a_plan_measured_on_the_models_own_text_does_not_go_stale_with_it(workplace: Path, lbdsl, cache: Path) -> None:
    name = recipe(workplace, "self", measured="self")
    assert lbdsl("plan", name, "model", "-o", "x.lbplan").code == 0
    parts = sorted(path.name for path in (cache / "written").iterdir())
    shutil.rmtree(cache / "written")
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--no-heal")
    assert done.code == 0, done.err
    assert lbdsl("apply", name, "model", "-o", "healed", "--yes").code == 0
    assert set(parts) < {path.name for path in (cache / "written").iterdir()}


def test_a_model_that_stays_on_disk_cannot_write(workplace: Path, lbdsl, cache: Path) -> None:
    done = lbdsl("plan", recipe(workplace, '"builtin:pydoc"', measured="self"), "model", "--low-memory")
    assert done.code == 1
    assert "LB452" in done.err


def test_a_mixture_with_a_text_that_is_not_there_is_refused_before_any_work(workplace: Path, lbdsl, cache: Path) -> None:
    done = lbdsl("apply", recipe(workplace, 'mix("gone.txt", self)'), "model", "-o", "out", "--yes")
    assert done.code != 0
    assert "gone.txt" in done.err
    assert not (cache / "measurements.sqlite").exists()


def test_judged_on_a_text_of_the_mixture_is_said(workplace: Path, lbdsl, cache: Path) -> None:
    name = recipe(workplace, 'mix("builtin:pydoc", "builtin:docs")')
    (workplace / name).write_text((workplace / name).read_text().replace("builtin:wikitext", "builtin:docs"))
    done = lbdsl("plan", name, "model")
    assert done.code == 0, done.err
    assert "LB337" in done.out


def test_healing_takes_the_model_into_memory_and_lets_it_write(workplace: Path, lbdsl, cache: Path) -> None:
    done = lbdsl("apply", recipe(workplace, "self"), "model", "-o", "out", "--yes", "--low-memory")
    assert done.code == 0, done.err
    assert read_record(workplace / "out").unwrap().heal["data"] == "self"


def test_patches_need_a_text_of_another_source(workplace: Path, lbdsl, cache: Path) -> None:
    name = recipe(workplace, '"builtin:pydoc"', measured='mix("builtin:pydoc", "builtin:docs")')
    (workplace / name).write_text((workplace / name).read_text().replace("layers 2 drop", "layers 2 drop(patch=linear)"))
    refused = lbdsl("plan", name, "model", "--low-memory")
    assert refused.code == 1
    assert "LB452" in refused.err
    assert lbdsl("plan", name, "model").code == 0


def test_judged_on_text_that_healing_has_seen_is_said(workplace: Path, lbdsl, cache: Path) -> None:
    """Documents that differ in a few words are not the same document, and mostly the same text."""
    body = "The quick brown fox jumps over the lazy dog while the band plays on and on until the morning comes. " * 3
    (workplace / "a.jsonl").write_text("".join(json.dumps({"text": f"{n} {body} {n}"}) + "\n" for n in range(200)))
    (workplace / "b.jsonl").write_text("".join(json.dumps({"text": f"{n} {body} {n}"}) + "\n" for n in range(200, 400)))
    name = recipe(workplace, '"a.jsonl"')
    (workplace / name).write_text((workplace / name).read_text().replace("builtin:wikitext", "b.jsonl"))
    done = lbdsl("apply", name, "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    assert "LB478" in done.err
    assert "% of b.jsonl also occurs in the text" in " ".join(done.err.split())
    record = read_record(workplace / "out").unwrap()
    assert record.evaluation["sources"][0]["seen"] > 0.5
    assert "runs of 24 tokens also occur" in (workplace / "out" / "README.md").read_text()
    # So it is when the artifact is judged again, on text that is in no record.
    (workplace / "c.jsonl").write_text((workplace / "b.jsonl").read_text().replace("quick", "slow", 7))
    for text in ("b.jsonl", "c.jsonl"):
        again = lbdsl("eval", "out", "--data", text, "--json")
        assert again.code == 0, again.err
        assert "LB478" in again.err, text
        (source,) = json.loads(again.out)["sources"]
        assert source["data"].endswith(text)
        assert source["seen"] > 0.5
    healed_on = lbdsl("eval", "out", "--data", "a.jsonl").err
    assert "judged on the healing source, a.jsonl" in " ".join(healed_on.split())
    (workplace / "a.jsonl").unlink()
    unknown = lbdsl("eval", "out", "--data", "c.jsonl")
    assert unknown.code == 0, unknown.err
    # A long path is broken anywhere.
    assert "c.jsonlcalibratedorhealedthemodelisnotknown" in "".join(unknown.err.split())


def test_an_assert_that_names_a_file_is_asked_of_it_wherever_it_is_named(
    workplace: Path, lbdsl, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(Path(__file__).parents[2] / "README.md", "own.txt")
    name = recipe(workplace, '"builtin:pydoc"')
    text = (workplace / name).read_text().replace('"builtin:wikitext"', '["builtin:wikitext", "own.txt"]')
    (workplace / name).write_text(text.replace("ppl_increase <", 'ppl_increase("own.txt") <'))
    done = lbdsl("apply", name, "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    Path("sub").mkdir()
    for place, word in ((".", "own.txt"), ("sub", "../own.txt"), ("sub", str(workplace / "own.txt"))):
        monkeypatch.chdir(workplace / place)
        done = lbdsl("eval", str(workplace / "out"), "--data", word, "--json")
        assert done.code == 0, done.err
        (judged,) = json.loads(done.out)["asserts"]
        assert judged["status"] == "pass"


def test_healing_that_makes_it_worse_is_undone_and_said(workplace: Path, lbdsl, cache: Path) -> None:
    """With a learning rate that is far too high, on a model that lost little."""
    name = recipe(workplace, '"builtin:pydoc"')
    text = (workplace / name).read_text().replace(RULES, "layers 3 swa(window=32)\nelse keep\n")
    (workplace / name).write_text(text.replace("lr = 2e-3", "lr = 5e-2"))
    done = lbdsl("apply", name, "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    assert "LB477" in done.err
    assert "help: lower `lr`" in done.err
    record = read_record(workplace / "out").unwrap()
    assert record.heal["kept"] == 0
    base, made = weights(workplace / "model"), weights(workplace / "out")
    assert all(torch.equal(tensor, base[name]) for name, tensor in made.items())
    assert "before, " in (workplace / "out" / "README.md").read_text()


RECALL = (
    'data = mix("builtin:pydoc", "builtin:recall"); tokens = 6144; seq = 512; batch = 1; lr = 2e-3; method = lora(rank=4)'
)


def healed_on_recall(place: Path, heal: str = RECALL, window: int = 32) -> str:
    name = recipe(place, '"builtin:pydoc"')
    text = (place / name).read_text().replace("window=8", f"window={window}").replace("seq = 64", "seq = 256")
    head, _, rest = text.partition("heal {")
    (place / name).write_text(f"{head}heal {{ {heal} }}{rest.partition('}')[2]}")
    return name


@pytest.mark.parametrize("other", [pytest.param("", marks=pytest.mark.slow), "; teacher = cached; documents = apart"])
def test_healed_on_texts_of_recall(workplace: Path, lbdsl, cache: Path, other: str) -> None:
    name = healed_on_recall(workplace, RECALL + other)
    done = lbdsl("apply", name, "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    # However much is taken, none of it is read twice.
    assert "LB446" not in done.out + done.err
    assert "LB328" not in done.out + done.err
    record = read_record(workplace / "out").unwrap()
    assert record.heal["data"] == 'mix("builtin:pydoc", "builtin:recall")'
    assert record.heal["passes"] == 1
    assert record.heal["validation"][-1][0] == 6144
    assert {"builtin:pydoc", "builtin:recall", "builtin:wikitext"} == set(record.texts)
    assert len(set(record.texts.values())) == 3
    if not other:
        assert lbdsl("apply", name, "model", "-o", "again", "--yes").code == 0
        found = weights(workplace / "again")
        assert all(torch.equal(tensor, found[key]) for key, tensor in weights(workplace / "out").items())
        again = lbdsl("eval", "out", "--data", "builtin:docs", "--tokens", "1Ki", "--json")
        assert again.code == 0, again.err
        # Its hay is of the part that heals, and is compared with what judges.
        assert json.loads(again.out)["sources"][0]["seen"] < 0.01


def test_texts_of_recall_alone_never_run_out(workplace: Path, lbdsl, cache: Path) -> None:
    data = RECALL.replace('mix("builtin:pydoc", "builtin:recall")', '"builtin:recall"').replace("6144", "40M")
    done = lbdsl("plan", healed_on_recall(workplace, data), "model", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["estimate"]["passes"] == 1
    assert not [finding for finding in plan["findings"] if finding["code"] in ("LB446", "LB328")]


@pytest.mark.parametrize(
    ("heal", "window", "code"),
    [
        (f"{RECALL}; loss_on = assistant", 32, "LB455"),
        (RECALL.replace("seq = 512", "seq = 100"), 16, "LB446"),
        (RECALL.replace("512", "256"), 65, "LB328"),
    ],
)
def test_what_recall_cannot_heal_is_said_before_any_work(
    workplace: Path, lbdsl, cache: Path, heal: str, window: int, code: str
) -> None:
    done = lbdsl("plan", healed_on_recall(workplace, heal, window), "model")
    assert code in done.out + done.err
    assert done.code == (code != "LB328")
    assert (cache / "measurements.sqlite").exists() == (code == "LB328")


@pytest.mark.parametrize("what", ["model", "out"])
def test_no_model_is_judged_on_texts_of_recall(workplace: Path, lbdsl, cache: Path, what: str) -> None:
    if what == "out":
        assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal").code in (0, 4)
    done = lbdsl("eval", what, "--data", "builtin:recall")
    assert done.code == 1
    assert "LB150" in done.err
