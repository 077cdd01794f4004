"""LB3xx, a recipe against a model, its measurements and saved plans."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

_FOUR_UNTILS = """\
lowest by nll until kv(8Ki) <= 90% drop
lowest by kl until kv(1Ki) <= 80% swa(window=64)
lowest by kl until kv(2Ki) <= 70% swa(window=64)
lowest by kl until kv(4Ki) <= 60% swa(window=64)"""

_LAYERS = (
    Code(
        "LB300",
        "layers that the model does not have",
        "Layer numbers are those of the source model, from 0; a range beyond it is never cut short silently.",
        "layers 20-40 drop",
        fixed="layers 20-29 drop",
    ),
    Code(
        "LB301",
        "a reversed range",
        "A range is written from the lower to the higher layer; both ends belong to it. In text LB205 says so first.",
        "layers 9-4 keep",
        fixed="layers 4-9 keep",
    ),
    Code(
        "LB302",
        "more layers asked for than the model has",
        "A count or a share selects among the model's layers, so it cannot be more than all of them.",
        "layers first 99 keep",
        fixed="layers first 9 keep",
    ),
    Code(
        "LB303",
        "a step that selects nothing",
        "`every n from m` counts up from layer m in steps of at least one.",
        "layers every 4 from 99 drop",
        fixed="layers every 4 from 1 drop",
    ),
)
_SCORES = (
    Code(
        "LB304",
        "a score is missing",
        "A rule decides by a measured score; without it the layer is neither matched nor passed over.",
        "where sensitivity < 0.1 drop",
        fixed="lbdsl measure recipe.lbr MODEL",
    ),
    Code(
        "LB306",
        "a score is not a number",
        "NaN or infinity compares with nothing; measuring overflowed, and a plan on it would be an accident.",
        "where sensitivity < 0.1 drop",
        fixed="lbdsl measure recipe.lbr MODEL --dtype float32",
    ),
)
_RULES = (
    Code(
        "LB307",
        "a rule gets no layer, earlier rules claimed them all",
        "The first rule that matches a layer claims it, so this rule changes nothing.",
        "layers 0-9 keep\nlayers 2-4 drop",
        fixed="layers 2-4 drop\nlayers 0-9 keep",
    ),
    Code(
        "LB308",
        "a ranking selects layers that are already claimed",
        "Without `of rest` a ranking is over all layers, so some of those it selects stay with an earlier rule.",
        "layers 10-15 keep\nlowest 8 by sensitivity drop",
        fixed="layers 10-15 keep\nlowest 8 of rest by sensitivity drop",
    ),
    Code(
        "LB309",
        "fewer layers are left than the ranking wants",
        "`of rest` ranks only the layers that no earlier rule claimed.",
        "layers 0-28 keep\nlowest 8 of rest by nll drop",
        fixed="layers 0-9 keep\nlowest 8 of rest by nll drop",
    ),
    Code(
        "LB310",
        "a rule matches no layer, or changes none",
        "A rule without any effect is allowed, because scores and the model decide it, but it is seldom what was meant.",
        "where sensitivity < 0 drop",
        fixed="where sensitivity < 0.1 drop",
    ),
    Code(
        "LB311",
        "layers that no rule claims",
        "Without `else`, layers that no rule matches are kept as they are.",
        "layers 3 drop",
        fixed="layers 3 drop\nelse keep",
    ),
    Code(
        "LB312",
        "`until` cannot be met",
        "Every number of layers was tried, with the later rules resolved each time, and none satisfies it.",
        "layers 0-3 keep\nlowest by sensitivity until kv(32Ki) <= 1% drop",
        exit_code=5,
        fixed="layers 0-3 keep\nlowest by sensitivity until kv(32Ki) <= 50% drop",
    ),
    Code(
        "LB313",
        "`until` holds before its rule takes a layer",
        "The other rules already satisfy the constraint, so this rule takes none.",
        "layers all drop\nlowest by nll until kv(8Ki) <= 90% drop",
        fixed="lowest by nll until kv(8Ki) <= 90% drop",
    ),
    Code(
        "LB314",
        "too many `until` rules together",
        "Each `until` tries every number of layers, and several multiply; the planner tries at most 100,000 plans.",
        _FOUR_UNTILS,
        fixed="lowest by nll until kv(8Ki) <= 60% drop",
    ),
    Code(
        "LB315",
        "`until` on a measured value",
        "`until` is solved from cost formulas. A loss of the whole model would need one measurement for each count.",
        "lowest by nll until nll < 0.5 drop",
        fixed="lowest by nll until kv(32Ki) <= 50% drop",
    ),
    Code(
        "LB316",
        "two actions on one part of a layer",
        "Actions joined by `+` must claim different parts; a whole `keep` combines with nothing. In text LB203 and LB204 "
        "say so first.",
        "layers 3 keep + drop",
        fixed="layers 3 drop",
    ),
    Code(
        "LB317",
        "a condition without a value",
        "The condition divides by zero or compares things of different kinds.",
        "where nll / (model.layers - 30) < 1 drop",
        fixed="where nll / model.layers < 1 drop",
    ),
    Code(
        "LB318",
        "a pattern that is no linear-time regular expression",
        "Patterns are matched by RE2, which has no back-references and no look-around. In text LB122 says so first.",
        'requires model.family matches ~"(a)\\1"',
        fixed='requires model.family matches ~"llama|qwen.*"',
    ),
    Code(
        "LB319",
        "a size that a layer cannot have",
        "Widths of MLPs are multiples of 32, which integer kernels and GGUF's blocks need, and below the base's.",
        "else width(1000)",
        fixed="else width(992)",
    ),
)
_CONDITIONS = (
    Code(
        "LB320",
        "the recipe does not fit this model",
        "`requires` states what the recipe was made for.",
        "requires model.layers >= 99",
        fixed="requires model.layers >= 24",
    ),
    Code(
        "LB321",
        "a static assert fails",
        "It is computed from the cost formulas, so neither measuring nor healing can change it.",
        "layers 0-9 drop\nassert kv(32Ki) <= 1%",
        exit_code=5,
        fixed="layers 0-9 drop\nassert kv(32Ki) <= 70%",
    ),
    Code(
        "LB322",
        "a measured assert fails",
        "It is about the changed model before healing, measured jointly.",
        "lowest 8 by nll drop\nassert nll < 0.0001",
        exit_code=5,
        fixed="lowest 8 by nll drop\nassert nll < 1",
    ),
    Code(
        "LB323",
        "an assert is not measured yet",
        "The joint loss of the changed model is not known, so the plan cannot be applied.",
        "lowest 8 by nll drop\nassert nll < 0.5",
        fixed="lbdsl plan recipe.lbr MODEL",
    ),
    Code(
        "LB324",
        "a context beyond the model's positions",
        "The cost is computed, but the model was not made for sequences of that length.",
        "else drop\nassert kv(200Ki) <= 50%",
        fixed="else drop\nassert kv(8Ki) <= 50%",
    ),
    Code(
        "LB325",
        "layers are changed, but nothing is healed or gated",
        "No `heal` block means no healing and no `assert` means no gate. The damage stays and nothing stops the save.",
        "layers 0-3 keep; where sensitivity<0.1 drop; else swa(window=512)",
        fixed="layers 0-3 keep; where sensitivity<0.1 drop; else swa(window=512)\n"
        "heal { tokens = 200k }\nassert ppl_increase < 5%",
    ),
)
_ACTIONS = (
    Code(
        "LB326",
        "a window of more than half of the model's positions",
        "What a window takes away shows only in sequences of at least twice its width, and the model reads none that long.",
        "else swa(window=1Mi)",
        fixed="else swa(window=512)",
    ),
    Code(
        "LB327",
        "layers that are so already",
        "Some families have windowed layers by themselves (Gemma, Mistral, Olmo 3); a wider window would not widen them. A "
        "layer with as many KV heads as asked for stays as it is, too.",
        "else swa(window=4Ki)",
        fixed="else swa(window=512)",
    ),
    Code(
        "LB339",
        "a number of KV heads that cannot be",
        "Each group of neighbours becomes one head, so the number of groups divides the number of KV heads. Only softmax "
        "attention has them.",
        "layers 4-20 kv_heads(2)",
        fixed="layers 4-20 kv_heads(1)",
    ),
    Code(
        "LB348",
        "KV heads merged in another way",
        "Norms of keys come between the weights and the scores. Where they are head by head (Qwen 3, Gemma 3), turned keys "
        "would be normed by other weights; where they are over all heads (Olmo 3), averaged keys would be of another size.",
        "lbdsl check kv_heads.lbr --model Qwen/Qwen3-0.6B",
        fixed="lbdsl check kv_heads_without_align.lbr --model Qwen/Qwen3-0.6B",
    ),
)
_LENGTHS = (
    Code(
        "LB328",
        "sequences too short for a window",
        "In a sequence that a window covers, every token sees what it saw before: the damage is 0 there, whatever the "
        "window does beyond. Scores and gates need sequences of at least twice the widest window.",
        "measure { seq = 1Ki }\nelse swa(window=1Ki)",
        fixed="measure { seq = 2Ki }\nelse swa(window=1Ki)",
    ),
    Code(
        "LB329",
        "judged on shorter sequences than the budget's context",
        "What windows and dropped attentions cost grows with the context. A gate at 2Ki says little about a cache of 32Ki.",
        "else swa(window=256)\nheal { tokens = 200k }\neval { seq = 1Ki }\nassert kv(8Ki) <= 50%\nassert ppl_increase < 5%",
        fixed="else swa(window=256)\nheal { tokens = 200k }\nassert kv(8Ki) <= 50%\nassert ppl_increase < 5%",
    ),
    Code(
        "LB336",
        "sequences beyond the model's positions",
        "A model computes nothing useful beyond the positions that it was made for.",
        "measure { seq = 1Mi }\nlowest 8 by nll drop",
        fixed="measure { seq = 1Ki }\nlowest 8 by nll drop",
    ),
    Code(
        "LB337",
        "judged on the healing source",
        "Text of the source that healed a model flatters it; other text tells what users will see.",
        'lowest 8 by nll drop\nheal { data = "builtin:pydoc" }\neval { data = "builtin:pydoc" }\nassert ppl_increase < 5%',
        fixed='lowest 8 by nll drop\nheal { data = "builtin:pydoc" }\neval { data = "builtin:wikitext" }\n'
        "assert ppl_increase < 5%",
    ),
    Code(
        "LB338",
        "more tokens than asked for",
        "A mean over one or two sequences has no error worth the name, so at least four are taken.",
        "measure { tokens = 1Ki; seq = 1Ki }\nlowest 8 by nll drop",
        fixed="measure { tokens = 4Ki; seq = 1Ki }\nlowest 8 by nll drop",
    ),
)
_FILES = (
    Code(
        "LB330",
        "a plan cannot be read",
        "The file is missing, or the system refuses it.",
        "lbdsl apply missing.lbplan",
        fixed="lbdsl apply half.lbplan",
    ),
    Code(
        "LB331",
        "not a plan",
        "A saved plan is one JSON object written by `lbdsl plan -o`.",
        "lbdsl show README.md",
        exit_code=6,
        fixed="lbdsl show half.lbplan",
    ),
    Code(
        "LB332",
        "a plan was edited or damaged",
        "A plan carries the digest of its own content. Change the recipe and plan again instead of editing it.",
        "lbdsl apply edited.lbplan",
        exit_code=6,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB333",
        "a plan of another format version",
        "This version of lbdsl does not know how to read it.",
        "lbdsl show newer.lbplan",
        exit_code=3,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB334",
        "a plan whose fields are not valid",
        "A field is missing, unknown or out of range, or an action's plug-in is not installed here.",
        "lbdsl show foreign.lbplan",
        exit_code=6,
        fixed="LBDSL_PLUGINS=the_action.py lbdsl show foreign.lbplan",
    ),
    Code(
        "LB335",
        "a plan cannot be written",
        "The folder is missing, full or write-protected, or something else than a saved plan has that name.",
        "lbdsl plan r.lbr MODEL -o /nowhere/x.lbplan",
        fixed="lbdsl plan r.lbr MODEL -o x.lbplan",
    ),
)
_STATISTICS = (
    Code(
        "LB346",
        "statistics that are too large",
        "What calibration gives for new weights is kept on disk and named in the plan; there is a limit to that.",
        "lbdsl plan recipe.lbr MODEL",
        fixed="layers 0-3 width(75%)\nelse keep",
    ),
)
_STALE = (
    Code(
        "LB340",
        "the recipe changed since the plan was made",
        "A plan is applied only with the recipe that it was made from; comments and spacing may differ.",
        "lbdsl apply x.lbplan",
        exit_code=3,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB341",
        "a parameter changed since the plan was made",
        "A plan holds the values that its layers were selected with.",
        "lbdsl apply x.lbplan",
        exit_code=3,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB342",
        "the model changed since the plan was made",
        "Scores and costs are those of other weights.",
        "lbdsl apply x.lbplan --model other",
        exit_code=3,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB343",
        "the measurements changed since the plan was made",
        "The plan was selected by scores from another text, size or precision.",
        "lbdsl apply x.lbplan",
        exit_code=3,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB344",
        "the plan is of another version of lbdsl",
        "Another version may select or change layers differently.",
        "lbdsl apply x.lbplan",
        exit_code=3,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB347",
        "a statistic changed since the plan was made",
        "New weights are made from statistics of the calibration text; the plan names each by its sha256.",
        "lbdsl apply x.lbplan",
        exit_code=3,
        fixed="lbdsl plan recipe.lbr MODEL -o new.lbplan",
    ),
    Code(
        "LB345",
        "a plan that cannot be changed by hand",
        "`change_layer` writes one rule for each action in place of the recipe's own rules.",
        example='lbdsl.change_layer(planned, 7, "keep")  # the recipe includes its rules',
        fixed='lbdsl.change_layer(planned, 7, "keep")  # the rules stand in the recipe',
    ),
)

CODES = _LAYERS + _SCORES + _RULES + _CONDITIONS + _ACTIONS + _LENGTHS + _FILES + _STATISTICS + _STALE
