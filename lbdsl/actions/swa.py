"""`swa`: attention over a sliding window, with optional sink tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions.base import Action
from lbdsl.core.diagnostic import Diagnostic, error, warning
from lbdsl.core.units import tokens_text
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.attention import Attention, Window


class SlidingWindow(Action):
    """Causal softmax attention over the last `window` tokens, including the current one, and the first `sinks` tokens.

    What: a query at position q attends to keys k with q - window < k <= q, and to the first `sinks` tokens of its row that
    are not padding. Cost is linear in the sequence length; the cache holds at most window + sinks tokens.
    Why: where a layer attends mostly to nearby tokens, its cache need not grow; four sinks undo most of a window's damage.
    Example: `else swa(window=512, sinks=4)`
    Source: Longformer (arXiv 2004.05150); attention sinks, StreamingLLM (arXiv 2309.17453).
    """

    kind: Literal["swa"] = "swa"
    window: Annotated[int, Field(ge=1, le=2**31 - 1, json_schema_extra={"unit": "tokens"})]
    sinks: Annotated[int, Field(ge=0, le=4096, json_schema_extra={"unit": "tokens"})] = 0
    example: ClassVar[str] = "swa(window=512, sinks=4)"

    def claims(self) -> tuple[str, ...]:
        return ("mixer.window",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        assert isinstance(layer.mixer, Attention), "what claims a window is asked of layers with attention"
        return layer.replace(mixer=layer.mixer.replace(window=self._window(layer.mixer.window)))

    def _window(self, own: Window | None) -> Window:
        """The new window, never wider than the layer's own window `own`, whose sinks are kept unless new ones are given."""
        if own is not None and self.window >= own.size:
            return own.replace(sink_tokens=self.sinks) if self.sinks else own
        return Window(size=self.window, sink_tokens=self.sinks)

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        mixer = facts.layer_specs[layer].mixer
        own = mixer.window if isinstance(mixer, Attention) else None
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
