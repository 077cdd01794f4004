"""Documents into blocks of token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import canonical_json
from lbdsl.data.sources import read_documents
from lbdsl.data.split import Part, document_hash, split_documents


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """Packed text. `ids` is int64 [S, N] on the CPU: S sequences of N = `seq` tokens.

    `digest` identifies the ids and what made them. `passes` is above 1 when text was repeated (healing only).
    `available` is the number of tokens that the part holds, None where reading stopped before its end.
    """

    ids: torch.Tensor
    digest: str
    data: str
    part: Part
    seed: int
    passes: int
    available: int | None

    @property
    def sequences(self) -> int:
        return self.ids.shape[0]

    @property
    def seq(self) -> int:
        return self.ids.shape[1]

    @property
    def tokens(self) -> int:
        return self.ids.numel()


def documents_of(
    data: str, parts: Iterable[Part], *, base_dir: Path | str | None = None, offline: bool = False
) -> frozenset[str]:
    """Hashes of the documents that a source has in these parts; see `document_hash`."""
    split = split_documents(read_documents(data, base_dir=base_dir, offline=offline))
    return frozenset(document_hash(text) for part in parts for text in split.parts[part])


def token_blocks(
    data: str,
    part: Part,
    tokenizer: Any,
    tokens: int,
    seq: int,
    seed: int = 0,
    *,
    base_dir: Path | str | None = None,
    offline: bool = False,
    exclude: frozenset[str] = frozenset(),
) -> TokenBlocks:
    """Read, split, tokenize and pack the text of one part; see `read_documents` and `pack`.

    `exclude` are hashes of documents that another source uses for something else: parts are disjoint within a source,
    not between two that share documents.
    """
    documents = split_documents(read_documents(data, base_dir=base_dir, offline=offline)).parts[part]
    if exclude:
        documents = tuple(text for text in documents if document_hash(text) not in exclude)
    return pack(documents, part, tokenizer, tokens, seq, seed, data=data)


def pack(
    documents: Sequence[str], part: Part, tokenizer: Any, tokens: int, seq: int, seed: int = 0, *, data: str = ""
) -> TokenBlocks:
    """`tokens` tokens of the documents, rounded down to whole sequences of `seq`; one of `tokens` if that is shorter.

    Documents come in an order that depends on the seed and their content alone, end with the tokenizer's
    end-of-sequence token, and run on from one sequence to the next. Where the tokenizer itself starts a text with a
    beginning-of-sequence token, so does each sequence. Healing text is repeated, in another order each time, when
    there is too little; any other part raises LB446.
    """
    if tokens < 2 or seq < 2:
        raise fail("LB446", f"{min(tokens, seq)} token has no next token to predict", help="ask for at least 2 tokens")
    seq = min(seq, tokens)
    sequences = tokens // seq
    prefix = _prefix(tokenizer)
    body = seq - len(prefix)
    wanted = sequences * body

    stream: list[int] = []
    passes = 0
    available: int | None = None
    while len(stream) < wanted:
        passes += 1
        for ids in _tokenized(documents, tokenizer, seed, passes):
            stream += ids
            if len(stream) >= wanted:
                break
        else:
            if available is None:
                available = len(stream)
            if len(stream) < wanted and (part is not Part.HEAL or not stream):
                raise _too_little(data, part, available, wanted, seq)
    rows = torch.tensor(stream[:wanted], dtype=torch.int64).view(sequences, body)
    if prefix:
        rows = torch.cat([torch.tensor(prefix).expand(sequences, -1), rows], dim=1)
    ids_SN = rows.contiguous()
    made_of = {"data": data, "part": part.value, "seed": seed, "shape": [sequences, seq], "passes": passes}
    content = ids_SN.numpy().astype("<i8").tobytes()
    digest = hashlib.sha256(canonical_json(made_of).encode() + b"\n" + content).hexdigest()
    return TokenBlocks(ids_SN, digest, data, part, seed, passes, available)


def _tokenized(documents: Sequence[str], tokenizer: Any, seed: int, turn: int) -> Iterator[list[int]]:
    """Ids of each document, the end token included, in the order of this seed and turn."""
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def place(text: str) -> str:
        return hashlib.sha256(f"{seed} {turn} {document_hash(text)}".encode()).hexdigest()

    for text in sorted(documents, key=place):
        # `verbose=False`: a document longer than the model's positions is cut into sequences here, nothing to warn of.
        yield list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) + ending


def _prefix(tokenizer: Any) -> list[int]:
    """[bos] where the tokenizer puts it before every text: such models have never seen a sequence without it."""
    bos = tokenizer.bos_token_id
    start = tokenizer("a", verbose=False)["input_ids"][:1]
    return [bos] if bos is not None and start == [bos] else []


def _too_little(data: str, part: Part, available: int, wanted: int, seq: int) -> Exception:
    options = ["give a source with more text"]
    whole = available // seq * seq
    if whole:
        options.insert(0, f"ask for `tokens = {whole}`")
    elif available >= 2:
        options.insert(0, f"ask for `tokens = {available}` and a shorter `seq`")
    else:
        options = ["give a source with more documents; a .txt file is cut at blank lines"]
    where = f"the {part.noun} part of {data or 'the text'}"
    return fail("LB446", f"{where} has {available} tokens, and {wanted} are needed", help=tuple(options))
