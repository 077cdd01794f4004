"""LB13x, included files."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = (
    Code("LB130", "included file cannot be read", "An include names a readable text file by its path from the file that "
         "includes it."),
    Code("LB131", "included files go in a circle", "A file that includes itself would never end."),
    Code("LB132", "file included twice", "Its definitions and rules would stand twice."),
    Code("LB133", "included file changed", "The recipe gives the file's sha256, and the file has another one: someone "
         "changed it."),
    Code("LB134", "not in an included file", "A recipe's name and its search are its own; an included file may serve many "
         "recipes."),
    Code("LB135", "includes too large", "A limit over all files together keeps a hostile recipe from holding up the "
         "engine."),
    Code("LB136", "include without a folder", "Standard input stands in no folder, so nothing lies beside it.",
         'include "core.lbr"'),
    Code("LB137", "bad sha256", "A hash that cannot be one would never be met."),
    Code("LB138", "a plan instead of a recipe", "A saved plan is applied or shown; it is no recipe."),
)
