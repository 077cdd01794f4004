"""Facts that are hidden in long texts."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from lbdsl.data.records import Question, common_start
from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.torch


def shared(questions: Sequence[Question]) -> list[int]:
    """What all of them begin with."""
    first, last = min(one.before for one in questions), max(one.before for one in questions)
    return first[: common_start(first, last)]


def stated(text: str, key: str) -> list[tuple[int, str]]:
    """The lines that say something of a key, and where they begin."""
    lines = [(match.start(), match[0]) for match in re.finditer(r"(?<=\n).+(?=\n)", text)]
    return [(at, line) for at, line in lines if re.match(rf"The .*\b{key}\b", line) and line.endswith(".")]


@pytest.mark.parametrize(("context", "facts"), [(512, 3), (2048, 9), (300, 2)])
def test_each_fact_stands_in_its_text_and_is_asked_for_at_the_end(context: int, facts: int) -> None:
    from lbdsl.data.needle import FORMS, KINDS, haystacks

    tokenizer = byte_tokenizer()
    found = haystacks(tokenizer, context)
    assert (found.depths, len(found.questions), len(found.depth_of)) == (facts, 8 * facts, 8 * facts)
    kinds_at: dict[int, set[str]] = {}
    for text in range(8):
        asked = [(one, depth) for one, depth in zip(found.questions, found.depth_of, strict=True) if one.text == text]
        assert [depth for _, depth in asked] == list(range(facts))
        # In equal parts; where there are fewer facts than kinds, each is of another one.
        counts = Counter(one.kind for one, _ in asked)
        assert set(counts.values()) == {max(1, facts // len(KINDS))}
        ids = shared([one for one, _ in asked])
        assert max(len(one.before) + len(one.answer) for one, _ in asked) == context
        hay, places = tokenizer.decode(ids), []
        for one, depth in asked:
            kinds_at.setdefault(depth, set()).add(one.kind)
            question, answer = tokenizer.decode(one.before[len(ids) :]), tokenizer.decode(one.answer)
            question = hay.rpartition("\n")[2] + question
            forms = [form for form in FORMS if form.kind == one.kind]
            (form, key), *others = [
                (form, match[1])
                for form in forms
                if (match := re.fullmatch(form.asks.format(key=r"(\w+)"), question)) is not None
            ]
            assert not others
            said = stated(hay, key)
            assert [line for _, line in said] == [
                state.format(key=key, value=re.search(r"\d+|\w+(?=\.$)", line)[0])
                for state, (_, line) in zip(form.states, said, strict=True)
            ]
            # The last value counts, and it alone is the answer.
            assert [answer.strip() in line for _, line in said] == [False] * (len(said) - 1) + [True]
            places.append(said[-1][0])
        assert places == sorted(places)
    assert all(kinds == set(KINDS) for kinds in kinds_at.values())
    again, other = haystacks(tokenizer, context), haystacks(tokenizer, context, seed=1)
    assert again.questions == found.questions
    assert (again.digest == found.digest, other.digest == found.digest) == (True, False)


def test_facts_stand_an_equal_distance_apart() -> None:
    from lbdsl.data.needle import haystacks

    tokenizer = byte_tokenizer()
    found = haystacks(tokenizer, 4096)
    for text in range(8):
        of_text = [one for one in found.questions if one.text == text]
        ids = shared(of_text)
        # Of all but hay: where the statement that counts ends, and what else stands before it.
        hay = tokenizer.decode(ids)
        ends = [
            hay.index(f"{tokenizer.decode(one.answer)}{'.' if one.kind != 'changed' else ' dollars.'}") for one in of_text
        ]
        apart = [b - a for a, b in pairwise(ends)]
        # Between two stands a ninth of the hay, and at most three statements of values that changed.
        assert max(apart) - min(apart) < 4 * 50


PIECE = 48
"""Characters that no two texts have in common by chance."""


def text_of(part: str, *sources: str) -> str:
    from lbdsl.data import TextPart, read_parts

    return "\0".join(text for source in sources for text in read_parts(source).texts(TextPart(part)))


@pytest.mark.parametrize(
    ("context", "texts", "repeated"), [(4096, 8, 0.0), pytest.param(2**16, 5, 0.15, marks=pytest.mark.slow)]
)
def test_the_hay_is_text_that_nothing_heals_or_measures_on(context: int, texts: int, repeated: float) -> None:
    """Docstrings of other modules have phrases in common, `repeated` of them; articles have none."""
    from lbdsl.data.needle import FORMS, haystacks

    tokenizer = byte_tokenizer()
    found = haystacks(tokenizer, context, texts)
    states = [state for form in FORMS for state in form.states]
    sources = ("builtin:wikitext", "builtin:pydoc", "builtin:docs")
    taken, judged = "\0".join(text_of(part, *sources) for part in ("score", "joint", "heal")), text_of("eval", *sources)
    seen: set[str] = set()
    for text in range(texts):
        ids = shared([one for one in found.questions if one.text == text])
        written = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        forms = [re.escape(state).replace(r"\{key\}", r"\w+").replace(r"\{value\}", r"\w+") for state in states]
        hay = re.sub("|".join(f"\n{form}\n" for form in forms), "<|end|>", written).rpartition("\n")[0].split("<|end|>")
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
    assert len({one.text for one in haystacks(tokenizer, 2**15, fits).questions}) == fits
    with pytest.raises(LbdslError):
        haystacks(tokenizer, 2**15, fits + 1)
