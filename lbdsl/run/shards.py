"""`carry_out`: drop, rename or cast tensors of a checkpoint without loading it.

Memory use is one small buffer, whatever the size of a tensor: the kernel copies byte ranges, and only tensors that are
cast pass through this process, in chunks. Unchanged files become hard links to the old ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import Report
from lbdsl.model.checkpoint import INDEX, SINGLE, read_tensors
from lbdsl.run.copying import copy_range, link_or_copy, whole_file, write_all
from lbdsl.run.file_layout import ELEMENT_BYTES, NewTensor, RewritePlan, ShardPlan

CAST_ELEMENTS = 2**21
"""Number of elements cast at once: 8 MiB of float32."""


Cast = Callable[[bytearray, str, str], bytes]
"""Converts elements between two dtypes, given by torch's names; returns the bytes of the new elements."""


def carry_out(
    plan: RewritePlan,
    output_folder: Path,
    *,
    cast: Cast | None = None,
    make: Callable[[str], bytes] | None = None,
    progress: Report | None = None,
) -> tuple[str, ...]:
    """Write the files of a RewritePlan; `make` returns the bytes of a new tensor, by name."""
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, plan.total_size), plan.total_size, shard.name)

    for shard in plan.shards:
        target = output_folder / shard.name
        target.unlink(missing_ok=True)
        if shard.linked:
            link_or_copy(plan.source / shard.source, target, tell)
        else:
            _write(plan.source / shard.source, shard, target, cast, make, tell)
    names = [shard.name for shard in plan.shards]
    if names != [SINGLE]:
        with whole_file(output_folder / INDEX) as writer:
            write_all(writer, (json.dumps(plan.index(), indent=2) + "\n").encode())
        names.append(INDEX)
    _check(plan, output_folder)
    return tuple(names)


def _write(
    source: Path,
    shard: ShardPlan,
    target: Path,
    cast: Cast | None,
    make: Callable[[str], bytes] | None,
    tell: Callable[[int], None],
) -> None:
    reader = os.open(source, os.O_RDONLY)
    try:
        with whole_file(target) as writer:
            write_all(writer, shard.header())
            for run in _runs(shard.pieces):
                if run[0].made:
                    assert make is not None, "a plan with new tensors needs a way to make them"
                    write_all(writer, make(run[0].name))
                    tell(run[0].size)
                elif run[0].is_cast:
                    assert cast is not None, "a plan with another dtype needs a way to cast"
                    _write_cast(reader, writer, run[0], cast, tell)
                else:
                    first, last = run[0].source, run[-1].source
                    copy_range(reader, writer, first.start, last.stop - first.start, tell)
    finally:
        os.close(reader)


def _runs(pieces: tuple[NewTensor, ...]) -> Iterator[list[NewTensor]]:
    """Group pieces that are also adjacent in the old file, to copy them as one range; a piece that is cast or made is its
    own group."""
    run: list[NewTensor] = []
    for piece in pieces:
        alone = piece.is_cast or piece.made or (bool(run) and (run[-1].is_cast or run[-1].made))
        joins = run and not alone and run[-1].source.stop == piece.source.start
        if run and not joins:
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _write_cast(reader: int, writer: int, piece: NewTensor, cast: Cast, tell: Callable[[int], None]) -> None:
    old, new = piece.source.dtype, piece.dtype
    position, stop = piece.source.start, piece.source.stop
    while position < stop:
        wanted = min(CAST_ELEMENTS * ELEMENT_BYTES[old], stop - position)
        data = bytearray(wanted)
        if os.preadv(reader, [data], position) < wanted:
            raise fail(
                "LB419",
                f"{piece.source.file} was truncated while it was read",
                help="wait until it is completely written, then run again",
            )
        changed = cast(data, old, new)
        write_all(writer, changed)
        position += wanted
        tell(wanted * ELEMENT_BYTES[new] // ELEMENT_BYTES[old])


def _check(plan: RewritePlan, folder: Path) -> None:
    """Check that the headers on disk match the plan, also of linked files, whose source may have changed meanwhile."""
    infos = [info for joined in read_tensors(folder).values() for info in joined.pieces or (joined,)]
    found = {info.stored or info.name: (info.dtype, info.shape, info.file) for info in infos}
    planned = {piece.name: (piece.dtype, piece.source.shape, shard.name) for shard in plan.shards for piece in shard.pieces}
    if found != planned:
        raise fail(
            "LB419",
            "the checkpoint changed while it was copied",
            help="wait until it is completely written, then run again",
        )
