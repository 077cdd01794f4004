"""What was put into an artifact's folder by somebody else: a table of attacks. None is loaded, pushed, exported or
verified; what hubs and people put beside a model is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

import lbdsl as package
from lbdsl.artifact.contents import files_below
from lbdsl.artifact.record import read_record
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.digest import digest_of
from tests.fake_hub import running
from tests.tiny_model import RECIPE

CODE = "raise SystemExit('ran')\n"


def put(name: str, content: str | bytes = CODE) -> Callable[[Path], object]:
    def attack(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return attack


def link(name: str, to: str) -> Callable[[Path], object]:
    def attack(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return attack


def deep(folder: Path) -> None:
    place = folder
    for _ in range(1200):
        place = place / "d"
        os.mkdir(place)
    (place / "x.py").write_text(CODE)


ATTACKS: dict[str, Callable[[Path], object]] = {
    "a generation loop": put("custom_generate/generate.py"),
    "a generation loop's requirements": put("custom_generate/requirements.txt", "evil\n"),
    "a module": put("modeling_evil.py"),
    "a module in capitals": put("modeling.PY"),
    "a compiled module": put("lbdsl_parts.pyc", b"\x00"),
    "a cached module": put("__pycache__/lbdsl_parts.cpython-311.pyc", b"\x00"),
    "a library": put("evil.so", b"\x7fELF"),
    "a package": put("transformers/__init__.py"),
    "a pickle": put("pytorch_model.bin", b"\x80\x04."),
    "a pickle of settings": put("training_args.bin", b"\x80\x04."),
    "other weights": put("adapter_model.safetensors", b"x"),
    "an adapter": put("adapter_config.json", "{}"),
    "weights of another engine": put("model.gguf", b"GGUF"),
    "weights in a folder": put("onnx/model.onnx", b"x"),
    "weights of a folder for vLLM": put("original/consolidated.00.pth", b"x"),
    "an index": put("model.safetensors.index.json", json.dumps({"weight_map": {"x": "../../x.safetensors"}})),
    "a template": put("chat_template.jinja", "{{ 1 }}"),
    "another template": put("additional_chat_templates/tool_use.jinja", "{{ 1 }}"),
    "a tokenizer's words": put("vocab.txt", "a\n"),
    "a tokenizer's model": put("spiece.model", b"x"),
    "modules of sentence-transformers": put("modules.json", "[]"),
    "a processor": put("processor_config.json", "{}"),
    "a task": put("own.yaml", "task: x\n"),
    "a licence that is a folder": put("LICENSE/generate.py"),
    "a licence that is code": put("LICENSE.py"),
    "a readme that is a folder": put("notes.md/x.py"),
    "a name with a line break": put("a\nb.py"),
    "a name that writes to the terminal": put("\x1b[2Jx.py"),
    "a folder like a hidden one": put(".cache2/x.py"),
    "a hidden module": put(".evil.py"),
    "a link for a module": link("lbdsl_layers.py", "/etc/passwd"),
    "a link for the weights": link("model.safetensors", "/dev/zero"),
    "a link to a folder": link("custom_generate", "/etc"),
    "a pipe": lambda folder: os.mkfifo(folder / "config2.json"),
    "a pipe for the weights": lambda folder: [
        (folder / "model.safetensors").unlink(),
        os.mkfifo(folder / "model.safetensors"),
    ],
    "a module far below": deep,
}


@pytest.fixture(scope="module")
def whole(made: Callable[..., object]) -> Path:
    return made(RECIPE).place / "out"  # type: ignore[attr-defined]


@pytest.fixture
def artifact(workplace: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, workplace / "out"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_in_the_record_is_not_taken(artifact: Path, lbdsl, attack: str) -> None:
    ATTACKS[attack](artifact)
    for words in (["verify"], ["eval"], ["export", "--to", "native"], ["push", "--yes", "--dry-run"]):
        done = lbdsl(words[0], "out", *(["org/name"] if words[0] == "push" else []), *words[1:])
        assert (done.code, "error[LB465]" in done.err) == (6, True), (words, done.err)
        assert "\x1b" not in done.err
    with pytest.raises(LbdslError, match="LB465"):
        package.load(artifact)
    if attack == "a module far below":
        # Deeper than Python's own removal goes.
        subprocess.run(["rm", "-rf", artifact], check=True)


@pytest.mark.parametrize(
    "name",
    [
        ".gitattributes",
        ".gitignore",
        ".git/config",
        ".cache/huggingface/x.py",
        "LICENSE",
        "LICENSE.txt",
        "NOTICE.md",
        "a.png",
    ],
)
def test_what_people_and_hubs_add_is_taken(artifact: Path, lbdsl, name: str) -> None:
    put(name)(artifact)
    done = lbdsl("push", "out", "org/name", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["left"] == [name]
    package.load(artifact)


def test_an_edited_card_is_said(artifact: Path, lbdsl) -> None:
    (artifact / "README.md").write_text("# Twice as good\n")
    (artifact / "healing.png").unlink()
    done = lbdsl("push", "out", "org/name", "--dry-run", "--json")
    assert done.code == 0, done.err
    notes = json.loads(done.out)["notes"]
    assert [note["message"].split(" ")[0] for note in notes if note["code"] == "LB492"] == [
        "out/README.md",
        "out/healing.png",
    ]


def test_a_record_without_the_list_is_named(artifact: Path, lbdsl) -> None:
    """As records before it were."""
    path = artifact / "lbdsl.json"
    content = json.loads(path.read_text())
    del content["shown"], content["digest"]
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))
    assert read_record(artifact).unwrap().shown is None
    done = lbdsl("push", "out", "org/name", "--dry-run")
    assert done.code == 0
    assert "is of an earlier version" in " ".join(done.err.split())


def test_what_was_pushed_and_pulled_again_verifies(
    artifact: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = Path(read_record(artifact).unwrap().plan.model.source)
    given = {"README.md": "---\nlicense: other\nlicense_name: mine\n---\n# Base\n", "LICENSE": "all yours"}
    for name, text in given.items():
        (base / name).write_text(text)
    try:
        with running() as hub:
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
            monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
            monkeypatch.setenv("HF_TOKEN", hub.token)
            assert lbdsl("push", "out", "org/name", "--yes").code == 0
            (commit,) = hub.commits
    finally:
        for name in given:
            (base / name).unlink()
    for name, content in commit.items():
        put(f"pulled/{name}", content)(tmp_path)
    put("pulled/.gitattributes", "*.safetensors filter=lfs\n")(tmp_path)
    assert {"LICENSE", "README.md"} <= {*files_below(tmp_path / "pulled")}
    done = lbdsl("verify", "pulled")
    assert done.code == 0, done.err
    assert "LB492" not in done.err
