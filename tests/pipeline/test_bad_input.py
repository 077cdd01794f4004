"""Bad input ends in one clear message and the right exit code, with nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lbdsl.run import apply as run
from lbdsl.run.workdir import WorkFolder
from tests.tiny_model import RECIPE


@pytest.fixture
def model(workplace: Path, tiny_folder: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    (workplace / "model").unlink()
    shutil.copytree(tiny_folder, workplace / "model")
    return workplace / "model"


def refused(done, code: int, *words: str) -> None:
    assert done.code == code, done.err
    for word in words:
        assert word in done.err, done.err
    assert "Traceback" not in done.err
    assert not list(Path.cwd().glob("out*/*.safetensors"))
    assert not Path("out").exists()


def apply(lbdsl, *more: str):
    return lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", *more)


def test_no_such_recipe(workplace: Path, lbdsl) -> None:
    refused(lbdsl("apply", "nowhere.lbr", "model", "-o", "out", "--yes"), 1, "nowhere.lbr")


def test_no_such_model(workplace: Path, lbdsl) -> None:
    refused(lbdsl("apply", "tiny.lbr", "./nowhere", "-o", "out", "--yes"), 1, "LB400")


def test_a_folder_that_is_no_model(workplace: Path, lbdsl) -> None:
    Path("empty").mkdir()
    refused(lbdsl("apply", "tiny.lbr", "empty", "-o", "out", "--yes"), 1, "LB401")


def test_an_unknown_family(model: Path, lbdsl) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    refused(apply(lbdsl), 6, "LB403", "mamba")


def test_weights_stored_of_a_module_that_is_not_there(workplace: Path, lbdsl) -> None:
    Path("x.lbr").write_text("layers 1 drop\n")
    assert lbdsl("apply", "x.lbr", "model", "-o", "first", "--yes").code == 0
    config = json.loads(Path("first/config.json").read_text())
    config["lbdsl"]["layers"][1]["weights"] = {
        "self_attn.k_proj": {"kind": "int", "bits": 4, "group": 128, "activations": 16, "method": "rtn"}
    }
    Path("first/config.json").write_text(json.dumps(config))
    done = lbdsl("inspect", "first")
    assert (done.code, "LB402" in done.err) == (6, True), done.err
    assert "lbdsl.layers[1].weights in the configuration names 'self_attn.k_proj'" in " ".join(done.err.split())


def test_truncated_weights(model: Path, lbdsl) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(apply(lbdsl), 6, "LB405")


@pytest.mark.parametrize(("text", "code"), [("", "LB444"), ("A few words only.\n", "LB446")])
def test_text_that_is_empty_or_too_short(workplace: Path, lbdsl, text: str, code: str) -> None:
    Path("text.txt").write_text(text)
    Path("tiny.lbr").write_text(RECIPE.replace('measure { data = "builtin:pydoc"', 'measure { data = "text.txt"'))
    refused(apply(lbdsl), 1, code)


def test_no_permission_to_write(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbdsl.run.workdir.os.access", lambda path, mode: not mode & os.W_OK)  # as not root
    refused(apply(lbdsl), 1, "LB463", "permission")


def test_a_disk_that_is_too_small_is_seen_before_the_work(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbdsl.run.workdir.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    refused(apply(lbdsl), 1, "LB463", "free")
    assert not Path("out.lbdsl-work").exists()


def test_a_disk_that_fills_while_saving(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> dict[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    asked, own = [], run.check_room
    monkeypatch.setattr(run, "check_room", lambda output, needed: asked.append(needed) or own(output, needed))
    with monkeypatch.context() as patch:
        patch.setattr("lbdsl.artifact.save.file_hashes", full)
        done = apply(lbdsl)
    assert done.code == 1
    assert "LB463" in done.err
    assert "disk is full" in done.err
    assert not Path("out").exists()
    # With room again, the run goes on from its checkpoint, and does not ask for what it takes already.
    held = WorkFolder(Path("out")).bytes
    resumed = apply(lbdsl, "--resume")
    assert resumed.code == 0, resumed.err
    assert Path("out/lbdsl.json").is_file()
    assert asked == [asked[0], asked[0] - held]
    assert held > 100_000


def test_a_run_on_an_output_in_use(workplace: Path, lbdsl) -> None:
    import fcntl

    Path("out.lbdsl-work").mkdir()
    with Path("out.lbdsl-work/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(apply(lbdsl), 1, "LB461")


def test_a_configuration_file_that_is_no_toml(workplace: Path, lbdsl) -> None:
    Path("lbdsl.toml").write_text("device = \n")
    refused(apply(lbdsl), 1, "LB480")
    assert [lbdsl(flag).code for flag in ("--help", "--version")] == [0, 0]


def test_a_configuration_file_gives_defaults_and_a_flag_wins(workplace: Path, lbdsl) -> None:
    Path("lbdsl.toml").write_text('dtype = "bfloat16"\n[plan]\nctx = [77]\n')
    done = lbdsl("plan", "tiny.lbr", "model", "--json")
    assert done.code == 0, done.err
    assert "77" in json.loads(done.out)["after"]["kv_bytes"]
    Path("lbdsl.toml").write_text('dtype = "bfloat16"\n')
    half = json.loads(done.out)["before"]["kv_bytes"]["1024"]
    flagged = json.loads(lbdsl("plan", "tiny.lbr", "model", "--json", "--dtype", "float32").out)
    assert flagged["before"]["kv_bytes"]["1024"] == 2 * half


def test_a_plan_says_which_file_a_value_is_from(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "home"))
    users = workplace / "home" / "lbdsl" / "lbdsl.toml"
    users.parent.mkdir(parents=True)
    users.write_text('batch = 2\n[plan]\ndtype = "float32"\nctx = [77]\n')
    Path("lbdsl.toml").write_text('dtype = "bfloat16"\n')
    said = lbdsl("plan", "tiny.lbr", "model", "--batch", "1").err
    assert "dtype = bfloat16 (from lbdsl.toml)" in said
    assert f"ctx = (77,) (from {users})" in said
    assert "batch" not in said


@pytest.mark.parametrize("text", ['devise = "cpu"\n', "[plan]\nctxx = [3]\n", "[plane]\n"])
def test_unknown_names_in_the_configuration_file_are_refused(workplace: Path, lbdsl, text: str) -> None:
    Path("lbdsl.toml").write_text(text)
    refused(lbdsl("plan", "tiny.lbr", "model"), 1, "LB480", "did you mean")


def test_the_environment_gives_defaults(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBDSL_PLAN_CTX", "99")
    monkeypatch.setenv("LBDSL_DTYPE", "bfloat16")
    done = lbdsl("plan", "tiny.lbr", "model")
    assert done.code == 0, done.err
    assert "(bfloat16)" in done.out
    assert "from environment" in done.err
    assert "99" in json.loads(lbdsl("plan", "tiny.lbr", "model", "--json").out)["after"]["kv_bytes"]


def test_no_such_verb(workplace: Path, lbdsl) -> None:
    done = lbdsl("aply")
    assert done.code == 2
    assert "apply" in done.err


@pytest.mark.parametrize("block", ["heal", "eval"])
def test_text_of_later_stages_is_looked_at_before_measuring(workplace: Path, lbdsl, block: str) -> None:
    Path("tiny.lbr").write_text(RECIPE.replace(f'{block} {{ data = "builtin:pydoc"', f'{block} {{ data = "nope.txt"'))
    done = lbdsl("plan", "tiny.lbr", "model")
    assert done.code == 1
    assert "nope.txt" in done.err
    assert "measuring" not in done.err


def test_a_saved_plan_whose_model_is_elsewhere(model: Path, lbdsl) -> None:
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "x.lbplan").code == 0
    shutil.copytree("model", "other")
    Path("other/config.json").write_text(Path("other/config.json").read_text() + " ")
    done = lbdsl("apply", "x.lbplan", "-o", "out", "--model", "other")
    refused(done, 3, "LB342", "other is not the model that was planned", "--model takes the same model at another place")
    model.rename("moved")
    done = lbdsl("apply", "x.lbplan", "-o", "out")
    refused(done, 1, "LB400", "name its place with --model")
    assert lbdsl("apply", "x.lbplan", "-o", "found", "--model", "moved", "--no-heal").code == 0


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("plan tiny.lbr model --set window=4ki", 1, "help: write `4Ki`"),
        ("plan tiny.lbr model --set window=wide", 1, "help: it takes a number of tokens, as in `8Ki`"),
        ("plan tiny.lbr model --device gpu", 1, "did you mean cuda?"),
        ("inspect model/model.safetensors", 1, "give the model's folder, model"),
        ("show lbdsl.json", 6, "give the artifact's folder"),
        ("inspect model --dtype half", 2, "is not one of"),
        ("inspect model --dtype bf16", 0, ""),
    ],
)
def test_values_of_the_first_hour(workplace: Path, lbdsl, command: str, code: int, said: str) -> None:
    Path("lbdsl.json").write_text("{}")
    done = lbdsl(*command.split())
    assert done.code == code, done.err
    assert said in " ".join(done.err.split())
