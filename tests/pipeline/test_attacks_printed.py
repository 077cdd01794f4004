"""What came with a recipe, a folder or a record is shown as text: it is no heading, table, link, script or escape sequence.
And what a folder holds that no run has made stays."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lbdsl.api.interrupt import stop_on_ctrl_c
from lbdsl.artifact.card import card_text
from lbdsl.artifact.record import CAUTIONS, Record
from lbdsl.core.diagnostic import Severity
from lbdsl.core.digest import digest_of
from lbdsl.core.printed import as_code, as_code_block, as_markdown, as_row, as_string, as_yaml, printable, visible
from lbdsl.core.units import Unit
from lbdsl.export.card import export_card
from lbdsl.language.lexer import string_text
from lbdsl.plan.schema import AssertResult, Finding, Plan, Served
from lbdsl.recipe.schema import IncludedText, Phase
from lbdsl.report.page import page_of
from lbdsl.report.progress import TerminalProgress
from lbdsl.report.results import html_of
from lbdsl.session.exporting import Exported, Written
from tests.pipeline.conftest import Done
from tests.plan_cases import joint_loss, plan_of, smollm2_facts
from tests.report.test_page import Elements, benched, judged, record_of
from tests.tiny_model import RECIPE

pytestmark = pytest.mark.timeout(120)

TITLE, TURNED = "\x1b]0;pwned\x07", "\u202e"
SENT = f"{TITLE}\x1b[2J\x9b31m{TURNED}ok\r\u200b\U000e0041"
"""What a terminal takes as a title, a cleared screen, a colour, writing from right to left; what overwrites; what is not
seen."""
FORGED = "\nerror[LB999]: forged"
HARM = f"x{SENT}{FORGED}"

OURS = re.compile(r"\x1b\[[0-9;?]*[mAKhl]|\r(?=\x1b)|\r$")
"""Colours, and what rich moves the cursor by."""


def is_text(*written: str) -> bool:
    """Whether it is without anything hidden, and no line of it is forged."""
    whole = "\n".join(written)
    return not [char for char in whole if not char.isprintable() and char != "\n"] and FORGED not in whole


def assert_text(done: Done, *codes: int) -> None:
    assert done.code in (codes or (0,)), done.err
    assert is_text(done.out, done.err), done


@pytest.fixture
def artifact(workplace: Path, made: Callable[..., Any]) -> Path:
    """An artifact in a folder with a name that means harm."""
    return Path(shutil.copytree(made(RECIPE).place / "out", workplace / HARM))


@pytest.mark.parametrize(
    "words",
    [
        ("show",),
        ("inspect",),
        ("verify",),
        ("diff", "model"),
        ("export", "--to", "nonsense"),
        ("push", "a/b", "--dry-run"),
        ("eval", "--against", "none"),
    ],
    ids=" ".join,
)
def test_a_folder_has_any_name(artifact: Path, lbdsl, words: tuple[str, ...]) -> None:
    verb, *more = words
    done = lbdsl(verb, str(artifact), *more)
    assert_text(done, 0, 1, 2)
    if verb == "show":
        load = next(line for line in done.out.splitlines() if line.startswith("Load it:"))
        # What is shown is a literal of Python, and it is the folder.
        assert ast.literal_eval(load.partition("from_pretrained(")[2].partition(", trust")[0]) == str(artifact)


def test_apply_says_where_it_is(workplace: Path, lbdsl) -> None:
    shutil.copytree(workplace / "model", HARM)
    Path(HARM + ".lbr").write_text("lbr 1\nlayers 1 drop\nelse keep\n")
    done = lbdsl("apply", HARM + ".lbr", HARM, "-o", "out" + HARM, "--yes")
    assert_text(done)
    assert "Load it:" in done.out
    exported = lbdsl("export", "out" + HARM, "--to", "decilm")
    assert_text(exported)
    assert 'vllm.LLM("' in exported.out
    assert_text(lbdsl("plan", HARM + ".lbr", HARM, "-o", HARM + ".json"))
    assert_text(lbdsl("apply", HARM + ".json", "-o", "second" + HARM, "--yes"))
    assert_text(lbdsl("init", HARM, "-o", "start" + HARM + ".lbr"))
    assert_text(lbdsl("fmt", "--check", HARM + ".lbr", "start" + HARM + ".lbr"), 0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "recipe {}\nlayers 1 drop because {}\nelse keep",
        "param $p: str = {}\nlayers 1 drop\nelse keep\neval {{ data = $p }}",
        'param $p: str in {{{}, "b"}} = "c"\nlayers 1 drop\nelse keep\neval {{ data = $p }}',
        "measure {{ data = {}; tokens = 256 }}\nlowest 1 by kl drop\nelse keep",
        "layers 1 drop\nelse keep\neval {{ data = {} }}\nassert ppl_increase < 1",
        "layers 1 drop\nelse keep\nassert recovery(needle({})) >= 1%",
        "layers 1 {}",
        "include {}\nelse keep",
    ],
    ids=["names", "parameter", "choices", "texts", "judged", "questions", "syntax", "included"],
)
def test_what_a_recipe_says_is_text(workplace: Path, lbdsl, text: str) -> None:
    Path("r.lbr").write_text("lbr 1\n" + text.format(*[string_text(HARM + ".txt")] * 2) + "\n", newline="")
    for words in (("plan", "r.lbr", "model"), ("check", "r.lbr"), ("check", "r.lbr", "--format", "concise")):
        assert_text(lbdsl(*words), 0, 1, 2, 5)
    for words in (("check", "r.lbr", "--format", "github"), ("fmt", "--diff", "r.lbr")):
        assert_text(lbdsl(*words), 0, 1)


def test_a_wrong_command_line_is_text(workplace: Path, lbdsl) -> None:
    for words in ((HARM,), ("show", HARM), ("plan", HARM, HARM), ("eval", "model", "--seq", HARM), ("show", f"-{HARM}")):
        done = lbdsl(*words)
        assert done.code in (1, 2)
        assert not [char for char in done.err if not char.isprintable() and char != "\n"]


def test_what_fmt_writes_is_exact_but_on_a_terminal(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f'lbr 1\nrecipe "{TITLE}{TURNED}"\n\nelse keep\n'
    for terminal in (False, True):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        assert lbdsl("fmt", "-").out == (visible(text) if terminal else text)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_progress_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    progress = TerminalProgress()
    progress.say(HARM)
    with progress.stage(f"reading {HARM}") as report:
        report(1, 2, HARM)
    with pytest.raises(KeyboardInterrupt), stop_on_ctrl_c(f"lbdsl apply {HARM}"):
        raise KeyboardInterrupt
    said = written.getvalue()
    assert "\x1b[" in said
    assert r"\x1b[2J" in said
    assert is_text(OURS.sub("", said))


def test_logs_are_text(workplace: Path, lbdsl) -> None:
    lbdsl("check", "tiny.lbr")
    written = io.StringIO()
    logger = logging.getLogger("somebody's")
    logger.addHandler(logging.StreamHandler(written))
    logger.warning("a model of type %s", HARM)
    assert is_text(written.getvalue().replace(FORGED, ""))


def test_a_notebook_shows_text(tmp_path: Path) -> None:
    shown = html_of(Exported("native", "transformers", tmp_path / f"<script>{HARM}", (Written(HARM, 1, False),), HARM, ()))
    assert is_text(shown)
    assert "<script>" not in shown


def test_a_record_is_text(artifact: Path, lbdsl) -> None:
    path = artifact / "lbdsl.json"
    content = json.loads(path.read_text())
    content["evaluation"]["sources"][0]["data"] = content["heal"]["data"] = HARM
    content["evaluation"]["sources"][0]["scores"][HARM] = content["evaluation"]["sources"][0]["scores"]["agreement"]
    del content["digest"]
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))
    assert_text(lbdsl("show", artifact))


@pytest.mark.parametrize("name", ["notes.txt", "heal/mine.txt", "artifact/mine.txt", "lock", "run.json/mine.txt"])
def test_a_work_folder_of_the_user_is_kept(workplace: Path, lbdsl, name: str) -> None:
    victim = Path("out.lbdsl-work", name)
    victim.parent.mkdir(parents=True)
    victim.write_text("mine")
    if name == "lock":
        victim.with_name("thesis.txt").write_text("mine")
    for more in ((), ("--resume",)):
        done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", *more)
        assert (done.code, "LB462" in done.err, "no run has made" in " ".join(done.err.split())) == (1, True, True), (
            done.err
        )
        assert victim.read_text() == "mine"
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--force")
    assert done.code == 0, done.err
    assert Path("out.lbdsl-work.old", name).read_text() == "mine"
    assert "out.lbdsl-work.old" in done.err
    assert not Path("out.lbdsl-work").exists()


def test_a_file_put_beside_a_run_is_kept(workplace: Path, lbdsl) -> None:
    Path("out.lbdsl-work").mkdir()
    Path("out.lbdsl-work", "run.json").write_text("{}")
    Path("out.lbdsl-work", "notes.txt").write_text("mine")
    assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes").code == 1
    assert lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--force").code == 0
    assert Path("out.lbdsl-work.old", "notes.txt").read_text() == "mine"


MARKS = {
    "script": "<script>alert(1)</script>",
    "link": "[x](javascript:alert(1)) ![y](http://x.example/y)",
    "reference": "[x]\n\n[x]: javascript:alert(1)\n",
    "addresses": "https://x.example/a|b www.x.example me@x.example <http://x.example>",
    "heading": "# heading\n## Speed\n\nheading\n===\n",
    "table": "| a | b |\n|---|---|\n| c | d |",
    "backtick": "`<b>x</b>` ``` ~~~ `",
    "beside": "`a`http://x`<b>x</b>`c``d`<i>`",
    "fence": "\n```\n<script>alert(1)</script>\n# heading\n",
    "pipe": "a\\|b|c\\\\|`d|e`",
    "front matter": "---\nbase_model: other\nlicense: mit\n---\n# heading",
    "yaml": "yes",
    "quote": "\" 'x' {y: z} & \\ $a$ *b* __c__ ~d~",
    "terminal": SENT,
}
"""What Markdown, YAML, HTML or matplotlib would take for more than text."""


def plan_with(said: str) -> Plan:
    """A plan in which everything that others name is `said`."""
    plan = plan_of("layers 3 swa(window=256)\nelse keep", smollm2_facts(), joint=joint_loss(0.47, 0.41, stderr=0.02))
    assert plan.loss.scores
    included = IncludedText(path=said, text=said, sha256="0")
    recipe = {"name": said, "path": said, "text": said, "params": {"a": said, "b": said}, "included": (included,)}
    served = (Served(engine=said, formats=(), obstacle=said), Served(engine="x", formats=(said,)))
    return plan.model_copy(
        update={
            "recipe": plan.recipe.model_copy(update=recipe),
            "model": plan.model.model_copy(update={"name": said, "source": said, "revision": said, "digest": said}),
            "loss": plan.loss.model_copy(update={"scores": {**plan.loss.scores, said: plan.loss.scores["kl"]}}),
            "serving": served,
            "findings": (Finding(code=CAUTIONS[0], severity=Severity.WARNING, message=said),),
            "layers": tuple(layer.model_copy(update={"reason": said}) for layer in plan.layers),
        }
    )


def record_with(said: str) -> Record:
    found = judged(said)
    found["scores"][said] = found["scores"]["kl_healed"]
    (task,) = found["tasks"]
    own = {
        **task,
        "name": said,
        "metric": said,
        "parts": {said: task["parts"]["10%"]},
        "kinds": {said: task["parts"]["50%"]},
    }
    found["tasks"] = [{**task, "name": f"needle({said})"}, own]
    timed = benched() | {"engine": said, "engine_version": said, "export": said}
    timed["machine"]["name"] = timed["machine"]["dtype"] = timed["cells"][0]["metric"] = said
    gate = AssertResult(text=said, phase=Phase.POST, status="pass", value=0.1, unit=Unit.RATIO, on=said)
    record = record_of(plan_with(said), evaluation=found, bench={said: timed}, asserts=(gate,), lbdsl_version=said)
    assert record.heal is not None
    stages = [{**record.heal, "stage": said, "data": said}] * 2
    return record.model_copy(update={"heal": {**record.heal, "data": said, "stages": stages}})


def reader() -> MarkdownIt:
    """One that takes HTML for HTML."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shape_of(card: str) -> list[str]:
    """The blocks of a card and how they are nested, and in lines what is not text."""
    found = []
    for token in reader().parse(card):
        inside = [child for child in token.children or ()]
        found += [token.type, *(child.type for child in inside if child.type not in ("text", "code_inline", "softbreak"))]
        for child in inside:
            if child.type == "text":
                assert not re.search(r"://|www\.|@[^@\s]*\.", child.content), "a reader makes a link of it"
    return found


def cards_of(record: Record) -> list[str]:
    return [card_text(record), export_card(record, "decilm", "load it", in_transformers=True)]


@pytest.mark.parametrize("mark", MARKS)
def test_a_card_has_the_form_that_it_has(mark: str) -> None:
    said = MARKS[mark]
    for card, plain in zip(cards_of(record_with(said)), cards_of(record_with("x")), strict=True):
        assert is_text(card)
        _, front, text = card.split("---\n", 2)
        shown = yaml.safe_load(front)
        assert shown.keys() == yaml.safe_load(plain.split("---\n", 2)[1]).keys()
        assert shown["base_model"] == said
        assert shape_of(text) == shape_of(plain.split("---\n", 2)[2])
        blocks = [token.content for token in reader().parse(text) if token.type == "fence"]
        assert set(blocks) == {visible(said).rstrip("\n") + "\n"}


@pytest.mark.parametrize("mark", ["script", "link", "fence", "quote", "terminal"])
def test_a_page_has_the_form_that_it_has(mark: str) -> None:
    page, plain = (
        re.sub(r"<pre><code class=.*?</pre>|<svg.*?</svg>", "", page_of(record_with(text)), flags=re.DOTALL)
        for text in (MARKS[mark], "x")
    )
    tags, of_plain = ([tag for tag, _ in Elements(text).found if tag != "code"] for text in (page, plain))
    assert tags == of_plain
    assert is_text(page)


@given(
    st.lists(st.sampled_from([*"`|\\<>[]()!&*_~#$:@a .\n-=", "``", "http://", "www.", "<b>", "</b>", "&lt;"]), max_size=30)
)
def test_any_text_is_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    (_, line, _) = reader().parse(f"x {as_markdown(text)} x {as_code(text)} x {as_markdown(text)} x")
    assert {child.type for child in line.children or ()} <= {"text", "code_inline", "text_special"}
    shape = shape_of(as_row("xyz") + "\n|---|---|---|\n" + as_row((text, text, text)))
    assert shape == shape_of(as_row("xyz") + "\n|---|---|---|\n" + as_row("xyz"))
    block, *more = reader().parse(as_code_block(text))
    assert (block.content, more) == (visible(text).rstrip("\n") + "\n", [])
    assert yaml.safe_load(as_yaml(text)) == ast.literal_eval(as_string(text)) == text


@pytest.mark.parametrize(
    "text", ["plain", "SmolLM2-135M", "perplexity +3.2 ±0.4 %, of 8Ki tokens (x1.50)", "a `lr` of self_attn.q_proj"]
)
def test_what_means_no_harm_is_as_it_was(text: str) -> None:
    assert as_markdown(text) == printable(text) == visible(text) == text
    assert as_code("a/b.txt") == "`a/b.txt`"
    assert as_yaml("org/SmolLM2-135M") == "org/SmolLM2-135M"


def test_an_artifact_of_a_hostile_recipe_is_text(workplace: Path, lbdsl) -> None:
    said = "</code><script>alert(1)</script> `x` | y | [z](javascript:1) # h"
    text = f'lbr 1\nrecipe {string_text(said)}\nparam $p: str = "b"\nlayers 1 drop because {string_text(said)}\nelse keep\n'
    Path("r.lbr").write_text(text + "eval { data = $p; tokens = 512; seq = 64 }\n")
    Path("evil`<i>`.txt").write_text("words and words " * 500)
    assert_text(lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes", "--set", "p=evil`<i>`.txt"))
    assert_text(lbdsl("export", "out", "--to", "decilm", "-o", "exported"))
    assert_text(lbdsl("report", "out", "-o", "page.html"))
    for card in ("out/README.md", "exported/README.md"):
        found = shape_of(Path(card).read_text().split("---\n", 2)[2])
        assert not {"html_block", "html_inline", "link_open", "image"} & {*found}
        assert found.count("heading_open") == Path(card).read_text().count("\n## ") + 1
    assert not {"script", "i"} & {tag for tag, _ in Elements(Path("page.html").read_text()).found}
