"""`check --format sarif` against OASIS's schema, and annotations for GitHub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lbdsl.cli.check import check
from lbdsl.core.diagnostic import Severity, error, note, warning
from lbdsl.core.span import Source
from lbdsl.report.diagnostics import capped
from lbdsl.report.diagnostics_formats import github_text, sarif_log, uri_of
from tests.json_schema import problems

DATA = Path(__file__).parents[1] / "data"
BAD = """\
layres 5 drop
else keep
layers 3 drop
let $a = 1
let $a = 2
lowest 3 sensitvity drop
heal { tokens = 3k, lr = 0 }
where nll < 0.1 drop
layers 0 1 2 swa(window=4k)
"""


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema of SARIF 2.1.0, errata 01, as OASIS publishes it."""
    return json.loads((DATA / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))


def sarif(*files: object) -> dict[str, Any]:
    done = CliRunner().invoke(check, ["--format", "sarif", *map(str, files)])
    assert done.exit_code in (0, 1)
    return json.loads(done.stdout)


def test_sarif_fits_the_schema(schema: dict[str, Any], tmp_path: Path) -> None:
    for name, text in (("bad", BAD), ("good", "else keep\n"), ("white space é", "layers 7-4 keep\nlayers 0:4 drop")):
        (tmp_path / f"{name}.lbr").write_text(text, encoding="utf-8")
    files = [tmp_path / f"{name}.lbr" for name in ("bad", "good", "white space é", "missing")]
    for log in (sarif(*files), sarif(files[1])):
        assert list(problems(log, schema, schema)) == []


def test_the_validator_finds_what_is_wrong(schema: dict[str, Any]) -> None:
    source = Source("a.lbr", "else keep")
    log = sarif_log([("a.lbr", error("LB101", "no", source.span(0, 4)))], "1")
    assert list(problems(log, schema, schema)) == []
    for path, value in (
        (("version",), "2.0"),
        (("runs", 0, "results", 0, "level"), "fatal"),
        (("runs", 0, "results", 0, "ruleIndex"), -2),
        (("runs", 0, "tool"), {}),
        (("runs", 0, "results", 0, "locations", 0, "physicalLocation", "region", "startLine"), 0),
        (("runs", 0, "results", 0, "extra"), 1),
        (("runs", 0, "results", 0, "message"), "text"),
    ):
        broken = json.loads(json.dumps(log))
        at = broken
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        assert list(problems(broken, schema, schema)), path


def test_sarif_says_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "bad.lbr"
    file.write_text(BAD, encoding="utf-8")
    run = sarif(file, tmp_path / "missing.lbr")["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == sorted(set(rules))
    first = run["results"][0]
    assert (first["ruleId"], first["level"]) == ("LB001", "error")
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    place = first["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 7}
    assert place["artifactLocation"]["uri"] == file.as_uri()
    change = first["fixes"][0]["artifactChanges"][0]["replacements"][0]
    assert change["insertedContent"]["text"] == "layers"
    assert change["deletedRegion"] == place["region"]
    twice = next(result for result in run["results"] if result["ruleId"] == "LB112")
    assert twice["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 4
    missing = next(result for result in run["results"] if result["ruleId"] == "LB020")
    assert "region" not in missing["locations"][0]["physicalLocation"]
    assert missing["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith("/missing.lbr")


def test_uris() -> None:
    assert uri_of("a b/é.lbr") == "a%20b/%C3%A9.lbr"
    assert uri_of("<stdin>") == "stdin"
    assert uri_of("\udcff.lbr") == "%FF.lbr"
    assert uri_of("/a b.lbr") == "file:///a%20b.lbr"


def test_github_annotations(tmp_path: Path) -> None:
    file = tmp_path / "bad.lbr"
    file.write_text(BAD, encoding="utf-8")
    lines = CliRunner().invoke(check, ["--format", "github", str(file)]).stdout.splitlines()
    assert lines[0] == (
        f"::error file={file},line=1,col=1,endLine=1,endColumn=7,title=lbdsl LB001::"
        "unknown statement `layres`%0Ahelp: did you mean `layers`?"
    )
    assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in lines)


def test_github_escapes() -> None:
    source = Source("a,b:c%.lbr", "one\ntwo")
    found = [("x", warning("LB119", "50% of\nit: a, b", source.span(0, 5))), ("d,e.lbr", note("LB206", "none"))]
    assert github_text(found) == (
        "::warning file=a%2Cb%3Ac%25.lbr,line=1,col=1,endLine=2,title=lbdsl LB119::50%25 of%0Ait: a, b\n"
        "::notice file=d%2Ce.lbr,title=lbdsl LB206::none\n"
    )
    assert {Severity.ERROR, Severity.WARNING, Severity.NOTE} == set(Severity)


WRONG = "".join(f"nonsense{line} here\n" for line in range(520))
SOME = "".join(WRONG.splitlines(keepends=True)[:60])


@pytest.mark.parametrize("form", ["rich", "concise", "github"])
def test_people_get_twenty_findings_a_file(form: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.lbr").write_text(SOME, encoding="utf-8")
    (tmp_path / "c.lbr").write_text("else keep\n", encoding="utf-8")
    done = CliRunner().invoke(check, ["--format", form, *(str(tmp_path / f"{name}.lbr") for name in "abc")])
    assert done.exit_code == 1
    assert done.stdout.count("LB001") == 40
    assert done.stdout.count("... and 40 more findings\n") == 2
    assert done.stdout.index("... and 40") < done.stdout.index("b.lbr")
    assert form != "rich" or "120 errors" in done.stderr


def test_an_error_is_not_hidden_by_warnings() -> None:
    found = [("a", warning("LB101", f"{number}")) for number in range(30)] + [("a", error("LB101", "no"))]
    (item,) = capped(found)
    assert [d.message for d in item.found] == [*map(str, range(19)), "no"]
    assert item.rest == "... and 11 more findings\n"


def test_programs_get_five_hundred_findings_a_file_and_a_word_of_the_rest(schema: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.lbr"
    path.write_text(WRONG, encoding="utf-8")
    done = CliRunner().invoke(check, ["--format", "json", str(path), str(tmp_path / "missing.lbr")])
    assert done.exit_code == 1
    found = json.loads(done.stdout)["diagnostics"]
    assert [item["code"] for item in found] == ["LB001"] * 500 + ["LB474", "LB020"]
    assert found[500]["message"] == "20 more findings of this file are left out"
    assert (found[500]["severity"], found[500]["file"]) == ("note", str(path))
    log = sarif(path)
    assert list(problems(log, schema, schema)) == []
    assert len(log["runs"][0]["results"]) == 501


def test_verbs_show_twenty_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lbdsl.cli.app import main

    (tmp_path / "a.lbr").write_text(WRONG, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(tmp_path / "a.lbr"), str(tmp_path)])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("LB001") == 20
    assert "... and 500 more findings\n" in said
