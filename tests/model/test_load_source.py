"""What MODEL may be, and every way in which the hub can fail."""

from __future__ import annotations

import fnmatch
import os

import huggingface_hub
import pytest
from huggingface_hub import errors

from lbdsl.artifact.record import read_record
from lbdsl.core.diagnostic import LbdslError
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import resolve_source
from tests.model_cases import save_gguf, save_llama, tiny_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refused(text, **options):
    with pytest.raises(LbdslError) as caught:
        resolve_source(text, **options)
    (only,) = caught.value.diagnostics
    assert only.help or only.code in ("LB400", "LB414")
    return only


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "./nothing",
        "/no/such/folder",
        "~/no-such-folder-here",
        "nothing",
        "no/such.gguf",
        "a/b/c",
        "a b/c",
        "bad\0name",
        "x" * 5000,
        "org/name@@rev",
        "../..",
    ],
)
def test_no_such_path(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    assert refused(text).code == ("LB401" if text == "../.." else "LB400")


def test_folders_and_files_that_are_no_model(tmp_path):
    assert refused(str(tmp_path)).code == "LB401"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert refused(str(tmp_path)).code == "LB401"
    assert refused(str(tmp_path / "model.safetensors")).code == "LB400"
    (tmp_path / "model.safetensors").unlink()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    both = refused(str(tmp_path))
    assert both.code == "LB401"
    assert "a.gguf, b.gguf" in both.message


def test_the_model_in_a_folder_of_what_the_demo_made(tmp_path):
    def help() -> bool:
        return f"did you mean {tmp_path / 'compressed'}?" in refused(str(tmp_path)).help

    (tmp_path / "report.html").write_bytes(b"")
    assert not help()
    for name in ("compressed", "for-vllm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(b"{}")
        assert help() == (name == "compressed"), "of two models neither is meant"
    (tmp_path / "compressed/lbdsl.json").write_bytes(b"{}")
    assert help()
    with pytest.raises(LbdslError) as unread:
        read_record(tmp_path).unwrap()
    assert [d.code for d in unread.value.diagnostics] == ["LB466"]
    assert f"did you mean {tmp_path / 'compressed'}?" in unread.value.diagnostics[0].help


def test_a_pipe_is_no_gguf_file(tmp_path):
    """Nobody writes to it: opening it would never end."""
    os.mkfifo(tmp_path / "x.gguf")
    assert refused(str(tmp_path)).code == "LB401"
    assert refused(str(tmp_path / "x.gguf")).code == "LB400"


@pytest.mark.torch
def test_local_folder_and_gguf(tmp_path, monkeypatch):
    folder = tmp_path / "Some Model"
    model = save_llama(folder)
    source = resolve_source(str(folder))
    assert (source.path, source.gguf_file, source.revision, source.short_name) == (folder, None, None, "Some-Model")
    monkeypatch.chdir(folder)
    assert resolve_source(".").short_name == "Some-Model"

    save_gguf(folder / "x-135M.Q4_1.gguf", model)
    assert resolve_source(str(folder)).gguf_file is None
    by_file = resolve_source(str(folder / "x-135M.Q4_1.gguf"))
    assert (by_file.gguf_file, by_file.short_name) == ("x-135M.Q4_1.gguf", "x-135M")
    alone = tmp_path / "alone"
    alone.mkdir()
    save_gguf(alone / "y.F16.gguf", model)
    assert resolve_source(str(alone)).gguf_path == alone / "y.F16.gguf"


@pytest.mark.torch
def test_hub_snapshot_is_pinned_and_without_pickles(tmp_path, monkeypatch):
    folder = tmp_path / "models--org--Tiny-1B" / "snapshots" / COMMIT
    save_llama(folder)
    seen = {}

    def download(repo, **options):
        seen.update(options, repo=repo)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = resolve_source("org/Tiny-1B@v1.0", offline=True)
    assert (source.path, source.revision, source.short_name) == (folder, COMMIT, "Tiny-1B")
    assert (seen["repo"], seen["revision"], seen["local_files_only"]) == ("org/Tiny-1B", "v1.0", True)

    def wanted(name):
        return any(fnmatch.fnmatch(name, p) for p in seen["allow_patterns"]) and not any(
            fnmatch.fnmatch(name, p) for p in seen["ignore_patterns"]
        )

    for name in (
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
    ):
        assert wanted(name), name
    for name in (
        "pytorch_model.bin",
        "consolidated.00.pth",
        "x.pt",
        "x.pkl",
        "training_args.bin",
        "modeling_x.py",
        "original/params.json",
        "onnx/model.safetensors",
    ):
        assert not wanted(name), name
    assert inspect_model(source).ok
    # A path to a snapshot is known as what it is.
    again = resolve_source(str(folder))
    assert (again.revision, again.short_name) == (COMMIT, "Tiny-1B")


def http_error(kind, status):
    """One of the client's own errors, with a response as its transport makes it."""
    transport = errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0]
    library = __import__(transport)
    request = library.Request("GET", "https://huggingface.co/api/models/org/name")
    return kind("it failed\nmore", response=library.Response(status, request=request))


def transport_error():
    transport = __import__(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])
    return transport.ConnectError("connection refused")


def caused(problem, cause):
    problem.__cause__ = cause
    return problem


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: http_error(errors.RepositoryNotFoundError, 404), "LB411"),
        (lambda: http_error(errors.RevisionNotFoundError, 404), "LB411"),
        (lambda: http_error(errors.GatedRepoError, 403), "LB412"),
        (lambda: http_error(errors.HfHubHTTPError, 401), "LB412"),
        (lambda: http_error(errors.HfHubHTTPError, 500), "LB414"),
        (lambda: errors.LocalEntryNotFoundError("not there"), "LB413"),
        (lambda: caused(errors.LocalEntryNotFoundError("not there"), errors.OfflineModeIsEnabled("offline")), "LB413"),
        (lambda: errors.HFValidationError("bad id"), "LB400"),
        (transport_error, "LB414"),
        (lambda: OSError("Consistency check failed: file should be of size 10 but has size 5"), "LB414"),
        (lambda: TimeoutError("timed out"), "LB414"),
    ],
)
def test_hub_failures(tmp_path, monkeypatch, make, code):
    problem = make()

    def download(*args, **options):
        raise problem

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    only = refused("org/name@main")
    assert only.code == code
    assert "org/name" in only.message
    assert ("HF_HUB_OFFLINE is set" in only.message) == isinstance(problem.__cause__, errors.OfflineModeIsEnabled)
    assert only.exit_code == 1


def test_offline_never_connects(tmp_path, monkeypatch):
    """With the real client, an empty cache, and --offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    only = refused("org/name", offline=True)
    assert only.code == "LB413"
    assert "--offline" in only.message


@pytest.mark.torch
def test_gguf_on_disk_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    save_gguf(tmp_path / "org" / "name.gguf", tiny_llama())
    assert resolve_source("org/name.gguf").gguf_file == "name.gguf"
    assert resolve_source("org").gguf_file == "name.gguf"


def test_files_that_are_asked_of_the_hub() -> None:
    from huggingface_hub.utils import filter_repo_objects

    from lbdsl.model.hub import UNWANTED, WANTED

    wanted = ("config.json", "model-1-of-2.safetensors", "additional_chat_templates/tools.jinja", "spiece.model")
    folders = ("onnx/config.json", "additional/a.json", "additional_chat_templates_2/a.jinja", "adapter/config.json")
    deeper = ("additional_chat_templates/old/a.jinja", "original/8B/model.safetensors")
    other = (*folders, *deeper, "pytorch_model.bin", "consolidated.safetensors")
    asked = filter_repo_objects((*wanted, *other), allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
    assert tuple(asked) == wanted
