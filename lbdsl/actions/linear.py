"""`linear`: a window, and a state of constant size for all tokens before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions.base import Action, unchangeable
from lbdsl.actions.swa import own_sinks
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.units import tokens_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Init, Stat
from lbdsl.parts.attention import SINK_LOGITS, Attention
from lbdsl.parts.linear import LinearAttention


class Linear(Action):
    """Softmax attention over the last `window` tokens, and linear attention over all tokens before them.

    What: what leaves the window is added to a state of constant size, which the layer reads beside the window, under one
    normalization. With `features=hedgehog` queries and keys go through learned maps first, [softmax(xW), softmax(-xW)] with
    a matrix W for each head, which begins as the identity; with `features=elu` through 1 + elu(x), which learns nothing.
    Each query head learns how much the window counts, and with `sinks=learned` a sink in the window's softmax, as of `swa`.
    All of them are trained in healing.
    Why: cost is linear in the sequence length and the cache does not grow, as with a window, but what stands far back is
    not gone. Without healing it is of little use.
    Example: `lowest 8 by kl(linear(window=64)) linear(window=64)`
    Source: LoLCATs (arXiv 2410.10254); Hedgehog (arXiv 2402.04347).
    """

    kind: Literal["linear"] = "linear"
    window: Annotated[int, Field(ge=1, le=2**31 - 1, json_schema_extra={"unit": "tokens"})] = 64
    features: Literal["hedgehog", "elu"] = "hedgehog"
    sinks: Literal["none", "learned"] = "none"
    example: ClassVar[str] = "linear(window=64)"
    examples: ClassVar[tuple[str, ...]] = ("linear(window=128, features=elu)", "linear(window=64, sinks=learned)")
    stage: ClassVar[int] = 1

    def claims(self) -> tuple[str, ...]:
        return ("mixer",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        old = layer.mixer
        if not isinstance(old, Attention) or old.window is not None:
            return layer  # `check` says why
        mixer = LinearAttention(
            heads=old.heads,
            kv_heads=old.kv_heads,
            head_dim=old.head_dim,
            window=self.window,
            features=self.features,
            sink_logits=self.sinks == "learned",
        )
        return layer.replace(mixer=mixer)

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        mixer = layer.mixer
        if not isinstance(mixer, LinearAttention):
            return {}
        made: dict[str, AnyExpr] = {
            tensor.name: Init(dims=tensor.shape, std=0.0) for tensor in model.shaped(mixer.new_rows, mixer.dims())
        }
        if mixer.sink_logits and not own_sinks(model):
            made[SINK_LOGITS.name] = Stat(kind="sink_logits", args=(("window", self.window),), dims=(mixer.heads,))
        return made

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        mixer = facts.layer_specs[layer].mixer
        if not isinstance(mixer, Attention):
            return unchangeable(self, facts, layer)
        if mixer.window is not None:
            own = tokens_text(mixer.window.size)
            said = f"`{self.text()}`: layers with a window of {own} by themselves see nothing before it"
            return (error("LB404", said, help="leave those layers out"),)
        if facts.family_data.attention_softcap is not None:
            said = f"`{self.text()}` does not go with attention scores that are capped, as in {facts.family} models"
            return (error("LB404", said, help="use `swa(window=..., sinks=4)`"),)
        if 2 * self.window > facts.positions:
            said = f"`{self.text()}` has a window wider than half of the model's {tokens_text(facts.positions)} positions"
            return (error("LB326", said, help=f"give a window of at most {tokens_text(facts.positions // 2)}"),)
        return ()
