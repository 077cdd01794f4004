"""A hybrid model whose weights stay on disk: a layer, or the head, is in memory only while it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.packed import stored_parameters
from lbdsl.measure.skeleton import skeleton_of
from lbdsl.measure.tensor_files import TensorFiles

HEAD_BYTES = 2**30
"""A head up to this size is read whole for predictions; a larger one is read in pieces at each use."""

PIECE_BYTES = 2**28


class StreamedModel(LayerSource):
    """The model of a checkpoint folder (a stock model or an artifact) with the facts `facts`, computing in dtype `compute`
    if that is given, else in the dtype of its weights.

    `hybrid` has placeholders for parameters (see `skeleton_of`). Within `layer(i)` the parameters of layer i are real,
    within `head()` those that `hybrid.predict` uses. Results are bit for bit those of the loaded model, except for heads
    larger than HEAD_BYTES, whose products may round differently.
    """

    in_memory = False

    def __init__(self, folder: Path, facts: ModelFacts, device: Any, compute: str | None = None):
        computed = replace(facts, dtype=compute or facts.dtype)
        super().__init__(skeleton_of(folder, computed, device), device)
        self._files = TensorFiles(folder, getattr(torch, facts.dtype), device, getattr(torch, computed.dtype))
        for name, module in self.hybrid.named_modules():
            # By which inputs are rounded: no parameter.
            if (scale := f"{name}.input_global_scale") in self._files.infos:
                module.input_global_scale = float(self._files.read(scale, as_stored=True))
        self._embedding = self._stored("model.embed_tokens.weight", "lm_head.weight")
        self._head = self._stored("lm_head.weight", "model.embed_tokens.weight")
        self.hybrid.saved_dtype = facts.dtype
        # It affects gradients only, and could be out of range of the few rows that are loaded.
        self.hybrid.model.embed_tokens.padding_idx = None

    def _stored(self, name: str, tied: str) -> str:
        """The name in the checkpoint of a matrix that may be tied to another."""
        return name if name in self._files.infos else tied

    @torch.inference_mode()
    def embed(self, ids_BN: Tensor) -> Tensor:
        """See LayerSource.embed; only the embedding rows that occur are read."""
        rows, places = torch.unique(ids_BN, return_inverse=True)
        with _real(self.hybrid.model.embed_tokens, {"weight": self._files.gather(self._embedding, rows.tolist())}):
            return self.hybrid.model.embed(places)

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        layer = self.hybrid.model.layers[index]
        with _real(layer, self.parameters(index)):
            yield layer

    def parameters(self, index: int) -> dict[str, Tensor]:
        """The parameters of layer `index`, by name relative to the layer."""
        layer = self.hybrid.model.layers[index]
        spec = LayerSpec.model_validate(layer.spec)
        names = (name for name, _ in layer.named_parameters())
        return dict(stored_parameters(self._files, spec, f"model.layers.{index}.", names))

    def loaded(self) -> Any:
        """The whole model with all weights in memory."""
        body = self.hybrid.model
        for index, layer in enumerate(body.layers):
            _set(layer, self.parameters(index))
        _set(body.norm, {name: self._files.read(f"model.norm.{name}") for name, _ in body.norm.named_parameters()})
        _set(body.embed_tokens, {"weight": self._files.read(self._embedding)})
        if self._head == self._embedding:
            self.hybrid.lm_head.weight = body.embed_tokens.weight
        else:
            _set(self.hybrid.lm_head, {"weight": self._files.read(self._head)})
        return self.hybrid

    @contextmanager
    def head(self) -> Iterator[Any]:
        head = self.hybrid.lm_head
        info = self._files.infos[self._head]
        norms = {name: self._files.read(f"model.norm.{name}") for name, _ in self.hybrid.model.norm.named_parameters()}
        with _real(self.hybrid.model.norm, norms):
            if info.elements * self.hybrid.dtype.itemsize <= HEAD_BYTES:
                with _real(head, {"weight": self._files.read(self._head)}):
                    yield self.hybrid
            else:
                self.hybrid.lm_head = _PiecewiseHead(head, self._files, self._head)
                try:
                    yield self.hybrid
                finally:
                    self.hybrid.lm_head = head


class _PiecewiseHead(nn.Module):
    """The output head computed in blocks of rows: [..., D] to [..., V]."""

    def __init__(self, head: nn.Linear, files: TensorFiles, name: str):
        super().__init__()
        if head.bias is not None:
            raise ValueError("the head has a bias, and its product is made without one")
        self.weight: nn.Parameter = head.weight
        self._files: TensorFiles = files
        self._name: str = name

    def forward(self, hidden: Tensor) -> Tensor:
        rows, width = self.weight.shape
        step = max(1, PIECE_BYTES // (width * hidden.dtype.itemsize))
        logits = torch.empty(*hidden.shape[:-1], rows, dtype=hidden.dtype, device=hidden.device)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            logits[..., start:stop] = functional.linear(hidden, self._files.rows(self._name, start, stop))
        return logits


@contextmanager
def _real(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Give `module` these values for its parameters, and restore its placeholders afterwards, even after an exception."""
    stand_ins: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    try:
        stand_ins += _set(module, tensors)
        yield
    finally:
        for owner, leaf, parameter in stand_ins:
            owner._parameters[leaf] = parameter


def _set(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[nn.Module, str, nn.Parameter | None]]:
    """Give `module` these values for its parameters; returns (owner, name, value) of those before."""
    before = []
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        before.append((owner, leaf, owner._parameters[leaf]))
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    return before
