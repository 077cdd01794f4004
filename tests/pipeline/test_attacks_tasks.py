"""Files of tasks that came with a recipe: a table of attacks. None reads or writes outside of the recipe's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lbdsl.model.digest import default_cache_dir
from tests.pipeline.test_attacks import HEAD, JUDGED, ROWS, TASK, with_fields, with_marker

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def given(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe's own folder; beside it lies `outside`, and the home folder is `home`."""
    with_marker(workplace)
    (workplace / "home").mkdir()
    (workplace / "home" / "own.jsonl").write_text(ROWS)
    monkeypatch.setenv("HOME", str(workplace / "home"))
    monkeypatch.chdir("given")
    Path("x.lbr").write_text(HEAD + JUDGED % '"own.yaml"')
    return workplace / "given"


def data(**options: object) -> str:
    return with_fields(dataset_kwargs=options)


def files(name: object) -> str:
    return data(data_files={"test": name})


def nothing() -> None:
    pass


def linked_among() -> None:
    Path("d").mkdir()
    Path("d/a.jsonl").write_text(ROWS)
    Path("d/test.jsonl").symlink_to("../../outside/own.jsonl")


def linked_folder() -> None:
    Path("d").mkdir()
    Path("d/e").symlink_to("../../outside")


def included_below() -> None:
    Path("sub").mkdir()
    # Its path is right from `sub`, but the harness reads it from the folder of the file that includes it.
    Path("sub/more.yaml").write_text(files("own.jsonl"))
    Path("sub/own.jsonl").write_text(ROWS)
    Path("own.jsonl").unlink()
    Path("own.jsonl").symlink_to("../outside/own.jsonl")


def included_folder() -> None:
    Path("org/name").mkdir(parents=True)
    Path("org/name/test.jsonl").symlink_to("../../../outside/own.jsonl")
    Path("sub").mkdir()
    Path("sub/more.yaml").write_text(with_fields(dataset_path="org/name", dataset_kwargs={}))


def linked_include() -> None:
    Path("more.yaml").symlink_to("../outside/own.yaml")


def includes(name: object = "more.yaml", **fields: object) -> str:
    return json.dumps({"task": "own", "include": name, **fields})


HERE = "PLACE"
"""Stands for the folder with all of it."""

OUTSIDE: dict[str, tuple[str, Callable[[], object]]] = {
    "a file by its scheme": (files(f"file:{HERE}/outside/own.jsonl"), nothing),
    "a file by its scheme, with slashes": (files(f"file://{HERE}/outside/own.jsonl"), nothing),
    "a local file by its scheme": (files(f"local:{HERE}/outside/own.jsonl"), nothing),
    "a file of an archive elsewhere": (files(f"zip://own.jsonl::{HERE}/outside/x.zip"), nothing),
    "a file by its absolute path": (files(f"{HERE}/outside/own.jsonl"), nothing),
    "a file at home": (files("~/own.jsonl"), nothing),
    "a glob above": (files("../outside/*.jsonl"), nothing),
    "a glob of everything": (files("/**"), nothing),
    "a glob that goes up again": (files("e*/../../outside/own.jsonl"), nothing),
    "a set of letters that goes up": (files("[e]vil/../../outside/own.jsonl"), nothing),
    "a link among what a glob matches": (files("d/*.jsonl"), linked_among),
    "a link to a folder before a glob": (files("d/e/*.jsonl"), linked_folder),
    "a link in the folder of data": (data(data_dir="d"), linked_among),
    "a link in the folder of data, by a glob": (data(data_dir="d", data_files={"test": "*.jsonl"}), linked_among),
    "a link in the folder of data, by name": (data(data_dir="d", data_files={"test": "test.jsonl"}), linked_among),
    "a linked folder of data": (data(data_dir="d/e"), linked_folder),
    "a folder of data at home": (data(data_dir="~"), nothing),
    "a folder of data by its scheme": (data(data_dir=f"file:{HERE}/outside"), nothing),
    "a file in a list": (data(data_files=[{"split": "test", "path": "../outside/own.jsonl"}]), nothing),
    "data of a hub's set": (
        with_fields(dataset_path="org/set", dataset_kwargs={"data_files": f"{HERE}/outside/own.jsonl"}),
        nothing,
    ),
    "an included file's data, from the folder that they are read from": (includes("sub/more.yaml"), included_below),
    "an included file's folder": (includes("sub/more.yaml"), included_folder),
    "an included file by a link": (includes(), linked_include),
    "an included file by a list": (includes(["../outside/own.yaml"]), nothing),
    "a group's data in a member": (
        json.dumps({"group": "g", "task": [{**TASK, "dataset_kwargs": {"data_files": "file:/etc/passwd"}}]}),
        nothing,
    ),
    "a group's data for its members": (
        json.dumps(
            {
                "group": "g",
                "dataset_kwargs": {"data_dir": "../outside"},
                "task": [{name: value for name, value in TASK.items() if name != "dataset_kwargs"}],
            }
        ),
        nothing,
    ),
    "another cache": (data(data_files={"test": "own.jsonl"}, cache_dir=f"{HERE}/written"), nothing),
    "another cache, in the folder": (data(data_files={"test": "own.jsonl"}, cache_dir="written"), nothing),
    "code": (data(data_files={"test": "own.jsonl"}, trust_remote_code=False), nothing),
    "what is stored": (data(data_files={"test": "own.jsonl"}, storage_options={"auto_mkdir": True}), nothing),
    "what is converted": (data(data_files={"test": "own.jsonl"}, converters={"a": "b"}), nothing),
    "many processes": (data(data_files={"test": "own.jsonl"}, num_proc=1000), nothing),
}


@pytest.mark.parametrize("attack", OUTSIDE)
def test_no_file_of_a_task_is_outside(given: Path, lbdsl, attack: str) -> None:
    text, prepare = OUTSIDE[attack]
    prepare()
    Path("own.yaml").write_text(text.replace(HERE, str(given.parent)))
    done = lbdsl("plan", "x.lbr", "../model")
    assert (done.code, "LB479" in done.err) == (6, True), done.err
    assert not list(given.parent.glob("**/written"))


@pytest.mark.parametrize(
    "options",
    [
        {"data_files": {"test": "own.jsonl"}},
        {"data_files": {"test": "o*.jsonl"}},
        {"data_dir": "d"},
        {"data_dir": "d", "data_files": {"test": "**/*.jsonl"}},
    ],
    ids=str,
)
def test_files_of_the_folder_are_read(given: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(given.parent / "own-cache"))
    Path("d").mkdir()
    Path("d/test.jsonl").write_text(ROWS)
    Path("own.yaml").write_text(includes())
    Path("more.yaml").write_text(data(**options))
    done = lbdsl("plan", "x.lbr", "../model")
    assert done.code == 0, done.err
    assert list((default_cache_dir() / "datasets").rglob("*.arrow"))


def test_no_row_names_a_file_that_is_opened(given: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Parquet file says itself that a column holds pictures; a row has one, or the path of one."""
    import datasets
    import pyarrow as arrow
    from pyarrow import parquet

    outside = str(given.parent / "outside" / "text.txt")
    rows = [{**json.loads(row), "seen": {"bytes": None, "path": outside}} for row in ROWS.splitlines()]
    picture = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
    types = {"text": arrow.string(), "choices": arrow.list_(arrow.string()), "answer": arrow.int64(), "seen": picture}
    table = arrow.Table.from_pylist(rows, schema=arrow.schema(types))
    features = datasets.Features({**datasets.Features.from_arrow_schema(table.schema), "seen": datasets.Image()})
    said = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    parquet.write_table(table.replace_schema_metadata(said), "own.parquet")
    Path("own.yaml").write_text(
        with_fields(
            dataset_path="parquet",
            dataset_kwargs={"data_files": {"test": "own.parquet"}},
            doc_to_text="{{text}}{% if seen.path != 'P' %}{{ 1 / 0 }}{% endif %}".replace("P", outside),
        )
    )
    decode = datasets.Image.decode_example
    done = lbdsl("plan", "x.lbr", "../model")
    assert done.code == 0, done.err
    assert datasets.Image.decode_example is decode
