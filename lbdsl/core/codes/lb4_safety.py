"""LB4xx, models, data, files and artifacts."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

DATA = (
    Code("LB440", "unknown text source",
         reason="Text comes from `builtin:pydoc`, a .txt, .jsonl or .parquet file, or a hub data set written `org/name`.",
         example='measure { data = "builtin:wikipedia" }'),
    Code("LB441", "text cannot be read",
         reason="The file is missing, is not a regular file, or the system does not let it be read.",
         example='measure { data = "missing.txt" }'),
    Code("LB442", "text is not UTF-8",
         reason="Guessing an encoding would measure and train on garbage, so text must be UTF-8.",
         example='measure { data = "latin1.txt" }'),
    Code("LB443", "bad record in a data file",
         reason="Each record needs a string field `text`, or a chat in `messages`; a record that is skipped in silence "
                "would change what is measured.",
         example='{"txt": "a misspelt field"}'),
    Code("LB444", "no text in the source",
         reason="After removing blank documents nothing is left to measure or train on.",
         example='measure { data = "empty.txt" }'),
    Code("LB445", "hub data set cannot be loaded",
         reason="The data set, its configuration or its split does not exist, access is not granted, or there is no "
                "network and no copy in the cache.",
         example='measure { data = "org/no-such-data" }'),
    Code("LB446", "too little text",
         reason="Calibration and evaluation text is never repeated: a repeated text would make the error bars too small. "
                "Each part gets its share of the documents.",
         example="measure { tokens = 10M }"),
    Code("LB447", "text is too large",
         reason="All documents are read to split them into parts, so the size of a source is limited.",
         example='heal { data = "HuggingFaceFW/fineweb" }'),
    Code("LB448", "measurement file cannot be used",
         reason="Measurements are kept in an SQLite file; it is damaged, locked, read-only, or was written by another "
                "version.",
         example="lbdsl measure recipe.lbr model --cache-dir /a/damaged/cache"),
    Code("LB449", "action cannot be measured",
         reason="Scores are taken by running a layer under a changed specification; this action changes something else.",
         example="lowest 8 by nll(quantize(bits=4)) drop"),
)

CODES = DATA
