"""`swa`: attention over a sliding window, with sink tokens, learned sinks, or neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from lbdsl.actions.base import Action, unchangeable
from lbdsl.actions.kv_heads import fused_rows
from lbdsl.core.diagnostic import Diagnostic, LbdslError, error, warning
from lbdsl.core.units import plural, ranges_text, tokens_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Concat, Largest, Mean, Ref, Slice, Stat, Take
from lbdsl.parts import Window
from lbdsl.parts.attention import SINK_LOGITS, Attention

MOST_SINKS = 4096


def _full_heads(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, list | tuple):
        value = tuple(value)
        if value and len(set(value)) == len(value) and all(type(head) is int and head >= 0 for head in value):
            return tuple(sorted(value))
    elif type(value) is int and value >= 0:
        return value
    raise PydanticCustomError("full_heads", "must be a whole number, or a list of heads, each once: `[0, 2]`")


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
    With `full_heads=1` one KV head of the layer keeps seeing all tokens, and its query heads with it: that whose window
    would change the attention's output most on the calibration text; `full_heads=[0, 2]` names them, counted from 0. Saved
    weights have the full heads first.
    Why: where a layer attends mostly to nearby tokens, its cache need not grow; four sinks undo most of a window's damage.
    Learned sinks, which vLLM and llama.cpp can serve, undo nearly as much once they are trained (docs/healing.md). Few KV
    heads find what stands far back; where they stay full, the others of their layers need not.
    Example: `else swa(window=512, sinks=4)`, `else swa(window=512, sinks=learned)`, `swa(window=512, full_heads=1)`
    Source: Longformer (arXiv 2004.05150); attention sinks, StreamingLLM (arXiv 2309.17453); learned sinks, gpt-oss (arXiv
    2508.10925); full heads beside windowed ones, DuoAttention (arXiv 2410.10819).
    """

    kind: Literal["swa"] = "swa"
    window: Annotated[int, Field(ge=1, le=2**31 - 1, json_schema_extra={"unit": "tokens"})]
    sinks: Annotated[
        int | Literal["learned"],
        PlainValidator(_sinks),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": MOST_SINKS}, {"const": "learned"}]}),
        Field(description=f"at most {MOST_SINKS}, or `learned`", json_schema_extra={"unit": "tokens"}),
    ] = 0
    full_heads: Annotated[
        int | tuple[int, ...],
        BeforeValidator(_full_heads),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "array", "items": {"type": "integer"}}]}),
        Field(description="a count, or KV heads by number: `[0, 2]`"),
    ] = 0
    example: ClassVar[str] = "swa(window=512, sinks=4)"
    examples: ClassVar[tuple[str, ...]] = ("swa(window=512, sinks=learned)", "swa(window=512, sinks=4, full_heads=1)")
    stage: ClassVar[int] = 1  # of the KV heads that others leave

    def claims(self) -> tuple[str, ...]:
        return ("mixer.window",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        if not isinstance(layer.mixer, Attention) or self._count >= layer.mixer.kv_heads:
            return layer  # `check` says why
        return layer.replace(mixer=layer.mixer.replace(window=self._window(layer.mixer.window)))

    def _window(self, own: Window | None) -> Window:
        """The new window, never wider than the layer's own window `own`, whose sinks are kept unless new ones are given."""
        learned = self.sinks == "learned"
        tokens = 0 if isinstance(self.sinks, str) else self.sinks
        if own is not None and self.window >= own.size:
            return own.replace(sink_tokens=tokens, sink_logits=learned) if self.sinks else own
        return Window(
            size=self.window, sink_tokens=tokens, sink_logits=learned, full_heads=self._count if own is None else 0
        )

    @property
    def _count(self) -> int:
        return self.full_heads if isinstance(self.full_heads, int) else len(self.full_heads)

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        mixer, old = layer.mixer, base.mixer
        if not isinstance(mixer, Attention) or mixer.window is None or not isinstance(old, Attention):
            return {}
        if old.window == mixer.window:
            return {}
        made: dict[str, AnyExpr] = {}
        chosen = old.window is None and mixer.window.full_heads > 0
        if chosen:
            named = self.full_heads if isinstance(self.full_heads, tuple) else ()
            if any(head >= mixer.kv_heads for head in named):
                raise LbdslError((self._absent(mixer.kv_heads),))
            query = mixer.head_dim * mixer.heads // mixer.kv_heads
            sizes = {"query": query, "query_gate": 2 * query, "key_value": mixer.head_dim}
            for row in model.rows(mixer.kind):
                for axis, dim in enumerate(row.dims):
                    x = Ref(name=row.name)
                    if dim in sizes:
                        made[row.name] = Concat(xs=self._taken(x, axis, sizes[dim], old, mixer), axis=axis)
                    elif dim == "qkv":
                        parts = (
                            self._taken(part, axis, sizes["query" if of == "q" else "key_value"], old, mixer)
                            for of, part in fused_rows(x, mixer).items()
                        )
                        made[row.name] = Concat(xs=tuple(chain.from_iterable(parts)), axis=axis)
        if mixer.window.sink_logits and not own_sinks(model):
            sinks: AnyExpr = Stat(kind="sink_logits", args=(("window", mixer.window.size),), dims=(mixer.heads,))
            if chosen:
                sinks = self._taken(sinks, 0, mixer.heads // mixer.kv_heads, old, mixer)[1]
            elif mixer.window.full_heads:
                sinks = Slice(x=sinks, axis=0, start=mixer.heads - mixer.dims()["windowed_heads"], stop=mixer.heads)
            made[SINK_LOGITS.name] = sinks
        return made

    def _taken(self, x: AnyExpr, axis: int, size: int, old: Attention, mixer: Attention) -> tuple[AnyExpr, AnyExpr]:
        """The indices of `x` along an axis that belong to full KV heads, `size` a head, and the others."""
        if not isinstance(self.full_heads, int):
            others = tuple(head for head in range(mixer.kv_heads) if head not in self.full_heads)
            full, rest = (
                Take(x=x, axis=axis, indices=tuple(head * size + i for head in heads for i in range(size)))
                for heads in (self.full_heads, others)
            )
            return full, rest
        largest = self._harmed(old, mixer, size)
        return Take(x=x, axis=axis, indices=largest), Take(x=x, axis=axis, indices=largest.replace(others=True))

    def _harmed(self, old: Attention, mixer: Attention, size: int) -> Largest:
        """The KV heads that a window would harm most, `size` indices each."""
        sinks = 4 if isinstance(self.sinks, str) else self.sinks  # learned ones do what these do
        harm: AnyExpr = Stat(kind="window_harm", args=(("window", self.window), ("sinks", sinks)), dims=(old.kv_heads,))
        if old.kv_heads != mixer.kv_heads:
            harm = Mean(x=harm, axis=0, size=1, group=old.kv_heads // mixer.kv_heads)
        return Largest(of=harm, count=self._count, size=size)

    def _absent(self, heads: int) -> Diagnostic:
        absent = [] if isinstance(self.full_heads, int) else [head for head in self.full_heads if head >= heads]
        said = f"of {plural(heads, 'KV head')} `{self.text()}` leaves none windowed"
        if absent:
            said = f"`{self.text()}` names KV head {absent[0]} of {plural(heads, 'KV head')}"
        help = f"they are 0 to {heads - 1}; at most {heads - 1} can be full" if heads > 1 else "leave out `full_heads`"
        return error("LB339", said, help=help)

    def decided(self, base: LayerSpec, layer: LayerSpec, places: Callable[[Largest], tuple[int, ...]]) -> Action:
        if not isinstance(self.full_heads, int) or not self.full_heads:
            return self
        assert isinstance(base.mixer, Attention)
        assert isinstance(layer.mixer, Attention)
        return self.model_copy(update={"full_heads": places(self._harmed(base.mixer, layer.mixer, 1))})

    @property
    def chosen(self) -> str:
        heads = () if isinstance(self.full_heads, int) else self.full_heads
        return f"KV head{'s' if len(heads) > 1 else ''} {ranges_text(heads)} full" if heads else ""

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        mixer = facts.layer_specs[layer].mixer
        if not isinstance(mixer, Attention):
            return unchangeable(self, facts, layer)
        if self._count and own_sinks(facts):
            said = f"`{self.text()}` does not go with the sinks that all heads of {facts.family} models have by themselves"
            return (error("LB339", said, help="leave out `full_heads`"),)
        own, heads = mixer.window, mixer.kv_heads
        most = self.full_heads if isinstance(self.full_heads, int) else max(self.full_heads, default=0)
        if most >= heads or self._count >= heads:
            return (self._absent(heads),)
        if self._count and own is not None:
            said = (
                f"`{self.text()}`: no head sees all tokens in layers with a window of {tokens_text(own.size)} by themselves"
            )
            return (error("LB339", said, help="leave those layers out, or leave out `full_heads`"),)
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


def own_sinks(model: ModelFacts) -> bool:
    """Whether all layers of the family have learned sinks by themselves, which stay."""
    return any(row.name == SINK_LOGITS.name for row in model.rows("attention"))
