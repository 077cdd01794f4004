"""A saved plan is applied exactly, or refused with exit code 3 naming what changed."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest

from lbdsl.core.digest import digest_of
from lbdsl.measure import fingerprint
from lbdsl.plan.file import load_plan as read_plan
from lbdsl.plan.schema import PREDICTED


@pytest.fixture
def planned(workplace: Path, tiny_folder: Path, lbdsl) -> Path:
    (workplace / "model").unlink()
    shutil.copytree(tiny_folder, workplace / "model")
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "x.lbplan").code == 0
    return workplace


def refused(done, *words: str) -> None:
    assert done.code == 3, done.err
    for word in words:
        assert word in done.err
    assert not Path("out").exists()


def test_one_flipped_byte_of_the_weights(planned: Path, lbdsl) -> None:
    weights = planned / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    refused(lbdsl("apply", "x.lbplan", "-o", "out"), "model")


def test_another_dtype(planned: Path, lbdsl) -> None:
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--dtype", "bfloat16")
    assert (done.code, "LB471" in done.err) == (3, True)
    assert not Path("out").exists()


def test_an_edited_recipe(planned: Path, lbdsl) -> None:
    recipe = planned / "tiny.lbr"
    text = recipe.read_text()
    for edited in (text + "layers 1 keep\n", text.replace("= 16", "= 8"), "", "layers 0-\n"):
        recipe.write_text(edited)
        refused(lbdsl("apply", "x.lbplan", "-o", "out"), "recipe")
    recipe.write_bytes(text.encode() + b"# \xff\n")
    refused(lbdsl("apply", "x.lbplan", "-o", "out"), "recipe")


def test_another_value_of_a_parameter(planned: Path, lbdsl) -> None:
    refused(lbdsl("apply", "x.lbplan", "-o", "out", "--set", "window=32"), "$window", "16", "32")


def test_another_version(planned: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbdsl.api.applying.VERSION", "9.9.9")
    refused(lbdsl("apply", "x.lbplan", "-o", "out"), "9.9.9", "0.1.0")


def test_another_version_of_torch_measures_again_and_applies_a_saved_plan(
    planned: Path, lbdsl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels round in another way; a patch release is taken to be the same."""
    own = version("torch").split("+")[0].split(".")
    for changed, again in (([*own[:2], "99"], False), ([own[0], "999", "0"], True)):
        monkeypatch.setattr(fingerprint, "version", lambda name, now=changed: ".".join(now))
        assert (" of weights in memory" in lbdsl("plan", "tiny.lbr", "model").err) == again
        done = lbdsl("apply", "x.lbplan", "-o", f"out-{again}", "--no-heal")
        assert done.code == 0, done.err
        told = " ".join(done.err.split())
        assert (f"measured with torch {'.'.join(own[:2])}, and this is {own[0]}.999" in told) == again


def test_other_calibration_text(planned: Path, lbdsl) -> None:
    text = planned / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i}: " + "many words " * 60 for i in range(200)))
    recipe = planned / "tiny.lbr"
    recipe.write_text(recipe.read_text().replace('measure { data = "builtin:pydoc"', 'measure { data = "text.txt"'))
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "y.lbplan").code == 0
    text.write_text(text.read_text().replace("many words", "more words"))
    refused(lbdsl("apply", "y.lbplan", "-o", "out"), "calibration text")


JUDGED = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 1 drop
eval { data = ["own.txt", "builtin:pydoc"]; tokens = 128; seq = 64; needle = "own.jsonl" }
assert ppl_increase < 1000%
"""
QUESTION = '{"text": "It is said that Ann lives in %s. %s", "question": "Ann lives in", "answer": "%s"}\n'


@pytest.mark.parametrize("other", ["own.txt", "own.jsonl"])
def test_another_text_that_judges(workplace: Path, lbdsl, other: str) -> None:
    own = {
        "own.txt": "Some text of the recipe's own folder, over and over. " * 300,
        "own.jsonl": "".join(QUESTION % (town, "And so on. " * 9, town) for town in ("Oslo", "Rome")),
    }
    for name, text in own.items():
        Path(name).write_text(text)
    Path("judged.lbr").write_text(JUDGED)
    done = lbdsl("plan", "judged.lbr", "model", "-o", "x.lbplan")
    assert done.code == 0, done.err
    assert set(json.loads(Path("x.lbplan").read_text())["judged_on"]) == {"own.txt", "builtin:pydoc", 'needle("own.jsonl")'}
    Path(other).write_text(own[other].replace("Some", "Other").replace("Rome", "Bonn"))
    refused(lbdsl("apply", "x.lbplan", "-o", "out"), "LB343", other, "which judges the result, changed")
    Path(other).write_text(own[other])
    done = lbdsl("apply", "x.lbplan", "-o", "out")
    assert (done.code, "LB343" in done.err) == (0, False), done.err


def test_a_plan_without_a_name_for_what_judges_it_is_said_to_be_so(planned: Path, lbdsl) -> None:
    fields = json.loads(Path("x.lbplan").read_text())
    del fields["judged_on"], fields["sha256"]
    fields["sha256"] = digest_of({name: value for name, value in fields.items() if name not in PREDICTED})
    Path("x.lbplan").write_text(json.dumps(fields))
    assert read_plan(Path("x.lbplan")).unwrap().digest == fields["sha256"]
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--no-heal")
    assert done.code == 0, done.err
    assert "note[LB343]" in done.err
    assert "does not say on which text" in " ".join(done.err.split())


def test_an_edited_plan(planned: Path, lbdsl) -> None:
    plan = planned / "x.lbplan"
    plan.write_text(plan.read_text().replace('"tokens":2048', '"tokens":4096'))
    done = lbdsl("apply", "x.lbplan", "-o", "out")
    assert done.code == 6
    assert not Path("out").exists()


def test_the_plan_goes_on_without_its_recipe_file_and_with_a_moved_model(planned: Path, lbdsl) -> None:
    (planned / "tiny.lbr").unlink()
    (planned / "model").rename(planned / "elsewhere")
    assert lbdsl("apply", "x.lbplan", "-o", "out", "--no-heal").code == 1
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--no-heal", "--model", "elsewhere")
    assert done.code == 0, done.err
    assert "LB472" in done.err


def test_an_included_file_is_part_of_the_recipe(planned: Path, lbdsl) -> None:
    recipe, parts = planned / "tiny.lbr", planned / "parts.lbr"
    parts.write_text("group @first = first 1\n")
    recipe.write_text('include "parts.lbr"\n' + recipe.read_text().replace("else", "layers @first keep\nelse", 1))
    done = lbdsl("plan", "tiny.lbr", "model", "-o", "y.lbplan")
    assert done.code == 0, done.err
    parts.write_text("group @first = first 2\n")
    done = lbdsl("apply", "y.lbplan", "-o", "out")
    refused(done, "the included file", "parts.lbr")
    assert "the recipe " not in done.err
    # Without the files, the texts in the plan are enough, and the artifact holds them too.
    parts.unlink()
    recipe.unlink()
    done = lbdsl("apply", "y.lbplan", "-o", "out", "--no-heal")
    assert done.code in (0, 4), done.err
    assert "LB472" in done.err
    folder = next(path for path in (Path("out"), Path("out.rejected")) if path.exists())
    assert "group @first" in (folder / "README.md").read_text()
    assert lbdsl("eval", str(folder)).code in (0, 4)


def test_comments_and_fmt_make_no_plan_stale(planned: Path, lbdsl) -> None:
    recipe, parts = planned / "tiny.lbr", planned / "parts.lbr"
    parts.write_text("group @first = first 1\n")
    recipe.write_text('include "parts.lbr"\n' + recipe.read_text().replace("else", "layers @first keep\nelse", 1))
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "y.lbplan").code == 0
    before = recipe.read_text()
    assert lbdsl("fmt", "tiny.lbr").code == 0
    assert recipe.read_text() != before
    recipe.write_bytes(b"# a word more\r\n" + recipe.read_bytes())
    parts.write_text("group   @first = first 1  # and no more\n")
    done = lbdsl("apply", "y.lbplan", "-o", "out", "--no-heal")
    assert done.code in (0, 4), done.err
    assert "LB340" not in done.err


def test_a_comment_in_a_pinned_file_makes_the_plan_stale(planned: Path, lbdsl) -> None:
    recipe, parts = planned / "tiny.lbr", planned / "parts.lbr"
    parts.write_text("group @first = first 1\n")
    pin = f'include "parts.lbr" sha256 "{sha256(parts.read_bytes()).hexdigest()}"\n'
    recipe.write_text(pin + recipe.read_text().replace("else", "layers @first keep\nelse", 1))
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "y.lbplan").code == 0
    parts.write_text("group @first = first 1  # and no more\n")
    refused(lbdsl("apply", "y.lbplan", "-o", "out"), "the included file", "parts.lbr")
