"""`kv_rotations`: what turns the keys or values of KV heads so that neighbours can be averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Statistic
from lbdsl.statistics.kv_outputs import Which, heads_of, projection

if TYPE_CHECKING:
    from torch import Tensor


class KVRotations(Statistic):
    """For each KV head a matrix that brings its keys or values closest to those of the first head of its group, and one
    that takes it back where they are used: [2 * kv_heads, head_dim, head_dim], first those of all heads for keys or
    values, then those for what uses them.

    `n` is the number of groups of neighbours. Values turn by any rotation R; o_proj's columns of the heads that use them
    are multiplied with its transpose from the right. Keys turn and grow by one complex number for each pair of elements
    that rotary embeddings turn together, z; the queries' rows of the heads that use them by z / |z|^2, so that all scores
    stay as they are. The angle of z is that of least squares over the text; its size makes both heads' keys equally
    long: that of least squares would fall to 0 where two heads have little in common, and queries would grow without
    bound.
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
        found = {
            "products": torch.einsum("mni,mngj->ngij", x_MNGH[:, :, 0], x_MNGH),
            "squares": x_MNGH.square().sum(0),
        }
        for name, value in found.items():
            sums[name] = sums[name] + value if name in sums else value

    def value(
        self,
        sums: dict[str, Tensor],
        tokens: int,
        weights: Callable[[str], Tensor],
        layer: LayerSpec,
        model: ModelFacts,
    ) -> Tensor:
        import torch

        products, squares = (sums[name].double().cpu() for name in ("products", "squares"))
        if self.of == "v":
            left, _, right = torch.linalg.svd(products)
            there = left @ right
            back = there.mT.clone()
        else:
            there, back = _pair_rotations(products, squares, model.rotary or self.head_dim)
        # The first of each group stays as it is, also where the text says nothing of a direction.
        there[:, 0] = back[:, 0] = torch.eye(self.head_dim, dtype=there.dtype)
        return torch.cat([there.flatten(0, 1), back.flatten(0, 1)])


def _pair_rotations(products: Tensor, squares: Tensor, rotary: int) -> tuple[Tensor, Tensor]:
    """Matrices for keys and for queries, [n, group, head_dim, head_dim]. Elements that rotary embeddings leave alone are
    paired in the same way."""
    import torch

    head_dim = squares.shape[-1]
    ends = torch.arange(rotary), torch.arange(rotary, head_dim)
    first = torch.cat([part[: len(part) // 2] for part in ends])
    second = torch.cat([part[len(part) // 2 :] for part in ends])
    z = torch.complex(
        products[..., first, first] + products[..., second, second],
        products[..., second, first] - products[..., first, second],
    )
    lengths = squares[..., first] + squares[..., second]
    size = (lengths[:, :1] / lengths).sqrt()
    # A pair that is always 0 in one of the heads has no length to be brought to.
    size[(lengths == 0) | (lengths[:, :1] == 0)] = 1.0
    turn = torch.polar(torch.ones_like(size), z.angle())
    found = []
    for number in (turn * size, turn / size):
        matrix = torch.zeros_like(products)
        matrix[..., first, first] = matrix[..., second, second] = number.real
        matrix[..., second, first] = number.imag
        matrix[..., first, second] = -number.imag
        found.append(matrix)
    return found[0], found[1]
