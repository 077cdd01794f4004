"""Find the weight files of a model folder and the tensors in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail
from lbdsl.model.config_file import read_json_object
from lbdsl.model.safetensors_header import TensorInfo, read_safetensors_header
from lbdsl.model.tensor_names import memory_names

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TEMPLATE_FOLDER = "additional_chat_templates"
"""Folder in which a tokenizer saves chat templates other than its default one."""
NAME_CAP = 255
"""Maximum length of a file name in bytes on common file systems; a longer one would cause an OS error."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files that transformers would load, in name order.

    Raises LbdslError: LB401 without weights, LB405 for a missing shard, LB406 if there are only pickles, LB408 for an index
    that names files outside its folder.
    """
    if (folder / SINGLE).is_file():
        return (SINGLE,)
    if (folder / INDEX).is_file():
        names = tuple(sorted(set(shard_map(folder).values())))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise fail(
                "LB405",
                f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}",
                help="copy or download the model again",
            )
        return names
    others, pickles = _other_weights(folder)
    if pickles:
        raise fail(
            "LB406",
            f"the weights are a pickle ({pickles[0]}), which can run code when it is read",
            help="load the model where you trust it, and save it with save_pretrained: that writes safetensors",
        )
    if others:
        raise fail(
            "LB401",
            f"there is {others[0]}, but neither {SINGLE} nor {INDEX}",
            help=f"one file must be called {SINGLE}; several need {INDEX}",
        )
    raise fail(
        "LB401",
        f"{folder} holds a config.json but no weights",
        help=f"it needs {SINGLE}, or {INDEX} and its shards; pickles are never downloaded",
    )


def without_weights(folder: Path) -> bool:
    """Whether there are no weights of any form in a model's folder, also none that are said to be there."""
    return not any(_other_weights(folder)) and not (folder / INDEX).is_file()


def _other_weights(folder: Path) -> tuple[list[str], list[str]]:
    """Names of files of safetensors, and of pickles with weights."""
    names = sorted(entry.name for entry in folder.iterdir())
    pickles = [name for name in names if name.endswith(_PICKLES) and not name.startswith("training_args")]
    return [name for name in names if name.endswith(".safetensors")], pickles


def shard_map(folder: Path) -> dict[str, str]:
    """Tensor name to shard name, from the index; every shard is a plain file name. Raises LB408."""
    index = read_json_object(folder / INDEX, code="LB408")
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise fail("LB408", f"{INDEX} has no weight_map")
    for name in shards.values():
        if not _is_plain(name):
            raise fail(
                "LB408",
                f"{INDEX} names the file {str(name)[:80]!a}",
                help="a shard is a .safetensors file of the same folder, without any path",
            )
    return dict(shards)


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of the checkpoint by their names in memory; of a language model beside others, its own. Raises LbdslError
    with LB401 or LB405-LB409."""
    return memory_names(stored_tensors(folder), folder)


def stored_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of the checkpoint by their names in its files. Raises as `read_tensors` does."""
    tensors: dict[str, TensorInfo] = {}
    for name in weight_files(folder):
        for info in read_safetensors_header(folder / name):
            if info.name in tensors:
                raise fail("LB409", f"{info.name[:80]!a} is in {tensors[info.name].file} and again in {name}")
            tensors[info.name] = info
    if not (folder / SINGLE).is_file():
        for tensor, shard in shard_map(folder).items():
            if tensor not in tensors or tensors[tensor].file != shard:
                raise fail("LB409", f"{INDEX} says that {tensor[:80]!a} is in {shard}, and it is not")
    return tensors


def same_bytes(folder: Path, one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors hold the same data."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with (folder / one.file).open("rb") as a, (folder / other.file).open("rb") as b:
        a.seek(one.start)
        b.seek(other.start)
        left = one.stop - one.start
        while left > 0:
            step = min(left, 2**22)
            if a.read(step) != b.read(step):
                return False
            left -= step
    return True


def _is_plain(name: Any) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and len(os.fsencode(name)) <= NAME_CAP
        and not any(c in name for c in "/\\:\0")
        and name.isprintable()
    )
