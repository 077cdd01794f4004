"""LB1xx, names, types, units and phases."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = (
    Code("LB101", "unknown action", "An action is one of those that lbdsl or a plug-in brings.",
         "else swaa(window=512)"),
    Code("LB102", "unknown name", "A bare name in an expression is a metric, a cost or a value of the healed model.",
         "where sensitvity < 0.1 drop"),
    Code("LB103", "unknown parameter", "A misspelt parameter would silently leave the default in force.",
         "else swa(windw=512)"),
    Code("LB104", "wrong arguments", "Each parameter is given once, and those without a default must be given.",
         "else swa()"),
    Code("LB105", "value not allowed", "The value is of the right type, but the parameter does not take it.",
         "else swa(window=0)"),
    Code("LB106", "wrong type", "Numbers, text, true/false and lists are different things.", 'else swa(window="512")'),
    Code("LB107", "units do not match", "Tokens are not bytes, a bare number is no percentage, and a share "
         "compares with a cost of the whole model.",
         "assert kv(32Ki) <= 10M tokens"),
    Code("LB108", "known only after healing", "A rule decides before healing, so it cannot ask for its outcome.",
         "where ppl_increase<5% drop"),
    Code("LB109", "a layer's value and the model's", "`where` and `by` ask about one layer; `assert`, `requires` and "
         "`until` ask about the whole model.", "assert sensitivity < 0.1"),
    Code("LB110", "unknown variable", "`$name` must be defined by `param` or `let` above its use.",
         "else swa(window=$w)"),
    Code("LB111", "unknown group", "`@name` must be defined by `group` above its use.", "layers @core keep"),
    Code("LB112", "defined twice", "A name means one thing in a recipe.", "let $a = 1; let $a = 2"),
    Code("LB113", "unknown fact of the model", "`model.` has a fixed set of facts.", "requires model.layer >= 24"),
    Code("LB114", "unknown setting", "A misspelt setting would silently leave the default in force.",
         "heal { token = 200k }"),
    Code("LB115", "unknown value of a setting", "The setting takes one of a few names.", "heal { method = lorra }"),
    Code("LB116", "outside the parameter's domain", "The recipe says which values the parameter may have.",
         "param $w: tokens in 64..8Ki = 32"),
    Code("LB117", "parameter without a value", "A parameter without a default is set with `--set`.",
         "param $w: tokens"),
    Code("LB118", "bad `--set`", "`--set` names a parameter of the recipe and gives a value of its type."),
    Code("LB119", "decimal prefix for tokens", "`k` is 1000 and `Ki` is 1024; windows and contexts are mostly powers "
         "of two.", "else swa(window=4k)"),
    Code("LB120", "constant wanted", "Here only numbers, text, parameters and arithmetic over them may stand.",
         "let $a = nll"),
    Code("LB121", "arithmetic fails", "A constant must be a finite number of at most 18 digits.", "let $a = 1 / 0"),
    Code("LB122", "bad pattern", "Patterns are linear-time regular expressions (RE2) and stand after `matches`.",
         'requires model.family matches ~"(a)\\1"'),
    Code("LB123", "condition wanted", "Something that is true or false must stand here, such as a comparison.",
         "where sensitivity drop"),
    Code("LB124", "unknown language version", "This lbdsl reads version 1 of the language.", "lbr 2"),
    Code("LB125", "not in this version", "The language knows this, but this version of lbdsl does not carry it out.",
         'modules "*.k_proj" quantize(bits=4)'),
    Code("LB126", "include leaves the recipe's directory", "A recipe reads nothing outside its own directory.",
         'include "../../etc/x"'),
    Code("LB127", "unknown type", "A parameter is of one of a few types.", "param $w: token = 64"),
    Code("LB128", "action in place of a value", "An action says what becomes of a layer; it has no value.",
         "where drop < 3 keep"),
    Code("LB129", "setting does not fit", "The value is outside what the setting takes.", "heal { lr = 0 }"),
)
