"""LB215-LB219, rules on modules and their weights."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = (
    Code(
        "LB215",
        "no engine yet",
        "The language knows this action, and plans show what it matches; nothing in this "
        "version carries it out, so the plan cannot be applied.",
        example='modules "*.k_proj" quantize(bits=4)',
        fixed="layers 0-3 keep; else swa(window=512)",
    ),
    Code(
        "LB216",
        "not an action on weights",
        "`modules` chooses weights inside layers; what removes or replaces parts of a layer needs the whole layer.",
        'modules "*.k_proj" drop',
        fixed='modules "*.k_proj" quantize(bits=4)',
    ),
    Code(
        "LB217",
        "groups do not divide the width",
        "The last group of each row would be shorter, which few kernels can.",
        example='modules "*.k_proj" quantize(bits=4, group=100)',
        fixed='modules "*.k_proj" quantize(bits=4, group=64)',
    ),
    Code(
        "LB218",
        "pattern matches no module",
        "A pattern is matched with the full names of the model's modules, and a "
        "misspelt one would silently change nothing.",
        example='modules "*.kproj" quantize(bits=4)',
        fixed='modules "*.k_proj" quantize(bits=4)',
    ),
)
