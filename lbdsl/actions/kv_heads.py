"""`kv_heads`: fewer KV heads, made from the existing ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lbdsl.actions.base import Action, unchangeable
from lbdsl.core.diagnostic import Diagnostic, error, note, warning
from lbdsl.core.units import plural
from lbdsl.cost.facts import ModelFacts
from lbdsl.families.rows import QKV
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Concat, Largest, MatMul, Mean, Ref, Slice, Stat, Take, Transpose
from lbdsl.parts.attention import Attention

_O = "self_attn.o_proj.weight"
_K_NORM = "self_attn.k_norm.weight"
Args = tuple[tuple[str, int | str], ...]


class KVHeads(Action):
    """Let the query heads of a layer share `n` heads of keys and values: each group of adjacent KV heads becomes one.

    What: with `method=mean` the keys and values of a group are averaged. Before that they are aligned: rotated so that the
    heads of a group are as similar as possible on the calibration text, which alone does not change the layer's output.
    Values take any rotation, which the output projection reverses; keys are rotated pair by pair, as by rotary
    embeddings, and queries with them. `align=false` averages without alignment. With `method=strongest` each group keeps
    the KV head whose values matter most: the mean norm of a value times the norm of the output projection's columns that
    read it. `n` divides the number of KV heads. In families with a key norm for each head (Qwen 3, Gemma 3), only values
    are aligned, and with a gate behind the attention (Qwen 3.5) nothing is; if the norm is over all heads (Olmo 3), both
    methods keep the strongest head.
    Why: the KV cache, and what each decoded token reads of it, shrink with the number of KV heads at any context length.
    Choose the layers by score: changing a few costs little quality, changing all of them ruins a model.
    Example: `lowest 8 by kl(kv_heads(1)) kv_heads(1)`
    Source: grouped-query attention by mean pooling (arXiv 2305.13245); aligning heads first (arXiv 2412.20677).
    """

    kind: Literal["kv_heads"] = "kv_heads"
    n: Annotated[int, Field(ge=1, le=2**31 - 1)]
    method: Literal["mean", "strongest"] = "mean"
    align: bool = True
    example: ClassVar[str] = "kv_heads(n=1)"
    examples: ClassVar[tuple[str, ...]] = ("kv_heads(n=1, method=strongest)", "kv_heads(n=1, align=false)")

    def claims(self) -> tuple[str, ...]:
        return ("mixer.kv_heads",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        mixer = self._fitting(layer)
        return layer if mixer is None else layer.replace(mixer=mixer.replace(kv_heads=self.n))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        mixer = self._fitting(base)
        if mixer is None or mixer.kv_heads == self.n:
            return {}
        norm = _norm_of_keys(model)
        strongest = self.method == "strongest" or norm == "key_value"
        aligned = "" if strongest or not self.align else "kv" if norm is None else "" if _gated(model) else "v"

        def new(of: str, x: AnyExpr) -> AnyExpr:
            if of == "q":
                return MatMul(a=_by_query(self._rotations("k", mixer), mixer), b=x) if "k" in aligned else x
            if strongest:
                return self._strongest(x, mixer)
            if of in aligned:
                x = MatMul(a=self._rotations(of, mixer), b=x)
            return Mean(x=x, axis=0, size=mixer.head_dim, group=mixer.kv_heads // self.n)

        old = {tensor.name for tensor in base.tensors(model)}
        made: dict[str, AnyExpr] = {}
        for end in ("weight", "bias"):
            fused = f"{QKV}.{end}"
            if fused in old:
                made[fused] = Concat(xs=tuple(new(of, x) for of, x in fused_rows(Ref(name=fused), mixer).items()), axis=0)
            for of in "qkv":
                name = f"self_attn.{of}_proj.{end}"
                if name in old and (of != "q" or "k" in aligned):
                    made[name] = new(of, Ref(name=name))
        if "v" in aligned:
            back = Transpose(x=self._rotations("v", mixer))
            made[_O] = MatMul(a=Ref(name=_O), b=_by_query(back, mixer))
        if norm == "key_value":
            made[_K_NORM] = new("k", Ref(name=_K_NORM))
        return made

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        mixer = facts.layer_specs[layer].mixer
        if not isinstance(mixer, Attention):
            return unchangeable(self, facts, layer)
        count = mixer.kv_heads
        if mixer.window is not None and mixer.window.full_heads:
            said = f"`{self.text()}` would merge KV heads that see all tokens with others that have a window"
            return (error("LB339", said, help="leave those layers out, or begin with the base"),)
        if count == self.n:
            said = f"`{self.text()}` changes nothing where layers have {plural(count, 'KV head')} by themselves"
            return (warning("LB327", said, help="give a smaller `n`" if count > 1 else "leave those layers out"),)
        fewer = [str(n) for n in range(1, count) if count % n == 0]
        if str(self.n) not in fewer:
            help = f"`n` can be {', '.join(fewer)}" if fewer else "leave those layers out"
            said = f"`{self.text()}` cannot be made of {plural(count, 'KV head')} in groups of one size"
            return (error("LB339", said, help=help),)
        norm = _norm_of_keys(facts)
        if norm == "key_value" and self.method == "mean":
            said = "keeps the strongest KV head of each group: keys are normed over all heads, so averages would not fit"
            return (note("LB348", f"`{self.text()}` {said}", help="write `method=strongest` to make that explicit"),)
        if norm and self.method == "mean" and self.align:
            said = "aligns values only: keys are normed head by head, and averaged as they are"
            if _gated(facts):
                said = "aligns nothing: keys are normed head by head, and a gate multiplies what comes of the values"
            return (note("LB348", f"`{self.text()}` {said}"),)
        return ()

    def _fitting(self, layer: LayerSpec) -> Attention | None:
        """The layer's attention if it can have `n` KV heads, else None; `check` reports why it cannot."""
        mixer = layer.mixer
        if not isinstance(mixer, Attention) or (mixer.window is not None and mixer.window.full_heads):
            return None
        return mixer if mixer.kv_heads % self.n == 0 else None

    def _rotations(self, of: str, mixer: Attention) -> Stat:
        args: Args = (("of", of), ("n", self.n), *_sizes(mixer))
        return Stat(kind="kv_rotations", args=args, dims=(mixer.kv_heads, mixer.head_dim, mixer.head_dim))

    def _strongest(self, x: AnyExpr, mixer: Attention) -> AnyExpr:
        """The rows of the strongest KV head of each group."""
        strength = Stat(kind="kv_head_strength", args=_sizes(mixer), dims=(mixer.kv_heads,))
        group, size = mixer.kv_heads // self.n, mixer.head_dim
        kept = []
        for start in range(0, mixer.kv_heads, group):
            best = Largest(of=Slice(x=strength, axis=0, start=start, stop=start + group), count=1, size=size)
            rows = Slice(x=x, axis=0, start=start * size, stop=(start + group) * size)
            kept.append(Take(x=rows, axis=0, indices=best))
        return Concat(xs=tuple(kept), axis=0)


def _norm_of_keys(model: ModelFacts) -> str | None:
    """The dimension that keys are normalized over: `head_dim` for each head separately, `key_value` for all heads
    together; None for models without key norms."""
    return next((row.dims[0] for row in model.rows("attention") if row.name == _K_NORM), None)


def _gated(model: ModelFacts) -> bool:
    """Whether queries bring a gate for the attention's output, which values then cannot be rotated before."""
    return any("query_gate" in row.dims for row in model.rows("attention"))


def _sizes(mixer: Attention) -> Args:
    return (("kv_heads", mixer.kv_heads), ("head_dim", mixer.head_dim))


def _by_query(x: AnyExpr, mixer: Attention) -> Take:
    """One matrix per query head, that of its KV head, from one matrix per KV head: [heads, head_dim, head_dim]."""
    each = mixer.heads // mixer.kv_heads
    return Take(x=x, axis=0, indices=tuple(head // each for head in range(mixer.heads)))


def fused_rows(x: Ref, mixer: Attention) -> dict[str, Slice]:
    """The rows of queries, keys and values in a fused QKV projection."""
    query, key_value = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    ends = {"q": (0, query), "k": (query, query + key_value), "v": (query + key_value, query + 2 * key_value)}
    return {of: Slice(x=x, axis=0, start=start, stop=stop) for of, (start, stop) in ends.items()}
