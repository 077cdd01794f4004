"""What came with a recipe, a folder or a record is shown as text: it is no heading, table, link, script or escape sequence.
And what a folder holds that no run has made stays."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)


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
