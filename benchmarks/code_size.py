"""How large the code is: `python -m benchmarks.code_size [FOLDER]...`: files, lines and tokens of Python below each folder.

Tokens are those of `tokenize`, without comments, docstrings and layout, so that formatting changes nothing.
"""

from __future__ import annotations

import io
import sys
import tokenize
from pathlib import Path

LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
LAYOUT |= {tokenize.ENDMARKER}


def tokens_of(text: str) -> int:
    """A string that is a statement of its own is a docstring."""
    found = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in LAYOUT]
    alone = 0
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        starts = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        alone += token.type == tokenize.STRING and starts
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING):
            before = token.type
    return len(found) - alone


def main(folders: list[str]) -> None:
    for folder in folders or ["lbdsl"]:
        texts = [path.read_text(encoding="utf-8") for path in sorted(Path(folder).rglob("*.py"))]
        lines = sum(len(text.splitlines()) for text in texts)
        print(f"{folder}: {len(texts)} files, {lines:,} lines, {sum(map(tokens_of, texts)):,} tokens")


if __name__ == "__main__":
    main(sys.argv[1:])
