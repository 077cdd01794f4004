"""`lbdsl push`: what goes up and what does not, without a token, refused, interrupted and tampered with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest

from lbdsl.artifact.record import RECORD_FILE, read_record
from lbdsl.model.license import License, license_of
from tests.fake_hub import Hub, running
from tests.tiny_model import RECIPE

WINDOWS = "lbr 1\nlayers 0-1 swa(window=16)\nelse keep\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", found.token)
        yield found


@pytest.fixture
def artifact(workplace: Path, made: Callable[..., object]) -> Path:
    shutil.copytree(made(RECIPE).place / "out", workplace / "out")
    return workplace / "out"


def names(folder: Path) -> set[str]:
    return {*read_record(folder).unwrap().files, RECORD_FILE, "README.md", "healing.png"}


def test_the_files_of_the_record_go_up_and_no_other(artifact: Path, lbdsl, hub: Hub) -> None:
    (artifact / "notes.md").write_text("mine")
    (artifact / "private").mkdir()
    (artifact / "private" / "keys.yaml").write_text("mine")
    listed = json.loads(lbdsl("push", "out", "org/name", "--dry-run", "--json").out)
    assert hub.asked == []
    assert {file["name"] for file in listed["files"]} == names(artifact)
    assert listed["left"] == ["notes.md", "private/keys.yaml"]
    assert listed["url"] is None

    done = lbdsl("push", "out", "org/name", "--private", "--yes")
    assert done.code == 0, done.err
    assert done.out.endswith(f"{hub.url}/org/name/commit/{'c' * 40}\n")
    assert hub.repositories == {"org/name": True}
    (commit,) = hub.commits
    assert set(commit) == names(artifact)
    for name, content in commit.items():
        assert name == "README.md" or content == (artifact / name).read_bytes(), name
    # Nothing says what license the tiny base has.
    assert "warning[LB490]" in done.err
    assert commit["README.md"] == (artifact / "README.md").read_bytes()


def test_the_license_of_the_base_goes_along(artifact: Path, lbdsl, hub: Hub, tmp_path: Path) -> None:
    base = Path(read_record(artifact).unwrap().plan.model.source)
    given = {"README.md": "---\nlicense: other\nlicense_name: mine\n---\n# Base\n", "LICENSE.txt": "all yours"}
    for name, text in given.items():
        (base / name).write_text(text)
    try:
        done = lbdsl("push", "out", "org/name", "--yes")
    finally:
        for name in given:
            (base / name).unlink()
    assert done.code == 0, done.err
    assert "license" not in done.err
    (commit,) = hub.commits
    card = huggingface_hub.ModelCard(commit["README.md"].decode())
    assert (card.data.license, card.data.license_name) == ("other", "mine")
    assert card.text.strip() == huggingface_hub.ModelCard.load(artifact / "README.md").text.strip()
    assert commit["LICENSE.txt"] == b"all yours"


def test_an_export_goes_up_instead(workplace: Path, lbdsl, hub: Hub, made) -> None:
    shutil.copytree(made(WINDOWS).place / "out", "out")
    before = sorted(workplace.iterdir())
    done = lbdsl("push", "out", "org/name", "--to", "granite", "--yes")
    assert done.code == 0, done.err
    (commit,) = hub.commits
    assert RECORD_FILE not in commit
    assert {"README.md", "config.json", "model.safetensors"} <= set(commit)
    assert not any(name.endswith(".py") for name in commit)
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json changed after it was saved"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin is not in the record"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: [(folder / "README.md").unlink(), (folder / "README.md").symlink_to("/etc/passwd")], "is a link"),
        (lambda folder: (folder / "README.md").unlink(), "README.md is missing"),
    ],
)
def test_what_was_tampered_with_stays(artifact: Path, lbdsl, hub: Hub, harm, said: str) -> None:
    harm(artifact)
    done = lbdsl("push", "out", "org/name", "--yes")
    assert done.code == 6
    assert "error[LB465]" in done.err
    assert said in " ".join(done.err.split())
    assert hub.asked == []


@pytest.mark.parametrize(
    ("repository", "token", "fails", "code", "said"),
    [
        ("org/name", None, {}, "LB412", "needs a token of the hub"),
        ("org/name", "hf_wrong", {}, "LB412", "refuses to write to org/name (401)"),
        ("other/name", "hf_right", {}, "LB412", "refuses to write to other/name (403)"),
        ("org/name", "hf_right", {"create": [404]}, "LB411", "no organisation or user org"),
        ("org/name", "hf_right", {"commit/main": [500] * 9}, "LB489", "org/name has no new commit"),
        ("name", "hf_right", {}, "LB411", "name is no name of a repository"),
        ("org/name@main", "hf_right", {}, "LB411", "is no name of a repository"),
        ("org/--name", "hf_right", {}, "LB411", "is no name of a repository"),
    ],
)
def test_refusals(artifact: Path, lbdsl, hub: Hub, monkeypatch, repository, token, fails, code: str, said: str) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(artifact.parent / "token"))
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.fails = fails
    done = lbdsl("push", "out", repository, "--yes")
    assert done.code == 1
    assert f"error[{code}]" in done.err
    assert said in " ".join(done.err.split())
    assert hub.commits == []
    assert token is not None or hub.asked == []


def test_a_public_repository_takes_nothing_private(artifact: Path, lbdsl, hub: Hub) -> None:
    hub.repositories["org/name"] = False
    done = lbdsl("push", "out", "org/name", "--private", "--yes")
    assert done.code == 1
    assert "error[LB412]: org/name is there already, and it is public" in done.err
    assert not hub.sent
    assert not hub.commits


def test_what_was_sent_is_not_sent_again(artifact: Path, lbdsl, hub: Hub) -> None:
    hub.fails["commit/main"] = [500] * 9
    assert lbdsl("push", "out", "org/name", "--yes").code == 1
    hub.fails.clear()
    assert lbdsl("push", "out", "org/name", "--yes").code == 0
    assert hub.sent == [hashlib.sha256((artifact / "model.safetensors").read_bytes()).hexdigest()]
    assert len(hub.commits) == 1


def test_weights_and_code_of_an_earlier_push_go(artifact: Path, lbdsl, hub: Hub) -> None:
    hub.repositories["org/name"] = False
    old = {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "modeling_old.py", "model.gguf"}
    hub.files = {*old, "results.csv", ".gitattributes", "config.json"}
    assert lbdsl("push", "out", "org/name", "--yes").code == 0
    assert hub.files == {*names(artifact), "results.csv", ".gitattributes"}


def test_only_the_own_license_of_the_base_goes_along(artifact: Path, lbdsl, hub: Hub, tmp_path: Path) -> None:
    base = Path(read_record(artifact).unwrap().plan.model.source)
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (base / "LICENSE").symlink_to(secret)
    try:
        assert lbdsl("push", "out", "org/name", "--yes").code == 0
    finally:
        (base / "LICENSE").unlink()
    assert "LICENSE" not in hub.commits[0]
    # A record may name any folder.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "LICENSE").write_text("mine")
    (tmp_path / "other" / "config.json").write_text("{}")
    assert license_of(str(tmp_path / "other"), None, "0" * 64).files == ()
    assert license_of(str(tmp_path / "gone.gguf"), None, "0" * 64) == License()


def test_a_card_that_cannot_be_read_is_named(artifact: Path, lbdsl, hub: Hub) -> None:
    (artifact / "README.md").write_text("---\ntitle: a: b\n---\n")
    done = lbdsl("push", "out", "org/name", "--yes")
    assert done.code == 6
    assert "README.md are not YAML" in " ".join(done.err.split())


def test_off_a_terminal_push_wants_yes(artifact: Path, lbdsl, hub: Hub) -> None:
    done = lbdsl("push", "out", "org/name")
    assert done.code == 2
    assert "--yes" in done.err
    assert hub.asked == []
