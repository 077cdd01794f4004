"""Token ids of texts, and of chats: turns of a system, a user and an assistant, by the template of the model that reads
them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lbdsl.core.diagnostic import fail, first_line

DATED = "{%- macro strftime_now(format) -%}01 January 2025{%- endmacro -%}"
"""Some templates write today's date, by which the same chat would be another text every day."""


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Without special tokens."""
    # `verbose=False`: no warning that the text exceeds the model's maximum length.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def prefix_of(tokenizer: Any) -> list[int]:
    """[bos] if the tokenizer puts it before every text: such models have never seen a sequence without it. Else []."""
    bos = tokenizer.bos_token_id
    start = tokenizer("a", verbose=False)["input_ids"][:1]
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

    Raises LB453 for a tokenizer without a template, or whose template refuses the chat.
    """

    def ids(messages: Sequence[Mapping[str, str]], asks: bool) -> list[int]:
        return list(_applied(messages, tokenizer, data, add_generation_prompt=asks, return_dict=True)["input_ids"])

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
    return str(_applied(messages, tokenizer, data, add_generation_prompt=True, tokenize=False))


def _applied(messages: Sequence[Mapping[str, str]], tokenizer: Any, data: str, **options: Any) -> Any:
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
    try:
        return tokenizer.apply_chat_template(
            list(messages), chat_template=template if isinstance(template, str) else None, **options
        )
    except Exception as problem:  # a template is a program of the model's, and may raise anything
        raise fail("LB453", f"the model's chat template refuses a chat of {data}: {first_line(problem)}") from None
