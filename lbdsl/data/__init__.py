"""Text: sources, the split into parts, tokenization. Importing this does not import torch; `lbdsl.data.blocks` does."""

from __future__ import annotations

from lbdsl.data.sources import read_documents, read_parts
from lbdsl.data.split import Split, TextPart, split_documents

__all__ = ["Split", "TextPart", "read_documents", "read_parts", "split_documents"]
