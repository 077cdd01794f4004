"""What a result is judged on, and what is said of it: several texts, before healing, cautions, predictions."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record, write_record
from lbdsl.data import TextPart, read_parts
from lbdsl.data.needle import HAY

HEAD = """lbr 1
recipe "judged"
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
lowest 2 by sensitivity drop
lowest 2 of rest by sensitivity swa(window=16)
else keep
"""
HEAL = 'heal { data = "builtin:pydoc"; tokens = 1024; seq = 64; batch = 2; lr = 1e-3; method = lora(rank=2, alpha=4) }\n'
BOTH = 'eval { data = ["builtin:wikitext", "builtin:pydoc"]; tokens = 256; seq = 64 }\n'


def applied(lbdsl, text: str, expect: int = 0) -> dict:
    Path("r.lbr").write_text(HEAD + text)
    done = lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes", "--force")
    assert done.code == expect, done.err
    folder = Path("out.rejected" if expect == 4 else "out")
    return {**json.loads((folder / "lbdsl.json").read_text()), "said": done.out, "card": (folder / "README.md").read_text()}


def test_the_result_is_judged_on_each_text_before_and_after_healing(workplace: Path, lbdsl) -> None:
    record = applied(lbdsl, HEAL + BOTH + "assert ppl_increase < 900%\n")
    sources = record["evaluation"]["sources"]
    assert [source["data"] for source in sources] == ["builtin:wikitext", "builtin:pydoc"]
    assert record["evaluation"]["perplexity"] == sources[0]["perplexity"]
    for source in sources:
        before = source["before_healing"]
        assert before["perplexity"]["base"] == pytest.approx(source["perplexity"]["base"], rel=1e-6)
        assert before["perplexity"]["artifact"] != source["perplexity"]["artifact"]
        assert before["data_digest"] == source["data_digest"]
    assert record["heal"]["seconds"] > 0
    for text in (record["said"], record["card"]):
        assert text.count("before healing") >= 2
        assert "builtin:wikitext" in text
        assert "builtin:pydoc" in text
    assert "before healing every assert held already" in record["said"]
    shown = lbdsl("show", "out").out
    assert shown.count("before healing") >= 2
    assert "decode bound" in shown
    judged = json.loads(lbdsl("eval", "out", "--json").out)
    assert [source["data"] for source in judged["sources"]] == ["builtin:wikitext", "builtin:pydoc"]
    assert judged["perplexity"] == judged["sources"][0]["perplexity"]
    one = json.loads(lbdsl("eval", "out", "--json", "--data", "builtin:pydoc").out)
    assert [source["data"] for source in one["sources"]] == ["builtin:pydoc"]


def increases(lbdsl) -> list[float]:
    record = applied(lbdsl, BOTH)
    return [source["ppl_increase"] for source in record["evaluation"]["sources"]]


def test_an_assert_must_hold_on_every_text_or_on_the_one_it_names(workplace: Path, lbdsl) -> None:
    wiki, pydoc = increases(lbdsl)
    assert wiki != pydoc
    worse, better = ("wikitext", "pydoc") if wiki > pydoc else ("pydoc", "wikitext")
    between = 50 * (wiki + pydoc)
    bound = f"< {between:.6f}%" if between > 0 else f"< 0 - {-between / 100:.8f}"
    failed = applied(lbdsl, f"{BOTH}assert ppl_increase {bound}\n", expect=4)
    assert failed["asserts"][0]["on"] == f"builtin:{worse}"
    assert f"on builtin:{worse}" in failed["said"]
    applied(lbdsl, f'{BOTH}assert ppl_increase("builtin:{better}") {bound}\n')
    applied(lbdsl, f'{BOTH}assert ppl_increase("builtin:{worse}") {bound}\n', expect=4)


@pytest.mark.parametrize(
    ("block", "data", "use"),
    [
        ("heal", '"builtin:wikitext"', "eval"),
        ("measure", '"builtin:wikitext"', "eval"),
        ("measure", '"builtin:recall"', "heal"),
        ("measure", 'mix("builtin:pydoc", "builtin:recall")', "heal"),
        ("eval", '"builtin:recall"', "heal"),
        ("eval", '["builtin:wikitext", "builtin:recall"]', "heal"),
    ],
)
def test_a_text_for_one_block_is_refused_elsewhere(block: str, data: str, use: str) -> None:
    from lbdsl import check_recipe

    rules = "lowest 2 by nll drop\nassert ppl_increase < 5%"
    (found,) = (d for d in check_recipe(f"{block} {{ data = {data} }}\n{rules}").diagnostics if d.is_error)
    assert found.code == "LB150"
    assert found.help[0].startswith(f"name it in `{use}`; ")
    assert "LB150" not in [d.code for d in check_recipe(f"{use} {{ data = {data} }}\n{rules}").diagnostics]


def test_an_assert_on_a_text_that_is_not_judged_on_is_an_error() -> None:
    from lbdsl import check_recipe

    text = 'lowest 2 by nll drop\nheal { tokens = 1k }\nassert ppl_increase("{}") < 5%'
    assert check_recipe(text.replace("{}", "builtin:wikitext")).ok
    found = check_recipe(text.replace("{}", "my.txt"))
    assert [d.code for d in found.diagnostics if d.is_error] == ["LB151"]


def test_what_flatters_is_said_in_plan_report_and_card(workplace: Path, lbdsl) -> None:
    text = HEAL + 'eval { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nassert kv(256) <= 99%\n'
    record = applied(lbdsl, text + "assert ppl_increase < 900%\n")
    for said in ("judged on the healing source", "judged on sequences of 64 tokens; asserts and budgets are about 256"):
        assert " ".join(record["said"].split()).count(said) == 2  # the plan, and the report
        assert said in record["card"]


def test_eval_says_what_flatters(workplace: Path, lbdsl) -> None:
    applied(lbdsl, HEAL + BOTH + "assert kv(256) <= 99%\n")
    said = lbdsl("eval", "out", "--data", "builtin:pydoc", "--seq", "64", "--tokens", "256").err
    assert "judged on the healing source" in said
    assert "judged on sequences of 64 tokens" in said


def test_a_plan_ends_with_what_can_serve_it(workplace: Path, lbdsl) -> None:
    Path("r.lbr").write_text(HEAD + "assert kv(256) <= 99%\n")
    plain = lbdsl("plan", "r.lbr", "model", "-o", "x.lbplan").out
    Path("r.lbr").write_text(HEAD.replace("window=16", "window=16, sinks=2") + "assert kv(256) <= 99%\n")
    sinks = lbdsl("plan", "r.lbr", "model", "--json").out
    last = " ".join(plain[plain.index("Can be served by: ") :].split())
    assert "transformers (as saved" in last
    assert "vLLM (" in last
    assert "not llama.cpp: " in last
    assert " ".join(lbdsl("show", "x.lbplan").out.split()).endswith(last)
    engines = {item["engine"]: item for item in json.loads(sinks)["serving"]}
    assert engines["vLLM"]["formats"] == []
    assert "sink" in engines["vLLM"]["obstacle"]


def test_the_plan_says_what_windows_do_to_prefill(workplace: Path, lbdsl) -> None:
    Path("r.lbr").write_text(HEAD)
    assert "prefill: windows make long prompts faster" in lbdsl("plan", "r.lbr", "model").out
    Path("r.lbr").write_text("layers 2 drop\nelse keep\n")
    assert "prefill" not in lbdsl("plan", "r.lbr", "model").out


def test_the_plan_estimates_the_work(workplace: Path, lbdsl, monkeypatch) -> None:
    Path("r.lbr").write_text(HEAD + HEAL.replace("1024", "2M") + BOTH)
    done = lbdsl("plan", "r.lbr", "model", "--json", "--cache-dir", "new-cache")
    assert "measuring 6 scores on 256 tokens: " in done.err
    assert " of weights in memory" in done.err
    found = json.loads(done.out)["estimate"]
    assert found["memory_bytes"] > 0
    assert found["disk_bytes"] > 0
    documents = read_parts("builtin:pydoc", base_dir=Path(), offline=True).texts(TextPart.HEAL)
    size = sum(len(document.encode()) for document in documents)  # bytes, and tokens: the tokenizer makes one of each
    assert found["passes"] == pytest.approx(2e6 / size, rel=0.05)
    monkeypatch.setattr("lbdsl.measure.memory.total_bytes", lambda device: 2**27)
    text = " ".join(lbdsl("plan", "r.lbr", "model").out.split())
    [times] = re.findall(r"warning\[LB446\] healing passes about ([\d.]+) times", text)
    assert float(times) == pytest.approx(2e6 / size, rel=0.05)
    assert "(this machine has 128.0 MiB: healing computes layers twice" in text
    Path("r.lbr").write_text(HEAD + HEAL.replace("1024", "600k") + BOTH)
    text = " ".join(lbdsl("plan", "r.lbr", "model").out.split())
    [times] = re.findall(r"; healing passes about ([\d.]+) times", text)
    assert float(times) == pytest.approx(6e5 / size, rel=0.05)
    assert "LB446" not in text


def test_a_book_is_judged_alike_as_text_and_as_one_record(workplace: Path, lbdsl) -> None:
    # Every paragraph is said again 6,000 characters later: what a window cannot see.
    paragraphs = [
        f"Paragraph {n} says {n * n} and {n * 7919 % 1000}. " + f"It is about thing {n % 13}. " * 4 for n in range(240)
    ]
    gap = max(1, 6000 // len(paragraphs[0]))
    lines = [text for n, one in enumerate(paragraphs) for text in (one, paragraphs[max(0, n - gap)])]
    text = "\n\n".join(lines)
    Path("book.txt").write_text(text)
    Path("book.jsonl").write_text(json.dumps({"text": text}) + "\n")
    results = []
    for name in ("book.txt", "book.jsonl"):
        block = f'eval {{ data = "{name}"; tokens = 2Ki; seq = 256 }}\nassert ppl_increase < 100%\n'
        Path("r.lbr").write_text(HEAD + block)
        done = lbdsl("apply", "r.lbr", "model", "-o", f"{name}.out", "--yes")
        folder = next(path for path in (Path(f"{name}.out"), Path(f"{name}.out.rejected")) if path.exists())
        record = json.loads((folder / "lbdsl.json").read_text())
        results.append((done.code, record["evaluation"]["perplexity"]))
    assert results[0] == results[1]


def test_too_little_text_names_the_longest_possible_before_any_measuring(workplace: Path, lbdsl) -> None:
    Path("short.txt").write_text("word " * 400)
    Path("r.lbr").write_text(HEAD + 'eval { data = "short.txt"; tokens = 1Ki; seq = 256 }\nassert ppl_increase < 5%\n')
    done = lbdsl("plan", "r.lbr", "model", "--cache-dir", "empty-cache")
    assert done.code == 1
    assert "LB446" in done.err
    assert "the longest that it allows: `tokens = " in done.err
    assert "measuring" not in done.err


def test_sequences_beyond_the_positions_are_refused_in_eval(workplace: Path, lbdsl) -> None:
    applied(lbdsl, BOTH)
    done = lbdsl("eval", "out", "--seq", "1Ki")
    assert (done.code, "LB336" in done.err) == (1, True)
    done = lbdsl("eval", "out", "--seq", "24")
    assert (done.code, "LB328" in done.err) == (1, True)


def test_a_base_that_computes_nan_is_named(workplace: Path, lbdsl, tiny_folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "broken")
    Path("r.lbr").write_text(HEAD)
    done = lbdsl("plan", "r.lbr", "broken")
    assert (done.code, "LB451" in done.err) == (6, True)
    assert "the base model's own loss is NaN" in done.err
    Path("r.lbr").write_text("layers 2 drop\nelse keep\n")
    assert "LB451" in lbdsl("plan", "r.lbr", "broken").err


def test_a_tokenizer_of_another_model_is_named(workplace: Path, lbdsl, tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    config = LlamaConfig.from_pretrained(tiny_folder)
    config.vocab_size = 64
    config.eos_token_id = 1
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "small")
    Path("r.lbr").write_text(HEAD)
    done = lbdsl("plan", "r.lbr", "small")
    assert (done.code, "LB450" in done.err) == (6, True), done.err


def test_facts_in_long_texts_are_asked_for_and_gated(workplace: Path, lbdsl) -> None:
    asked = "eval { tokens = 256; seq = 64; needle = 256 }\nassert needle(300) >= 0%\n"
    record = applied(lbdsl, asked)
    tasks = record["evaluation"]["tasks"]
    assert [(task["name"], task["questions"]) for task in tasks] == [("needle(256)", 16), ("needle(300)", 16)]
    assert record["asserts"][0]["status"] == "pass"
    for text in (record["said"], record["card"], lbdsl("show", "out").out):
        assert "needle(300)" in text
        assert "75%" in text
    judged = json.loads(lbdsl("eval", "out", "--json").out)
    assert judged["tasks"] == tasks
    # What an assert names is asked always.
    drawn = lbdsl("eval", "out", "--needle", "400", "--json", "-o", "needle.png")
    assert [task["name"] for task in json.loads(drawn.out)["tasks"]] == ["needle(400)", "needle(300)"]
    assert Path("needle.png").stat().st_size > 1000
    for context in ("10", "4Ki"):
        done = lbdsl("eval", "out", "--needle", context)
        assert (done.code, "LB336" in done.err) == (1, True), done.err
    # A random model finds nothing, of which nothing can be left.
    record = applied(lbdsl, asked + "assert recovery(needle(300)) >= 50%\n", expect=4)
    assert [item["status"] for item in record["asserts"]] == ["pass", "fail"]
    assert "the base has none" in record["said"]
    Path("r.lbr").write_text(HEAD + "assert needle(1M) >= 90%\n")
    done = lbdsl("plan", "r.lbr", "model")
    assert (done.code, "LB336" in done.err) == (1, True), done.err


YAML = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: own.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


WRITING = """output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""
PERPLEXITY = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
"""


def test_a_task_of_ones_own_is_asked_of_both_models(workplace: Path, lbdsl) -> None:
    folder = Path("tasks")
    folder.mkdir()
    (folder / "own.yaml").write_text(YAML)
    words = ("one", "three", "eleven", "a hundred and six")
    questions = [
        {"text": f"Count to {n}:", "choices": [f" {words[n % 4]}", f" {words[(n + 1) % 4]}"], "answer": n % 2}
        for n in range(12)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    gate = 'assert task("tasks/own.yaml") >= 0% and recovery(task("tasks/own.yaml")) >= 0%\n'
    record = applied(lbdsl, "eval { tokens = 256; seq = 64; limit = 10 }\n" + gate)
    (task,) = record["evaluation"]["tasks"]
    assert (task["name"], task["metric"], task["questions"]) == ('task("tasks/own.yaml")', "acc_norm", 10)
    assert 0 < task["base"] < 1
    for text in (record["said"], record["card"]):
        assert 'task("tasks/own.yaml")' in text
    done = lbdsl("eval", "out", "--json")
    assert json.loads(done.out)["tasks"] == [task]
    # Our progress alone, none of the harness's bars.
    assert "Tokenizing" not in done.err
    assert "it/s" not in done.err
    # The harness itself says the same of the base.
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("model", dtype="float32")
    stock = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained("model"), backend="causal")
    (Path("own.jsonl")).write_text((folder / "own.jsonl").read_text())
    given = {"tasks": [str(folder / "own.yaml")], "task_manager": TaskManager(include_defaults=False)}
    said = simple_evaluate(model=stock, limit=10, bootstrap_iters=0, **given)
    assert said["results"]["own"]["acc_norm,none"] == task["base"]


TAUGHT = """lbr 1
layers 2 drop
layers 3 swa(window=8)
else keep
heal { data = "heal.jsonl"; tokens = 256; seq = 32; batch = 2; lr = 1e-3; method = lora(rank=2, alpha=4) }
eval { data = "judge.jsonl"; tokens = 128; seq = 32; tasks = "own.yaml" }
"""


@pytest.fixture
def taught(workplace: Path) -> Path:
    """A recipe that heals on one file, judges on another, and asks a task in two."""
    for name in ("heal.jsonl", "judge.jsonl"):
        lines = [json.dumps({"text": f"{name} {i}: " + f"word{i} " * 20}) for i in range(60)]
        Path(name).write_text("\n".join(lines))
    counting(workplace, "own.yaml", 8)
    Path("r.lbr").write_text(TAUGHT)
    return workplace


@pytest.mark.slow
@pytest.mark.parametrize("saved", [pytest.param(False, id="a recipe"), pytest.param(True, id="a saved plan")])
def test_with_other_text_the_artifact_is_not_up_to_date(taught: Path, lbdsl, saved: bool) -> None:
    """The plan is the same one, and nothing of it says what the new text would heal, or whether the gate holds on it."""
    words = ["r.lbr", "model", "--yes"]
    if saved:
        assert lbdsl("plan", *words[:2], "-o", "r.lbplan").code == 0
        words = ["r.lbplan"]
    healed, unhealed = ("apply", *words, "-o", "out"), ("apply", *words, "-o", "unhealed", "--no-heal")
    assert (lbdsl(*healed).code, lbdsl(*unhealed).code) == (0, 0)
    before = json.loads(Path("out/lbdsl.json").read_text())
    for name in ("judge.jsonl", "own.yaml", "own.jsonl", "heal.jsonl"):
        assert "up to date" in lbdsl(*healed).err
        text = Path(name).read_text()
        Path(name).write_text(text.replace("word1 ", "words ").replace("Count", "Counts").replace("acc}", "acc }"))
        assert Path(name).read_text() != text
        for command, same in ((healed, False), (unhealed, name == "heal.jsonl")):
            done = lbdsl(*command)
            told = " ".join(done.err.split())
            assert (done.code, "LB460" in told, "up to date" in told) == (0 if same else 1, not same, same), done.err
            assert same or ('task("own.yaml")' if name.startswith("own") else name) in told.partition("LB460")[2]
        assert json.loads(Path("out/lbdsl.json").read_text()) == before
        if name != "heal.jsonl":
            Path(name).write_text(text)
    assert lbdsl(*healed, "--force").code == 0
    now = json.loads(Path("out/lbdsl.json").read_text())
    assert now["plan_digest"] == before["plan_digest"]
    assert now["heal"]["data_digest"] != before["heal"]["data_digest"]
    assert "up to date" in lbdsl(*healed).err


def test_an_artifact_that_does_not_say_what_its_texts_were_is_not_up_to_date(taught: Path, lbdsl) -> None:
    words = ("apply", "r.lbr", "model", "--yes", "-o", "out", "--no-heal")
    assert lbdsl(*words).code == 0
    write_record(read_record(Path("out")).unwrap().model_copy(update={"texts": None}), Path("out"))
    done = lbdsl(*words)
    assert (done.code, "up to date" in done.err) == (1, False)
    assert "does not say what its texts were" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("name", "yaml", "said"),
    [
        # It takes the harness twelve seconds to find all of its tasks.
        pytest.param("hellaswagg", None, "did you mean `hellaswag`?", marks=pytest.mark.slow),
        ("absent.yaml", None, "there is no file"),
        ("lost.yaml", YAML.replace("own.jsonl", "lost.jsonl"), "cannot be asked"),
        ("wrong.yaml", YAML.replace("{{text}}", "{{txt}}"), "UndefinedError: 'txt'"),
        ("broken.yaml", "task: own\ndataset_path: [json", "cannot be asked: ParserError"),
        ("perplexity.yaml", YAML[: YAML.index("output_type")] + PERPLEXITY, "no share of right answers"),
    ],
)
def test_tasks_that_cannot_be_asked(workplace: Path, lbdsl, name: str, yaml: str | None, said: str) -> None:
    Path("own.jsonl").write_text(json.dumps({"text": "Count:", "choices": [" one", " two"], "answer": 0}) + "\n")
    if yaml is not None:
        Path(name).write_text(yaml)
    Path("r.lbr").write_text(f'{HEAD}eval {{ tokens = 256; seq = 64; tasks = "{name}" }}\n')
    done = lbdsl("plan", "r.lbr", "model")
    assert (done.code, "LB456" in done.err, said in done.err) == (1, True, True), done.err


def test_tasks_need_a_package(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    Path("r.lbr").write_text(f"{HEAD}eval {{ tasks = hellaswag }}\n")
    done = lbdsl("plan", "r.lbr", "model")
    assert done.code != 0
    assert "pip install lm-eval" in done.err


def counting(folder: Path, name: str, count: int) -> Path:
    """A task of so many questions, with two or three answers each."""
    # Answers that a model without training finds almost equally likely.
    words = [f" {first}{last}" for first in "bcdfghklmnp" for last in ("ad", "en", "it", "ox", "um")]
    rows = (
        {"text": f"Count to {n}:", "choices": [words[(n * k + k) % len(words)] for k in range(1, 8)], "answer": n % 7}
        for n in range(count)
    )
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / name).write_text(YAML)
    return folder / name


def test_layers_are_scored_by_the_last_questions_of_a_task(workplace: Path, lbdsl) -> None:
    counting(workplace, "own.yaml", 40)
    rules = 'measure { questions = 24 }\nlowest 2 by task("own.yaml", drop) drop\nelse keep\n'
    Path("scored.lbr").write_text(f"lbr 1\n{rules}")
    scored = json.loads(lbdsl("measure", "scored.lbr", "model", "--json").out)["scores"]
    assert {row["metric"] for row in scored if row["layer"] >= 0} == {'task("own.yaml")'}
    worst = max((row for row in scored if row["layer"] >= 0), key=lambda row: abs(row["value"]))
    assert worst["value"] != 0
    assert (worst["tokens"], worst["unit"]) == (24, "ratio")
    # The harness, asked of the changed model itself, says the same of these questions.
    rows = Path("own.jsonl").read_text().splitlines(keepends=True)
    Path("own.jsonl").write_text("".join(rows[-24:]))
    asked = 'eval { data = "builtin:wikitext"; tokens = 256; seq = 64; tasks = "own.yaml" }'
    Path("r.lbr").write_text(f"lbr 1\nlayers {worst['layer']} drop\nelse keep\n{asked}\n")
    done = lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    (task,) = json.loads(Path("out/lbdsl.json").read_text())["evaluation"]["tasks"]
    assert task["base"] - task["artifact"] == pytest.approx(worst["value"])


def test_a_plan_is_chosen_by_a_task_and_warned_of_being_judged_on_it(workplace: Path, lbdsl) -> None:
    counting(workplace, "own.yaml", 40)
    measure = 'measure { data = "builtin:docs"; tokens = 256; seq = 64; tries = 8; questions = 24 }'
    choose = 'choose for layers all among keep, swa(window=16), drop minimizing task("own.yaml") subject to kv(1Ki) <= 60%'
    judged = 'eval { tokens = 256; seq = 64; tasks = "own.yaml"; limit = LIMIT }'
    for limit, warned in ((16, False), (17, True)):
        Path("r.lbr").write_text(f"lbr 1\n{measure}\n{choose}\n{judged.replace('LIMIT', str(limit))}\n")
        done = lbdsl("plan", "r.lbr", "model", "--json")
        assert done.code == 0, done.err
        assert ("LB337" in done.err, "`limit = 16`" in done.err) == (warned, warned)
    found = json.loads(done.out)["choice"]
    assert found["metric"] == 'task("own.yaml")'


def test_a_task_that_asks_to_write_cannot_score_layers(workplace: Path, lbdsl) -> None:
    path = counting(workplace, "own.yaml", 40)
    start = YAML.index("output_type")
    path.write_text(YAML[:start] + WRITING)
    Path("r.lbr").write_text('lbr 1\nlowest 2 by task("own.yaml", drop) drop\nelse keep\n')
    done = lbdsl("plan", "r.lbr", "model")
    assert (done.code, "asks the model to write" in done.err) == (1, True), done.err


def test_a_base_is_looked_at_alone(workplace: Path, lbdsl) -> None:
    """With the numbers that it has beside an artifact."""
    counting(workplace, "own.yaml", 12)
    asked = ("--data", "builtin:pydoc", "--data", "builtin:wikitext", "--tokens", "256", "--seq", "64", "--needle", "300")
    done = lbdsl(
        "eval", "model", *asked, "--needle-texts", "5", "--task", "own.yaml", "--limit", "10", "--json", "-o", "n.png"
    )
    assert done.code == 0, done.err
    alone = json.loads(done.out)
    texts = 'data = ["builtin:pydoc", "builtin:wikitext"]; tokens = 256; seq = 64'
    Path("r.lbr").write_text(f'{HEAD}eval {{ {texts}; needle = 300; needle_texts = 5; tasks = "own.yaml"; limit = 10 }}\n')
    assert lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes").code == 0
    both = json.loads(Path("out/lbdsl.json").read_text())["evaluation"]
    for one, beside in zip(alone["sources"], both["sources"], strict=True):
        assert one["perplexity"] == {"base": pytest.approx(beside["perplexity"]["base"], rel=1e-6)}
        assert one["stderr"] == {"perplexity_base": pytest.approx(beside["stderr"]["perplexity_base"], rel=1e-6)}
        assert (one["data_digest"], one["tokens"]) == (beside["data_digest"], beside["tokens"])
    assert [task["name"] for task in alone["tasks"]] == ["needle(300)", 'task("own.yaml")']
    for one, beside in zip(alone["tasks"], both["tasks"], strict=True):
        assert (one["base"], one["digest"], one["questions"]) == (beside["base"], beside["digest"], beside["questions"])
        assert "artifact" not in one
    assert alone["tasks"][0]["questions"] == 10, "two facts in each of five texts"
    assert alone["asserts"] == []
    assert Path("n.png").stat().st_size > 1000
    shown = lbdsl("eval", "model", *asked)
    assert (shown.code, "perplexity" in shown.out, "needle(300)" in shown.out) == (0, True, True)
    assert "artifact" not in shown.out
    assert "recovery" not in shown.out
    # By default on one text, and of a model that is not there.
    small = json.loads(lbdsl("eval", "model", "--tokens", "256", "--seq", "64", "--json", "--low-memory").out)
    assert [source["data"] for source in small["sources"]] == ["builtin:wikitext"]
    assert small["perplexity"]["base"] == pytest.approx(alone["sources"][1]["perplexity"]["base"], rel=1e-5)
    assert lbdsl("eval", "nothing").code != 0
    refused = lbdsl("eval", "model", "--against", "model")
    assert (refused.code, "--against is for an artifact" in refused.err) == (2, True), refused.err


def test_the_number_of_needles_is_a_setting(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    # The hay of most; to tokenize all the rest, too, takes a byte tokenizer seconds.
    monkeypatch.setattr("lbdsl.data.needle.HAY", HAY[:1])
    record = applied(lbdsl, "eval { tokens = 256; seq = 64; needle = 256; needle_texts = 3 }\nassert needle(256) >= 0%\n")
    (task,) = record["evaluation"]["tasks"]
    assert task["questions"] == 6
    (again,) = json.loads(lbdsl("eval", "out", "--needle-texts", "4", "--json").out)["tasks"]
    assert again["questions"] == 8
    done = lbdsl("eval", "model", "--needle", "512", "--needle-texts", "100000")
    assert (done.code, "LB446" in done.err, "`needle_texts = " in done.err) == (1, True, True), done.err
    Path("r.lbr").write_text(HEAD + "eval { needle = 512; needle_texts = 100000 }\n")
    done = lbdsl("plan", "r.lbr", "model", "--cache-dir", "empty-cache")
    assert (done.code, "LB446" in done.err, "measuring" in done.err) == (1, True, False), done.err


def test_a_question_longer_than_the_positions_fails_its_gate(workplace: Path, lbdsl) -> None:
    path = counting(workplace, "own.yaml", 12)
    rows = Path("own.jsonl").read_text().splitlines(keepends=True)
    long = {**json.loads(rows[0]), "text": "Count to ten. " * 60}
    Path("own.jsonl").write_text("".join([json.dumps(long) + "\n", *rows[1:]]))
    asked = 'eval { data = "builtin:wikitext"; tokens = 256; seq = 64 }\nassert task("own.yaml") >= 0%\n'
    record = applied(lbdsl, asked, expect=4)
    (failed,) = record["asserts"]
    assert (failed["status"], failed["value"]) == ("fail", None)
    assert "7 answers came after a beginning that was cut short to the model's positions" in failed["why"]
    assert path.exists()


def test_what_a_task_takes_is_said_before(workplace: Path, lbdsl, new_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven answers on a document of 300 tokens: it is read once, and choosing by it says how much that is."""
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(new_cache(workplace / "cache")))
    counting(workplace, "own.yaml", 12)
    # Each question has a document of its own: what they had in common would be read once for all of them.
    rows = [
        {**row, "text": f"{chr(ord('a') + n)}: " + "This is what the question is about. " * 8 + row["text"]}
        for n, row in enumerate(map(json.loads, Path("own.jsonl").read_text().splitlines()))
    ]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measure = 'measure { data = "builtin:docs"; tokens = 256; seq = 64; tries = 3; questions = 6 }'
    choose = 'choose for layers all among keep, drop minimizing task("own.yaml") subject to params <= 99%'
    judged = 'eval { tokens = 256; seq = 64; tasks = "own.yaml"; limit = 6; needle = 256 }'
    Path("r.lbr").write_text(f"lbr 1\n{measure}\n{choose}\n{judged}\n")
    done = lbdsl("plan", "r.lbr", "model", "--json")
    assert done.code == 0, done.err
    (read,) = {int(said) for said in re.findall(r"forward pass(?:es)? of (\d+) tokens, about", done.err)}
    alone = sum(len(row["text"]) for row in rows[-6:])
    answers = sum(len(answer) + 1 for row in rows[-6:] for answer in row["choices"])
    # The document's end is behind the beginning that is shared.
    assert alone < read < alone + answers + 100
    assert re.search(rf"choosing measures at most 3 plans on {read} tokens each: about", done.err), done.err
    assert done.err.index("choosing measures at most") < done.err.index("choosing: plan")
    # Each model reads its questions, the text and eight needles.
    from lbdsl.session.model import OpenModel
    from lbdsl.session.predicting import pace_of

    pace_of(OpenModel("model")).note("forward", 1000.0)
    found = json.loads(lbdsl("plan", "r.lbr", "model", "--json").out)["estimate"]
    first = sum(len(row["text"]) for row in rows[:6])
    read = 2 * (256 + 8 * 256 + first + answers)
    assert found["judge_seconds"] == pytest.approx(read / 1000, rel=0.05)


def test_a_plan_says_once_that_nothing_asks_beyond_its_windows(workplace: Path, lbdsl) -> None:
    gate = "assert recovery(needle(512)) >= 80%"
    for added, count in (("", 1), (gate, 0)):
        Path("windows.lbr").write_text(Path("tiny.lbr").read_text() + added)
        done = lbdsl("plan", "windows.lbr", "model", "--json")
        assert done.code == 0, done.err
        found = [item for item in json.loads(done.out)["findings"] if item["code"] == "LB360"]
        assert [item["severity"] for item in found] == ["note"] * count
        assert all(f"`{gate}`" in item["help"][0] for item in found), "the model has 512 positions"
