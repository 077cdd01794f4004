"""What a recipe looks like as JSON or YAML: one pydantic model for each kind of statement.

These check keys and the kinds of values; what stands in a value is read by `exchange_read`. `docs/exchange.md` is the
user's page. The JSON schema is made from these models and from the registries of actions and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

FORMAT_VERSION = 1
"""Of the JSON form; it rises when a program that reads it would have to change."""

MARK = "lbdsl-ref"
"""Stands for `$ref` in the models' schemas: a definition that `exchange_schema` makes."""


Value = Annotated[Any, WithJsonSchema({MARK: "Value"})]
Condition = Annotated[Any, WithJsonSchema({MARK: "Condition"})]
Layers = Annotated[Any, WithJsonSchema({MARK: "Layers"})]
Amount = Annotated[Any, WithJsonSchema({MARK: "Amount"})]
Score = Annotated[Any, WithJsonSchema({MARK: "Score"})]
Actions = Annotated[Any, WithJsonSchema({MARK: "Actions"})]
Domain = Annotated[Any, WithJsonSchema({MARK: "Domain"})]
ModulePattern = Annotated[Any, WithJsonSchema({MARK: "ModulePattern"})]
Statement = Annotated[Any, WithJsonSchema({MARK: "Statement"})]

_NAME = r"[A-Za-z_][A-Za-z0-9_]*$"
Variable = Annotated[str, Field(pattern=r"^\$?" + _NAME)]
GroupName = Annotated[str, Field(pattern="^@?" + _NAME)]
Word = Annotated[str, Field(pattern="^" + _NAME)]


def _boolean(value: Any) -> Any:
    """To Python, 1 is the literal True."""
    if not isinstance(value, bool):
        raise ValueError("must be `true`")
    return value


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


class Form(BaseModel):
    """Base of all forms: unknown keys are errors, and text is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class VersionForm(Form):
    """`lbr 1`."""

    lbr: Value


class NameForm(Form):
    """`recipe "half-the-cache"`."""

    recipe: str


class RequiresForm(Form):
    """`requires model.layers >= 24`."""

    requires: Condition


class ParamForm(Form):
    """`param $window: tokens in 64..8Ki = 256`."""

    param: Variable
    type: Word
    domain: Domain = Field(default=None, alias="in")
    default: Value = None


class LetForm(Form):
    """`let $n = 4`."""

    let: Variable
    value: Value


class GroupForm(Form):
    """`group @ends = first 2, last 1`."""

    group: GroupName
    layers: Layers


class IncludeForm(Form):
    """`include "common.lbr" sha256 "..."`."""

    include: str
    sha256: str | None = None


class AssertForm(Form):
    """`assert kv(32Ki) <= 50%`."""

    assertion: Condition = Field(alias="assert")


class RuleForm(Form):
    """What every rule has."""

    do: Actions
    because: str | None = None


class ElseForm(RuleForm):
    """`else keep`."""

    otherwise: Annotated[Literal[True], BeforeValidator(_boolean)] = Field(alias="else")


class WhereForm(RuleForm):
    """`where sensitivity < 0.1 drop`."""

    where: Condition


class LayersForm(RuleForm):
    """`layers 0-3 where nll < 0.1 keep`."""

    layers: Layers
    where: Condition = None


class ModulesForm(RuleForm):
    """`modules "*.k_proj", ~"v_.*" in layers 4-27 where nll < 0.1 quantize(bits=4)`."""

    modules: list[ModulePattern] = Field(min_length=1)
    in_layers: Layers = None
    where: Condition = None


class RankForm(RuleForm):
    """`lowest 6 of rest by sensitivity until kv(32Ki) <= 50% drop`."""

    rank: Literal["lowest", "highest"]
    amount: Amount = None
    of_rest: bool = False
    by: Score
    until: Condition = None


RULE_FORMS: Mapping[str, type[RuleForm]] = {
    "else": ElseForm,
    "rank": RankForm,
    "modules": ModulesForm,
    "layers": LayersForm,
    "where": WhereForm,
}

BLOCKS = ("measure", "heal", "eval")


def _settings_form(block: str) -> type[Form]:
    """The settings of a block, from the table that the language has of them."""
    from lbdsl.recipe.settings import SETTINGS

    fields: dict[str, Any] = {
        key: (Value, Field(default=None, description=row.meaning)) for key, row in SETTINGS.get(block, {}).items()
    }
    return create_model(f"{block.title()}Settings", __base__=Form, **fields)


@cache
def statement_forms() -> Mapping[str, type[Form]]:
    """Forms by the key that tells which statement it is, in the order in which keys are looked for."""
    blocks: dict[str, type[Form]] = {}
    for block in BLOCKS:
        fields: dict[str, Any] = {block: (_settings_form(block), ...)}
        blocks[block] = create_model(f"{block.title()}Form", __base__=Form, **fields)
    return {
        "lbr": VersionForm,
        "recipe": NameForm,
        "requires": RequiresForm,
        "param": ParamForm,
        "let": LetForm,
        "group": GroupForm,
        "include": IncludeForm,
        **blocks,
        "assert": AssertForm,
        **RULE_FORMS,
    }


class Document(Form):
    """A recipe: its statements in order."""

    format_version: Annotated[Literal[1], BeforeValidator(_no_boolean)]
    statements: list[Statement]
