"""Saved plans: written whole, read back the same, refused when edited, and compared with what is there now."""

from __future__ import annotations

import json
import os

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.digest import canonical_json, digest_of
from lbdsl.plan.file import load_plan, save_plan
from lbdsl.plan.schema import PREDICTED
from lbdsl.plan.verify import staleness
from lbdsl.session.saved_recipe import planned_recipe
from tests.plan_cases import joint_loss, plan_of, recipe_of, smollm2_facts

TEXT = "param $n: int in 1..9 = 4\nlowest $n by nll drop\nelse keep\nassert ppl_increase < 5%"


@pytest.fixture(scope="module")
def plan():
    return plan_of(TEXT, smollm2_facts(), joint=joint_loss(0.18, stderr=0.01, base_nll=2.9))


def test_round_trip(plan, tmp_path):
    path = save_plan(plan, tmp_path / "x.lbplan")
    loaded = load_plan(path).unwrap()
    assert loaded.model_dump(mode="json") == plan.model_dump(mode="json")
    assert loaded.digest == plan.digest
    text = path.read_text()
    assert text.rstrip("\n") == canonical_json(json.loads(text))
    assert json.loads(text)["sha256"] == plan.digest
    assert os.listdir(tmp_path) == ["x.lbplan"]


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        ("str", '"\\"quoted\\""'),
        ("str", '"'),
        ("str", "true"),
        ("str", '"a\\nb"'),
        ("str", ""),
        ("float", "0.00001"),
        ("float", "-1/3"),
        ("ratio", "33%"),
        ("ratio", "1/3"),
        ("bytes", "2GiB"),
        ("bool", "false"),
        ("tokens", "4k"),
    ],
)
def test_a_set_value_comes_back(plan, declared, given):
    text = f"param $x: {declared}\nwhere $x == $x keep\nelse keep"
    recipe = recipe_of(text, x=given)
    ref = plan.recipe.model_copy(update={"text": text, "params": dict(recipe.params), "set_params": recipe.set_params})
    again = planned_recipe(plan.model_copy(update={"recipe": ref}))
    assert again.params == recipe.params
    assert again.rules[0] == recipe.rules[0]


def test_saving_twice_gives_the_same_bytes(plan, tmp_path):
    first = save_plan(plan, tmp_path / "x.lbplan").read_bytes()
    assert save_plan(load_plan(tmp_path / "x.lbplan").unwrap(), tmp_path / "x.lbplan").read_bytes() == first


def test_a_folder_that_is_not_there(plan, tmp_path):
    with pytest.raises(LbdslError, match="LB335") as caught:
        save_plan(plan, tmp_path / "no" / "x.lbplan")
    assert caught.value.exit_code == 1


def edited(plan, tmp_path, change, *, redigest=False):
    path = save_plan(plan, tmp_path / "x.lbplan")
    fields = json.loads(path.read_text())
    change(fields)
    if redigest:
        fields.pop("sha256")
        fields["sha256"] = digest_of({name: value for name, value in fields.items() if name not in PREDICTED})
    path.write_text(json.dumps(fields))
    return load_plan(path)


@pytest.mark.parametrize(
    ("change", "redigest", "code", "exit_code"),
    [
        (lambda f: f["layers"][3].update(reason="because"), False, "LB332", 6),
        (lambda f: f.update(sha256="0" * 64), False, "LB332", 6),
        (lambda f: f["model"].update(name="\ud800"), False, "LB332", 6),
        (lambda f: f.update(format_version=99), False, "LB333", 3),
        (lambda f: f.pop("sha256"), False, "LB331", 6),
        (lambda f: f.pop("layers"), True, "LB334", 6),
        (lambda f: f["layers"][0]["actions"][0].update(action={"kind": "teleport"}), True, "LB334", 6),
        (lambda f: f.update(surprise=1), True, "LB334", 6),
    ],
)
def test_plans_that_were_touched(plan, tmp_path, change, redigest, code, exit_code):
    found = edited(plan, tmp_path, change, redigest=redigest)
    assert [(d.code, d.exit_code) for d in found.diagnostics] == [(code, exit_code)]
    assert found.value is None


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "LB331"),
        (b"# README", "LB331"),
        (b"[1, 2]", "LB331"),
        (b"{}", "LB331"),
        (b"\xff\xfe", "LB331"),
        (b'{"a": 1, "a": 2}', "LB331"),
        (b'{"a": NaN}', "LB331"),
        (b"[" * 100_000, "LB331"),
    ],
)
def test_files_that_are_no_plans(tmp_path, content, code):
    path = tmp_path / "x.lbplan"
    path.write_bytes(content)
    assert [d.code for d in load_plan(path).diagnostics] == [code]


def test_files_that_cannot_be_read(tmp_path):
    assert [d.code for d in load_plan(tmp_path / "none.lbplan").diagnostics] == ["LB330"]
    assert [d.code for d in load_plan(tmp_path).diagnostics] == ["LB330"]
    assert [d.code for d in load_plan(tmp_path / ("x" * 300)).diagnostics] == ["LB330"]
    assert [d.code for d in load_plan(tmp_path / "x\0.lbplan").diagnostics] == ["LB330"]
    loop = tmp_path / "loop.lbplan"
    loop.symlink_to(loop)
    assert [d.code for d in load_plan(loop).diagnostics] == ["LB330"]


def test_nothing_changed(plan):
    assert (
        staleness(
            plan,
            files={file.path: file.sha256 for file in plan.recipe.files},
            params={"n": 4},
            model_digest=plan.model.digest,
            lbdsl_version="0.1.0",
            data_digest="41af" * 16,
        )
        == ()
    )
    assert staleness(plan) == ()


def test_every_difference_is_named(plan):
    found = staleness(
        plan,
        files={plan.recipe.path: "ab" * 32},
        params={"n": 5},
        model_digest="cd" * 32,
        lbdsl_version="0.2.0",
        data_digest="01" * 32,
        joint_digest="23" * 32,
    )
    assert [d.code for d in found] == ["LB340", "LB341", "LB342", "LB343", "LB343", "LB344"]
    assert {d.exit_code for d in found} == {3}
    assert found[1].message == "$n was 4 when planned and is 5 now"
    assert "b968b968 when planned, cdcdcdcd now" in found[2].message
    assert "lbdsl 0.1.0, and this is 0.2.0" in found[-1].message


def test_a_parameter_that_came_or_went(plan):
    messages = [d.message for d in staleness(plan, params={"m": "x"})]
    assert messages == ["$m was absent when planned and is 'x' now", "$n was 4 when planned and is absent now"]
