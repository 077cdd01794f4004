"""`quantize`: weights as 4-bit or 8-bit integers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions.base import Action
from lbdsl.core.diagnostic import Diagnostic, error, note
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot
from lbdsl.parts.int_weights import STEP, Group, Int


class Quantize(Action):
    """Store the weights of linear maps as integers of `bits` bits, with one scale for each `group` of a row's weights.

    What: a weight is its integer times its scale, the largest weight of the group over 7 (4 bits) or 127 (8 bits). With
    `group=auto` it is the largest of 128, 64 and 32 that divides the inputs of all linear maps of the model.
    `activations=8` has one scale for each row of 8-bit weights, and rounds the inputs of each token to 8 bits, too: an
    integer matrix product. `method=rtn` rounds to nearest; `method=gptq` lets the weights that are rounded later make up
    for the error of those before, with the inputs that the model has on the calibration text before it is rounded. Weights
    are rounded when the model is saved, after healing. Embeddings and the output head are never quantized. Experts are
    rounded to nearest, and their inputs are not rounded.
    Why: decoding reads every weight once per token; a quarter of the bytes is up to four times the speed.
    Example: `else quantize(bits=8, activations=8)`, `modules "*.mlp.*" quantize(bits=4, method=gptq)`
    Source: GPTQ (arXiv 2210.17323); SmoothQuant (arXiv 2211.10438) for 8-bit activations by token; the compressed-tensors
    format of vLLM and transformers.
    """

    kind: Literal["quantize"] = "quantize"
    bits: Literal[4, 8]
    group: Annotated[Group, Field(description=f"a multiple of {STEP}, or `auto`")] = "auto"
    activations: Literal[16, 8] = 16
    method: Literal["rtn", "gptq"] = "rtn"
    example: ClassVar[str] = "quantize(bits=4)"
    examples: ClassVar[tuple[str, ...]] = (
        "quantize(bits=8, activations=8)",
        "quantize(bits=8, group=32)",
        "quantize(bits=4, method=gptq)",
    )
    divisible: ClassVar[bool] = True

    def claims(self) -> tuple[str, ...]:
        return (Slot.WEIGHTS.value,)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        if self._conflict():
            return layer
        group = "row" if self.activations == 8 else self.group
        stored = Int(bits=self.bits, group=group, activations=self.activations, method=self.method)
        return layer.replace(weights={**dict(layer.weights), **dict.fromkeys(modules, stored)})

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        said = self._conflict()
        if said is not None:
            return (error("LB217", f"`{self.text()}`: {said[0]}", help=said[1]),)
        if self.method == "rtn":
            return ()
        why = "scores, the whole plan and the model before healing are measured with `method=rtn`"
        return (note("LB349", f"`{self.text()}`: {why}", help="the saved model is judged as it is"),)

    def _conflict(self) -> tuple[str, str] | None:
        """Why these arguments do not go together, and what to write."""
        if self.activations == 16:
            return None
        if self.bits == 4:
            return "8-bit activations need 8-bit weights", "write `bits=8`, or leave `activations` out"
        if self.group != "auto":
            return "with 8-bit activations there is one scale for each row", "leave `group` out"
        return None
