"""`include`: what is read, what is refused, and where findings stand."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.core.paths import nearest_path
from lbdsl.recipe import reading
from lbdsl.recipe.load import load_recipe, recipe_from_text
from lbdsl.recipe.reading import TextsReader
from lbdsl.recipe.schema import Recipe
from lbdsl.report.diagnostics import Style, diagnostic_json, diagnostics_text

PARTS = """\
param $window: tokens in 64..8Ki = 256
let $n = 2
group @ends = first $n, last 1
layers @ends keep because "the ends carry the model"
heal { tokens = 100k }
assert ppl_increase < 5%
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "r.lbr"


def errors(result: Diagnosed[Recipe]) -> list[str]:
    return [d.code for d in result.diagnostics if d.is_error]


def loaded(folder: Path, **files: str) -> Diagnosed[Recipe]:
    return load_recipe(write(folder, {f"{name}.lbr": text for name, text in files.items()}))


def test_what_an_included_file_defines_rules_and_sets_is_the_recipes(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, r='include "parts.lbr"\nelse swa(window=$window)\n', parts=PARTS).unwrap()
    assert [rule.text for rule in recipe.rules] == ["layers @ends keep", "else swa(window=$window)"]
    assert [rule.number for rule in recipe.rules] == [1, 2]
    assert recipe.params == {"window": 256}
    assert recipe.heal is not None
    assert recipe.heal.tokens == 100_000
    assert [item.text for item in recipe.asserts] == ["ppl_increase < 5%"]
    # Rules stand where the `include` does.
    turned = loaded(tmp_path, r='layers 1 drop\ninclude "parts.lbr"\nelse swa(window=$window)\n', parts=PARTS).unwrap()
    assert [rule.text for rule in turned.rules] == ["layers 1 drop", "layers @ends keep", "else swa(window=$window)"]


def test_values_from_outside_reach_included_parameters(tmp_path: Path) -> None:
    path = write(tmp_path, {"r.lbr": 'include "parts.lbr"\nelse swa(window=$window)\n', "parts.lbr": PARTS})
    assert load_recipe(path, {"window": "512"}).unwrap().params == {"window": 512}
    found = load_recipe(path, {"window": "3"})
    assert errors(found) == ["LB118"]


def test_definitions_come_before_use_across_files(tmp_path: Path) -> None:
    found = loaded(tmp_path, r='else swa(window=$window)\ninclude "parts.lbr"\n', parts=PARTS)
    assert "LB110" in errors(found)
    below = loaded(tmp_path, r='include "parts.lbr"\nlet $n = 2\nelse keep\n', parts="layers first $n keep\n")
    assert errors(below) == ["LB110"]


def test_paths_start_at_the_including_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "r.lbr": 'include "sub/a.lbr"\nelse keep\n',
            "sub/a.lbr": 'include "b.lbr"\ninclude "../c.lbr"\n',
            "sub/b.lbr": "layers 0 keep\n",
            "c.lbr": "layers 1 drop\n",
        },
    )
    recipe = load_recipe(path).unwrap()
    assert [rule.text for rule in recipe.rules] == ["layers 0 keep", "layers 1 drop", "else keep"]
    assert [item.path for item in recipe.included] == ["sub/a.lbr", "sub/b.lbr", "c.lbr"]


def test_findings_stand_in_the_file_they_are_about(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"r.lbr": 'include "sub/a.lbr"\nelse kep\n', "sub/a.lbr": "\nwhere nl < 3 drop\nlayers 4- keep\n"}
    )
    found = load_recipe(path)
    assert errors(found) == ["LB101", "LB102", "LB009"]
    places = [(d.span.source.name, d.span.start_line_column) for d in found.diagnostics if d.span and d.is_error]
    inner = str(tmp_path / "sub/a.lbr")
    assert places == [(str(path), (2, 6)), (inner, (2, 7)), (inner, (3, 8))]
    shown = diagnostics_text(found.diagnostics, Style(100, colour=False, unicode=False))
    assert f"{inner}:2:7" in shown
    assert "where nl < 3 drop" in shown
    assert [diagnostic_json(d)["file"] for d in found.diagnostics if d.is_error] == [
        str(path),
        inner,
        inner,
    ]


def test_nodes_of_a_recipe_know_their_file(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, r='include "parts.lbr"\nelse swa(window=$window)\n', parts=PARTS).unwrap()
    for node, name, text in [
        (recipe.rules[0], "parts.lbr", 'layers @ends keep because "the ends carry the model"'),
        (recipe.rules[1], "r.lbr", "else swa(window=$window)"),
        (recipe.asserts[0], "parts.lbr", "ppl_increase < 5%"),
    ]:
        assert node.span.source.name == str(tmp_path / name)
        assert node.span.text == text


def test_the_hash_covers_what_is_included(tmp_path: Path) -> None:
    files = {"r": 'include "a.lbr"\nelse keep\n', "a": 'include "b.lbr"\n', "b": "layers 0 keep\n"}
    first = loaded(tmp_path, **files).unwrap()
    assert loaded(tmp_path, **files).unwrap().sha256 == first.sha256
    again = loaded(tmp_path, **{**files, "b": "layers 0 keep # here\n"}).unwrap()
    assert again.sha256 != first.sha256
    assert again.text == first.text


def test_the_texts_alone_give_the_same_recipe(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, r='include "a.lbr"\nelse keep\n', a='include "b.lbr"\n', b="layers 0 keep\r\n").unwrap()
    texts = TextsReader((item.path, item.text, item.sha256) for item in recipe.included)
    again = recipe_from_text(recipe.text, recipe.path, reader=texts).unwrap()
    assert again == recipe


def test_a_hash_that_fits_and_one_that_does_not(tmp_path: Path) -> None:
    digest = sha256(b"layers 0 keep\n").hexdigest()
    for given, expected in ((digest, []), (digest.upper(), []), ("0" * 64, ["LB133"]), ("beef", ["LB133"])):
        found = loaded(tmp_path, r=f'include "a.lbr" sha256 "{given}"\nelse keep\n', a="layers 0 keep\n")
        assert errors(found) == expected
        if expected == ["LB133"]:
            assert digest in found.diagnostics[0].help[0]
            assert found.diagnostics[0].fix is None


@pytest.mark.parametrize(
    ("files", "chain"),
    [
        ({"r": 'include "r.lbr"\n'}, "r.lbr → r.lbr"),
        ({"r": 'include "a.lbr"\n', "a": 'include "r.lbr"\n'}, "r.lbr → a.lbr → r.lbr"),
        ({"r": 'include "a.lbr"\n', "a": 'include "b.lbr"\n', "b": 'include "a.lbr"\n'}, "a.lbr → b.lbr → a.lbr"),
    ],
)
def test_a_circle_is_an_error_with_its_chain(tmp_path: Path, files: dict[str, str], chain: str) -> None:
    found = loaded(tmp_path, **files)
    assert errors(found) == ["LB131"]
    assert chain in found.diagnostics[0].message


def test_a_link_cannot_hide_a_circle(tmp_path: Path) -> None:
    path = write(tmp_path, {"r.lbr": 'include "again/r.lbr"\n'})
    (tmp_path / "again").symlink_to(tmp_path)
    assert errors(load_recipe(path)) == ["LB131"]


def test_a_file_included_twice(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        r='include "a.lbr"\ninclude "b.lbr"\nelse keep\n',
        a='include "c.lbr"\n',
        b='include "c.lbr"\n',
        c="layers 0 keep\n",
    )
    assert errors(found) == ["LB132"]
    label = found.diagnostics[0].labels[0]
    assert label.span.source.name == str(tmp_path / "a.lbr")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../x.lbr", "LB126"),
        ("a/../../x.lbr", "LB126"),
        ("/etc/passwd", "LB126"),
        ("~/x.lbr", "LB126"),
        ("C:/x", "LB126"),
        ("..", "LB126"),
        ("sub\\\\x.lbr", "LB130"),
        ("", "LB130"),
        (" ", "LB130"),
        ("none.lbr", "LB130"),
        ("sub", "LB130"),
        ("out.lbr", "LB126"),
        ("outside/x.lbr", "LB126"),
        ("pipe", "LB130"),
        ("latin.lbr", "LB130"),
        ("big.lbr", "LB135"),
        (".", "LB130"),
        ("a\\nb", "LB130"),
    ],
)
def test_what_cannot_be_included(tmp_path: Path, path: str, code: str) -> None:
    folder = tmp_path / "recipes"
    write(folder, {"r.lbr": f'include "{path}"\nelse keep\n', "sub/x.lbr": ""})
    (tmp_path / "x.lbr").write_text("layers 0 keep\n")
    (folder / "out.lbr").symlink_to(tmp_path / "x.lbr")
    (folder / "outside").symlink_to(tmp_path)
    (folder / "latin.lbr").write_bytes(b"# \xe9\n")
    (folder / "big.lbr").write_text("#" * (2 * 2**20 + 1))
    os.mkfifo(folder / "pipe")
    found = load_recipe(folder / "r.lbr")
    assert errors(found) == [code]
    span = found.diagnostics[0].span
    assert span is not None
    assert span.text == f'"{path}"'


def test_the_nearest_name_is_said(tmp_path: Path) -> None:
    found = loaded(tmp_path, r='include "comon.lbr"\nelse keep\n', common="layers 0 keep\n")
    assert found.diagnostics[0].help == ("did you mean `common.lbr`?",)


def test_names_that_an_unread_file_may_define_are_not_missed_again(tmp_path: Path) -> None:
    found = loaded(tmp_path, r='include "none.lbr"\nlayers @core keep\nelse swa(window=$w)\n')
    assert errors(found) == ["LB130"]
    broken = loaded(tmp_path, r='include "a.lbr"\nlayers @core keep\n', a="group @core = 4-\n")
    assert errors(broken) == ["LB009"]


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        ('recipe "mine"\n', "LB134"),
        ("lbr 2\n", "LB124"),
        ("heal { tokens = 2k }\n", "LB213"),
        ("let $x = 1\n", "LB112"),
        ("group @g = 2\n", "LB112"),
        ("else keep\n", "LB201"),
    ],
)
def test_what_an_included_file_may_not_hold(tmp_path: Path, inner: str, code: str) -> None:
    mine = 'lbr 1\nrecipe "r"\nparam $x: int = 1\ngroup @g = 1\nheal { tokens = $x * 10k }\n'
    found = loaded(tmp_path, r=f'{mine}include "a.lbr"\nlayers @g keep\nelse keep\n', a=inner)
    problem = next(d for d in found.diagnostics if d.code == code)
    assert set(errors(found)) == {code}
    if code in ("LB213", "LB112", "LB201"):
        assert {problem.span.source.name, problem.labels[0].span.source.name} == {  # type: ignore[union-attr]
            str(tmp_path / "r.lbr"),
            str(tmp_path / "a.lbr"),
        }


def test_versions_of_all_files(tmp_path: Path) -> None:
    assert loaded(tmp_path, r='lbr 1\ninclude "a.lbr"\nelse keep\n', a="lbr 1\nlayers 0 keep\n").ok
    assert errors(loaded(tmp_path, r='lbr 1\ninclude "a.lbr"\nelse keep\n', a="lbr 1\nlbr 1\n")) == ["LB213"]


def test_limits_hold_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"f{i}": "" for i in range(65)}
    found = loaded(tmp_path, r="".join(f'include "{name}.lbr"\n' for name in many) + "else keep\n", **many)
    assert errors(found) == ["LB135"]
    assert found.diagnostics[0].message.endswith("more than 64 files")
    del many["f64"]
    assert loaded(tmp_path, r="".join(f'include "{name}.lbr"\n' for name in many) + "else keep\n", **many).ok
    half = "#" * 2**20 + "\n"
    found = loaded(tmp_path, r='include "a.lbr"\ninclude "b.lbr"\nelse keep\n', a=half, b=half)
    assert errors(found) == ["LB135"]
    assert found.diagnostics[0].message.endswith("more than 2 MiB")
    rules = "layers 0 keep;" * 101 + "\n"
    monkeypatch.setattr(reading, "MAX_RULES", 202)
    assert "LB135" not in errors(loaded(tmp_path, r='include "a.lbr"\ninclude "b.lbr"\n', a=rules, b=rules))
    monkeypatch.setattr(reading, "MAX_RULES", 201)
    assert "LB135" in errors(loaded(tmp_path, r='include "a.lbr"\ninclude "b.lbr"\n', a=rules, b=rules))
    deep = {f"d{i}": f'include "d{i + 1}.lbr"\n' for i in range(70)}
    assert errors(loaded(tmp_path, r='include "d0.lbr"\nelse keep\n', **deep)) == ["LB135"]


def test_a_plan_in_place_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "x.lbplan").write_text('{"applyable":true,"lbdsl_version":"0.1.0"}\n')
    found = load_recipe(tmp_path / "x.lbplan")
    assert errors(found) == ["LB138"]
    assert "lbdsl show" in found.diagnostics[0].help[0]


def test_a_recipe_that_is_not_there_and_one_that_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "half.lbr").write_text("else keep\n")
    found = load_recipe(tmp_path / "halv.lbr")
    assert errors(found) == ["LB020"]
    assert found.diagnostics[0].help == (f"did you mean {tmp_path / 'half.lbr'}?",)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("recipes/halv.lbr", "recipes/half.lbr"),
        ("recipse/half.lbr", "recipes/half.lbr"),
        ("recipes/xyz", None),
        ("recipse/none.lbr", None),
    ],
)
def test_the_nearest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, near: str | None) -> None:
    write(tmp_path / "recipes", {"half.lbr": "", "quarter.lbr": ""})
    monkeypatch.chdir(tmp_path)
    assert nearest_path(path) == near
    assert nearest_path(tmp_path / path) == (None if near is None else str(tmp_path / near))
