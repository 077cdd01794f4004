"""`kv_rotations`: rotations that align the keys or values of neighbouring KV heads, so that they can be averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic
from lbdsl.statistics.kv_outputs import Which, heads_of, projection

if TYPE_CHECKING:
    from torch import Tensor


class KVRotations(Statistic):
    """[kv_heads, head_dim, head_dim]: for each KV head the rotation that maps its keys or values closest, by least squares
    over the text, to those of the first head of its group. `n` is the number of groups of neighbouring heads.

    For values it is any orthogonal matrix. For keys it is one angle for each pair of elements that RoPE rotates together,
    applied before RoPE; if queries are rotated in the same way, attention scores do not change. Keys are not scaled, since
    queries would need the inverse scale, which amplifies the remaining difference between heads that have little in common.
    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem (1966); arXiv 2412.20677.
    """

    kind: Literal["kv_rotations"] = "kv_rotations"
    of: Which
    n: int
    kv_heads: int
    head_dim: int

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return (projection(model, self.of),)

    def add(self, sums: dict[str, Tensor], module: str, input_BND: Tensor, output_BNE: Tensor) -> None:
        import torch

        x_MNGH = heads_of(output_BNE, module, self.of, self.kv_heads, self.head_dim).unflatten(1, (self.n, -1))
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
        # The first head of each group is unchanged, also in directions that do not occur in the text.
        rotations[:, 0] = torch.eye(self.head_dim, dtype=rotations.dtype)
        return rotations.flatten(0, 1)


def _pair_rotations(products: Tensor, rotary: int) -> Tensor:
    """The rotations for keys, pair by pair. Elements that RoPE does not rotate are paired in the same way."""
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
