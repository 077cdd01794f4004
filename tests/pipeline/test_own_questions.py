"""A user's own questions about texts: asked, gated, kept, and refused before anything is measured."""

from __future__ import annotations

import json
import string
from functools import cache
from pathlib import Path

import pytest
import torch

from lbdsl.api.planning import load_plan
from lbdsl.recipe.schema_blocks import OwnQuestions
from tests.tiny_model import byte_tokenizer, tiny_llama

HEAD = """lbr 1
recipe "asked"
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 3 swa(window=16)
else keep
"""
JUDGED = 'eval { tokens = 256; seq = 64; needle = [256, "own/mine.jsonl"] }\n'
TEXTS = [f"The signs of {name} are {string.ascii_letters}{string.punctuation}\n" for name in ("Brest", "Tours", "Lille")]
FOX = {"text": "The quick fox.", "question": "Who is quick?", "answer": "fox"}


@cache
def known() -> list[dict[str, str]]:
    """Questions that the tiny model happens to answer right: with a sign that stands in the text, as all of them do."""
    model, tokenizer = tiny_llama(), byte_tokenizer()
    found = []
    for text in TEXTS:
        questions = [f"question {number:03}: " for number in range(200)]
        ids_QN = tokenizer([f"{text.rstrip()}\n\n{question}" for question in questions], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            signs = [tokenizer.decode(token) for token in model(ids_QN, logits_to_keep=1).logits[:, -1].argmax(-1)]
        right = [pair for pair in zip(questions, signs, strict=True) if pair[1].strip() and pair[1] in text]
        found += [{"text": text, "question": question, "answer": sign} for question, sign in right[:4]]
    return found


@pytest.fixture
def place(workplace: Path) -> Path:
    (workplace / "own").mkdir()
    write(known())
    return workplace


def write(records: list[dict[str, str]], name: str = "own/mine.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))


def applied(lbdsl, text: str, *more: str, expect: int = 0) -> dict:
    Path("r.lbr").write_text(HEAD + text)
    done = lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes", "--force", *more)
    assert done.code == expect, done.err
    folder = Path("out.rejected" if expect == 4 else "out")
    return {**json.loads((folder / "lbdsl.json").read_text()), "said": done.out, "card": (folder / "README.md").read_text()}


GATE = 'assert needle("own/mine.jsonl") >= 0% and recovery(needle("own/mine.jsonl")) >= 0%\n'


def test_both_models_are_asked_and_the_answers_are_kept(place: Path, lbdsl) -> None:
    assert len(known()) == 8
    record = applied(lbdsl, JUDGED + GATE)
    hidden, own = record["evaluation"]["tasks"]
    assert (hidden["name"], own["name"]) == ("needle(256)", 'needle("own/mine.jsonl")')
    assert (own["questions"], own["base"], own["parts"]) == (len(known()), 1.0, {})
    assert own["recovery"] == own["artifact"]
    assert own["missed"]["base"] == []
    assert len(own["missed"]["artifact"]) == round((1 - own["artifact"]) * len(known())) > 0
    lines = ", ".join(map(str, own["missed"]["artifact"]))
    assert f"lines that are missed none {lines}" in " ".join(record["said"].split())
    # As a value with a type, that no task's name can be taken for.
    assert record["plan"]["eval"]["needle"] == [256, {"node": "questions", "file": "own/mine.jsonl"}]
    assert set(hidden["kinds"]) == {"numbers", "words", "changed"}
    assert set(record["texts"]) >= {"needle(256)", 'needle("own/mine.jsonl")'}
    for text in (record["said"], record["card"], lbdsl("show", "out").out):
        assert 'needle("own/mine.jsonl")' in text
        assert "changed" in text
    assert json.loads(lbdsl("eval", "out", "--json").out)["tasks"] == [hidden, own]
    # The picture is of those at known depths.
    assert Path("out/needle.png").stat().st_size > 1000
    # On the command line names are relative to the working directory, and those that the recipe has are its own.
    for name in ("own/mine.jsonl", str(place / "own" / "mine.jsonl")):
        again = json.loads(lbdsl("eval", "out", "--needle", name, "--json").out)["tasks"]
        assert again == [own], again


def test_a_bound_that_does_not_hold_says_what_brings_it_back(place: Path, lbdsl) -> None:
    record = applied(lbdsl, JUDGED + 'assert needle("own/mine.jsonl") >= 100%\n', expect=4)
    (item,) = record["asserts"]
    assert item["value"] == record["evaluation"]["tasks"][1]["artifact"] < 1
    err = " ".join(lbdsl("eval", "out.rejected").err.split())
    assert "widen them, or keep more layers" in err or "write further questions" in err


def test_a_base_is_asked_alone(place: Path, lbdsl, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other") / "other.jsonl"
    # One that it has not right: of a base alone its own share is said.
    write([*known(), {**known()[0], "answer": "Brest"}], str(other))
    done = lbdsl("eval", "model", "--tokens", "256", "--seq", "64", "--needle", str(other), "--needle", "256", "--json")
    own, hidden = json.loads(done.out)["tasks"]
    assert own["missed"] == {"base": [len(known()) + 1]}
    assert "missed" not in hidden
    assert (own["name"], hidden["name"]) == (f'needle("{other}")', "needle(256)")
    assert own["base"] == len(known()) / (len(known()) + 1)
    done = lbdsl("eval", "model", "--needle", "none.jsonl")
    assert (done.code, "LB441" in done.err) == (1, True)
    done = lbdsl("eval", "model", "--needle", "some")
    assert done.code == 2


def test_with_other_questions_the_artifact_is_not_up_to_date(place: Path, lbdsl) -> None:
    Path("r.lbr").write_text(HEAD + JUDGED)
    words = ("apply", "r.lbr", "model", "-o", "out", "--yes")
    assert lbdsl(*words).code == 0
    assert "up to date" in lbdsl(*words).err
    write(known()[1:])
    done = lbdsl(*words)
    assert (done.code, "LB460" in done.err) == (1, True)
    assert 'needle("own/mine.jsonl")' in " ".join(done.err.split())


def test_a_saved_plan_asks_them(place: Path, lbdsl) -> None:
    Path("r.lbr").write_text(HEAD + JUDGED + GATE)
    done = lbdsl("plan", "r.lbr", "model", "-o", "r.lbplan")
    assert done.code == 0, done.err
    assert 'asked needle(256), needle("own/mine.jsonl")' in " ".join(done.out.split())
    plan = load_plan("r.lbplan")
    assert plan.eval is not None
    assert plan.eval.needle == (256, OwnQuestions(file="own/mine.jsonl"))
    as_json = json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)
    assert as_json["eval"]["needle"] == [256, {"node": "questions", "file": "own/mine.jsonl"}]
    assert lbdsl("apply", "r.lbplan", "-o", "out", "--yes").code == 0
    assert 'needle("own/mine.jsonl")' in lbdsl("show", "r.lbplan").out


@pytest.mark.parametrize(
    ("records", "name", "code", "said"),
    [
        ([FOX, {**FOX, "answer": "42"}], "own/mine.jsonl", "LB443", "line 2: the answer '42' does not"),
        ([{"text": "a"}], "own/mine.jsonl", "LB443", "line 1: no field `question`"),
        ([], "own/mine.jsonl", "LB444", "no question in own/mine.jsonl"),
        ([{**FOX, "text": "fox" * 300, "answer": "fox"}], "own/mine.jsonl", "LB336", "positions"),
        ([FOX], "../outside.jsonl", "LB479", "--allow-path"),
        ([FOX], "own/other.jsonl", "LB441", "there is no file"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_measured(
    place: Path, lbdsl, records: list, name: str, code: str, said: str
) -> None:
    write(records)
    ranked = HEAD.replace("layers 3 swa(window=16)", "lowest 1 by nll drop")
    Path("r.lbr").write_text(ranked + f'assert recovery(needle("{name}")) >= 90%\n')
    done = lbdsl("plan", "r.lbr", "model", "--cache-dir", "empty")
    err = " ".join(done.err.split())
    assert (done.code, code in err, said in err, "measuring" in err) == (6 if code == "LB479" else 1, True, True, False), (
        err
    )


def test_a_file_that_is_not_there_is_found_without_measuring(place: Path, lbdsl) -> None:
    Path("r.lbr").write_text(HEAD + 'eval { needle = "a.jsonl" }\nassert needle("b.jsonl") >= 80%\n')
    done = lbdsl("check", "r.lbr", "--model", "model")
    assert (done.code, done.out.count("error[LB441]"), "a.jsonl" in done.out, "b.jsonl" in done.out) == (
        1,
        2,
        True,
        True,
    ), done.err


def test_a_record_that_is_no_question_is_found_without_measuring(place: Path, lbdsl) -> None:
    for name, line in (("a", '{"text": "One is two.", "qestion": "What is one?", "answer": "two"}'), ("b", "{")):
        Path(f"{name}.jsonl").write_text(line + "\n")
    Path("r.lbr").write_text(
        HEAD.replace("measure {", 'measure { recall = "b.jsonl";', 1) + 'eval { needle = "a.jsonl" }\n'
    )
    done = lbdsl("check", "r.lbr", "--model", "model")
    assert (done.code, done.out.count("error[LB443]")) == (1, 2), done.out


def test_from_disk_likelihoods_judge_and_that_is_said(place: Path, lbdsl) -> None:
    record = applied(lbdsl, JUDGED)
    streamed = lbdsl("eval", "out", "--low-memory", "--json")
    assert "warning[LB452]" in streamed.err
    assert "needle(256) is judged by likelihoods alone" in streamed.err
    for task, other in zip(json.loads(streamed.out)["tasks"], record["evaluation"]["tasks"], strict=True):
        assert (task["base"], task["artifact"]) == (other["base"], other["artifact"])
        assert task["metric"] != other["metric"]
        assert task["digest"] != other["digest"]
    Path("r.lbr").write_text(HEAD + JUDGED)
    assert "warning[LB452]" in lbdsl("plan", "r.lbr", "model", "--low-memory").out
    assert "LB452" not in lbdsl("plan", "r.lbr", "model").out


def test_the_file_of_a_folder_names_contexts_and_no_files(place: Path, lbdsl) -> None:
    Path("lbdsl.toml").write_text("[eval]\nneedle = [256]\ntokens = 256\nseq = 64\n")
    assert json.loads(lbdsl("eval", "model", "--json").out)["tasks"][0]["name"] == "needle(256)"
    Path("lbdsl.toml").write_text('[eval]\nneedle = ["own/mine.jsonl"]\n')
    done = lbdsl("eval", "model")
    assert (done.code, "LB480" in done.err) != (0, False)
    assert "lbdsl.toml sets `needle`" in done.err
