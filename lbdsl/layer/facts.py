"""What is known of a model from its configuration and its weights' headers, without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from lbdsl.families import FAMILIES, Family, TensorRow
from lbdsl.layer.cost import ModelCost, model_cost
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import TensorShape
from lbdsl.parts.attention import Attention
from lbdsl.parts.gated_mlp import GatedMLP

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelFacts:
    """One decoder language model. Lengths are in elements, `positions` in tokens.

    `dtype` is the one the model runs, is measured and is saved in (`--dtype`, else the checkpoint's, else bfloat16).
    `layer_specs` says what each layer is; `flags` names the boolean fields of the configuration that are on, and switch
    on parameters such as biases. A tied head counts once. `rotary` is how many of a head's elements rotary embeddings
    turn, None for all.
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
        """The fields: what is derived from them is made again."""
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

    # What is one number a model where layers are alike: that of the layer with the most.

    @property
    def heads(self) -> int:
        return max((mixer.heads for mixer in self._attentions), default=0)

    @property
    def kv_heads(self) -> int:
        return max((mixer.kv_heads for mixer in self._attentions), default=0)

    @property
    def head_dim(self) -> int:
        return max((mixer.head_dim for mixer in self._attentions), default=0)

    @property
    def intermediate(self) -> int:
        return max((spec.ffn.width for spec in self.layer_specs if isinstance(spec.ffn, GatedMLP)), default=0)

    @property
    def _attentions(self) -> tuple[Attention, ...]:
        return tuple(spec.mixer for spec in self.layer_specs if isinstance(spec.mixer, Attention))

    # Parameters and cache.

    def shaped(self, rows: Iterable[TensorRow], sizes: Mapping[str, int]) -> tuple[TensorShape, ...]:
        """The parameters of `rows` that the configuration switches on; `sizes` are a part's own, by name."""
        every = {"hidden": self.hidden, "vocab": self.vocab, **sizes}
        return tuple(
            TensorShape(row.name, tuple(every[dim] for dim in row.dims))
            for row in rows
            if row.when is None or row.when in self.flags
        )

    @cached_property
    def outside(self) -> tuple[TensorShape, ...]:
        """The parameters outside the layers by their full names: embeddings, final norm, and a head that is not tied."""
        family = self.family_data
        return self.shaped((family.embedding, *family.other, *(() if self.tied else (family.head,))), {})

    @cached_property
    def other_params(self) -> int:
        return sum(tensor.elements for tensor in self.outside)

    @cached_property
    def params(self) -> int:
        """All parameters, each shared one once."""
        return self.other_params + sum(t.elements for spec in self.layer_specs for t in spec.tensors(self))

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Full names of the layers' modules with a weight matrix."""
        prefix = self.family_data.layer_prefix
        return tuple(prefix.format(index) + module for index, maps in enumerate(self.linear_maps) for module in maps)

    @cached_property
    def linear_maps(self) -> tuple[tuple[str, ...], ...]:
        """Of each layer, the modules with a weight matrix, by name below the layer."""
        return tuple(spec.linear_maps(self) for spec in self.layer_specs)

    @cached_property
    def cost(self) -> ModelCost:
        """What the unchanged model costs."""
        return model_cost(self, self.layer_specs)

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of cache that one sequence of `ctx` tokens holds."""
        parts = (part for spec in self.layer_specs for part in (spec.mixer, spec.ffn) if part is not None)
        return sum(part.cache_bytes(self, ctx) for part in parts)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the first token adds to the keys and values of all layers; `inspect` and recipes call it so."""
        return self.kv_bytes(1)
