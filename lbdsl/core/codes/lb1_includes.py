"""LB13x, included files; LB145, budgets."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = (
    Code(
        "LB130",
        "included file cannot be read",
        "An include names a readable text file by its path from the file that includes it.",
        example='include "cores.lbr"',
        fixed='include "core.lbr"\nlayers @core keep',
    ),
    Code(
        "LB131",
        "included files go in a circle",
        "A file that includes itself would never end.",
        example='include "circle.lbr"   # which includes itself',
        fixed='include "core.lbr"\nlayers @core keep',
    ),
    Code(
        "LB132",
        "file included twice",
        "Its definitions and rules would stand twice.",
        example='include "core.lbr"\ninclude "core.lbr"\nlayers @core keep',
        fixed='include "core.lbr"\nlayers @core keep',
    ),
    Code(
        "LB133",
        "included file changed",
        "The recipe gives the file's sha256, and the file has another one: someone changed it.",
        example='include "core.lbr" sha256 "0000000000000000000000000000000000000000000000000000000000000000"',
        fixed='include "core.lbr"\nlayers @core keep',
    ),
    Code(
        "LB134",
        "not in an included file",
        "A recipe's name is its own; an included file may serve many recipes.",
        example='include "named.lbr"   # which holds `recipe "of its own"`',
        fixed='include "core.lbr"\nlayers @core keep',
    ),
    Code(
        "LB135",
        "includes too large",
        "A limit over all files together keeps a hostile recipe from holding up the engine.",
        example="lbdsl check a-recipe-with-hundreds-of-includes.lbr",
        fixed='include "core.lbr"\nlayers @core keep',
    ),
    Code(
        "LB136",
        "include without a folder",
        "Standard input stands in no folder, so nothing lies beside it.",
        "lbdsl check -   # of a recipe that includes a file",
        fixed="lbdsl check recipe.lbr",
    ),
    Code(
        "LB137",
        "bad sha256",
        "A hash that cannot be one would never be met.",
        example='include "core.lbr" sha256 "beef"',
        fixed='include "core.lbr"\nlayers @core keep',
    ),
    Code(
        "LB138",
        "another file instead of a recipe",
        "A saved plan is applied or shown, and YAML is converted first.",
        example="lbdsl check half.lbplan",
        fixed="lbdsl show half.lbplan",
    ),
    Code(
        "LB145",
        "tokens rounded to whole sequences",
        "Text is read in whole sequences, and healing takes whole steps; a budget between two of them is not met exactly.",
        example="measure { tokens = 5500; seq = 1Ki }\nelse keep",
        fixed="measure { tokens = 5Ki; seq = 1Ki }\nelse keep",
    ),
)
