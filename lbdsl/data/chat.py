"""Token ids of texts, and of chats: turns of a system, a user and an assistant, by the template of the model that reads
them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from lbdsl.core.bounds import GROWTH, bounded, bounded_outside, too_much
from lbdsl.core.diagnostic import LbdslError, fail, first_line

DATED = "{%- macro strftime_now(format) -%}01 January 2025{%- endmacro -%}"
"""Some templates write today's date, by which the same chat would be another text every day."""


TOKENIZER, TEMPLATE = "the model's tokenizer", "the model's chat template"

TRIED, BLOCK = 2**12, 2**8
"""Characters of a long text that are tokenized before all of it, to see that this ends; and that are normalized at a time,
to see how long they become."""

_SAME_LENGTH = frozenset(
    ("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Strip", "StripAccents")
)
"""Normalizers by which no text gets many times longer."""


def tokenized(tokenizer: Any, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """The token ids of each text; `special`: with those that the tokenizer puts around it. Raises LB495."""
    given = sum(map(len, texts))
    if given > 8 * TRIED:
        tokenized(tokenizer, ["\n".join(text[:TRIED] for text in texts[:BLOCK])[:TRIED]], special=special)
    # `verbose=False`: no warning that the text exceeds the model's maximum length.
    ids = list(encoded(tokenizer, texts, special=special, add_special_tokens=special, verbose=False)["input_ids"])
    if sum(map(len, ids)) > GROWTH * (given + len(texts)):
        raise too_much(f"{TOKENIZER} makes {sum(map(len, ids))} tokens of {given} characters")
    return ids


def encoded(
    tokenizer: Any, texts: Sequence[str], by: Callable[..., Any] | None = None, *, special: bool = True, **options: Any
) -> Any:
    """What `by`, or the tokenizer itself, makes of texts in its bounds. Raises LB495."""

    def work() -> Any:
        if special and tokenizer.num_special_tokens_to_add() > GROWTH:
            raise too_much(f"{TOKENIZER} puts {tokenizer.num_special_tokens_to_add()} tokens around a text")
        _check_length(tokenizer, texts)
        return (by or tokenizer)(list(texts), **options)

    return bounded_outside(TOKENIZER, work, sum(map(len, texts)))


def decoded(tokenizer: Any, by: Callable[[], Any]) -> Any:
    """What `by` makes of tokens. Raises LB495 for a tokenizer that may make many times more of them than they are."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    made_of = json.loads(decoder.__getstate__()) if decoder is not None else {}
    growth = prod(
        # Between any two characters there is the empty text, which a regular expression may find.
        len(step["content"]) + ("Regex" in step["pattern"])
        for step in made_of.get("decoders", [made_of])
        if step.get("type") == "Replace" and step["content"]
    )
    if growth > GROWTH:
        raise too_much(f"{TOKENIZER} makes up to {growth} characters of one")
    return bounded_outside(TOKENIZER, by)


def _check_length(tokenizer: Any, texts: Sequence[str]) -> None:
    """Raise LB495 for texts that a tokenizer's normalizer makes many times longer, at one of its steps."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return
    steps = list(normalizer) if type(normalizer).__name__ == "Sequence" else [normalizer]
    if not any(map(_lengthens, steps)):
        return
    blocks = (text[at : at + BLOCK] for text in texts for at in range(0, len(text), BLOCK))
    for block in (*set().union(*texts), *blocks):
        made = block
        for step in steps:
            made = step.normalize_str(made)
            if len(made) > GROWTH * (len(block) + 1):
                raise too_much(f"{TOKENIZER} makes {len(made)} characters of {block[:20]!r}")


def _lengthens(step: Any) -> bool:
    kind = type(step).__name__
    if kind not in ("Prepend", "Replace"):
        return kind not in _SAME_LENGTH
    made_of = json.loads(step.__getstate__())
    if kind == "Prepend":
        return len(made_of["prepend"]) > 1
    return len(made_of["content"]) > len(made_of["pattern"].get("String", ""))


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Without special tokens. Raises LB495 as `tokenized` does."""
    return tokenized(tokenizer, [text])[0]


def prefix_of(tokenizer: Any) -> list[int]:
    """[bos] if the tokenizer puts it before every text: such models have never seen a sequence without it. Else []."""
    bos = tokenizer.bos_token_id
    start = tokenized(tokenizer, ["a"], special=True)[0][:1]
    return [bos] if bos is not None and start == [bos] else []


class Chat(str):
    """A chat. As text it is `role: content` paragraphs, by which it is split and told apart; a model gets `messages`."""

    messages: tuple[dict[str, str], ...]

    def __new__(cls, messages: tuple[dict[str, str], ...]) -> Chat:
        chat = super().__new__(cls, "\n\n".join(f"{message['role']}: {message['content']}" for message in messages))
        chat.messages = messages
        return chat


def chat_ids(chat: Chat, tokenizer: Any, data: str) -> tuple[list[int], list[bool] | None]:
    """The token ids of a chat in the tokenizer's template, and whether the assistant wrote each of them: None for a
    template by which a chat does not begin with its own beginning, so that turns cannot be told apart.

    Raises LB453 for a tokenizer without a template, or whose template refuses the chat; LB495 for one that does too much.
    """

    def ids(messages: Sequence[Mapping[str, str]], asks: bool) -> list[int]:
        return token_ids(tokenizer, _applied(messages, tokenizer, data, asks))

    messages = list(chat.messages)
    whole = ids(messages, False)
    wrote = [False] * len(whole)
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or place == 0:
            continue
        before, after = ids(messages[:place], True), ids(messages[: place + 1], False)
        if whole[: len(after)] != after or after[: len(before)] != before:
            return whole, None
        wrote[len(before) : len(after)] = [True] * (len(after) - len(before))
    return whole, wrote


def prompt_of(messages: Sequence[Mapping[str, str]], tokenizer: Any, data: str) -> str:
    """What the model reads before it answers these turns. Raises LB453 as `chat_ids` does."""
    return _applied(messages, tokenizer, data, True)


def _applied(messages: Sequence[Mapping[str, str]], tokenizer: Any, data: str, asks: bool) -> str:
    template = tokenizer.chat_template
    if not template:
        raise fail(
            "LB453",
            f"{data or 'the text'} has chats, and the model's tokenizer has no chat template",
            help="take an instruction-tuned model, or give a source with a field `text`",
        )
    if isinstance(template, dict):
        template = template.get("default")
    if isinstance(template, str) and "strftime_now" in template:
        template = DATED + template

    def work() -> str:
        own = template if isinstance(template, str) else None
        return str(
            tokenizer.apply_chat_template(list(messages), chat_template=own, add_generation_prompt=asks, tokenize=False)
        )

    try:
        return bounded(TEMPLATE, work, sum(len(message["content"]) for message in messages))
    except LbdslError:
        raise
    except Exception as problem:  # a template is a program of the model's, and may raise anything
        raise fail("LB453", f"the model's chat template refuses a chat of {data}: {first_line(problem)}") from None
