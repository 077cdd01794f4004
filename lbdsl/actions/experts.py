"""`experts`: fewer experts, those that matter most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions.base import Action, CountOrShare, unchangeable
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Largest, Ref, Stat, Take
from lbdsl.parts.moe import Moe


class Experts(Action):
    """Keep the experts of a layer that matter most: a number of them, or a share of those that it has.

    What: the other experts go, and their rows of the router with them; the router then chooses among those that are left.
    With `method=reap` an expert's importance is the mean, over the tokens of the calibration text that are routed to it, of
    its gate times the norm of its output; with `method=norm` the sum of these norms; with `method=frequency` the number of
    these tokens. A token still gets as many experts as before.
    Why: experts are most of the weights of such a model, and each token uses few of them. It saves memory, and hardly time.
    Judge by what the model writes, too: some models lose much of it where their perplexity rises little.
    Example: `layers all experts(50%)`, `lowest 12 by kl(experts(64)) experts(64)`, `else experts(96, method=frequency)`
    Source: REAP (arXiv 2510.13999), which compares with the other two methods.
    """

    kind: Literal["experts"] = "experts"
    n: Annotated[CountOrShare, Field(description="a number of experts, or a share of the base's as in `50%`")]
    method: Literal["reap", "frequency", "norm"] = "reap"
    example: ClassVar[str] = "experts(n=50%)"
    examples: ClassVar[tuple[str, ...]] = ("experts(n=50%, method=frequency)", "experts(n=50%, method=norm)")

    def claims(self) -> tuple[str, ...]:
        return ("ffn.experts",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        ffn = layer.ffn
        # What `check` rejects changes nothing.
        if not isinstance(ffn, Moe) or not self._fits(ffn):
            return layer
        return layer.replace(ffn=ffn.replace(experts=self._count(ffn)))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        before = base.ffn
        if not isinstance(before, Moe) or not self._fits(before):
            return {}
        importance = Stat(kind="expert_importance", args=(("method", self.method),), dims=(before.experts,))
        kept = Largest(of=importance, count=self._count(before))
        return {
            row.name: Take(x=Ref(name=row.name), axis=row.dims.index("experts"), indices=kept)
            for row in model.rows(before.kind)
            if "experts" in row.dims
        }

    def _count(self, of: Moe) -> int:
        return self.n if isinstance(self.n, int) else max(1, round(self.n * of.experts))

    def _fits(self, of: Moe) -> bool:
        return of.top_k <= self._count(of) < of.experts

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        ffn = facts.layer_specs[layer].ffn
        if not isinstance(ffn, Moe):
            return unchangeable(self, facts, layer)
        if self._fits(ffn):
            return ()
        asked = "all" if self._count(ffn) == ffn.experts else self._count(ffn)
        said = f"`{self.text()}` asks for {asked} of {ffn.experts} experts, of which a token gets {ffn.top_k}"
        can = f"{ffn.top_k} to {ffn.experts - 1} can be kept"
        return (error("LB319", said, help=can if ffn.top_k < ffn.experts else "leave those layers out"),)
