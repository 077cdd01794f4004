"""Recall: what a change costs of the answers that stand far back, of layers and of whole plans."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lbdsl.layer.spec import LayerSpec
from tests.measure_cases import naive_logp
from tests.specs import attention_layer, layer_of
from tests.tiny_model import save_tiny_model

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


@pytest.fixture
def mine(workplace: Path) -> list[dict[str, str]]:
    Path("model").unlink()
    save_tiny_model(Path("model"), tie_word_embeddings=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
    # It says letters, which stand in every text.
    others = sorted(set(range(260)) - set(tokenizer(LETTERS)["input_ids"]))
    model.lm_head.weight.data[others] = 0
    model.save_pretrained("model")
    rows = answered(Path("model"))
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
    choosing, judging = [row for i, row in enumerate(mine) if i // 2 % 2 == 0], [
        row for i, row in enumerate(mine) if i // 2 % 2
    ]
    scored = json.loads(lbdsl("measure", "r.lbr", "model", "--json").out)["scores"]
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
