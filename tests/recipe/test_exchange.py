"""Recipes as JSON and YAML: `lbdsl convert`, its errors and its schema."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from lbdsl.api.converting import convert_recipe
from lbdsl.cli.convert import convert
from lbdsl.core.span import Source
from lbdsl.language import tree
from lbdsl.language.format import format_text
from lbdsl.language.parse import parse
from lbdsl.recipe.exchange import STATEMENTS, from_exchange, recipe_schema, to_exchange
from lbdsl.recipe.exchange_text import json_text
from lbdsl.recipe.load import recipe_from_text

ROOT = Path(__file__).parents[2]
SPEC = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "spec").glob("*.md")))
VALID = (ROOT / "tests" / "spec" / "valid.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```lbr[^\n]*\n(.*?)^```\n", re.M | re.S)
RECIPES = [
    path.read_text(encoding="utf-8")
    for folder in ("recipes", "tests/recipes", "examples")
    for path in sorted((ROOT / folder).rglob("*.lbr"))
]
PARSED = [text for text in [*BLOCK.findall(SPEC), *RECIPES] if not parse(Source("t", text)).diagnostics]

FULL = """lbr 1
recipe "all of it"
requires model.layers >= 4

include "other.lbr" sha256 "00ff"
param $window: tokens in 64..8Ki = 256
param $which: str in {"x", "y"} = "x"
let $n = -3
group @ends = first 2, last 1

measure { metric = nll; data = "builtin:pydoc"; tokens = 8Ki; seq = 1Ki }

layers @ends keep because "sinks\\n\\"here\\""
layers 3 where nll < 0.1 swa(64) + drop(target=mlp)
lowest 6 by sensitivity drop
lowest of rest by kl(swa(window=$window, sinks=4)) until kv(32Ki) <= 50% swa(64, sinks=4)
modules "*.k_proj", ~"v_\\.\\"" in layers 4-27 where nll < 0.1 quantize(bits=4)
else keep

heal { method = lora(rank=16); loss = kl + 0.1 * hidden; lr = 1e-3 }

assert kv(32Ki) <= 50%

"""


def tree_of(text: str) -> Any:
    return parse(Source("t", text)).unwrap().statements


def document(*statements: Any) -> str:
    return json.dumps({"format_version": 1, "statements": statements})


def run(*arguments: object, stdin: str | None = None):
    return CliRunner().invoke(convert, [str(argument) for argument in arguments], input=stdin)


# Identity ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "text"),
    [*(("json", text) for text in (FULL, *PARSED[::3])), *(("yaml", text) for text in (FULL, *PARSED[::9]))],
    ids=lambda text: " ".join(text.split())[:30],
)
def test_there_and_back_is_the_identity(text: str, form: Any) -> None:
    written = to_exchange(text, "t.lbr", form)
    if {"LB045"} == {problem.code for problem in written.diagnostics}:
        assert "LB112" in {problem.code for problem in recipe_from_text(text).diagnostics}
        return
    other = from_exchange(written.unwrap(), f"t.{form}", form)
    codes = {problem.code for problem in other.diagnostics}
    if codes:
        # Names are not looked up on the way out, and are on the way in.
        assert codes <= {"LB042", "LB043"}
        assert recipe_from_text(text).value is None
        return
    back = other.unwrap()
    assert tree_of(back) == tree_of(text)
    assert to_exchange(back, "t.lbr", form).unwrap() == written.unwrap()


def test_the_recipe_is_the_same_but_for_its_text() -> None:
    text = BLOCK.findall(VALID)[1]
    back = from_exchange(to_exchange(text, "t", "json").unwrap(), "t", "json").unwrap()
    old, new = (recipe_from_text(item, "t").unwrap() for item in (text, back))
    blocks = {"measure": None, "heal": None, "eval": None}
    for block in blocks:
        one, other = (value and value.model_dump() for value in (getattr(old, block), getattr(new, block)))
        assert one == other
    assert replace(old, text="", **blocks) == replace(new, text="", **blocks)
    assert format_text(back).unwrap() == back


def test_the_text_that_comes_back_is_grouped_and_canonical() -> None:
    assert from_exchange(to_exchange(FULL, "t", "yaml").unwrap(), "t", "yaml").unwrap() == format_text(FULL).unwrap()


def test_every_statement_and_selector_has_a_row() -> None:
    nodes = {kind.node for kind in STATEMENTS}
    assert nodes == {*get_args(tree.Statement), *get_args(tree.Selector)} - {tree.RuleStatement}


def test_what_it_looks_like() -> None:
    written = json.loads(to_exchange(FULL, "t", "json").unwrap())["statements"]
    assert written[4] == {"param": "$window", "type": "tokens", "in": "64..8Ki", "default": 256}
    assert written[5] == {"param": "$which", "type": "str", "in": '{"x", "y"}', "default": '"x"'}
    assert written[6] == {"let": "$n", "value": -3}
    assert written[10] == {"layers": 3, "where": "nll < 0.1", "do": "swa(64) + drop(target=mlp)"}
    assert written[12] == {
        "rank": "lowest",
        "of_rest": True,
        "by": "kl(swa(window=$window, sinks=4))",
        "until": "kv(32Ki) <= 50%",
        "do": "swa(64, sinks=4)",
    }
    assert written[13]["modules"] == '"*.k_proj", ~"v_\\.\\""'
    assert written[15] == {"heal": {"method": "lora(rank=16)", "loss": "kl + 0.1 * hidden", "lr": "1e-3"}}


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ({"layers": "0-3", "do": "swa(window=512) + drop(mlp)"}, "layers 0-3 swa(window=512) + drop(mlp)\n"),
        ({"layers": 0, "do": "keep", "because": None}, "layers 0 keep\n"),
        ({"let": "$n", "value": 2.5}, "let $n = 2.5\n"),
        ({"rank": "highest", "amount": "10%", "by": "kl(drop)", "do": "drop"}, "highest 10% by kl(drop) drop\n"),
        ({"param": "$w", "type": "int", "in": "1..2"}, "param $w: int in 1..2\n"),
        ({"eval": {}}, "eval {}\n"),
        ({"group": "@a", "layers": "first 2,last 1"}, "group @a = first 2, last 1\n"),
        ({"assert": True}, "assert true\n"),
        ({"let": "$x", "value": '["1", 1, [], f(), false]'}, 'let $x = ["1", 1, [], f(), false]\n'),
        ({"measure": {"data": '"a.txt"', "seed": 0}}, 'measure { data = "a.txt"; seed = 0 }\n'),
        (
            {"heal": {"tokens": "1k", "stages": [{"stage": "match", "lr": 0.5}, {"stage": "distill"}]}},
            "heal { tokens = 1k; stage match { lr = 0.5 }; stage distill {} }\n",
        ),
    ],
)
def test_forms_that_a_person_may_write(statement: Any, text: str) -> None:
    assert from_exchange(document(statement), "t.json", "json").unwrap() == text


def test_lines_break_within_brackets() -> None:
    text = "assert (kv(8Ki) # why\n <= 50%)\nlayers (0-3\n , 5) keep\nelse swa(window=64\n * 2)\n"
    back = from_exchange(to_exchange(text, "t", "json").unwrap(), "t", "json").unwrap()
    assert back == "assert kv(8Ki) <= 50%\n\nlayers 0-3, 5 keep\nelse swa(window=64 * 2)\n"


def test_numbers_keep_their_text() -> None:
    for text in ("1e-3", "0.10", "-0.5", "-0", "1E2", "007"):
        made = from_exchange(f'{{"format_version": 1, "statements": [{{"let": "$x", "value": "{text}"}}]}}', "t", "json")
        assert made.unwrap() == f"let $x = {text}\n"
        (statement,) = json.loads(to_exchange(made.unwrap(), "t", "json").unwrap())["statements"]
        assert statement["value"] == (-0.5 if text == "-0.5" else text)


def test_lists_in_json_that_fit_in_100_columns_stay_on_a_line() -> None:
    fits, longer = (json_text({"statements": [["x" * count]]}).splitlines() for count in (92, 93))
    assert (len(fits), max(map(len, fits))) == (5, 100)
    assert len(longer) == 7


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "code", "message", "help"),
    [
        ({"layrs": "0-3", "do": "keep"}, "LB042", "`statements[0]` has no key `layrs`", "did you mean `layers`?"),
        ({"layers": "0-3", "doo": "keep"}, "LB042", "`statements[0]` has no key `doo`", "did you mean `do`?"),
        ({"heal": {"tokns": 3}}, "LB042", "`statements[0].heal` has no key `tokns`", "did you mean `tokens`?"),
        ({"param": "$w", "type": "int", "domain": "1..2"}, "LB042", "`statements[0]` has no key `domain`", "keys:"),
        ({"else": False, "do": "keep"}, "LB043", "`statements[0].else`: must be `true`", ""),
        ({"else": True}, "LB043", "`statements[0]`: needs `do`", ""),
        ({"else": 1, "do": "keep"}, "LB043", "`statements[0].else`: must be `true`", ""),
        ({"else": True, "do": []}, "LB043", "`statements[0].do`: must be text in the recipe language", ""),
        ({"recipe": 5}, "LB043", "`statements[0].recipe`: must be text", ""),
        ({"what": 5}, "LB043", "no key says what statement this is", "one of `lbr`"),
        ("else keep", "LB043", "`statements[0]`: a statement is an object", ""),
        ({"let": "$a", "value": None}, "LB043", "`statements[0].value`: must be text", ""),
        ({"heal": {"stages": {}}}, "LB043", "`statements[0].heal.stages`: must be a list", ""),
        ({"heal": {"stages": [{"stage": "x"}]}}, "LB043", "`statements[0].heal.stages[0].stage`: must be one of", ""),
        ({"heal": {"stages": [{"lr": 1}]}}, "LB043", "`statements[0].heal.stages[0]`: needs `stage`", ""),
        ({"lbr": "a"}, "LB044", "", ""),
        ({"param": "a b", "type": "int"}, "LB044", "", ""),
        ({"rank": "low", "by": "nll", "do": "drop"}, "LB044", "", ""),
        ({"rank": "lowest", "by": 3, "do": "drop"}, "LB044", "", ""),
        ({"rank": "lowest", "amount": "1, 2", "by": "nll", "do": "drop"}, "LB044", "", ""),
        ({"modules": "", "do": "drop"}, "LB044", "", ""),
        ({"param": "$a", "type": "int", "in": 3}, "LB044", "", ""),
        ({"param": "$a", "type": "int", "in": "1..2 = 3"}, "LB044", "must hold one value a key and nothing else", ""),
        ({"else": True, "do": 'drop because "x"'}, "LB044", "must hold one value a key and nothing else", ""),
        ({"where": "nll <", "do": "drop"}, "LB044", "the right side of `<` is missing", ""),
        ({"where": "nll < 1 keep\nelse drop", "do": "drop"}, "LB044", "", ""),
        ({"where": "nll < 1", "do": "drop\nelse drop"}, "LB044", "must hold one value a key and nothing else", ""),
        ({"where": "nll < 1 # all", "do": "drop"}, "LB044", "", ""),
        ({"measure": {"seed": "1; tokens = 2"}}, "LB044", "must hold one value a key and nothing else", ""),
        ({"where": "", "do": "drop"}, "LB044", "", ""),
        ({"layers": "4-", "do": "drop"}, "LB044", "", ""),
        ({"measure": {"data": "builtin:pydoc"}}, "LB044", "", "a string of the language has quotes of its own"),
        ({"let": "$a", "value": 10**17 * 5}, None, "", ""),
    ],
)
def test_errors_say_where(statement: Any, code: str | None, message: str, help: str) -> None:
    found = from_exchange(document(statement), "t.json", "json")
    if code is None:
        assert found.value is not None
        return
    assert found.value is None
    first = found.diagnostics[0]
    assert first.code == code
    assert message in first.message
    assert help in "\n".join(first.help)
    assert not any("let $NAME" in text for text in first.help)


def test_a_misspelt_key_is_one_error() -> None:
    text = document({"layers": 3, "doo": "keep"}, {"rank": "lowest", "bye": "nll", "do": "drop"})
    found = from_exchange(text, "t", "json")
    assert [problem.code for problem in found.diagnostics] == ["LB042", "LB042"]


def test_all_errors_come_in_one_run_and_point_into_the_text() -> None:
    found = from_exchange(document({"where": "nll < 0.1 ?", "do": "drop"}, {"else": 1}, {"heal": {"x": 1}}), "t", "json")
    assert [problem.code for problem in found.diagnostics] == ["LB044", "LB043", "LB042"]
    assert found.diagnostics[0].span.text == "?"
    assert found.diagnostics[0].span.source.name == "t: statements[0].where"


def test_a_setting_given_twice_has_no_form() -> None:
    found = to_exchange("heal { tokens = 1k; tokens = 2k }", "t", "json")
    assert [problem.code for problem in found.diagnostics] == ["LB045"]
    assert found.diagnostics[0].span.text == "tokens"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2",
        "{} {}",
        "{'a': 1}",
        "NaN",
        '{"format_version": Infinity}',
        '{"a": 1, "a": 2}',
        "9" * 30,
        "[" * 5000,
        '{"a": ' * 5000,
        '"\\q"',
        "nul",
        "1.5.2",
        '{"a": "' + "x" * 2**21 + '"}',
        '{"a\\ud800": 1}',
    ],
)
def test_broken_json(text: str) -> None:
    found = from_exchange(text, "t.json", "json")
    assert found.value is None
    assert {problem.code for problem in found.diagnostics} <= {"LB041", "LB042", "LB043"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a: [1", ""),
        ("a: 1\na: 2", "t.yaml:2:1: the key `a` appears twice"),
        ("a: &x 1\nb: *x", "anchors and"),
        ("&a [*a, *a]", "anchors"),
        ("!!python/object:os.system x", "the tag"),
        ("a: !!int 3", "the tag"),
        ("--- 1\n--- 2", "a second"),
        ("? [1]\n: 2", "a key is plain text"),
        ("a: @b", "t.yaml:1:4"),
        ("[" * 5000, "nest"),
        ("\t- 1", ""),
        ("a: \x01", ""),
        ("- " * 5000 + "1", "nest"),
    ],
)
def test_broken_yaml(text: str, message: str) -> None:
    found = from_exchange(text, "t.yaml", "yaml")
    assert found.value is None
    assert [problem.code for problem in found.diagnostics] == ["LB041"]
    assert message in found.diagnostics[0].message


def test_yaml_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may be installed without it; what is read and refused is the same."""
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert from_exchange(to_exchange(FULL, "t", "yaml").unwrap(), "t", "yaml").unwrap() == format_text(FULL).unwrap()
    for text in ("a: [1", "a: 1\na: 2", "a: &x 1\nb: *x", "[" * 1000, "- " * 1000 + "1", "a: \x01", "a: @b", '"\\ud800"'):
        found = from_exchange(text, "t.yaml", "yaml")
        assert [problem.code for problem in found.diagnostics] == ["LB041"], text


def test_yaml_is_read_by_the_rules_of_its_core_schema() -> None:
    text = (
        "format_version: 1\nstatements:\n- recipe: on\n- recipe: 2024-01-01\n"
        "- {let: $a, value: yes}\n- {let: $b, value: 1e-3}\n- {let: $c, value: 012}\n- {let: $d, value: true}\n"
    )
    made = from_exchange(text, "t.yaml", "yaml").unwrap()
    assert made.splitlines()[:2] == ['recipe "on"', 'recipe "2024-01-01"']
    assert [line.partition("= ")[2] for line in made.splitlines()[3:]] == ["yes", "1e-3", "012", "true"]
    found = from_exchange(text.replace("012", "1_0"), "t.yaml", "yaml")
    assert [problem.code for problem in found.diagnostics] == ["LB044"]  # not a number of the recipe language


@pytest.mark.parametrize(
    "data",
    [
        "[]",
        "3",
        "null",
        "{}",
        '{"statements": []}',
        '{"format_version": 2, "statements": []}',
        '{"format_version": true, "statements": []}',
        '{"format_version": 1, "statements": {}}',
        '{"format_version": 1, "statements": [], "more": 1}',
    ],
)
def test_documents_of_another_shape(data: str) -> None:
    found = from_exchange(data, "t", "json")
    assert found.value is None
    assert {problem.code for problem in found.diagnostics} <= {"LB042", "LB043"}


@pytest.mark.parametrize(("levels", "code"), [(60, None), (70, "LB044"), (400, "LB044")])
def test_nesting_up_to_the_limit(levels: int, code: str | None) -> None:
    found = from_exchange(document({"let": "$a", "value": "(" * levels + "1" + ")" * levels}), "t", "json")
    assert [problem.code for problem in found.diagnostics] == [code] * (code is not None)
    assert code is None or "nest" in found.diagnostics[0].message


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_numbers_up_to_the_limit(form: Any) -> None:
    text = '{"format_version": 1, "statements": [{"let": "$a", "value": %s}]}'
    assert from_exchange(text % ("9" * 18), "t", form).unwrap() == f"let $a = {'9' * 18}\n"
    found = from_exchange(text % ("9" * 5000), "t", form)
    assert [problem.code for problem in found.diagnostics] == ["LB044"]
    assert "5000 digits" in found.diagnostics[0].message


# Schema --------------------------------------------------------------------------------------------------------------


@functools.cache
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="the schema is judged by the jsonschema package")
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.large
def test_every_recipe_as_json_fits_the_schema() -> None:
    valid = validator()
    texts = [text for text in [FULL, *RECIPES, *BLOCK.findall(VALID)] if not to_exchange(text, "t", "json").diagnostics]
    assert len(texts) > 20
    for text in texts:
        data = json.loads(to_exchange(text, "t", "json").unwrap())
        if from_exchange(json.dumps(data), "t", "json").value is not None:
            assert list(valid.iter_errors(data)) == []


@pytest.mark.parametrize(
    "statement",
    [
        {"layrs": "0-3", "do": "keep"},
        {"layers": "0-3", "doo": "keep"},
        {"heal": {"tokns": 3}},
        {"heal": {"stages": [{"lr": 3}]}},
        {"else": True},
        {"else": False, "do": "keep"},
        {"rank": "low", "by": "nll", "do": "drop"},
        {"recipe": 5},
        {"let": "$x", "value": None},
        3,
    ],
)
def test_the_schema_refuses_what_convert_refuses(statement: Any) -> None:
    assert not validator().is_valid({"format_version": 1, "statements": [statement]})


def test_the_schema_describes_statements_by_an_example() -> None:
    definitions = recipe_schema()["$defs"]
    assert definitions["LetForm"]["description"] == "`let $limit = 0.1`."
    assert definitions["RankForm"]["description"] == "`lowest 8 by sensitivity drop`."
    assert all("description" in definitions[f"{form.key.title()}Form"] for form in STATEMENTS)
    assert definitions["LayersForm"]["required"] == ["layers", "do"]


# The verb ------------------------------------------------------------------------------------------------------------


def test_forms_are_known_by_names(tmp_path: Path) -> None:
    source = tmp_path / "a.lbr"
    source.write_text(FULL)
    assert json.loads(run(source).stdout)["format_version"] == 1
    assert run(source, "-o", tmp_path / "a.yml").exit_code == 0
    assert (tmp_path / "a.yml").read_text().startswith("format_version: 1\n")
    assert run(tmp_path / "a.yml").stdout == format_text(FULL).unwrap()
    assert run(tmp_path / "a.yml", "--to", "json").stdout == run(source).stdout
    assert run(source, "--to", "lbr").stdout == format_text(FULL).unwrap()
    assert run("-", stdin="else keep # c").stdout == run("-", stdin="else keep").stdout
    assert run("-", "--from", "json", stdin=run(source).stdout).stdout == format_text(FULL).unwrap()


def test_files_are_not_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    assert run("-", "-o", out, stdin="else keep").exit_code == 0
    before = out.read_bytes()
    assert run("-", "-o", out, stdin="else keep").exit_code == 0
    refused = run("-", "-o", out, stdin="else drop")
    assert [problem.code for problem in refused.exception.diagnostics] == ["LB046"]
    assert out.read_bytes() == before
    assert run("-", "-o", out, "--force", stdin="else drop").exit_code == 0
    assert "drop" in out.read_text()
    missing = run("-", "-o", tmp_path / "no" / "a.json", stdin="else keep")
    assert [problem.code for problem in missing.exception.diagnostics] == ["LB047"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_usage(tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run(tmp_path / "a.txt").exit_code == 2
    assert run("--schema", "a.lbr").exit_code == 2
    assert json.loads(run("--schema").stdout) == recipe_schema()
    assert "Comments and spacing are lost" in " ".join(run("--help").stdout.split())
    bad = run("-", stdin="layers 3")
    assert (bad.exit_code, bad.stdout) == (1, "")
    assert "LB016" in bad.stderr


def test_the_api_never_raises() -> None:
    for source in ("lbr", "json", "yaml"):
        for to in ("lbr", "json", "yaml"):
            for text in ("", "{", "[]", "else keep", "\0", "a: b", "\ud800"):
                found = convert_recipe(text, source, to)  # type: ignore[arg-type]
                assert (found.value is None) == any(problem.is_error for problem in found.diagnostics)
