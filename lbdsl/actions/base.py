"""The base class of actions: frozen values that define which paths of a layer they claim, and what they set there.

To add one, write one file in this folder (or anywhere, see `lbdsl.core.registry`) with a subclass of `Action`, and if it
needs a new part kind, one in `lbdsl.parts` (of a plug-in in the same file), with one flat runtime file (see
`lbdsl.model.hybrid`). Nothing else is edited.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from lbdsl.actions.patches import FULL, SubBlock, with_patches
from lbdsl.core.diagnostic import Diagnostic, error, fail
from lbdsl.core.units import Share
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.paths import has_path, touch, with_paths_of
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Largest, LayerChange, after
from lbdsl.parts import Slot


def _count_or_share(value: Any) -> int | Share:
    if isinstance(value, dict) and set(value) == {"share"} and isinstance(value["share"], float):
        value = Share(value["share"])
    if isinstance(value, bool) or not isinstance(value, int | Share):
        raise PydanticCustomError("amount_type", "must be a whole number or a share, as in `75%`")
    if isinstance(value, Share) and not 0 < value < 1:
        raise PydanticCustomError("share", "a share is more than 0% and less than 100%")
    if value < 1 and isinstance(value, int):
        raise PydanticCustomError("count", "must be at least 1")
    return value


CountOrShare = Annotated[
    int | Share,
    PlainValidator(_count_or_share),
    PlainSerializer(lambda value: value if isinstance(value, int) else {"share": float(value)}),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9.]+%$"}]}),
]
"""A parameter that is a count, or a share of the base layer's count: `1152`, `75%`. The JSON schema is that of recipes; a
plan has `{"share": 0.75}`."""


def argument_text(value: object) -> str:
    """An argument in recipe syntax: `true`, `75%`, `mean`, `[0, 2]`."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Action(BaseModel):
    """Base of all actions. Fields are the action's parameters, in the order of positional arguments.

    The class docstring is the page shown to users: What / Why / Example / Source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    kind: str
    """The tag, a `Literal` of the action's name with that name as default."""

    example: ClassVar[str]
    """An action call that parses, for the reference page and the conformance test."""

    examples: ClassVar[tuple[str, ...]] = ()
    """More calls, for arguments that make another kind of change."""

    divisible: ClassVar[bool] = False
    """True for an action that can be applied in part: it takes those paths at or below `claims` that no earlier rule took.
    Other actions take all of their paths or none."""

    keeps: ClassVar[bool] = False
    """True when it changes nothing: it only keeps later rules from claiming its paths."""

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Parameter names in order."""
        return tuple(name for name in cls.model_fields if name != "kind")

    def text(self) -> str:
        """The canonical call: every parameter without a default, and those that differ from their default."""
        parts = []
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "kind" and (info.is_required() or value != info.default):
                parts.append(f"{name}={argument_text(value)}")
        return f"{self.kind}({', '.join(parts)})" if parts else self.kind

    stage: ClassVar[int] = 0
    """The order in which several actions make weights of one layer: lower stages first."""

    @abstractmethod
    def claims(self) -> tuple[str, ...]:
        """The paths of a layer that it claims, such as ("mixer.window",); may depend on the arguments. `weights` alone
        means all linear layers of the layer, or those that a `modules` rule selects."""

    @abstractmethod
    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        """The layer with the claimed paths set; changes to other paths are ignored. A pure function.

        `layer` is the base's and has the claimed paths. `modules` are its linear layers; for an action that claims
        weights, those whose weights it took."""

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        """Expressions of the new weights, by name relative to the layer, over those of `base`. `layer` is the changed
        layer; weights that it does not have are ignored. A pure function."""
        return {}

    def decided(self, base: LayerSpec, layer: LayerSpec, places: Callable[[Largest], tuple[int, ...]]) -> Action:
        """Itself with what statistics decide of the layer as arguments; `places` are those of the largest elements."""
        return self

    @property
    def chosen(self) -> str:
        """In words, what it names of a layer beside sizes."""
        return ""

    @property
    def patched(self) -> bool:
        """Whether the layers before make up for the sub-blocks that it removes (see `lbdsl.actions.patches`)."""
        return False

    @property
    def each(self) -> tuple[Action, ...]:
        """The actions that it consists of."""
        return (self,)

    def alone(self, facts: ModelFacts, layer: int) -> Mapping[int, LayerChange] | None:
        """The changes, by layer, of a model in which it is used on this layer alone, patches included; None as `under`."""
        change = self.under(facts, layer)
        if change is None or not self.patched:
            return None if change is None else {layer: change}
        dropped = {SubBlock(layer, Slot(slot)): 0 for action in self.each if action.patched for slot in action.claims()}
        return with_patches(facts, {layer: change}, dropped, factor=FULL)[0]

    def under(self, facts: ModelFacts, layer: int) -> LayerChange | None:
        """A layer of the base under this action alone; None if the layer does not have a path that the action claims."""
        base = spec = facts.layer_specs[layer]
        if not all(has_path(base, path) for path in self.claims()):
            return None
        for action in self.each:
            spec = with_paths_of(spec, action.change(base, facts.linear_maps[layer]), action.claims())
        return LayerChange(spec.stored(facts), made_weights(self.each, base, spec.stored(facts), facts))

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        """Diagnostics for using the action on this layer. A pure function."""
        return ()


class _Together(Action):
    """Several actions on one layer; their claims do not touch."""

    kind: Literal["together"] = "together"
    actions: tuple[Action, ...]

    @property
    def patched(self) -> bool:
        return any(action.patched for action in self.actions)

    @property
    def each(self) -> tuple[Action, ...]:
        return self.actions

    def text(self) -> str:
        return " + ".join(action.text() for action in self.actions)

    def claims(self) -> tuple[str, ...]:
        return tuple(path for action in self.actions for path in action.claims())

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        raise AssertionError("its actions change a layer one by one")


def together(actions: Sequence[Action]) -> Action:
    """The actions of a rule as one, which can be measured; their claims do not touch."""
    return actions[0] if len(actions) == 1 else _Together(actions=tuple(actions))


def made_weights(
    actions: Iterable[Action], base: LayerSpec, layer: LayerSpec, model: ModelFacts
) -> tuple[tuple[str, AnyExpr], ...]:
    """Expressions of the new weights of a layer that becomes `layer` under these actions. Raises LB475 for a shape that is
    not the layer's."""
    made: dict[str, AnyExpr] = {}
    for action in sorted(actions, key=lambda action: (action.stage, action.text())):
        made = after(made, action.weights(base, layer, model))
    old = {tensor.name: tensor.shape for tensor in base.tensors(model)}
    found = []
    for tensor in layer.tensors(model):
        if tensor.name in made:
            try:
                shape = made[tensor.name].shape(old)
            except ValueError as problem:
                raise fail("LB475", f"{tensor.name} cannot be made: {problem}") from None
            if shape != tensor.shape:
                raise fail("LB475", f"{tensor.name} is made as {list(shape)}, and the layer needs {list(tensor.shape)}")
            found.append((tensor.name, made[tensor.name]))
    return tuple(sorted(found))


def unchangeable(action: Action, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
    """LB404 for a field that the action claims, and that the part which the layer has does not let it change."""
    for path in action.claims():
        slot, _, name = path.partition(".")
        part = facts.layer_specs[layer].part(Slot(slot))
        if part is not None and name not in part.changeable:
            what = {Slot.MIXER: "attention", Slot.FFN: "an MLP"}[Slot(slot)]
            said = f"`{action.text()}` cannot change {what} of the kind `{part.kind}`"
            return (error("LB404", said, help="choose other layers, or let an earlier rule keep these"),)
    return ()


def acts_on_weights(action: Action) -> bool:
    """Whether it may be used in a `modules` rule: it claims only weights, or it is divisible and its claims include
    weights."""
    roots = [touch(root, Slot.WEIGHTS) for root in action.claims()]
    return any(roots) if action.divisible else all(roots)


def touching(one: Action, other: Action) -> str | None:
    """The shorter of two paths, one claimed by each action, that are equal or nested; None if there are none."""
    return next((min(a, b, key=len) for a in one.claims() for b in other.claims() if touch(a, b)), None)
