"""An action for tests: it claims the width of the MLP. A plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions import Action

if TYPE_CHECKING:
    from lbdsl.layer.spec import LayerSpec


class Width(Action):
    """Set the width of the MLP.

    What: the field, and nothing else.
    Why: tests of the planner need a change of the MLP that is not its end.
    Example: `layers 0 test_width(64)`
    Source: none.
    """

    kind: Literal["test_width"] = "test_width"
    n: Annotated[int, Field(ge=1)]
    example: ClassVar[str] = "test_width(64)"

    def claims(self) -> tuple[str, ...]:
        return ("ffn.width",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(ffn=layer.ffn.replace(width=self.n))
