"""Make `lbdsl/data/builtin/wikitext.jsonl`: `python benchmarks/wikitext_excerpt.py wiki.valid.tokens`.

The input is the validation split of WikiText-2 (Merity et al., 2016, arXiv 1609.07843) in its tokenized form. The output
has the first articles, in total at least 250,000 characters, detokenized, one article per line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lbdsl.data.wikitext import articles

CHARACTERS = 250_000
TARGET = Path(__file__).resolve().parents[1] / "lbdsl" / "data" / "builtin" / "wikitext.jsonl"


def main() -> None:
    lines: list[str] = []
    characters = 0
    for text in articles(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if not text.strip():
            continue
        lines.append(json.dumps({"text": text.strip() + "\n"}, ensure_ascii=False))
        characters += len(text)
        if characters >= CHARACTERS:
            break
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TARGET}: {len(lines)} articles, {characters} characters")


if __name__ == "__main__":
    main()
