"""Recall: what a change costs of the answers that stand far back, of layers and of whole plans."""

from __future__ import annotations

import json
import math
import random
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.layer.spec import LayerSpec
from lbdsl.measure import scores
from lbdsl.measure.store import Store
from lbdsl.plan.file import load_plan
from tests.family_cases import family_base
from tests.measure_cases import naive_logp
from tests.specs import attention_layer, layer_of
from tests.tiny_model import byte_tokenizer, save_tiny_model

LETTERS = string.ascii_lowercase
SPEC = attention_layer(heads=4, kv_heads=2, head_dim=8, width=64)
HEAD = 'lbr 1\nmeasure { data = "builtin:pydoc"; tokens = 256; seq = 64; recall = "mine.jsonl" }\n'


def windowed(size: int) -> LayerSpec:
    return LayerSpec.model_validate(layer_of(SPEC, window=size))


def answered(folder: Path, texts: int = 6, each: int = 2, found: float = 0.7) -> list[dict[str, str]]:
    """Questions of one letter, of which the model finds so many: their answer is what it says."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    draw, rows = random.Random(0), []
    for _ in range(texts):
        text = "".join(draw.choices(LETTERS + " ", k=200)) + LETTERS
        of_text = []
        for number in range(400):
            question = f"What is {number} {''.join(draw.choices('abcdefgh', k=5))}? "
            ids = torch.tensor([tokenizer(f"{text}\n\n{question}")["input_ids"]])
            with torch.no_grad():
                said = tokenizer.decode([int(model(ids).logits[0, -1].argmax())])
            if len(said) == 1 and said in LETTERS:
                right = len(rows) + len(of_text) < found * texts * each
                of_text.append({"text": text, "question": question, "answer": said if right else "yz"[said == "y"]})
            if len(of_text) == each:
                break
        assert len(of_text) == each
        rows += of_text
    draw.shuffle(rows)
    # Those about one text one after another.
    return sorted(rows, key=lambda row: row["text"])


def save_model_of_letters(folder: Path, family: str = "llama") -> Path:
    """It says letters, which stand in every text."""
    if family == "llama":
        save_tiny_model(folder, tie_word_embeddings=False)
    else:
        sizes = {"vocab_size": 260, "initializer_range": 0.1, "tie_word_embeddings": False, "attention_bias": False}
        family_base(family, **sizes).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    others = sorted(set(range(260)) - set(tokenizer(LETTERS)["input_ids"]))
    model.lm_head.weight.data[others] = 0
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def mine(workplace: Path) -> list[dict[str, str]]:
    Path("model").unlink()
    rows = answered(save_model_of_letters(Path("model")))
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def naive(rows: list[dict[str, str]], changes: Mapping[int, LayerSpec]) -> tuple[float, float, int, int]:
    """The rise, its error, and how many answers the base and the changed model find: the stock model, masks and a loop."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
    rises: dict[str, list[float]] = {}
    right = [0, 0]
    for row in rows:
        before = tokenizer(f"{row['text']}\n\n{row['question']}")["input_ids"]
        whole = tokenizer(f"{row['text']}\n\n{row['question']}{row['answer']}")["input_ids"]
        assert len(whole) == len(before) + 1
        logps = [naive_logp(model, torch.tensor([whole]), one)[0, -2] for one in ({}, changes)]
        rises.setdefault(row["text"], []).append(float(logps[0][whole[-1]] - logps[1][whole[-1]]))
        for which, logp in enumerate(logps):
            right[which] += int(logp.argmax()) == whole[-1]
    every = [rise for of_text in rises.values() for rise in of_text]
    mean = sum(every) / len(every)
    spread = sum(sum(rise - mean for rise in of_text) ** 2 for of_text in rises.values())
    return mean, math.sqrt(len(rises) / (len(rises) - 1) * spread) / len(every), *right


def test_scores_and_the_whole_plan_are_those_of_a_loop_over_the_stock_model(workplace: Path, lbdsl, mine) -> None:
    Path("r.lbr").write_text(HEAD + "lowest 4 by recall(swa(window=16)) swa(window=16)\nelse keep\n")
    # The first, third and fifth of six texts choose; the others judge.
    choosing, judging = (
        [row for i, row in enumerate(mine) if i // 2 % 2 == 0],
        [row for i, row in enumerate(mine) if i // 2 % 2],
    )
    done = lbdsl("measure", "r.lbr", "model", "--json")
    assert done.err.count("`measure { strategy = screen }` estimates them") == 1
    scored = json.loads(done.out)["scores"]
    by_layer = {row["layer"]: row for row in scored if row["metric"] == "recall"}
    assert sorted(by_layer) == list(range(6))
    for layer in (0, 3, 5):
        value, error, _, _ = naive(choosing, {layer: windowed(16)})
        assert by_layer[layer]["value"] == pytest.approx(value, abs=1e-4)
        assert by_layer[layer]["stderr"] == pytest.approx(error, abs=1e-4)
        assert abs(value) > 1e-3
    plan = json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)
    windows = [layer["index"] for layer in plan["layers"] if layer["after"] != layer["before"]]
    least = sorted(by_layer, key=lambda layer: by_layer[layer]["value"])[:4]
    assert windows == sorted(least)
    value, error, base, found = naive(judging, dict.fromkeys(windows, windowed(16)))
    kind = plan["recall"]["kinds"]["mine.jsonl"]
    assert plan["recall"]["value"] == pytest.approx(value, abs=1e-4)
    assert plan["recall"]["stderr"] == pytest.approx(error, abs=1e-4)
    assert (kind["asked"], kind["base"], kind["found"]) == (len(judging), base, found)
    shown = " ".join(lbdsl("plan", "r.lbr", "model").out.split())
    assert f"recall: answers {value:+.3g}" in shown
    streamed = json.loads(lbdsl("plan", "r.lbr", "model", "--json", "--low-memory", "--cache-dir", "other").out)
    assert streamed["recall"]["value"] == pytest.approx(value, abs=1e-4)
    assert [layer["after"] for layer in streamed["layers"]] == [layer["after"] for layer in plan["layers"]]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_an_interrupted_measurement_continues(workplace: Path, lbdsl, mine, monkeypatch, processes: int) -> None:
    """The same values, whatever was kept; and where two processes share what is left."""
    Path("r.lbr").write_text(HEAD + "lowest 4 by recall(swa(window=16)) swa(window=16)\nelse keep\n")
    whole = json.loads(lbdsl("measure", "r.lbr", "model", "--json", "--cache-dir", "one").out)["scores"]
    put, kept = Store.put, []

    def stopped(self, fingerprint, sums):
        put(self, fingerprint, sums)
        kept.append(fingerprint)
        if len(kept) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", stopped)
        assert lbdsl("measure", "r.lbr", "model", "--json", "--cache-dir", "two").code == 130
    command = [sys.executable, "-m", "lbdsl", "measure", "r.lbr", "model", "--json", "--cache-dir", "two"]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(processes)]
    for process in others:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out)["scores"] == whole
    assert json.loads(lbdsl(*command[3:]).out)["scores"] == whole


def test_a_plan_that_forgets_is_warned_of_and_gated(workplace: Path, lbdsl, mine) -> None:
    # The second letter of two is asked for, far behind the text.
    rules = "layers 0-3 swa(window=2)\nelse keep\n"
    Path("r.lbr").write_text(HEAD + rules + "assert recall < -9\n")
    done = lbdsl("plan", "r.lbr", "model", "--json")
    plan = json.loads(done.out)
    kind = plan["recall"]["kinds"]["mine.jsonl"]
    assert kind["found"] < 0.75 * kind["base"]
    assert (done.code, plan["asserts"][0]["status"]) == (5, "fail")
    assert plan["asserts"][0]["value"] == plan["recall"]["value"]
    warned = [finding for finding in plan["findings"] if finding["code"] == "LB362"]
    assert f"finds {100 * kind['found'] / kind['asked']:.0f} %" in warned[0]["message"]
    assert warned[0]["help"][1].startswith("wider windows lose less")
    Path("r.lbr").write_text(HEAD + "layers 0-3 kv_heads(1)\nelse keep\n")
    heads = json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)["findings"]
    said = [finding["help"] for finding in heads if finding["code"] == "LB362"]
    assert said == [
        [
            "choose its layers by what they recall: `lowest N by recall(kv_heads(n=1)) kv_heads(n=1)`",
            "`builtin:recall` in `heal` brings some back",
        ]
    ]
    Path("r.lbr").write_text(HEAD + rules + "assert recall < -9\n")
    refused = lbdsl("plan", "r.lbr", "model", "--no-recall")
    assert (refused.code, "LB361" in refused.err) == (1, True), refused.err
    Path("r.lbr").write_text(HEAD + rules)
    without = json.loads(lbdsl("plan", "r.lbr", "model", "--json", "--no-recall").out)
    assert without["recall"] is None
    assert not any(finding["code"] in ("LB361", "LB362") for finding in without["findings"])


def test_a_base_that_finds_nothing_has_no_recall(workplace: Path, lbdsl) -> None:
    """A model without training finds no fact: an error where a value is needed, else a note."""
    head = HEAD.replace("mine.jsonl", "builtin:recall").replace("; recall", "; recall_questions = 20; recall")
    Path("r.lbr").write_text(head + "layers 0-1 swa(window=16)\nelse keep\n")
    plan = json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)
    assert plan["recall"] is None
    (said,) = [finding for finding in plan["findings"] if finding["code"] == "LB361"]
    assert said["severity"] == "note"
    assert plan["applyable"]
    for rule in ("lowest 2 by recall(swa(window=16)) swa(window=16)", "where recall < 0.1 drop"):
        Path("r.lbr").write_text(head + rule + "\nelse keep\n")
        done = lbdsl("plan", "r.lbr", "model")
        assert (done.code, "LB361" in done.err) == (1, True), done.err
    # Nothing is asked where attention stays as it is.
    Path("r.lbr").write_text(head + "layers all drop(mlp)\n")
    plan = json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)
    assert (plan["recall"], [f for f in plan["findings"] if f["code"] == "LB361"]) == (None, [])


@pytest.mark.parametrize(
    ("settings", "rule", "code"),
    [
        ("recall_seq = 256", "layers 0 swa(window=200)", "LB328"),
        ("recall_seq = 4Ki", "layers 0 swa(window=16)", "LB336"),
        ("recall_seq = 300", "lowest 2 by recall(swa(window=200)) swa(window=200)", "LB328"),
        ('recall = "builtin:pydoc"', "layers 0 swa(window=16)", "LB115"),
        ('recall = "../mine.jsonl"', "layers 0 swa(window=16)", "LB479"),
        ('recall = "none.jsonl"', "layers 0 swa(window=16)", "LB441"),
    ],
)
def test_what_recall_cannot_be_measured_by(workplace: Path, lbdsl, settings: str, rule: str, code: str) -> None:
    Path("r.lbr").write_text(f"lbr 1\nmeasure {{ tokens = 256; {settings} }}\n{rule}\nelse keep\n")
    done = lbdsl("plan", "r.lbr", "model")
    assert (done.code != 0, code in done.err) == (True, True), done.err


def test_one_question_is_refused_before_anything_is_measured(workplace: Path, lbdsl, monkeypatch) -> None:
    """Layers and whole plans are asked different ones."""
    Path("one.jsonl").write_text(
        json.dumps({"text": "The quick fox.", "question": "Who is quick?", "answer": "fox"}) + "\n"
    )
    head = HEAD.replace("mine.jsonl", "one.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", lambda *_: pytest.fail("measured"))
        for rule in ("lowest 2 by kl(swa(window=16)) swa(window=16)", "lowest 2 by recall(swa(window=16)) swa(window=16)"):
            Path("r.lbr").write_text(f"{head}{rule}\nelse keep\n")
            done = lbdsl("plan", "r.lbr", "model")
            assert (done.code, "LB361" in done.err, "one.jsonl has one question" in done.err) == (1, True, True), done.err
    # Nothing is asked, and the file is not read.
    Path("r.lbr").write_text(head + "layers 0 swa(window=16)\nelse keep\n")
    assert lbdsl("plan", "r.lbr", "model", "--no-recall").code == 0


def test_the_finished_model_is_asked_what_the_plan_was(workplace: Path, lbdsl, mine) -> None:
    heal = "heal { tokens = 256; seq = 64; method = lora(rank=2, alpha=4) }\neval { tokens = 256; seq = 64 }\n"
    Path("r.lbr").write_text(HEAD + "layers 0-3 swa(window=2)\nelse keep\n" + heal)
    done = lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    record = json.loads(Path("out/lbdsl.json").read_text())
    before = record["plan"]["recall"]["kinds"]["mine.jsonl"]
    (task,) = record["evaluation"]["tasks"]
    assert (task["name"], task["questions"]) == ("recall", before["asked"])
    assert task["base"] == pytest.approx(before["base"] / before["asked"])
    assert task["questions"] == len(mine) // 2
    assert "Of what stands far back" in Path("out/README.md").read_text()
    assert "recall" in lbdsl("show", "out").out
    # A saved plan is of these questions, and of no others.
    assert lbdsl("plan", "r.lbr", "model", "-o", "r.lbplan").code == 0
    Path("mine.jsonl").write_text(Path("mine.jsonl").read_text().replace("What is", "What was"))
    stale = lbdsl("apply", "r.lbplan", "-o", "other")
    assert (stale.code, "what recall asks changed" in " ".join(stale.err.split())) == (3, True), stale.err
    same = json.loads(lbdsl("diff", "out", "out", "--json").out)
    assert same["recall"][0] == record["plan"]["recall"]


def test_of_plans_that_drop_and_quantize(workplace: Path, lbdsl, mine) -> None:
    rules = 'layers 1, 3 drop\nmodules "*.mlp.*" quantize(bits=4, method=gptq)\nelse quantize(bits=8)\n'
    Path("r.lbr").write_text(HEAD + rules)
    done = lbdsl("plan", "r.lbr", "model", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["recall"]["kinds"]["mine.jsonl"]["asked"] == len(mine) // 2


def test_a_plan_is_chosen_by_text_and_answers_together(workplace: Path, lbdsl, mine) -> None:
    head = HEAD.replace("seq = 64;", "seq = 64; tries = 12;")

    def chosen(minimized: str) -> dict[str, Any]:
        rule = f"choose for layers all among keep, swa(window=16) minimizing {minimized} subject to kv(8Ki) <= 50%"
        Path("r.lbr").write_text(f"{head}{rule}\nelse keep\n")
        done = lbdsl("plan", "r.lbr", "model", "--json", "-o", f"{len(minimized)}.lbplan")
        assert done.code == 0, done.err
        return dict(json.loads(done.out))

    by_text, both = chosen("kl"), chosen("kl + 0.2 * recall")
    choice = both["choice"]
    assert choice["weights"] == {"kl": 1.0, "recall": 0.2}
    assert choice["questions"] == 6
    assert choice["tokens"] == by_text["choice"]["tokens"] > 0
    windows = [layer["index"] for layer in both["layers"] if layer["after"] != layer["before"]]
    alone = [both["layers"][layer]["scores"] for layer in windows]
    names = ("kl(swa(window=16))", "recall(swa(window=16))")
    assert choice["sum"] == pytest.approx(sum(of[names[0]] + 0.2 * of[names[1]] for of in alone))
    # Each plan that both measured: what the sum has beyond the text's share is what the loop over the stock model finds.
    choosing = [row for i, row in enumerate(mine) if i // 2 % 2 == 0]
    kl = {tuple(one["strip"]): one["joint"]["value"] for one in by_text["choice"]["candidates"]}
    shared = [one for one in choice["candidates"] if tuple(one["strip"]) in kl]
    assert shared
    for one in shared[:3]:
        changed = [layer for layer, number in enumerate(one["strip"]) if number]
        lost = naive(choosing, dict.fromkeys(changed, windowed(16)))[0]
        assert one["joint"]["value"] == pytest.approx(kl[tuple(one["strip"])] + 0.2 * lost, abs=1e-4)
    there = both["loss"]["scores"]["kl"]["value"] + 0.2 * both["recall"]["value"]
    shown = " ".join(lbdsl("show", "17.lbplan").out.split())
    assert f"the first has kl + 0.2 * recall {there:+.3g}" in shown
    assert "tokens of calibration text and 6 questions" in shown


def test_a_screen_estimates_the_recall_of_windows(workplace: Path, lbdsl, mine) -> None:
    rule = "lowest 3 by recall(swa(window=16)) swa(window=16)\nwhere recall(swa(window=8)) < 9 swa(window=8)\nelse keep\n"
    Path("r.lbr").write_text(HEAD.replace("seq = 64;", "seq = 64; strategy = screen;") + rule)
    done = lbdsl("plan", "r.lbr", "model", "--json", "-o", "r.lbplan")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    # A condition is about a layer alone: that is measured.
    assert plan["measured_on"]["estimated"] == ["recall(swa(window=16))"]
    shown = " ".join(lbdsl("show", "r.lbplan").out.split())
    assert shown.count("logarithmic, estimated") == 1
    scores = [layer["scores"]["recall(swa(window=16))"] for layer in plan["layers"]]
    lowest = sorted(range(6), key=lambda layer: scores[layer])[:3]
    assert [layer for layer in range(6) if plan["layers"][layer]["after"]["mixer"]["window"]["size"] == 16] == sorted(
        lowest
    )
    assert "strategy = screen" not in done.err
    assert "asking" not in lbdsl("measure", "r.lbr", "model").err.split("screening")[1]
    both = "choose for layers all among keep, swa(window=16) minimizing kl + recall subject to kv(8Ki) <= 50%\n"
    Path("r.lbr").write_text(HEAD.replace("seq = 64;", "seq = 64; strategy = screen; tries = 4;") + both)
    done = lbdsl("plan", "r.lbr", "model", "--json")
    assert json.loads(done.out)["measured_on"]["estimated"] == ["kl(swa(window=16))", "recall(swa(window=16))"]
    refused = lbdsl("plan", "r.lbr", "model", "--low-memory")
    assert "LB481" in refused.err
    # What a screen has no estimate of is exact.
    Path("r.lbr").write_text(
        HEAD.replace("seq = 64;", "seq = 64; strategy = screen; tries = 4;") + both.replace("kl + recall", "kl + nll")
    )
    alone = [json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)]
    Path("r.lbr").write_text(HEAD.replace("seq = 64;", "seq = 64; tries = 4;") + both.replace("kl + recall", "kl + nll"))
    alone += [json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)]
    assert alone[0]["measured_on"]["estimated"] == ["kl(swa(window=16))"]
    screened, exact = ([layer["scores"]["nll(swa(window=16))"] for layer in plan["layers"]] for plan in alone)
    assert screened == exact


def test_the_smallest_cache_within_what_may_be_lost(workplace: Path, lbdsl, mine, monkeypatch) -> None:
    head = HEAD.replace("seq = 64;", "seq = 64; tries = 30;")
    choosing = [row for i, row in enumerate(mine) if i // 2 % 2 == 0]
    every = naive(choosing, dict.fromkeys(range(6), windowed(16)))[0]
    rule = (
        "choose for layers all among keep, swa(window=16) minimizing kv(8Ki) subject to kl <= 1, recall <= {}\nelse keep\n"
    )
    Path("r.lbr").write_text(head + rule.format(round(every / 2, 4)))
    done = lbdsl("plan", "r.lbr", "model", "--json", "-o", "r.lbplan")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    choice, costs = plan["choice"], [plan[which]["kv_bytes"]["8192"] for which in ("after", "before")]
    first = choice["candidates"][0]
    assert first["joint"]["value"] == pytest.approx(costs[0] / costs[1])
    changed = [layer for layer, number in enumerate(first["strip"]) if number]
    assert 0 < len(changed) < 6
    assert first["bounds"]["recall"]["value"] == pytest.approx(
        naive(choosing, dict.fromkeys(changed, windowed(16)))[0], abs=1e-4
    )
    assert first["bounds"]["recall"]["value"] <= every / 2
    # No plan that was measured keeps the bounds with a smaller cache.
    for other in choice["candidates"][1:]:
        over = other["bounds"]["recall"]["value"] > round(every / 2, 4)
        assert over or other["joint"]["value"] >= first["joint"]["value"]
    assert [budget["text"] for budget in choice["budgets"]] == ["kl <= 1", f"recall <= {round(every / 2, 4)}"]
    assert not any(finding["code"] == "LB363" for finding in plan["findings"])
    # Over a bound by more than a standard error, on other text.
    for there, said in ((1.4, []), (2.0, ["`kl <= 1` is kept on what the plan was chosen by, and is 2 ± 0.5"])):
        with monkeypatch.context() as patch:
            lost = {name: Measurement(there if name == "kl" else -9.0, 0.5, Unit.NATS, 10, 2) for name in ("kl", "recall")}
            none = {name: Measurement(0.0, 0.0, Unit.NATS, 10, 2) for name in ("kl", "recall")}
            elsewhere = lambda _, plans, *rest, lost=lost, none=none: [lost if one.changes else none for one in plans]  # noqa: E731
            patch.setattr("lbdsl.session.choosing.elsewhere", elsewhere)
            planned = json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)
        findings = planned["findings"]
        # The unchanged model, which keeps them, is no way out.
        assert any(layer["after"] != layer["before"] for layer in planned["layers"])
        warned = [finding["message"] for finding in findings if finding["code"] == "LB363"]
        assert [message.startswith(begin) for message, begin in zip(warned, said, strict=True)] == [True] * len(said)
    shown = " ".join(lbdsl("show", "r.lbplan").out.split())
    assert "by kv(8Ki):" in shown
    assert f"recall <= {round(every / 2, 4)}: it is" in shown
    there = [plan["loss"]["scores"]["kl"]["value"], plan["recall"]["value"]]
    assert [budget["elsewhere"]["value"] for budget in choice["budgets"]] == pytest.approx(there)
    assert shown.count("on other text") == 2
    assert shown.count("(room for") == sum(budget["room"] > 0 for budget in choice["budgets"]) > 0
    assert [one["kept"] for one in choice["candidates"]] == [
        one["bounds"]["recall"]["value"] <= round(every / 2, 4) for one in choice["candidates"]
    ]
    assert (", over " in shown) is not all(one["kept"] for one in choice["candidates"][:5])
    Path("r.lbr").write_text(head + rule.format(0.0001).replace("kl <= 1", "kv(8Ki) <= 40%, kl <= 0.00001"))
    with monkeypatch.context() as patch:
        own, calls = scores.measure_plans, []

        def interrupted(*args, **more):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return own(*args, **more)

        patch.setattr(scores, "measure_plans", interrupted)
        stopped = lbdsl("plan", "r.lbr", "model", "-o", "stopped.lbplan")
    assert stopped.code == 0, stopped.err
    choice, told = load_plan(Path("stopped.lbplan")).unwrap().choice, " ".join(stopped.out.split())
    assert choice is not None
    assert "and none of them keeps `kl <= 1e-05` and `recall <= 0.0001`" in told
    assert "LB363" not in told
    over = [max(one.bounds["kl"].value / 1e-5, one.bounds["recall"].value / 1e-4) for one in choice.candidates]
    assert over == sorted(over)
    none = lbdsl("plan", "r.lbr", "model")
    assert (none.code, "LB356" in none.err, "measured: kv(8Ki)" in none.err) == (5, True, True), none.err
    Path("r.lbr").write_text(head + rule.format(0).replace("kl <= 1", "kl <= 0"))
    whole = lbdsl("plan", "r.lbr", "model", "-o", "whole.lbplan")
    assert whole.code == 0, whole.err
    assert "they take the whole of kv(8Ki)" in " ".join(whole.out.split())
    plan = json.loads(lbdsl("show", "whole.lbplan", "--json").out)
    assert all(layer["after"] == layer["before"] for layer in plan["layers"])
    (warned,) = (found for found in plan["findings"] if found["code"] == "LB313")
    assert warned["severity"] == "warning"
    assert "no plan was found that changes some and keeps `kl <= 0`" in warned["message"]
