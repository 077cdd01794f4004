"""Layers of SmolLM2 ranked by tasks and by `nll`: what their attention is worth to each.

Needs `make model` and the extra `tasks`. The tasks are made of `builtin:wikitext`: `last-word` asks for the last word of
1,000 sentences, as LAMBADA does; `next-sentence` for the sentence that follows, among four, 120 times; `agreement` which of
two sentences is the author's, that differ in the number of a verb, as pairs of BLiMP do, 600 times. The scores by `nll` are
of 8Ki tokens of `builtin:docs`. `greatest` is the share of right answers that the dearest layer is worth, `error` the
median standard error of a layer's; `spearman` the rank correlation with `nll`, with all layers and without the first two,
which are dear to all; `windowed-...`: right answers of the base, and with 16 attentions windowed at 256 tokens, learned
sinks, unhealed (`error` is that of the recovery); `windows-...`, `linear-...`: of the rows of the table `linear` that are
healed on a million tokens; `of 8`: how many
of the eight layers that are worth least to one are among those of the other.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import evaluated
from benchmarks.table import HEALING, Row, Table, once, uses
from benchmarks.tables.judged import MODEL, lbdsl

UNHEALED = "layers 1-3, 8-16, 18-21 swa(window=256, sinks=learned)"
PLANS = {"windowed": None, "windows": "windows-1000k-0", "linear": "linear-1000k-0"}
"""Rows of the table `linear`; None: `UNHEALED`."""
SENTENCES, CHOICES, PAIRS = 1000, 120, 600
RANKING = "last-word", "next-sentence"
VERBS = {"is": "are", "was": "were", "has": "have"}
LAST_WORD = """task: last-word
dataset_path: json
dataset_kwargs: {data_files: {test: last-word.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{before}}"
doc_to_target: " {{word}}"
metric_list: [{metric: acc}]
"""
NEXT_SENTENCE = """task: next-sentence
dataset_path: json
dataset_kwargs: {data_files: {test: next-sentence.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{before}}"
doc_to_choice: "{{sentences}}"
doc_to_target: "{{right}}"
target_delimiter: " "
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
AGREEMENT = """task: agreement
dataset_path: json
dataset_kwargs: {data_files: {test: agreement.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{before}}"
doc_to_choice: "{{ends}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc}]
"""


def sentences() -> list[list[str]]:
    """The sentences of each article."""
    from lbdsl.data.sources import read_documents

    texts = (str(text).replace("\n", " ") for text in read_documents("builtin:wikitext"))
    return [[s.strip() for s in re.split(r"(?<=[.!?])\s+", text) if 8 <= len(s.split()) <= 60] for text in texts]


def last_words() -> Sequence[Mapping[str, Any]]:
    found = (s.rsplit(" ", 1) for article in sentences() for s in article if re.search(r" [A-Za-z]{2,}\.$", s))
    return [{"before": before, "word": word.removesuffix(".")} for before, word in found][:SENTENCES]


def next_sentences() -> Sequence[Mapping[str, Any]]:
    draw = random.Random(0)
    pairs = [(one, other) for article in sentences() for one, other in itertools.pairwise(article)]
    draw.shuffle(pairs)
    rows = []
    for before, after in pairs[:CHOICES]:
        given = [after, *(draw.choice(pairs)[1] for _ in range(3))]
        draw.shuffle(given)
        rows.append({"before": before, "sentences": given, "right": given.index(after)})
    return rows


def agreements() -> Sequence[Mapping[str, Any]]:
    other = VERBS | {many: one for one, many in VERBS.items()}
    split = re.compile(rf"(\S+(?: \S+){{3,}}?) ({'|'.join(other)}) (.+)")
    rows: list[Mapping[str, Any]] = []
    for found in filter(None, (split.match(sentence) for article in sentences() for sentence in article)):
        before, verb, rest = found.groups()
        right = len(rows) % 2
        ends = [f"{other[verb]} {rest}", f"{verb} {rest}"]
        rows.append({"before": before, "ends": ends if right else ends[::-1], "right": right})
    return rows[:PAIRS]


TASKS: Mapping[str, tuple[str, Callable[[], Sequence[Mapping[str, Any]]]]] = {
    "last-word": (LAST_WORD, last_words),
    "next-sentence": (NEXT_SENTENCE, next_sentences),
    "agreement": (AGREEMENT, agreements),
}


def made(work: Path, name: str) -> Path:
    """The task's YAML file."""
    form, rows = TASKS[name]
    once(work / f"{name}.jsonl", lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in rows())))
    return once(work / f"{name}.yaml", lambda path: path.write_text(form))


def ranks(values: list[float]) -> list[float]:
    """Of equal values each has their mean rank."""
    return [sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2 for one in values]


def spearman(one: list[float], other: list[float]) -> float:
    return statistics.correlation(ranks(one), ranks(other))


def scores(work: Path, key: str, metric: str, questions: int = 200) -> tuple[list[float], list[float], float]:
    """Each layer's score, its error, and the minutes that it took."""
    recipe = work / f"{key}.lbr"
    text = f'measure {{ data = "builtin:docs"; questions = {questions} }}\nlowest 8 by {metric} drop\nelse keep\n'
    recipe.write_text(f"lbr 1\n{text}")
    started = time.monotonic()
    found = json.loads(lbdsl("measure", str(recipe), MODEL, "--json").stdout)["scores"]
    rows = sorted((row for row in found if row["action"] == "drop"), key=lambda row: row["layer"])
    return [row["value"] for row in rows], [row["stderr"] for row in rows], (time.monotonic() - started) / 60


def by_task(name: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        made(work, name)
        questions = len(TASKS[name][1]())
        values, errors, minutes = scores(work, name, f'task("{name}.yaml", drop)', questions)
        by_nll, _, _ = scores(work, "nll", "nll(drop)")
        # Least by one, as a recipe would drop them.
        least = [set(sorted(range(len(of)), key=of.__getitem__)[:8]) for of in (values, by_nll)]
        return {
            "questions": questions,
            "greatest": max(values),
            "error": statistics.median(errors),
            "spearman": spearman(values, by_nll),
            "without 0, 1": spearman(values[2:], by_nll[2:]),
            "of 8": len(least[0] & least[1]),
            "minutes": minutes,
        }

    return Row(name, run)


def judged(plan: str, name: str) -> Row:
    """Of all questions, by the base and by a plan of it."""

    def run(work: Path) -> dict[str, float]:
        healed = PLANS[plan]
        folder = (
            uses(work.parent / "linear" / healed)
            if healed
            else evaluated.made(work, f"{plan}-{next(iter(TASKS))}", UNHEALED, "--no-heal")
        )
        question = once(
            work / f"{plan}-{name}.judged.json",
            lambda path: path.write_text(
                json.dumps(evaluated.judge(folder, "wikitext", "--task", str(made(work, name)), tokens=4096))
            ),
        )
        (task,) = json.loads(question.read_text())["tasks"]
        return {
            "questions": task["questions"],
            **{key: task[key] for key in ("base", "artifact", "recovery")},
            "error": task["stderr"]["recovery"],
        }

    return Row(f"{plan}-{name}", run)


TABLE = Table(
    title="attention of SmolLM2's layers by what it is worth to a task, and to nll",
    columns={
        "questions": "d",
        "greatest": ".1%",
        "error": ".1%",
        "spearman": ".2f",
        "without 0, 1": ".2f",
        "of 8": "d",
        "minutes": ".0f",
        "base": ".1%",
        "artifact": ".1%",
        "recovery": ".1%",
    },
    rows=[*(by_task(name) for name in RANKING), *(judged(plan, name) for plan in PLANS for name in TASKS)],
    measures=(*HEALING, "lbdsl/session/asking.py"),
)
