"""The language server as an editor meets it: a process, and messages over its standard streams."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbdsl import check_recipe
from tests.editor.lsp_client import URI, Client, where

WITHOUT = importlib.util.find_spec("pygls") is None
pytestmark = pytest.mark.skipif(WITHOUT, reason='the language server is an extra: pip install ".[editor]"')

DOCUMENT = {"textDocument": {"uri": URI}}


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    client = Client(options={"docs": "https://example.org/language"})
    yield client
    assert client.close() == 0
    assert client.process.stderr is not None
    assert client.process.stderr.read() == b""


@pytest.fixture
def client(shared: Client) -> Iterator[Client]:
    yield shared
    shared.tell("textDocument/didClose", DOCUMENT)
    assert shared.wait("textDocument/publishDiagnostics", uri=URI, diagnostics=[])
    shared.said.clear()


def test_diagnostics(client: Client) -> None:
    first, second = client.open("let $a = 1\nlet $a = 2\nlayers $a keep\nwhere sensitvity < 1 drop\n")
    assert (first["code"], first["severity"], first["source"]) == ("LB112", 1, "lbdsl")
    assert first["range"] == where(1, 4, 6)
    assert first["codeDescription"]["href"] == "https://example.org/language#lb112"
    related = first["relatedInformation"][0]
    assert (related["message"], related["location"]["range"]) == ("first defined here", where(0, 4, 6))
    assert related["location"]["uri"] == URI
    assert second["message"].splitlines()[:2] == ["no metric `sensitvity`", "help: did you mean `sensitivity`?"]


def test_positions_after_an_emoji_are_in_utf_16(client: Client) -> None:
    found = client.open('recipe "😀😀" ?\nelse keep # 😀\n')
    assert [d["range"] for d in found if d["severity"] == 1] == [where(0, 14, 15)]
    assert client.edit(2, {"range": where(0, 13, 15), "text": ""}) == []
    found = client.edit(3, {"range": where(1, 14, 14), "text": "\nelse keep"})
    assert [d["code"] for d in found] == ["LB201"]
    assert found[0]["range"] == where(2, 0, 9)


@pytest.mark.large
def test_another_encoding_is_agreed_on() -> None:
    client = Client(encodings=["utf-32", "utf-16"])
    assert client.server["capabilities"]["positionEncoding"] == "utf-32"
    found = client.open('recipe "😀😀" ?\nelse keep\n')
    assert found[0]["range"] == where(0, 12, 13)
    assert client.close() == 0


def test_incremental_edits_are_followed(client: Client) -> None:
    """A hundred random edits, several a message; in the end the server's text is ours."""
    rng = random.Random(5)
    text = "layers 0-3 keep\nelse swa(window=64)\n"
    client.open(text)
    for version in range(2, 27):
        changes = []
        for _ in range(4):
            start = rng.randrange(len(text) + 1)
            end = min(len(text), start + rng.randrange(4))
            new = rng.choice(["", "a", " ", "\n", "drop", "$x", "(", "5"])
            places = [(text.count("\n", 0, at), at - (text.rfind("\n", 0, at) + 1)) for at in (start, end)]
            changes.append({"range": where(*places[0], places[1][1], places[1][0]), "text": new})
            text = text[:start] + new + text[end:]
        client.tell("textDocument/didChange", {"textDocument": {"uri": URI, "version": version}, "contentChanges": changes})
    last = client.edit(27, {"range": where(0, 0), "text": "?"})
    whole = client.edit(28, {"text": "?" + text})
    assert last == whole


def test_completion(client: Client) -> None:
    client.open("param $w: tokens = 64\nlayers 0-3 \nelse swa(window=$)\nassert kv\n")
    items = client.at("completion", 1, 11)["items"]
    assert {"keep", "drop", "swa", "except", "where"} <= {item["label"] for item in items}
    swa = next(item for item in items if item["label"] == "swa")
    assert swa["textEdit"] == {"range": where(1, 11), "newText": "swa(window=${1:512})"}
    assert swa["insertTextFormat"] == 2
    assert "Longformer" in swa["documentation"]["value"]
    variable = client.at("completion", 2, 17)["items"]
    found = next(item for item in variable if item["kind"] == 6)
    assert (found["label"], found["textEdit"]["range"]) == ("$w", where(2, 16, 17))


def test_hover_definition_references_rename(client: Client) -> None:
    client.open("param $w: tokens = 64\nlayers 0 swa(window=$w)\nelse swa(window=$w, sinks=4)\n")
    assert "Default: 64" in client.at("hover", 1, 21)["contents"]["value"]
    assert client.at("definition", 2, 17) == {"uri": URI, "range": where(0, 6, 8)}
    uses = [where(0, 6, 8), where(1, 20, 22), where(2, 16, 18)]
    assert [use["range"] for use in client.at("references", 2, 17, context={"includeDeclaration": True})] == uses
    assert [use["range"] for use in client.at("references", 2, 17, context={"includeDeclaration": False})] == uses[1:]
    assert client.at("prepareRename", 1, 22) == {"range": where(1, 20, 22), "placeholder": "$w"}
    assert client.at("prepareRename", 1, 1) is None
    edit = client.at("rename", 1, 21, newName="$width")
    assert edit["changes"][URI] == [{"range": use, "newText": "$width"} for use in uses]
    assert "is not a valid name" in client.at("rename", 1, 21, newName="two words", fails=True)["message"]


def test_fixes(client: Client) -> None:
    text = "layers 0:4 keep\nwhere sensitvity < 1 drop\nelse swa(windw=512)\n"
    found = client.open(text)

    def actions(line: int, **context: object) -> list[dict]:
        return client.ask(
            "textDocument/codeAction", {**DOCUMENT, "range": where(line, 8), "context": {"diagnostics": found, **context}}
        )

    quick, every = actions(1)
    assert (quick["title"], quick["kind"], quick["isPreferred"]) == ("write `sensitivity`", "quickfix", True)
    assert quick["edit"]["changes"][URI] == [{"range": where(1, 6, 16), "newText": "sensitivity"}]
    assert quick["diagnostics"] == [found[1]]
    assert [edit["newText"] for edit in every["edit"]["changes"][URI]] == ["0-3", "sensitivity", "window"]
    assert [action["kind"] for action in actions(1, only=["source.fixAll"])] == ["source.fixAll"]
    assert [action["kind"] for action in actions(1, only=["quickfix"])] == ["quickfix"]
    edits = every["edit"]["changes"][URI]
    left = client.edit(2, *({"range": edit["range"], "text": edit["newText"]} for edit in reversed(edits)))
    assert not [d for d in left if d["severity"] == 1]


def test_formatting_symbols_and_colours(client: Client) -> None:
    client.open("layers  0-3   keep\nelse keep\n")
    options = {"options": {"tabSize": 4, "insertSpaces": True}}
    assert client.ask("textDocument/formatting", {**DOCUMENT, **options}) == [
        {"range": where(0, 0, 0, 1), "newText": "layers 0-3 keep\n"}
    ]
    assert [symbol["name"] for symbol in client.ask("textDocument/documentSymbol", DOCUMENT)] == ["1 layers 0-3", "2 else"]
    data = client.ask("textDocument/semanticTokens/full", DOCUMENT)["data"]
    assert data[:10] == [0, 0, 6, 0, 0, 0, 8, 1, 7, 0]
    client.edit(2, {"text": "layers"})
    assert client.ask("textDocument/formatting", {**DOCUMENT, **options}) is None


def test_truncations_of_a_recipe_break_nothing(client: Client) -> None:
    """Every feature at the end of each beginning of a recipe, brackets and strings open."""
    text = (Path(__file__).parents[2] / "recipes" / "quickstart.lbr").read_text(encoding="utf-8") + 'recipe "a\\q😀'
    client.open("")
    for version, cut in enumerate(range(0, len(text) + 1, 11), start=2):
        part = text[:cut]
        client.tell(
            "textDocument/didChange", {"textDocument": {"uri": URI, "version": version}, "contentChanges": [{"text": part}]}
        )
        line = part.count("\n")
        character = len(part[part.rfind("\n") + 1 :].encode("utf-16-le")) // 2
        for feature in ("completion", "hover", "definition", "prepareRename"):
            client.at(feature, line, character)
        client.ask(
            "textDocument/codeAction", {**DOCUMENT, "range": where(0, 0, character, line), "context": {"diagnostics": []}}
        )
        for feature in ("documentSymbol", "semanticTokens/full"):
            client.ask(f"textDocument/{feature}", DOCUMENT)
        client.ask("textDocument/formatting", {**DOCUMENT, "options": {"tabSize": 4, "insertSpaces": True}})


def test_unknown_texts_and_odd_places_are_answered(client: Client) -> None:
    client.open("else keep\n", URI)
    for feature in ("completion", "hover", "definition"):
        assert client.at(feature, 5, 5, uri="file:///never/opened.lbr") is None
        client.at(feature, 900, 900)
    client.open("else keep", "untitled:Untitled-1")
    client.tell("textDocument/didClose", {"textDocument": {"uri": "untitled:Untitled-1"}})


@pytest.mark.torch
def test_hints_of_the_workspaces_model(tmp_path: Path) -> None:
    from tests.tiny_model import save_tiny_model

    save_tiny_model(tmp_path / "model", layers=6)
    (tmp_path / "lbdsl.toml").write_text('[lsp]\nmodel = "model"\n', encoding="utf-8")
    client = Client(root=tmp_path)
    client.open("layers 0-1 keep\nlowest 2 by nll drop\nelse keep\n")
    client.wait("workspace/inlayHint/refresh")
    hints = client.ask("textDocument/inlayHint", {**DOCUMENT, "range": where(0, 0, 0, 9)})
    assert [hint["label"] for hint in hints] == ["claims 2 layers", "claims at most 2 layers", "needs measurements"]
    assert hints[0]["position"] == {"line": 0, "character": 15}
    assert client.edit(2, {"range": where(0, 9, 10), "text": "8"})[0]["code"] == "LB300"
    assert client.close() == 0


@pytest.mark.large
def test_a_model_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    client = Client(options={"model": "no/such-model"}, root=tmp_path)
    said = client.wait("window/showMessage")
    assert "no/such-model" in said["message"]
    assert client.open("else keep\n") == []
    assert client.close() == 0


@pytest.mark.large
def test_neither_torch_nor_transformers_is_loaded() -> None:
    code = (
        "import sys, atexit; from lbdsl.cli.app import main\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr))\n"
        "main(['lsp'])"
    )
    client = Client(code=code)
    client.open("layers 0-3 keep\nwhere nll < 0.1 drop\nelse swa(window=4)\n")
    client.at("completion", 0, 11)
    client.at("hover", 2, 6)
    assert client.close() == 0
    assert client.process.stderr is not None
    assert client.process.stderr.read().strip() == b"[]"


@pytest.mark.large
def test_a_large_recipe_does_not_hold_up_completion(client: Client) -> None:
    text = "".join(f"layers {n} where nll < 0.{n + 1} swa(window={64 + n})\n" for n in range(2500)) + "else keep\n"
    client.tell("textDocument/didOpen", {"textDocument": {"uri": URI, "languageId": "lbr", "version": 1, "text": text}})
    time.sleep(0.2)  # the check has begun
    assert "keep" in {item["label"] for item in client.at("completion", 2500, 5)["items"]}
    assert not any(message.get("method") == "textDocument/publishDiagnostics" for message in client.said)
    found = client.edit(2, {"range": where(0, 0, 6), "text": "layres"})
    assert found[0]["code"] == "LB001"


def seconds(client: Client) -> float:
    """The clock of an answer's cost: the server's own seconds of CPU where the system tells them, since other tests may run
    beside this one; else the time of day. benchmarks/lsp_speed.py measures what a user waits."""
    stat = Path(f"/proc/{client.process.pid}/stat")
    if not stat.is_file():
        return time.perf_counter()
    user, system = stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.large
def test_an_edit_of_two_hundred_lines_costs_no_more_than_three_checks(client: Client) -> None:
    """A change, a completion asked for right after it, and the change's findings. Seconds alone would say how loaded the
    machine is."""
    lines = ['recipe "speed"', "param $window: tokens in 64..8Ki = 256"]
    lines += [f'layers {n} where nll < 0.{n + 1} swa(window={64 + n}) because "rule {n}"' for n in range(197)]
    text = "\n".join([*lines, "else keep"]) + "\n"
    client.open(text)
    check_recipe(text)
    rounds = []
    for first in range(2, 11, 3):
        start = seconds(client)
        for version in range(first, first + 3):
            client.tell(
                "textDocument/didChange",
                {
                    "textDocument": {"uri": URI, "version": version},
                    "contentChanges": [{"range": where(100, 7, 8 if version > 2 else 9), "text": str(version % 10)}],
                },
            )
            assert client.at("completion", 150, 9)
            client.wait("textDocument/publishDiagnostics", uri=URI, version=version)
        spent, start = seconds(client) - start, time.process_time()
        for _ in range(3):
            check_recipe(text)
        rounds.append(spent / (time.process_time() - start))
    assert min(rounds) < 3, rounds
