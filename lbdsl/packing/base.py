"""Base class of packings: how a kind of storage turns a matrix into the tensors that are saved, and back.

A kind of storage that saves other tensors than the matrix has one, in a file beside this one or in the plug-in's own file.
torch is imported only inside the functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Packing(ABC):
    """The packing of the storage `kind`. `stored` is the storage of one module."""

    kind: ClassVar[str]

    @staticmethod
    @abstractmethod
    def pack(stored: Any, weight: Tensor, inputs: Tensor | None = None) -> dict[str, Tensor]:
        """The saved tensors, on the CPU, by name relative to the module, of a matrix [rows, columns] in the dtype that the
        model is saved in. `inputs` is `stored.statistic`, or None while it is not known; one that needs the largest weight
        gets it as `largest`."""

    @staticmethod
    @abstractmethod
    def unpack(stored: Any, tensors: Mapping[str, Tensor]) -> Tensor:
        """The matrix that the saved tensors mean, in the model's dtype, or in float32 if they do not tell it."""
