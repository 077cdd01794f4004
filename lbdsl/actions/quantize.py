"""`quantize`: low-bit weights. Part of the language, but not implemented yet: it can only be planned."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions.base import Action
from lbdsl.core.diagnostic import Diagnostic, warning
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot
from lbdsl.parts.int_weights import Int


class Quantize(Action):
    """Store weights in `bits` bits, with one scale for each `group` of them in a row. Activations stay as they are.

    What: weight-only quantization of linear layers. This version parses, checks and plans it, and shows which modules it
    matches and how many bytes they take; it is not implemented yet, so a plan with it cannot be applied.
    Why: decoding reads every weight once per token; a quarter of the bytes is up to four times the speed.
    Example: `modules "*.k_proj", "*.v_proj" in layers 4-27 quantize(bits=4, group=128)`
    Source: GPTQ (arXiv 2210.17323); AWQ (arXiv 2306.00978).
    """

    kind: Literal["quantize"] = "quantize"
    bits: Literal[2, 3, 4, 8]
    group: Annotated[int, Field(ge=8, le=65536)] = 128
    example: ClassVar[str] = "quantize(bits=4, group=64)"
    carried_out: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    def claims(self) -> tuple[str, ...]:
        return (Slot.WEIGHTS.value,)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        stored = Int(bits=self.bits, group=self.group)
        return layer.replace(weights={**dict(layer.weights), **dict.fromkeys(modules, stored)})

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        if facts.hidden % self.group == 0:
            return ()
        fits = max((size for size in (16, 32, 64, 128, 256) if facts.hidden % size == 0), default=None)
        return (
            warning(
                "LB217",
                f"groups of {self.group} do not divide the model's width of {facts.hidden}",
                help=f"write `group={fits}`" if fits else (),
            ),
        )
