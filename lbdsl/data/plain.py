"""Plain text into documents, WikiText's tokenised form included."""

from __future__ import annotations

import re
from collections.abc import Iterator

PIECE_CHARACTERS = 4096
"""About how long a document of a plain text is, so that a book can be split into parts that never overlap."""

_TITLE = re.compile(r"^ = (?!= )(.+?)(?<! =) = *$", re.MULTILINE)
_SECTION = re.compile(r"^ ((?:= ){2,})(.+?)((?: =){2,}) *$", re.MULTILINE)
_ESCAPE = re.compile(r" @([-,.])@ ")


def documents_of_text(text: str) -> Iterator[str]:
    """Documents of one text file.

    WikiText-style text (Merity et al., 2016: lines ` = Title = `, escapes such as ` @-@ `) gives one document an
    article, with its tokenisation undone. Any other text is cut at blank lines into pieces of about
    `PIECE_CHARACTERS`; a longer paragraph is cut at line ends, a longer line at spaces.
    """
    if is_wikitext(text):
        starts = [match.start() for match in _TITLE.finditer(text)]
        for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
            yield undo_wikitext(text[start:end])
    else:
        yield from _pieces(text)


def is_wikitext(text: str) -> bool:
    """True when the text has both article titles and escapes of WikiText's form."""
    return _ESCAPE.search(text) is not None and _TITLE.search(text) is not None


def undo_wikitext(text: str) -> str:
    """Undo escapes and spaced punctuation, as far as that is certain: `1 @.@ 5 cm ( wide ) .` -> `1.5 cm (wide).`"""
    text = _ESCAPE.sub(r"\1", text)
    text = _SECTION.sub(lambda m: f"{m[1].replace(' ', '')} {m[2]} {m[3].replace(' ', '')}", text)
    text = _TITLE.sub(r"= \1 =", text)
    text = re.sub(r" ([,.;:!?%)\]}])", r"\1", text)
    text = re.sub(r"([(\[{$£€]) ", r"\1", text)
    text = re.sub(r" (n't|'(?:s|S|re|ve|ll|d|m)\b)", r"\1", text)
    text = re.sub(r"s ' ", "s' ", text)
    text = re.sub(r'(?<!\S)" ([^"\n]*?) "(?!\w)', r'"\1"', text)
    return re.sub(r"^ | +$", "", text, flags=re.MULTILINE)


def _pieces(text: str) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for paragraph in re.split(r"\n(?:[ \t]*\n)+", text):
        for unit in _bounded(paragraph):
            if held and size + len(unit) > PIECE_CHARACTERS:
                yield "\n\n".join(held)
                held, size = [], 0
            held.append(unit)
            size += len(unit) + 2
    if held:
        yield "\n\n".join(held)


def _bounded(paragraph: str) -> Iterator[str]:
    """The paragraph, in chunks of at most `PIECE_CHARACTERS`; nothing is lost but the white space at a cut."""
    start = 0
    while len(paragraph) - start > PIECE_CHARACTERS:
        stop = start + PIECE_CHARACTERS
        cut = paragraph.rfind("\n", start + 1, stop)
        if cut < 0:
            cut = paragraph.rfind(" ", start + 1, stop)
        if cut < 0:
            yield paragraph[start:stop]
            start = stop
        else:
            yield paragraph[start:cut]
            start = cut + 1
    yield paragraph[start:]
