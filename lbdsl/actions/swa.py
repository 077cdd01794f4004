"""`swa`: attention over a sliding window, with sink tokens, learned sinks, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from lbdsl.actions.base import Action, unchangeable
from lbdsl.core.diagnostic import Diagnostic, error, warning
from lbdsl.core.units import tokens_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Stat
from lbdsl.parts import Window
from lbdsl.parts.attention import SINK_LOGITS, Attention

MOST_SINKS = 4096


def _sinks(value: Any) -> int | str:
    if value == "learned" or (type(value) is int and 0 <= value <= MOST_SINKS):
        return value
    raise PydanticCustomError("sinks", f"must be a whole number of at most {MOST_SINKS}, or `learned`")


class SlidingWindow(Action):
    """Causal softmax attention over the last `window` tokens, including the current one, and the first `sinks` tokens.

    What: a query at position q attends to keys k with q - window < k <= q, and to the first `sinks` tokens of its row that
    are not padding. Cost is linear in the sequence length; the cache holds at most window + sinks tokens. With
    `sinks=learned` there are no such tokens; instead, each query head has one number s, and exp(s) is added to the
    denominator of its softmax. It is fitted on the calibration text, so that the head's output is closest to that of full
    attention, is -30,000 where no sink helps, which has no effect and stays, and else is trained in healing.
    Why: where a layer attends mostly to nearby tokens, its cache need not grow; four sinks undo most of a window's damage.
    Learned sinks, which vLLM and llama.cpp can serve, undo nearly as much once they are trained (docs/healing.md).
    Example: `else swa(window=512, sinks=4)`, `else swa(window=512, sinks=learned)`
    Source: Longformer (arXiv 2004.05150); attention sinks, StreamingLLM (arXiv 2309.17453); learned sinks, gpt-oss (arXiv
    2508.10925).
    """

    kind: Literal["swa"] = "swa"
    window: Annotated[int, Field(ge=1, le=2**31 - 1, json_schema_extra={"unit": "tokens"})]
    sinks: Annotated[
        int | Literal["learned"],
        PlainValidator(_sinks),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": MOST_SINKS}, {"const": "learned"}]}),
        Field(description=f"at most {MOST_SINKS}, or `learned`", json_schema_extra={"unit": "tokens"}),
    ] = 0
    example: ClassVar[str] = "swa(window=512, sinks=4)"
    examples: ClassVar[tuple[str, ...]] = ("swa(window=512, sinks=learned)",)

    def claims(self) -> tuple[str, ...]:
        return ("mixer.window",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        if not isinstance(layer.mixer, Attention):
            return layer
        return layer.replace(mixer=layer.mixer.replace(window=self._window(layer.mixer.window)))

    def _window(self, own: Window | None) -> Window:
        """The new window, never wider than the layer's own window `own`, whose sinks are kept unless new ones are given."""
        learned = self.sinks == "learned"
        tokens = 0 if isinstance(self.sinks, str) else self.sinks
        if own is not None and self.window >= own.size:
            return own.replace(sink_tokens=tokens, sink_logits=learned) if self.sinks else own
        return Window(size=self.window, sink_tokens=tokens, sink_logits=learned)

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        mixer = layer.mixer
        if not isinstance(mixer, Attention) or mixer.window is None or not mixer.window.sink_logits:
            return {}
        if isinstance(base.mixer, Attention) and base.mixer.window == mixer.window:
            return {}
        fitted = Stat(kind="sink_logits", args=(("window", mixer.window.size),), dims=(mixer.heads,))
        return {SINK_LOGITS.name: fitted}

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        mixer = facts.layer_specs[layer].mixer
        if not isinstance(mixer, Attention):
            return unchangeable(self, facts, layer)
        own = mixer.window
        if self.sinks == "learned" and facts.family_data.attention_softcap is not None:
            said = f"`{self.text()}` does not go with attention scores that are capped, as in {facts.family} models"
            return (error("LB318", said, help="use sink tokens, `sinks=4`, or none"),)
        if own is not None and self.window >= own.size:
            rest = " but its sinks" if self._window(own) != own else ""
            return (
                warning(
                    "LB327",
                    f"`{self.text()}` changes nothing{rest} where layers have a window of {tokens_text(own.size)} by "
                    "themselves",
                    help="give a smaller window",
                ),
            )
        if 2 * self.window > facts.positions:
            return (
                error(
                    "LB326",
                    f"`{self.text()}` is wider than half of the model's {tokens_text(facts.positions)} positions: what it "
                    "does cannot be measured",
                    help=f"give a window of at most {tokens_text(facts.positions // 2)}",
                ),
            )
        return ()
