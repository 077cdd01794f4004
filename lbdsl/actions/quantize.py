"""`quantize`: weights as integers or floats of 4 or 8 bits."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lbdsl.actions.base import Action
from lbdsl.core.diagnostic import Diagnostic, error, note
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot
from lbdsl.parts.base import Storage
from lbdsl.parts.fp8_weights import Fp8
from lbdsl.parts.int_weights import STEP, Group, Int
from lbdsl.parts.nvfp4_weights import Nvfp4


class Quantize(Action):
    """Store the weights of linear maps as integers of `bits` bits, with one scale for each `group` of a row's weights, or
    as floats of 8 bits (`form=fp8`), with one for each row, or of 4 (`form=nvfp4`), with one for each 16 weights.

    What: a weight is its integer times its scale, the largest weight of the group over 7 (4 bits) or 127 (8 bits). With
    `group=auto` it is the largest of 128, 64 and 32 that divides the inputs of all linear maps of the model.
    `activations=8` has one scale for each row of 8-bit weights, and rounds the inputs of each token to 8 bits, too: an
    integer matrix product. `method=rtn` rounds to nearest; `method=gptq` lets the weights that are rounded later make up
    for the error of those before, with the inputs that the model has on the calibration text before it is rounded.
    `form=fp8` has floats of 4 bits of exponent and 3 of mantissa, 448 times the scale the largest of a row, and rounds the
    inputs of each token to them; with `activations=16` the weights alone. `form=nvfp4` has NVIDIA's 4-bit floats, whose
    scales have 8 bits and one more number for all matrices of an attention or MLP; with `activations=4` it rounds inputs to
    them, too, with one more number for all inputs, from the largest on the calibration text. Weights are rounded when the
    model is saved, after healing. Embeddings and the output head are never quantized. Experts are rounded to nearest, and
    their inputs with `form=fp8` alone.
    Why: decoding reads every weight once per token; a quarter of the bytes may be read in a quarter of
    the time, where the engine has a kernel that does so (docs/quantize.md).
    Example: `else quantize(bits=8, activations=8)`, `modules "*.mlp.*" quantize(bits=4, method=gptq)`, `quantize(form=fp8)`
    Source: GPTQ (arXiv 2210.17323); SmoothQuant (arXiv 2211.10438) for 8-bit activations by token; FP8 formats (arXiv
    2209.05433); the compressed-tensors format of vLLM and transformers.
    """

    kind: Literal["quantize"] = "quantize"
    bits: Literal[4, 8] | None = None
    group: Annotated[Group, Field(description=f"a multiple of {STEP}, or `auto`")] = "auto"
    activations: Literal[16, 8, 4] | None = None
    method: Literal["rtn", "gptq"] = "rtn"
    form: Literal["int", "fp8", "nvfp4"] = "int"
    example: ClassVar[str] = "quantize(bits=4)"
    examples: ClassVar[tuple[str, ...]] = (
        "quantize(bits=8, activations=8)",
        "quantize(form=fp8)",
        "quantize(form=nvfp4)",
        "quantize(form=nvfp4, activations=4)",
        "quantize(bits=8, group=32)",
        "quantize(bits=4, method=gptq)",
    )
    divisible: ClassVar[bool] = True

    @model_validator(mode="after")
    def _how_many(self) -> Quantize:
        if self.form == "int" and self.bits is None:
            raise PydanticCustomError("missing_bits", "needs `bits=8`, `bits=4`, `form=fp8` or `form=nvfp4`")
        if (said := self._conflict()) is not None:
            raise PydanticCustomError("conflict", said[0], {"help": said[1]})
        return self

    def claims(self) -> tuple[str, ...]:
        return (Slot.WEIGHTS.value,)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(weights={**dict(layer.weights), **dict.fromkeys(modules, self._storage)})

    @property
    def _storage(self) -> Storage:
        if self.form == "fp8":
            return Fp8.model_validate({"activations": self.activations or 8})
        if self.form == "nvfp4":
            return Nvfp4.model_validate({"activations": self.activations or 16})
        assert self.bits is not None, "validated"
        group = "row" if self.activations == 8 else self.group
        return Int(bits=self.bits, group=group, activations=8 if self.activations == 8 else 16, method=self.method)

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        if self.form == "nvfp4" and facts.dtype != "bfloat16":
            what = f"4-bit floats are made in bfloat16 by what loads them, and this model is of {facts.dtype}"
            help = "give `--dtype bfloat16`, or write `form=fp8`"
            return (error("LB217", f"`{self.text()}`: {what}", help=help),)
        if self._storage.statistic(1) is None:
            return ()
        how = "`method=rtn`" if self.method == "gptq" else "a scale of the inputs of each forward"
        why = f"scores, the whole plan and the model before healing are measured with {how}"
        return (note("LB349", f"`{self.text()}`: {why}", help="the saved model is judged as it is"),)

    def _conflict(self) -> tuple[str, str] | None:
        """Why these arguments do not go together, and what to write."""
        if self.form != "int":
            given = {"bits": self.bits is not None, "group": self.group != "auto", "method": self.method != "rtn"}
            extra = [name for name, is_given in given.items() if is_given]
            what = f"`{self.form}` says how many bits and scales there are, and has no {' or '.join(extra)}"
            if extra:
                return what, f"leave `{'`, `'.join(extra)}` out"
            own = 8 if self.form == "fp8" else 4
            if self.activations in (None, 16, own):
                return None
            return f"`{self.form}` has activations of 16 or {own} bits", f"write `activations={own}`, or leave it out"
        if self.activations == 4:
            return "only `form=nvfp4` has 4-bit activations", "write `form=nvfp4`, or `activations=8` with `bits=8`"
        if self.activations != 8:
            return None
        if self.bits == 4:
            return "8-bit activations need 8-bit weights", "write `bits=8`, or leave `activations` out"
        if self.group != "auto":
            return "with 8-bit activations there is one scale for each row", "leave `group` out"
        return None
