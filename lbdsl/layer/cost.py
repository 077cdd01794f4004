"""What one layer costs, from its parts. The formulas of a plan are sums of these (docs/costs.md).

FLOPs count a multiply and an add as two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lbdsl.core.units import Unit
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Part


@dataclass(frozen=True)
class LayerCost:
    """The counts of one layer in `model`.

    params:       parameters, norms and biases included
    matrix:       elements of matrices, which a decoded token multiplies with (2 FLOPs each)
    matrix_bytes: bytes of those, as stored
    weights:      bytes of all its parameters, as stored
    """

    model: ModelFacts
    spec: LayerSpec
    params: int
    matrix: int
    matrix_bytes: int
    weights: int

    @classmethod
    def of(cls, spec: LayerSpec, model: ModelFacts) -> LayerCost:
        params = matrix = matrix_bytes = other = 0
        stored = dict(spec.weights)
        for tensor in spec.tensors(model):
            params += tensor.elements
            size = tensor.elements * model.dtype_bytes
            if tensor.is_matrix:
                matrix += tensor.elements
                storage = stored.get(tensor.module)
                matrix_bytes += size if storage is None else storage.stored_bytes(tensor, model)
            else:
                other += size
        return cls(model, spec, params, matrix, matrix_bytes, matrix_bytes + other)

    @property
    def _parts(self) -> list[Part]:
        return [part for part in (self.spec.mixer, self.spec.ffn) if part is not None]

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of cache storage that one sequence of `ctx` tokens holds."""
        return sum(part.cache_bytes(self.model, ctx) for part in self._parts)

    def beyond_weights(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`, beyond its products with weights."""
        return sum(part.decode_flops(self.model, ctx) for part in self._parts)

    def flops(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`."""
        return 2 * self.matrix + self.beyond_weights(ctx)

    def prefill_flops(self, n: int) -> int:
        """FLOPs of reading `n` tokens."""
        return 2 * n * self.matrix + sum(part.prefill_flops(self.model, n) for part in self._parts)


@dataclass(frozen=True)
class StaticValue:
    """A cost of the changed model by the name that recipes call it, known before anything is measured.

    `of` is what one layer adds at a context (None where `takes_context` is False), `outside` what the rest of the model
    does. `meaning` is for the pages of the editor and of `explain`.
    """

    name: str
    unit: Unit
    takes_context: bool
    of: Callable[[LayerCost, int], int]
    outside: Callable[[ModelFacts], int]
    meaning: str


def _no_part(_facts: ModelFacts) -> int:
    return 0


STATIC_VALUES: Mapping[str, StaticValue] = MappingProxyType(
    {
        value.name: value
        for value in (
            StaticValue(
                "kv",
                Unit.BYTES,
                True,
                lambda layer, ctx: layer.kv_bytes(ctx),
                _no_part,
                "Bytes of keys and values that one sequence of CTX tokens holds.",
            ),
            StaticValue(
                "flops",
                Unit.FLOPS,
                True,
                lambda layer, ctx: layer.flops(ctx),
                lambda facts: 2 * facts.hidden * facts.vocab,
                "FLOPs of decoding one token after CTX tokens.",
            ),
            StaticValue(
                "params",
                Unit.PARAMS,
                False,
                lambda layer, ctx: layer.params,
                lambda facts: facts.other_params,
                "Parameters of the changed model.",
            ),
            StaticValue(
                "weights",
                Unit.BYTES,
                False,
                lambda layer, ctx: layer.weights,
                lambda facts: facts.other_params * facts.dtype_bytes,
                "Bytes of the changed model's weights, as they are stored.",
            ),
        )
    }
)
"""A percentage compared with one of them is a share of the base model's."""
