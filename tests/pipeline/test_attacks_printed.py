"""What came with a recipe, a folder or a record is shown as text: it is no heading, table, link, script or escape sequence.
And what a folder holds that no run has made stays."""

from __future__ import annotations

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

from lbdsl.api.interrupt import stop_on_ctrl_c
from lbdsl.core.digest import digest_of
from lbdsl.core.printed import visible
from lbdsl.language.lexer import string_text
from lbdsl.report.progress import TerminalProgress
from lbdsl.report.results import html_of
from lbdsl.session.exporting import Exported, Written
from tests.pipeline.conftest import Done
from tests.tiny_model import RECIPE

pytestmark = pytest.mark.timeout(120)

TITLE, TURNED = "\x1b]0;pwned\x07", "\u202e"
SENT = {
    "title": TITLE,
    "clear": "\x1b[2J",
    "eight bits": "\x9b31m",
    "turned": TURNED,
    "back": "ok\r",
    "hidden": "\u200b\U000e0041",
}
"""What a terminal takes as a title, a cleared screen, a colour, writing from right to left; what overwrites; what is not
seen."""
FORGED = "\nerror[LB999]: forged"
HARM = "x" + "".join(SENT.values()) + FORGED

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
        assert eval(load.partition("from_pretrained(")[2].partition(", trust")[0]) == str(artifact)


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


@pytest.mark.parametrize("harm", SENT)
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
def test_what_a_recipe_says_is_text(workplace: Path, lbdsl, text: str, harm: str) -> None:
    Path("r.lbr").write_text("lbr 1\n" + text.format(*[string_text(SENT[harm] + FORGED + ".txt")] * 2) + "\n", newline="")
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
