"""`kv_rotations`: what turns the keys or values of KV heads so that neighbours can be averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic
from lbdsl.statistics.kv_outputs import Which, heads_of, projection

if TYPE_CHECKING:
    from torch import Tensor


class KVRotations(Statistic):
    """For each KV head the rotation that brings its keys or values closest, by least squares over the text, to those of the
    first head of its group: [kv_heads, head_dim, head_dim]. `n` is the number of groups of neighbours.

    Values turn by any orthogonal matrix. Keys turn by one angle for each pair of elements that rotary embeddings turn
    together, before those do; where queries turn alike, scores stay as they are. Keys are not scaled: queries would be by
    the inverse, and where two heads' keys have little in common, what is left between them would grow with it.
    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem (1966); arXiv 2412.20677.
    """

    kind: Literal["kv_rotations"] = "kv_rotations"
    of: Which
    n: int
    kv_heads: int
    head_dim: int

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return (projection(model, self.of),)

    def add(self, sums: dict[str, Tensor], module: str, input_MD: Tensor, output_ME: Tensor) -> None:
        import torch

        x_MNGH = heads_of(output_ME, module, self.of, self.kv_heads, self.head_dim).unflatten(1, (self.n, -1))
        found = torch.einsum("mni,mngj->ngij", x_MNGH[:, :, 0], x_MNGH)
        sums["products"] = sums["products"] + found if "products" in sums else found

    def value(self, seen: Observed) -> Tensor:
        import torch

        products = seen.sums["products"].double().cpu()
        if self.of == "v":
            left, _, right = torch.linalg.svd(products)
            rotations = left @ right
        else:
            rotations = _pair_rotations(products, seen.model.rotary or self.head_dim)
        # The first of each group stays as it is, also in directions that the text never takes.
        rotations[:, 0] = torch.eye(self.head_dim, dtype=rotations.dtype)
        return rotations.flatten(0, 1)


def _pair_rotations(products: Tensor, rotary: int) -> Tensor:
    """Pair by pair. Elements that rotary embeddings leave alone are paired in the same way."""
    import torch

    ends = torch.arange(rotary), torch.arange(rotary, products.shape[-1])
    first = torch.cat([part[: len(part) // 2] for part in ends])
    second = torch.cat([part[len(part) // 2 :] for part in ends])
    dot = products[..., first, first] + products[..., second, second]
    cross = products[..., second, first] - products[..., first, second]
    angle = torch.atan2(cross, dot)
    rotations = torch.zeros_like(products)
    rotations[..., first, first] = rotations[..., second, second] = angle.cos()
    rotations[..., second, first] = angle.sin()
    rotations[..., first, second] = -angle.sin()
    return rotations
