"""Templates, tokenizers and YAML that a few letters make endless, or any size: none hangs, and none takes a gigabyte."""

from __future__ import annotations

import json
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from lbdsl.core import bounds
from lbdsl.core.diagnostic import LbdslError
from lbdsl.data import chat
from tests.pipeline.test_attacks import HEAD, JUDGED, ROWS, with_fields
from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.timeout(60)

SECONDS = 5.0
GIGABYTE = 2**20
"""In the system's unit, KiB."""

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
assert len(LOOPS) <= 80

TEMPLATES = {
    "two loops": LOOPS,
    "two loops that write nothing": LOOPS.replace("x", ""),
    "repetition": "{{ 'x' * 10 ** 9 }}",
    "repetition of a list": "{{ [0] * 10 ** 9 }}",
    "a long text": "{{ 'x' * (CHARACTERS + 1) }}".replace("CHARACTERS", str(bounds.CHARACTERS)),
    "a width": "{{ 'x'|center(10 ** 9) }}",
    "a width of a number": "{{ '%999999999d'|format(1) }}",
    "a width by a method": "{{ '{:999999999}'.format(1) }}",
    "doubling": "{% set n = namespace(a='xxxx') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}",
    "macros that call each other": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(80) }}",
    "a power": "{{ (10 ** 4000) ** (10 ** 8) }}",
    "a regular expression": "{{ 'RUN'|regex_replace('(a+)+$', 'x') }}".replace("RUN", "a" * 40 + "b"),
    "words": "{{ lipsum(n=10 ** 9) }}",
}


@pytest.fixture(autouse=True)
def in_bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None of these tests takes five seconds of work or a gigabyte; and no bound stays."""
    monkeypatch.setattr(bounds, "SECONDS", 0.3)
    limits, before, began = resource.getrlimit(resource.RLIMIT_AS), peak(), time.process_time()
    yield
    assert time.process_time() - began < SECONDS
    assert peak() - before < GIGABYTE
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def yaml_bomb(width: int, depth: int) -> str:
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * width) + "]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


YAML = {
    "billion laughs": yaml_bomb(9, 12),
    "an anchor in an anchor": "description: &a {b: &b [*a, *b]}\n",
    "one that holds itself": "metadata: &a [*a]\n",
    "a mapping that holds itself": "metadata: &a {b: *a}\n",
    "merged keys": "metadata: &a {b: c}\nfewshot_config: {<<: *a}\n",
    "merged keys of many": "metadata: &a {b: c}\nfewshot_config: {<<: [" + ", ".join(["*a"] * 1000) + "]}\n",
    "an anchor alone": "description: &a x\n",
    "nested deep": f"metadata: {'[' * 500}{']' * 500}\n",
    "nested deeper": f"metadata: {'[' * 5000}{']' * 5000}\n",
}


@pytest.fixture
def given(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a recipe with a task of its own."""
    monkeypatch.chdir(workplace)
    Path("own.jsonl").write_text(ROWS)
    Path("x.lbr").write_text(HEAD + JUDGED % '"own.yaml"')
    return workplace


@pytest.mark.parametrize("attack", YAML)
def test_the_yaml_of_a_task_does_not_repeat_itself(given: Path, lbdsl, attack: str) -> None:
    Path("own.yaml").write_text(YAML[attack] + with_fields()[1:-1].replace(', "', '\n"'))
    began = time.process_time()
    done = lbdsl("plan", "x.lbr", "model")
    assert (done.code, "LB456" in done.err) == (1, True), done.err
    assert ("anchors" in done.err) != attack.startswith("nested")
    assert time.process_time() - began < 3


def test_an_endless_number_in_a_task_ends(given: Path, lbdsl) -> None:
    """YAML's numbers to the base of 60 take the square of their length."""
    Path("own.yaml").write_text(with_fields(metadata="N").replace('"N"', "1" + ":1" * 400_000))
    done = lbdsl("plan", "x.lbr", "model")
    assert (done.code, "LB495" in done.err) == (6, True), done.err


@pytest.mark.parametrize("attack", TEMPLATES)
def test_a_template_of_a_task_ends(given: Path, lbdsl, attack: str) -> None:
    Path("own.yaml").write_text(with_fields(doc_to_text=TEMPLATES[attack]))
    done = lbdsl("plan", "x.lbr", "model")
    assert (done.code, "LB495" in done.err) == (6, True), done.err


CHAT = chat.Chat(({"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}))


@pytest.mark.parametrize("attack", [name for name in TEMPLATES if "regex_replace" not in TEMPLATES[name]])
def test_a_chat_template_ends(attack: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATES[attack]
    with pytest.raises(LbdslError, match="LB495"):
        chat.chat_ids(CHAT, tokenizer, "mine.jsonl")


def test_a_chat_template_ends_in_a_thread() -> None:
    tokenizer, raised, before = byte_tokenizer(), [], threading.active_count()
    tokenizer.chat_template = LOOPS

    def work() -> None:
        with pytest.raises(LbdslError, match="LB495") as found:
            chat.prompt_of(CHAT.messages, tokenizer, "mine.jsonl")
        raised.append(found)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised
    assert threading.active_count() == before


def replaced(*steps: normalizers.Normalizer):
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(list(steps)) if len(steps) > 1 else steps[0]
    return tokenizer


def surrounded():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([end] * 20_000) + " $A", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return tokenizer


def backtracking():
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(o|oo)+$"), "isolated")
    return tokenizer


TOKENIZERS = {
    "one letter": lambda: replaced(normalizers.Replace("o", "x" * 20_000)),
    "one rare letter": lambda: replaced(normalizers.Replace("é", "x" * 20_000)),
    "any letter": lambda: replaced(normalizers.Replace(Regex("."), "x" * 20_000)),
    "three steps": lambda: replaced(
        normalizers.Replace("o", "a" * 1000), normalizers.Replace("a", "b" * 1000), normalizers.Replace("b", "c" * 1000)
    ),
    "many steps": lambda: replaced(*[normalizers.Replace(Regex(""), "a")] * 40),
    "two letters": lambda: replaced(normalizers.Replace("oo", "x" * 200_000)),
    "before a text": lambda: replaced(normalizers.Prepend("x" * 10**6)),
    "tokens around a text": surrounded,
    "a regular expression": backtracking,
}


@pytest.mark.parametrize("attack", TOKENIZERS)
def test_a_tokenizer_makes_no_more_than_it_may(attack: str) -> None:
    tokenizer, text = TOKENIZERS[attack](), "Too many cooks at the café. " * 2000 + "o" * 100 + "."
    for texts in ([text], [text[-1000:]] * 50):
        with pytest.raises(LbdslError, match="LB495"):
            chat.tokenized(tokenizer, texts, special=True)
    if attack != "tokens around a text":
        assert chat.tokenized(tokenizer, [""]) == [[]] or attack == "before a text"


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁")]),
        normalizers.Replace(" ", "&nbsp;"),
    ],
    ids=["Prepend", "NFKC", "Replace"],
)
def test_what_tokenizers_do_is_allowed(normalizer: normalizers.Normalizer) -> None:
    tokenizer, texts = replaced(normalizer), ["Too many cooks,  ﷺ. " * 4000, "a", ""]
    assert chat.tokenized(tokenizer, texts) == tokenizer(texts, add_special_tokens=False)["input_ids"]


def test_a_model_with_such_a_tokenizer_is_refused(workplace: Path, lbdsl) -> None:
    shutil.copytree("model", "other")
    content = json.loads(Path("other/tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "e"}, "content": "x" * 20_000}
    Path("other/tokenizer.json").write_text(json.dumps(content))
    Path("x.lbr").write_text(HEAD)
    done = lbdsl("plan", "x.lbr", "other")
    assert (done.code, "LB495" in done.err) == (6, True), done.err


def test_what_a_task_says_is_tokenized_in_bounds(given: Path, lbdsl) -> None:
    shutil.copytree("model", "other")
    content = json.loads(Path("other/tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "é"}, "content": "x" * 20_000}
    Path("other/tokenizer.json").write_text(json.dumps(content))
    Path("own.yaml").write_text(with_fields(doc_to_text="é{{text}}"))
    Path("x.lbr").write_text(HEAD + 'lowest 1 of rest by task("own.yaml", drop) drop\n')
    assert lbdsl("measure", "x.lbr", "model").code == 0
    done = lbdsl("measure", "x.lbr", "other")
    assert (done.code, "LB495" in done.err) == (6, True), done.err


DECODERS = {
    "one letter": decoders.Replace("o", "x" * 20_000),
    "three steps": decoders.Sequence([decoders.ByteLevel(), *[decoders.Replace("o", "o" * 60)] * 3]),
    "many steps": decoders.Sequence([decoders.Replace(Regex(""), "a")] * 40),
}


@pytest.mark.parametrize("attack", DECODERS)
def test_tokens_are_decoded_in_bounds(attack: str) -> None:
    tokenizer = byte_tokenizer()
    ids = chat.token_ids(tokenizer, "Too many cooks")
    assert chat.decoded(tokenizer, lambda: tokenizer.decode(ids)) == "Too many cooks"
    usual = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(usual)
    assert chat.decoded(tokenizer, lambda: tokenizer.decode(ids))
    tokenizer.backend_tokenizer.decoder = DECODERS[attack]
    with pytest.raises(LbdslError, match="LB495"):
        chat.decoded(tokenizer, lambda: tokenizer.decode(ids))


def test_a_model_with_such_a_chat_template_is_refused(workplace: Path, lbdsl) -> None:
    shutil.copytree("model", "other")
    Path("other/chat_template.jinja").write_text(LOOPS)
    chats = [[{"role": "user", "content": f"Who is {n}?"}, *CHAT.messages[1:]] for n in range(200)]
    Path("chats.jsonl").write_text("".join(json.dumps({"messages": one}) + "\n" for one in chats))
    Path("x.lbr").write_text(HEAD.replace("builtin:pydoc", "chats.jsonl"))
    done = lbdsl("plan", "x.lbr", "other")
    assert (done.code, "LB495" in done.err) == (6, True), done.err
