"""Facts of a model from its configuration and its weights' headers, without loading its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

from lbdsl.cost.cost import ModelCost, model_cost
from lbdsl.families import FAMILIES, Family
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot, TensorRow, TensorShape

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelFacts:
    """One decoder language model. Lengths are in elements, `positions` in tokens.

    `dtype` is the one the model runs, is measured and is saved in (`--dtype`, else the checkpoint's, else bfloat16).
    `layer_specs` describes each layer; `flags` are the names of the boolean configuration fields that are true and switch
    on parameters such as biases. A tied head counts once. `rotary` is the number of a head's elements that rotary
    embeddings rotate, None for all.
    """

    family: str
    architecture: str
    hidden: int
    vocab: int
    positions: int
    tied: bool
    dtype: str
    layer_specs: tuple[LayerSpec, ...]
    flags: tuple[str, ...] = ()
    rotary: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The fields only; cached derived values are recomputed."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def family_data(self) -> Family:
        return FAMILIES[self.family]

    @property
    def layers(self) -> int:
        return len(self.layer_specs)

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    # Sizes that can differ between layers: the maximum over all layers.

    @property
    def heads(self) -> int:
        return self._largest("heads")

    @property
    def kv_heads(self) -> int:
        return self._largest("kv_heads")

    @property
    def head_dim(self) -> int:
        return self._largest("head_dim")

    @property
    def intermediate(self) -> int:
        return self._largest("intermediate")

    def _largest(self, name: str) -> int:
        sizes = (part.dims().get(name, 0) for spec in self.layer_specs for _, part in spec.sub_blocks)
        return max(sizes, default=0)

    # Parameters and cache.

    def in_dtype(self, dtype: str) -> Self:
        return replace(self, dtype=dtype)

    def rows(self, kind: str) -> tuple[TensorRow, ...]:
        return self.family_data.rows.get(kind, ())

    def norms(self, slot: Slot) -> tuple[TensorRow | None, TensorRow | None]:
        before, after = self.family_data.norms[slot]
        return (before.row if before else None), (after.row if after else None)

    @cached_property
    def columns(self) -> frozenset[int]:
        """The sizes of rows of all matrices in the layers."""
        return frozenset(t.shape[-1] for spec in self.layer_specs for t in spec.tensors(self) if t.is_matrix)

    def shaped(self, rows: Iterable[TensorRow], sizes: Mapping[str, int]) -> tuple[TensorShape, ...]:
        """The parameters of `rows` that the configuration switches on; `sizes` are the part's own dimensions by name."""
        every = {"hidden": self.hidden, "vocab": self.vocab, **sizes}
        return tuple(
            TensorShape(row.name, tuple(every[dim] for dim in row.dims), row.routes, row.files, row.plain)
            for row in rows
            if row.when is None or row.when in self.flags
        )

    @cached_property
    def outside(self) -> tuple[TensorShape, ...]:
        """The parameters outside the layers by their full names: embeddings, final norm, and the head if it is not tied."""
        family = self.family_data
        return self.shaped((family.embedding, *family.other, *(() if self.tied else (family.head,))), {})

    @cached_property
    def other_params(self) -> int:
        return sum(tensor.elements for tensor in self.outside)

    @cached_property
    def params(self) -> int:
        """The number of all parameters; shared ones count once."""
        return self.other_params + sum(t.elements for spec in self.layer_specs for t in spec.tensors(self))

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Full names of the layers' modules with a weight matrix."""
        prefix = self.family_data.layer_prefix
        return tuple(prefix.format(index) + module for index, maps in enumerate(self.linear_maps) for module in maps)

    @cached_property
    def linear_maps(self) -> tuple[tuple[str, ...], ...]:
        """The modules with a weight matrix of each layer, by name relative to the layer."""
        return tuple(spec.linear_maps(self) for spec in self.layer_specs)

    @cached_property
    def cost(self) -> ModelCost:
        """The costs of the unchanged model."""
        return replace(model_cost(self, self.layer_specs), is_base=True)

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of KV cache for one sequence of `ctx` tokens."""
        return self.cost.kv_bytes(ctx)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the first token's keys and values in all layers; the same name is used by `inspect` and in recipes."""
        return self.kv_bytes(1)
