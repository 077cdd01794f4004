"""Detokenize WikiText's tokenized form (Merity et al., 2016, arXiv 1609.07843)."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TITLE = re.compile(r"^ = (?!= )(.+?)(?<! =) = *$", re.MULTILINE)
_SECTION = re.compile(r"^ ((?:= ){2,})(.+?)((?: =){2,}) *$", re.MULTILINE)
_ESCAPE = re.compile(r" @([-,.])@ ")


def articles(text: str) -> Iterator[str]:
    """Yield one detokenized document per article (which starts with a line ` = Title = `); the text before the first title
    is a document, too."""
    starts = [match.start() for match in _TITLE.finditer(text)]
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        yield undo_wikitext(text[start:end])


def undo_wikitext(text: str) -> str:
    """Undo escapes and spaced punctuation where that is unambiguous: `1 @.@ 5 cm ( wide ) .` -> `1.5 cm (wide).`"""
    text = _ESCAPE.sub(r"\1", text)
    text = _SECTION.sub(lambda m: f"{m[1].replace(' ', '')} {m[2]} {m[3].replace(' ', '')}", text)
    text = _TITLE.sub(r"= \1 =", text)
    text = re.sub(r" ([,.;:!?%)\]}])", r"\1", text)
    text = re.sub(r"([(\[{$£€]) ", r"\1", text)
    text = re.sub(r" (n't|'(?:s|S|re|ve|ll|d|m)\b)", r"\1", text)
    text = re.sub(r"s ' ", "s' ", text)
    text = re.sub(r'(?<!\S)" ([^"\n]*?) "(?!\w)', r'"\1"', text)
    return re.sub(r"^ | +$", "", text, flags=re.MULTILINE)
