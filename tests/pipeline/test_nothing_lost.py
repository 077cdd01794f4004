"""Nothing of the user's is overwritten, moved or run unasked: refused with a code, and before any work."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.tiny_model import RECIPE


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before the work: anything measured fails the test."""

    def measured(*_: object, **__: object) -> None:
        raise AssertionError("it was measured first")

    monkeypatch.setattr("lbdsl.session.measuring._on_text", measured)
    monkeypatch.setattr("lbdsl.session.model.model_digest", measured)


@pytest.fixture
def copied(workplace: Path, tiny_folder: Path) -> Path:
    """The work place with a model of its own, which may be lost."""
    (workplace / "model").unlink()
    shutil.copytree(tiny_folder, workplace / "model")
    return workplace


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "place", ["tiny.lbr", "model/model.safetensors", "model/config.json", "pipe", "model", "dangling", "no/such/x.lbplan"]
)
def test_plan_never_overwrites_what_is_no_plan(copied: Path, lbdsl, no_measuring: None, place: str) -> None:
    os.mkfifo("pipe")
    Path("dangling").symlink_to("nowhere")
    before = contents(copied)
    done = lbdsl("plan", "tiny.lbr", "model", "-o", place)
    assert done.code in (1, 2), done.err
    assert "LB335" in done.err or place == "model"
    assert contents(copied) == before
    assert Path("dangling").is_symlink()


def test_plan_replaces_a_plan_of_any_format(workplace: Path, lbdsl) -> None:
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "x.lbplan").code == 0
    fields = json.loads(Path("x.lbplan").read_text())
    Path("x.lbplan").write_text(json.dumps({**fields, "format_version": 99}))
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "x.lbplan").code == 0
    assert json.loads(Path("x.lbplan").read_text()) == fields


def test_plan_again_is_what_the_refusal_advises(workplace: Path, lbdsl) -> None:
    (workplace / "x.lbr").write_text("layers 1 drop\n")
    assert lbdsl("apply", "x.lbr", "model", "-o", "out", "--yes").code == 0
    refused = lbdsl("plan", "x.lbr", "out")
    assert refused.code == 1
    assert "--again" in refused.err
    (workplace / "y.lbr").write_text("layers 2 drop\n")
    done = lbdsl("plan", "y.lbr", "out", "--again", "-o", "y.lbplan")
    assert done.code == 0, done.err
    assert lbdsl("apply", "y.lbplan", "-o", "out2").code == 0


FORCED = {
    "the model's folder": ("tiny.lbr", "model", "model"),
    "a folder in the model's": ("tiny.lbr", "model", "model/sub"),
    "a folder that holds the model": ("tiny.lbr", "place/model", "place"),
    "a link to the model": ("tiny.lbr", "model", "link"),
    "the recipe's folder": ("recipes/x.lbr", "model", "recipes"),
    "the folder of a recipe's text": ("texts.lbr", "model", "texts"),
    "the present folder": ("tiny.lbr", "/tiny", "."),
    "a link to nothing": ("tiny.lbr", "model", "dangling"),
}


@pytest.fixture
def places(copied: Path, tiny_folder: Path) -> Path:
    (copied / "model" / "sub").mkdir()
    (copied / "model" / "sub" / "mine.txt").write_text("mine")
    shutil.copytree(tiny_folder, copied / "place" / "model")
    (copied / "recipes").mkdir()
    shutil.copy("tiny.lbr", "recipes/x.lbr")
    (copied / "texts").mkdir()
    (copied / "texts" / "a.txt").write_text("\n\n".join(f"Paragraph {i}: " + "many words " * 60 for i in range(200)))
    (copied / "texts.lbr").write_text(RECIPE.replace('eval { data = "builtin:pydoc"', 'eval { data = "texts/a.txt"'))
    (copied / "link").symlink_to("model")
    (copied / "dangling").symlink_to("nowhere")
    return copied


@pytest.mark.parametrize("case", FORCED)
def test_apply_force_never_moves_what_it_reads(
    places: Path, tiny_folder: Path, lbdsl, no_measuring: None, case: str
) -> None:
    recipe, model, output = FORCED[case]
    before = contents(places)
    done = lbdsl("apply", recipe, model.replace("/tiny", str(tiny_folder)), "-o", output, "--yes", "--force")
    assert done.code == 1, done.err
    assert "LB460" in done.err
    assert contents(places) == before


@pytest.mark.parametrize("model", ["out.rejected", "out.lbdsl-work/artifact"])
def test_a_result_that_fails_its_gate_never_moves_what_it_reads(
    workplace: Path, tiny_folder: Path, lbdsl, no_measuring: None, model: str
) -> None:
    """It would take the name of the model that it is made from."""
    shutil.copytree(tiny_folder, model)
    Path("gate.lbr").write_text("layers 2 drop\nassert kl < 0\n")
    before = contents(workplace)
    done = lbdsl("apply", "gate.lbr", model, "-o", "out", "--yes", "--force")
    assert (done.code, "LB460" in done.err) == (1, True), done.err
    assert model.partition("/")[0] in done.err
    assert contents(workplace) == before


@pytest.mark.parametrize("output", ["model", "plans", "place/model", "pipe"])
def test_apply_force_of_a_saved_plan_never_moves_what_it_reads(places: Path, lbdsl, output: str) -> None:
    os.mkfifo("pipe")
    Path("plans").mkdir()
    model = output if output.startswith("place") else "model"
    assert lbdsl("plan", "tiny.lbr", model, "-o", "plans/x.lbplan").code == 0
    before = contents(places)
    done = lbdsl("apply", "plans/x.lbplan", "-o", output, "--force")
    assert done.code in (1, 2), done.err
    assert "LB460" in done.err or done.code == 2
    assert contents(places) == before


def test_apply_force_never_moves_the_folder_of_a_gguf_file(workplace: Path, lbdsl, no_measuring: None) -> None:
    from tests.model_cases import save_gguf, tiny_llama

    Path("downloads").mkdir()
    save_gguf(Path("downloads/tiny.gguf"), tiny_llama(), tokens=96)
    for output in ("downloads", "."):
        done = lbdsl("apply", "tiny.lbr", "downloads/tiny.gguf", "-o", output, "--yes", "--force")
        assert done.code == 1, done.err
        assert "LB460" in done.err
    assert Path("downloads/tiny.gguf").is_file()


def test_an_output_that_is_there_is_refused_before_measuring(workplace: Path, lbdsl, no_measuring: None) -> None:
    (workplace / "out").mkdir()
    (workplace / "out" / "mine.txt").write_text("mine")
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes")
    assert done.code == 1, done.err
    assert "LB460" in done.err


def test_export_force_never_moves_what_it_reads(places: Path, lbdsl) -> None:
    (places / "x.lbr").write_text("layers 1 drop(block)\n")
    assert lbdsl("apply", "x.lbr", "model", "-o", "place/out", "--yes").code == 0
    Path("file").write_text("mine")
    os.mkfifo("pipe")
    before = contents(places)
    for output in ("place/out", "place/out/in", "place", "model", "model/sub", ".", "dangling", "file", "pipe", "link"):
        done = lbdsl("export", "place/out", "--to", "native", "-o", output, "--force")
        assert done.code == 1, (output, done.err)
        assert "LB460" in done.err, (output, done.err)
        assert contents(places) == before, output


def test_an_empty_folder_is_a_fine_output(workplace: Path, lbdsl) -> None:
    (workplace / "x.lbr").write_text("layers 1 drop(block)\n")
    for name in ("out", "export"):
        (workplace / name).mkdir()
    done = lbdsl("apply", "x.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    done = lbdsl("export", "out", "--to", "native", "-o", "export")
    assert done.code == 0, done.err
    assert not [path for path in workplace.iterdir() if ".old" in path.name]
    assert (workplace / "out" / "config.json").is_file()
    assert (workplace / "export" / "config.json").is_file()


@pytest.mark.parametrize(
    "text",
    [
        "trust-remote-code = true",
        "trust_remote_code = true",
        "[plan]\ntrust-remote-code = true",
        '[eval]\ntask = ["mine.yaml"]',
    ],
)
def test_no_file_allows_remote_code(
    workplace: Path, lbdsl, no_measuring: None, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    users = workplace / "home" / "lbdsl" / "lbdsl.toml"
    users.parent.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "home"))
    for path in (workplace / "lbdsl.toml", users):
        path.write_text(f"{text}\n")
        done = lbdsl("plan", "tiny.lbr", "model")
        path.unlink()
        assert done.code == 1, done.err
        assert "LB480" in done.err
        assert "which only the command line can" in " ".join(done.err.split())


@pytest.mark.parametrize("name", ["LBDSL_TRUST_REMOTE_CODE", "LBDSL_PLAN_TRUST_REMOTE_CODE"])
def test_the_environment_does_not_allow_remote_code(
    workplace: Path, lbdsl, no_measuring: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    done = lbdsl("plan", "tiny.lbr", "model")
    assert done.code == 1, done.err
    assert "LB480" in done.err
    assert name in done.err
    assert "--trust-remote-code" in done.err


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("block", ["measure", "heal", "eval"])
@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_offline_a_hub_text_that_is_not_here_is_refused_at_once(
    workplace: Path, lbdsl, no_measuring: None, monkeypatch: pytest.MonkeyPatch, verb: str, block: str, flag: bool
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", workplace / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", not flag)
    Path("x.lbr").write_text(RECIPE.replace(f'{block} {{ data = "builtin:pydoc"', f'{block} {{ data = "no-such-org/x"'))
    more = ["-o", "out", "--yes"] if verb == "apply" else []
    started = time.monotonic()
    done = lbdsl(verb, "x.lbr", "model", *more, *(["--offline"] if flag else []))
    assert done.code == 1, done.err
    assert "LB445" in done.err
    assert ("--offline" if flag else "HF_HUB_OFFLINE") in done.err
    assert time.monotonic() - started < 10


def test_offline_a_saved_plan_looks_for_its_texts_first(
    workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    Path("x.lbr").write_text(RECIPE.replace('eval { data = "builtin:pydoc"', 'eval { data = "no-such-org/x"'))
    with monkeypatch.context() as online:
        online.setattr("lbdsl.data.hub.check_cached", lambda data, *, offline: None)
        online.setattr("lbdsl.data.hub.read", lambda data, *, offline: [f"document {n} " * 40 for n in range(200)])
        assert lbdsl("plan", "x.lbr", "model", "-o", "x.lbplan").code == 0
    request.getfixturevalue("no_measuring")
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--offline")
    assert done.code == 1, done.err
    assert "LB445" in done.err
