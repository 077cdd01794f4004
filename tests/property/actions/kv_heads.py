"""An action for tests: it claims one field of the mixer, so that a window composes with it. A plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions import Action

if TYPE_CHECKING:
    from lbdsl.layer.spec import LayerSpec


class KVHeads(Action):
    """Set the number of key and value heads.

    What: the field, and nothing else.
    Why: tests of the planner need two actions on one sub-block that go together.
    Example: `layers 0 test_kv_heads(1)`
    Source: none.
    """

    kind: Literal["test_kv_heads"] = "test_kv_heads"
    n: Annotated[int, Field(ge=1)]
    example: ClassVar[str] = "test_kv_heads(1)"

    def claims(self) -> tuple[str, ...]:
        return ("mixer.kv_heads",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(mixer=layer.mixer.replace(kv_heads=self.n))
