"""Tokenize documents and pack them into blocks of token ids; mixtures of several, by their share of the tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import canonical_json, digest_of, digest_text
from lbdsl.core.place import Folder
from lbdsl.core.units import tokens_text
from lbdsl.data.chat import Chat, chat_ids, prefix_of, token_ids
from lbdsl.data.sources import read_parts
from lbdsl.data.split import Stretch, TextPart, document_hash
from lbdsl.recipe.schema_blocks import SEQUENCES

SLICE = 2**20
"""Number of characters that are tokenized at a time."""


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """Packed text. `ids` is int64 [S, N] on the CPU: S sequences of N = `seq` tokens.

    `digest` identifies the ids and their source. `passes` is above 1 if text was repeated (healing only).
    `available` is the number of tokens in the part, None if tokenization stopped before its end. `starts` [S, N] says
    which tokens begin a document, `answers` [S, N] which ones an assistant wrote, None if none of them are chats.
    `turns_unknown`: there are chats whose turns cannot be told apart.
    """

    ids: torch.Tensor
    digest: str
    data: str
    passes: int = 1
    available: int | None = None
    starts: torch.Tensor | None = None
    answers: torch.Tensor | None = None
    turns_unknown: bool = False

    @property
    def sequences(self) -> int:
        return self.ids.shape[0]

    @property
    def seq(self) -> int:
        return self.ids.shape[1]

    @property
    def tokens(self) -> int:
        return self.ids.numel()

    def rows(self, start: int, end: int) -> TokenBlocks:
        """Sequences `start` to `end` alone."""
        if (start, end) == (0, self.sequences):
            return self
        starts, answers = (None if marks is None else marks[start:end] for marks in (self.starts, self.answers))
        digest = digest_of([self.digest, start, end])
        return replace(self, ids=self.ids[start:end], digest=digest, starts=starts, answers=answers)


Used = frozenset[tuple[str, bool]]
"""The documents of a source that calibration or healing uses: the hash of each, and whether the whole document is used."""


def used_documents(data: str, parts: Iterable[TextPart], *, base_dir: Folder = None, offline: bool = False) -> Used:
    """The documents of a source that are used, wholly or in part, in these parts."""
    split = read_parts(data, base_dir=base_dir, offline=offline)
    return frozenset((piece.document, piece.whole) for part in parts for piece in split.pieces[part])


def token_blocks(
    data: str,
    part: TextPart,
    tokenizer: Any,
    tokens: int,
    seq: int,
    seed: int = 0,
    *,
    base_dir: Folder = None,
    offline: bool = False,
    exclude: Used = frozenset(),
    apart: bool = False,
) -> TokenBlocks:
    """Read, split, tokenize and pack the text of one part; see `read_parts` and `pack`.

    `exclude` are documents that another use takes from another source: parts are disjoint within one source, but not
    between two sources that share documents. A document is always cut at the same places, so only whole ones can overlap.
    """
    pieces = read_parts(data, base_dir=base_dir, offline=offline).pieces[part]
    texts = [piece.text for piece in unused(pieces, exclude)]
    return pack(texts, part, tokenizer, tokens, seq, seed, data=data, apart=apart)


def unused(pieces: Iterable[Stretch], exclude: Used) -> Iterator[Stretch]:
    """Those of documents that are not used elsewhere."""
    for piece in pieces:
        if (piece.document, True) not in exclude and not (piece.whole and (piece.document, False) in exclude):
            yield piece


def pack(
    documents: Sequence[str],
    part: TextPart,
    tokenizer: Any,
    tokens: int,
    seq: int,
    seed: int = 0,
    *,
    data: str = "",
    apart: bool = False,
) -> TokenBlocks:
    """`tokens` tokens of the documents, rounded down to whole sequences of `seq`; one sequence if `tokens` is shorter.

    The order of documents depends only on the seed and their content. Each ends with the tokenizer's end-of-sequence
    token and may continue in the next sequence. If the tokenizer starts every text with a beginning-of-sequence token, so
    does each sequence, and with `apart` each document. Healing sequences are shuffled, and their text is repeated if there
    is too little; for any other part too little text raises LB446.
    """
    if tokens < 2 or seq < 2:
        raise fail("LB446", f"{min(tokens, seq)} token has no next token to predict", help="ask for at least 2 tokens")
    seq = min(seq, tokens)
    sequences = tokens // seq
    prefix = prefix_of(tokenizer)
    body = seq - len(prefix)
    wanted = sequences * body

    stream: list[int] = []
    marks: list[int] = []
    passes = 0
    available: int | None = None
    while len(stream) < wanted:
        passes += 1
        for ids, marked in _tokenized(documents, tokenizer, seed, passes, data, prefix if apart else []):
            # A document at the beginning of a sequence starts with the sequence's own start token.
            own = len(prefix) if len(stream) % body == 0 and ids[: len(prefix)] == prefix else 0
            stream += ids[own:]
            marks += marked[own:]
            if len(stream) >= wanted:
                break
        else:
            if available is None:
                available = len(stream)
            if len(stream) < wanted and (part is not TextPart.HEAL or not stream):
                raise _too_little(data, part, available, sequences, seq)
    order = torch.arange(sequences)
    if part is TextPart.HEAL:
        order = torch.randperm(sequences, generator=torch.Generator().manual_seed(seed))

    def rows(values: Sequence[int], before: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        found = torch.tensor(values[:wanted], dtype=dtype).view(sequences, body)[order]
        return torch.cat([torch.tensor(before, dtype=dtype).expand(sequences, -1), found], dim=1).contiguous()

    ids_SN = rows(stream, prefix, torch.int64)
    marks_SN = rows(marks, [START] * len(prefix), torch.uint8)
    starts_SN, answers_SN = (marks_SN & START) > 0, (marks_SN & ANSWER) > 0
    starts_SN[:, 0] = True
    digest = ids_digest(ids_SN, {"data": data, "part": part.value, "seed": seed, "passes": passes})
    has_chats = any(isinstance(text, Chat) for text in documents)
    unknown = bool((marks_SN & UNKNOWN).any())
    answers = answers_SN if has_chats else None
    return TokenBlocks(ids_SN, digest, data, passes, available, starts_SN, answers, unknown)


def ids_digest(ids_SN: torch.Tensor, made_of: Mapping[str, Any]) -> str:
    """sha256 of token ids and what they were made of."""
    header = canonical_json({**made_of, "shape": list(ids_SN.shape)})
    return hashlib.sha256(f"{header}\n".encode() + ids_SN.numpy().astype("<i8").tobytes()).hexdigest()


def row_starts(ids_SN: torch.Tensor) -> torch.Tensor:
    """Where documents begin, if each sequence is one."""
    starts_SN = torch.zeros_like(ids_SN, dtype=torch.bool)
    starts_SN[:, 0] = True
    return starts_SN


START, ANSWER, UNKNOWN = 1, 2, 4
"""Marks of a token: it begins a document; an assistant wrote it; it is of a chat whose turns cannot be told apart."""


def _tokenized(
    documents: Sequence[str], tokenizer: Any, seed: int, turn: int, data: str, prefix: list[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the ids of each document, end token included, in the order of this seed and pass, and their marks; long ones
    in pieces. `prefix` stands before each that is no chat."""
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for text in shuffled(documents, seed, turn):
        if isinstance(text, Chat):
            # Its template ends every turn.
            ids, wrote = chat_ids(text, tokenizer, data)
            marks = [UNKNOWN] * len(ids) if wrote is None else [ANSWER if answer else 0 for answer in wrote]
            yield ids, [marks[0] | START, *marks[1:]] if marks else []
            continue
        pieces = list(_slices(text))
        for number, piece in enumerate(pieces, 1):
            ids = [*(prefix if number == 1 else ()), *token_ids(tokenizer, piece)]
            ids += ending if number == len(pieces) else []
            yield ids, [START if number == 1 and not at else 0 for at in range(len(ids))]


def shuffled(documents: Iterable[str], seed: int, turn: int) -> list[str]:
    """In an order that depends only on the seed, the turn and their content."""
    return sorted(documents, key=lambda text: digest_text(f"{seed} {turn} {document_hash(text)}"))


def _slices(text: str) -> Iterator[str]:
    """Yield a text in slices, cut after a line if possible, so that only as much of a long text is tokenized as needed."""
    start = 0
    while len(text) - start > SLICE:
        cut = text.rfind("\n", start + SLICE // 2, start + SLICE) + 1 or start + SLICE
        yield text[start:cut]
        start = cut
    yield text[start:]


def _too_little(data: str, part: TextPart, available: int, sequences: int, seq: int) -> Exception:
    where = f"the {part.noun} part of {data or 'the text'}"
    message = f"{where} has {available} tokens, and {sequences} sequences of {seq} need {sequences * seq}"
    fits = available // seq
    if fits >= SEQUENCES:
        # The joint measurement takes half of `tokens`.
        most = fits * seq * (2 if part is TextPart.JOINT else 1)
        allowed = f"`tokens = {tokens_text(most)}` fits"
    else:
        longest = available // SEQUENCES
        longest -= longest % (1024 if longest >= 1024 else 1)
        if longest < 2:
            return fail("LB446", message, help="give a source with more text")
        allowed = f"the longest that it allows: `tokens = {tokens_text(SEQUENCES * longest)}; seq = {tokens_text(longest)}`"
    return fail("LB446", message, help=(allowed, "give a source with more text"))


def shares(count: int, weights: Sequence[float]) -> list[int]:
    """`count` sequences divided by weight, at least one for each (so more than `count` for more weights), the remainders to
    the largest fractions."""
    left, total = max(0, count - len(weights)), sum(weights)
    exact = [max(0.0, count * weight / total - 1) for weight in weights]
    exact = [left * value / (sum(exact) or 1.0) for value in exact]
    found = [1 + int(value) for value in exact]
    by_fraction = sorted(range(len(weights)), key=lambda place: int(exact[place]) - exact[place])
    for place in by_fraction[: max(0, count - sum(found))]:
        found[place] += 1
    return found


def mixed(blocks: Sequence[TokenBlocks], part: TextPart, seed: int, data: str) -> TokenBlocks:
    """The sequences of several texts, in a random order, or for measuring one text after the other."""
    order = torch.arange(sum(text.sequences for text in blocks))
    if part is TextPart.HEAL:
        order = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))
    ids_SN = torch.cat([text.ids for text in blocks])[order]
    # A sequence that a model wrote is one document.
    starts = [row_starts(text.ids) if text.starts is None else text.starts for text in blocks]
    answers_SN = None
    if any(text.answers is not None for text in blocks):
        none = [torch.zeros_like(text.ids, dtype=torch.bool) if text.answers is None else text.answers for text in blocks]
        answers_SN = torch.cat(none)[order]
    passes = max(text.tokens / text.available if text.available else 1.0 for text in blocks)
    return TokenBlocks(
        ids_SN.contiguous(),
        digest_of([part.value, seed, *(text.digest for text in blocks)]),
        data,
        max(text.passes for text in blocks),
        int(ids_SN.numel() / passes) if passes > 1 else None,
        torch.cat(starts)[order],
        answers_SN,
        any(text.turns_unknown for text in blocks),
    )
