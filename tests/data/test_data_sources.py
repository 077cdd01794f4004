"""Reading documents: every source, every bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.data import TextPart, hub, read_documents, read_parts, sources

WIKI = (
    " \n = First = \n \n It weighs 0 @.@ 7 kg ( 1 @,@ 500 g ) , a well @-@ known <unk> . \n \n = = TextPart = = \n \n"
    " He said \" hello there \" and didn 't stay . \n = Second = \n \n The dog 's tail : 5 % . \n"
)


def code_of(caught) -> str:
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.help
    return diagnostic.code


def test_pydoc_topics_are_documents():
    documents = read_documents("builtin:pydoc")
    assert len(documents) > 50
    assert sum(map(len, documents)) > 300_000
    assert documents == read_documents("builtin:pydoc")


def test_a_text_file_is_one_document_in_its_order(tmp_path):
    paragraphs = [f"paragraph {i} " + "word " * (i % 50) for i in range(300)]
    (tmp_path / "a.txt").write_text("\r\n\r\n".join(paragraphs), newline="")
    assert read_documents("a.txt", base_dir=tmp_path) == ("\n\n".join(paragraphs),)


def test_the_built_in_wikitext_is_all_for_judging():
    split = read_parts("builtin:wikitext")
    assert {part for part in TextPart if split.pieces[part]} == {TextPart.EVAL}
    assert 230_000 < split.characters(TextPart.EVAL) < 270_000
    text = "".join(split.texts(TextPart.EVAL))
    assert " @-@ " not in text
    assert " , " not in text


def test_wikitext_is_undone_only_when_asked(tmp_path):
    (tmp_path / "w.txt").write_text(WIKI)
    assert read_documents("w.txt", base_dir=tmp_path) == (WIKI,)
    first, second = read_documents("wikitext:w.txt", base_dir=tmp_path)
    assert first.startswith("= First =\n")
    assert "It weighs 0.7 kg (1,500 g), a well-known <unk>." in first
    assert "== TextPart ==" in first
    assert 'He said "hello there" and didn\'t stay.' in first.replace("didn 't", "didn't")
    assert "The dog's tail: 5%." in second


def test_jsonl_text_and_messages(tmp_path):
    records = [
        {"text": "one\u2028still one"},
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
            ]
        },
    ]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n")
    assert read_documents(str(tmp_path / "a.jsonl")) == ("one\u2028still one", "user: hi\n\nassistant: hello")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"txt": "a"}',
        '{"text": 3}',
        '{"text": null}',
        '{"messages": "a"}',
        '{"messages": [{"content": "a"}]}',
        '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}',
        '{"text": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_bad_jsonl_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(LbdslError, match="line 3") as caught:
        read_documents("a.jsonl", base_dir=tmp_path)
    assert code_of(caught) == "LB443"


@pytest.mark.large
def test_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": [1, 2], "text": ["a", "b"]}), tmp_path / "a.parquet")
    assert read_documents("a.parquet", base_dir=tmp_path) == ("a", "b")
    parquet.write_table(pa.table({"id": [1]}), tmp_path / "b.parquet")
    parquet.write_table(pa.table({"text": ["a", None]}), tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    for name, code, words in (("b", "LB443", "only id"), ("c", "LB443", "row 2"), ("d", "LB441", "parquet")):
        with pytest.raises(LbdslError, match=words) as caught:
            read_documents(f"{name}.parquet", base_dir=tmp_path)
        assert code_of(caught) == code


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ("builtin:pydocs", "LB440", "builtin"),
        ("missing.txt", "LB441", "no file"),
        ("folder.txt", "LB441", "regular"),
        ("latin.txt", "LB442", "line 2"),
        ("empty.txt", "LB444", "no text"),
        ("blank.jsonl", "LB444", "no text"),
        ("notes.md", "LB440", r"\.md"),
        ("folder", "LB440", "folder"),
        ("just words", "LB440", "not a text source"),
        ("", "LB440", "folder"),
        ("https://example.org/a", "LB440", "not a text source"),
        ("~no-such-user/a.txt", "LB441", "no file"),
        ("a" * 300 + ".txt", "LB441", "cannot be read"),
        ("a" * 300, "LB440", "not a text source"),
        ("texts/mine.jsonl", "LB441", "no file"),
    ],
)
def test_bad_sources(tmp_path, data, code, words):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.jsonl").write_text('{"text": "  "}\n')
    (tmp_path / "notes.md").write_text("a")
    with pytest.raises(LbdslError, match=words) as caught:
        read_documents(data, base_dir=tmp_path)
    assert code_of(caught) == code


@pytest.mark.parametrize(
    ("data", "meant"),
    [
        ("pydoc", '"builtin:pydoc"'),
        ("wikitxt", '"builtin:wikitext"'),
        ("notes", "notes.txt"),
        ("nots.txt", "notes.txt"),
    ],
)
def test_a_source_that_is_nearly_one(tmp_path, monkeypatch, data, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(LbdslError) as caught:
        read_documents(data)
    assert caught.value.diagnostics[0].help[0] == f"did you mean {meant}?"


def test_too_large_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_CHARACTERS", 10)
    (tmp_path / "a.txt").write_text("more than ten characters")
    with pytest.raises(LbdslError) as caught:
        read_documents("a.txt", base_dir=tmp_path)
    assert code_of(caught) == "LB447"


def test_hub_names():
    assert hub.is_hub_name("org/name")
    assert hub.is_hub_name("org/name:config-2.raw@train[:1%]")
    assert not hub.is_hub_name("name")
    assert not hub.is_hub_name("texts/mine.jsonl")
    assert not hub.is_hub_name("../name/x")


@pytest.mark.torch
def test_hub_offline_without_a_copy_is_a_coded_error(tmp_path, monkeypatch):
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(LbdslError, match="lbdsl-no-such-org/nothing") as caught:
        read_documents("lbdsl-no-such-org/nothing", offline=True)
    assert code_of(caught) == "LB445"
    assert "offline" in caught.value.diagnostics[0].help[0]
    assert before == datasets.config.HF_HUB_OFFLINE


@pytest.mark.torch
def test_hub_rows_become_documents(monkeypatch):
    import datasets

    asked = []

    def load(repo, config, *, split, streaming, download_config):
        assert not streaming
        asked.append((repo, config, split, download_config.local_files_only, datasets.config.HF_HUB_OFFLINE))
        return datasets.Dataset.from_dict({"text": ["a", "b"], "n": [1, 2]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_documents("org/name:raw@test[:5%]", offline=True) == ("a", "b")
    assert asked == [("org/name", "raw", "test[:5%]", True, True)]


@pytest.fixture
def streamed(tmp_path, monkeypatch):
    """A data set in a local folder, as `datasets` takes one, in place of the hub's, that is streamed."""
    import datasets

    folder = tmp_path / "hub" / "org" / "name"
    folder.mkdir(parents=True)
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *rest, **others: load(f"hub/{name}", *rest, **others))
    (folder / "train.jsonl").write_text("".join(f'{{"text": "document {n}", "n": {n}}}\n' for n in range(50)))
    monkeypatch.chdir(tmp_path)
    hub._beginning.cache_clear()
    yield "stream:org/name"
    hub._beginning.cache_clear()


@pytest.mark.torch
def test_the_beginning_of_a_stream_is_read_once(streamed, monkeypatch):
    monkeypatch.setattr(hub, "STREAMED_CHARACTERS", 100)
    first = read_documents(streamed)
    assert first[:2] == ("document 0", "document 1")
    assert len(first) == 10  # ten of ten characters
    Path("hub/org/name/train.jsonl").unlink()
    assert read_documents(streamed) == first


@pytest.mark.torch
def test_a_folder_is_not_read_in_place_of_a_data_set(streamed):
    Path("org/name").mkdir(parents=True)
    with pytest.raises(LbdslError, match="org/name is a folder of the working directory") as caught:
        read_documents(streamed)
    assert code_of(caught) == "LB440"


@pytest.mark.torch
def test_a_stream_that_ends_is_shorter(streamed):
    assert len(read_documents(streamed)) == 50


@pytest.mark.torch
def test_a_stream_that_breaks_off_is_a_coded_error(streamed, monkeypatch):
    import datasets

    def rows():
        yield {"text": "one"}
        raise ConnectionError("connection reset")

    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *_, **__: datasets.IterableDataset.from_generator(
            rows, features=datasets.Features({"text": datasets.Value("string")})
        ),
    )
    with pytest.raises(LbdslError, match="broke off after 1 document") as caught:
        read_documents(streamed)
    assert code_of(caught) == "LB445"


@pytest.mark.torch
def test_a_stream_needs_the_network_and_a_text(streamed):
    with pytest.raises(LbdslError, match="network") as caught:
        read_documents(streamed, offline=True)
    assert code_of(caught) == "LB445"
    Path("hub/org/name/train.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(LbdslError, match="no column") as caught:
        read_documents(streamed)
    assert code_of(caught) == "LB443"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (ValueError("BuilderConfig 'x' not found"), "configuration"),
        (ConnectionError("no route"), "network"),
        (FileNotFoundError("nothing"), "name"),
        (RuntimeError("Dataset scripts are no longer supported, but found name.py"), "plain files"),
    ],
)
@pytest.mark.torch
def test_hub_failures_are_coded(monkeypatch, problem, words):
    import datasets

    def load(*_args, **_kwargs):
        raise problem

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(LbdslError) as caught:
        read_documents("org/name")
    assert code_of(caught) == "LB445"
    assert words in caught.value.diagnostics[0].help[0]
