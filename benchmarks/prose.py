"""English prose from packages, for healing where no hub is at hand: news, essays, quotes. For experiments, not shipped.

News are 349 reports of the Australian Broadcasting Corporation (the Lee corpus), which gensim's wheel has among its test
data; essays are the chapters of a book in Debian's package `anarchism`; quotes are those of its package `fortunes`, 40 of
one file a document. None is from Wikipedia.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from benchmarks.table import once

BLOCKS = {"p", "h1", "h2", "h3", "h4", "li", "div", "br", "blockquote"}
DRAWN = {"ascii-art"}
"""Files of fortunes that are no prose."""
SHORT = 80
"""Characters: what is shorter is a heading or a link, not a paragraph."""


class Paragraphs(HTMLParser):
    """The paragraphs of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found = [""]

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in BLOCKS:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag(tag, None)

    def handle_data(self, data: str) -> None:
        self.found[-1] += data

    def text(self) -> str:
        lines = (" ".join(part.split()) for part in self.found)
        return "\n".join(line for line in lines if len(line) > SHORT)


def news(work: Path) -> Path:
    def documents() -> Iterator[str]:
        get(work, sys.executable, "-m", "pip", "download", "--no-deps", "gensim")
        with zipfile.ZipFile(next(work.glob("gensim-*.whl"))) as wheel:
            for name in ("lee_background", "lee"):
                yield from wheel.read(f"gensim/test/test_data/{name}.cor").decode("latin-1").splitlines()

    return once(work / "news.jsonl", lambda path: write(path, documents()))


def essays(work: Path) -> Path:
    def documents() -> Iterator[str]:
        get(work, "apt-get", "download", "anarchism")
        get(work, "dpkg-deb", "-x", next(work.glob("anarchism_*.deb")).name, "anarchism")
        for page in sorted((work / "anarchism").rglob("*.html")):
            parser = Paragraphs()
            parser.feed(page.read_text(encoding="utf-8", errors="replace"))
            yield parser.text()

    return once(work / "essays.jsonl", lambda path: write(path, documents()))


def quotes(work: Path) -> Path:
    def documents() -> Iterator[str]:
        get(work, "apt-get", "download", "fortunes")
        get(work, "dpkg-deb", "-x", next(work.glob("fortunes_*.deb")).name, "fortunes")
        for file in sorted((work / "fortunes/usr/share/games/fortunes").iterdir()):
            if not file.suffix and not file.is_symlink() and file.name not in DRAWN:
                said = file.read_text(encoding="utf-8", errors="replace").split("\n%\n")
                for start in range(0, len(said), 40):
                    yield "\n\n".join(" ".join(each.split()) for each in said[start : start + 40])

    return once(work / "quotes.jsonl", lambda path: write(path, documents()))


def get(work: Path, *command: str) -> None:
    subprocess.run(command, cwd=work, check=True, stdout=sys.stderr)


def write(path: Path, documents: Iterator[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents if text), encoding="utf-8")
