"""LB0xx, the text does not parse."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = (
    Code("LB001", "unknown statement", "Every statement begins with a word that says what it is; this one does not.",
         "layres 5 drop"),
    Code("LB002", "bracket never closed", "A bracket that stays open would swallow the statements after it.",
         "layers 5 swa(window=512"),
    Code("LB003", "brackets do not match", "Each closing bracket ends the last one opened, and they must be of a kind.",
         "layers 5 swa(window=512]"),
    Code("LB004", "bad string", "A string stands in double quotes and ends on its line.", 'recipe "half-kv'),
    Code("LB005", "nested too deep", "A limit keeps every stage of the engine safe from hostile input.",
         "layers " + "(" * 65 + "0" + ")" * 65 + " keep"),
    Code("LB006", "number too long", "Eighteen digits are more than any model needs, and fit every machine integer.",
         "layers 1234567890123456789 keep"),
    Code("LB007", "bad number", "The letters after a number must be a known prefix or unit.", "else swa(window=4kb)"),
    Code("LB008", "unexpected text", "The statement cannot go on with this.", "where sensitivity<0.1 ? drop"),
    Code("LB009", "range without an end", "A range names its first and its last layer.", "layers 4- keep"),
    Code("LB010", "slice instead of a range", "Ranges are inclusive and written with a dash: 0-3 is four layers.",
         "layers 0:4 keep"),
    Code("LB011", "wrong sign", "`=` gives a value and `==` compares; settings are separated by `;` or a new line.",
         "heal { tokens == 3 }"),
    Code("LB012", "right side missing", "An operator stands between two values.", "where sensitivity < drop"),
    Code("LB013", "expected `by`", "A ranking says by which metric it ranks.", "lowest 30% sensitivity drop"),
    Code("LB014", "unknown escape", "Only a few characters may follow a backslash in a string.", 'recipe "a\\q"'),
    Code("LB015", "keyword in place of a name", "Keywords are reserved, so that a forgotten word is noticed.",
         "layers 8 else"),
    Code("LB016", "selector without an action", "A rule says which layers, and then what becomes of them.",
         "layers 0-3"),
    Code("LB017", "text after the end of a statement", "Statements are separated by `;` or a new line.",
         "layers 0-3 keep else drop"),
    Code("LB018", "block missing", "`measure`, `heal`, `eval` and `search` hold their settings in braces.", "heal"),
    Code("LB019", "recipe too large", "A limit keeps a hostile or generated file from holding up the engine."),
    Code("LB050", "keyword misspelt", "A word of the language was meant here; with it the statement makes sense.",
         "layers 0-9 exept 3 keep"),
    Code("LB020", "recipe cannot be read", "The file must exist, be readable and hold UTF-8 text."),
)
