"""An action of one's own that makes new weights from old ones: the MLP's matrices as products of two thin ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.plugins import (
    Action,
    AnyExpr,
    Diagnostic,
    Factor,
    GatedMLP,
    LayerSpec,
    ModelFacts,
    ModelShape,
    Part,
    Ref,
    Slot,
    TensorShape,
    error,
)


class LowRankMLP(Part):
    """A gated MLP of `width` channels, each of its matrices A the product of one of [.., rank] and one of [rank, ..]."""

    slot: ClassVar[Slot] = Slot.FFN
    runtime: ClassVar[Path | None] = Path(__file__).with_name("lbdsl_part_low_rank_mlp.py")
    kind: Literal["low_rank_mlp"] = "low_rank_mlp"
    width: int
    rank: int

    def tensors(self, model: ModelShape) -> tuple[TensorShape, ...]:
        return tuple(self._pairs(model))

    def _pairs(self, model: ModelShape) -> Iterator[TensorShape]:
        for name in ("gate", "up", "down"):
            rows, columns = (model.hidden, self.width) if name == "down" else (self.width, model.hidden)
            yield TensorShape(f"mlp.{name}_proj.0.weight", (self.rank, columns))
            yield TensorShape(f"mlp.{name}_proj.1.weight", (rows, self.rank))


class LowRank(Action):
    """Store each matrix of a layer's MLP as the product of two of a low rank.

    What: gate, up and down become the products of rank `rank` that are closest to them.
    Why: 2 x rank x (n + m) numbers instead of n x m, and as much less arithmetic.
    Example: `lowest 4 by kl(low_rank(rank=128)) low_rank(rank=128)`
    Source: Eckart and Young, The approximation of one matrix by another of lower rank (1936).
    """

    kind: Literal["low_rank"] = "low_rank"
    rank: Annotated[int, Field(ge=1)]
    example: ClassVar[str] = "low_rank(rank=16)"

    def claims(self) -> tuple[str, ...]:
        return ("ffn",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        was = layer.ffn
        if not isinstance(was, GatedMLP):
            return layer
        return layer.replace(ffn=LowRankMLP(width=was.width, rank=self.rank))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        made: dict[str, AnyExpr] = {}
        for name in ("gate", "up", "down"):
            old = Ref(name=f"mlp.{name}_proj.weight")
            made[f"mlp.{name}_proj.0.weight"] = Factor(x=old, rank=self.rank, which="second")
            made[f"mlp.{name}_proj.1.weight"] = Factor(x=old, rank=self.rank, which="first")
        return made

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        spec = facts.layer_specs[layer]
        shapes = {tensor.name: tensor.shape for tensor in spec.ffn.tensors(facts)} if spec.ffn is not None else {}
        if set(shapes) != {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}:
            return (error("LB404", "`low_rank` needs an MLP with gate, up and down of their own and without biases"),)
        most = min(min(shape) for shape in shapes.values())
        if self.rank > most:
            return (error("LB404", f"`{self.text()}` asks for more than the rank of the MLP's matrices, {most}"),)
        return ()
