"""Facts that are hidden in long texts."""

from itertools import pairwise

import pytest
import torch

from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("context", "facts"), [(512, 4), (2048, 10), (300, 2)])
def test_each_fact_is_said_once_and_asked_for_at_the_end(context: int, facts: int) -> None:
    from lbdsl.data.needle import haystacks

    tokenizer = byte_tokenizer()
    found = haystacks(tokenizer, context)
    assert found.ids_SN.shape == (8, context)
    assert found.depths == facts
    for ids_N, needles in zip(found.ids_SN, found.needles, strict=True):
        text = tokenizer.decode(ids_N)
        said = [line for line in text.splitlines() if line.startswith("The secret number of the")]
        assert len(said) == 2 * facts
        places = []
        for needle in needles:
            answer = tokenizer.decode(ids_N[needle.start : needle.stop])
            assert answer.strip().isdigit()
            first, second = (line for line in said if answer in line)
            assert first == second
            places.append(text.index(first))
        # In the order of their depths, an equal distance apart.
        assert places == sorted(places)
        apart = [b - a for a, b in pairwise(places)]
        assert max(apart) - min(apart) < 12
        assert needles[-1].stop <= context
        assert len({*places}) == facts
    # Asked in an order of their own.
    asked = [[needle.start for needle in needles] for needles in found.needles]
    assert any(starts != sorted(starts) for starts in asked)
    again, other = haystacks(tokenizer, context), haystacks(tokenizer, context, seed=1)
    assert torch.equal(again.ids_SN, found.ids_SN)
    assert (again.digest == found.digest, other.digest == found.digest) == (True, False)


PIECE = 48
"""Characters that no two texts have in common by chance."""


def text_of(part: str, *sources: str) -> str:
    from lbdsl.data import TextPart, read_parts

    return "\0".join(text for source in sources for text in read_parts(source).texts(TextPart(part)))


@pytest.mark.parametrize(("context", "texts", "repeated"), [(4096, 8, 0.0), (2**16, 5, 0.15)])
def test_the_hay_is_text_that_nothing_heals_or_measures_on(context: int, texts: int, repeated: float) -> None:
    """Docstrings of other modules have phrases in common, `repeated` of them; articles have none."""
    from lbdsl.data.needle import haystacks

    tokenizer = byte_tokenizer()
    found = haystacks(tokenizer, context, texts)
    sources = ("builtin:wikitext", "builtin:pydoc", "builtin:docs")
    taken, judged = "\0".join(text_of(part, *sources) for part in ("score", "joint", "heal")), text_of("eval", *sources)
    seen: set[str] = set()
    for ids_N in found.ids_SN:
        first, *others = tokenizer.decode(ids_N, clean_up_tokenization_spaces=False).split("\nThe secret number of the ")
        hay = "<|end|>".join([first, *(part.partition("\n")[2] for part in others)]).split("<|end|>")
        pieces = {part[at : at + PIECE] for part in hay for at in range(0, len(part) - PIECE, max(61, context // 64))}
        pieces = {piece for piece in pieces if "\ufffd" not in piece}
        assert len(pieces) > 3
        assert all(piece in judged for piece in pieces)
        assert sum(piece in taken for piece in pieces) <= repeated * len(pieces)
        assert len(seen & pieces) <= repeated * len(pieces)
        seen |= pieces


def test_more_text_than_there_is_is_an_error_that_says_how_much_fits() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from lbdsl.core.diagnostic import LbdslError
    from lbdsl.data.needle import haystacks

    words = Tokenizer(models.WordLevel({"?": 0, "<|end|>": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>")
    with pytest.raises(LbdslError) as refused:
        haystacks(tokenizer, 2**15, 1000)
    (problem,) = refused.value.diagnostics
    assert problem.code == "LB446"
    assert problem.message.startswith("needle(32Ki) takes 1000 texts, and the built-in text that is not healed on has ")
    fits = int(problem.help[0].partition("`needle_texts = ")[2].partition("`")[0])
    assert haystacks(tokenizer, 2**15, fits).ids_SN.shape == (fits, 2**15)
    with pytest.raises(LbdslError):
        haystacks(tokenizer, 2**15, fits + 1)
