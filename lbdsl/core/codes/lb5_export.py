"""LB5xx, exports and engines."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

GGUF_AND_NATIVE = (
    Code(
        "LB520",
        "llama.cpp has no architecture for this",
        "Each architecture of llama.cpp is a program of its own; where none computes such layers, none may pretend to.",
        example="lowest 4 by sensitivity drop      # in a Qwen3 model",
        exit_code=6,
        fixed="else swa(window=512)",
    ),
    Code(
        "LB521",
        "windows beside removed parts or different sizes",
        "llama.cpp has an architecture for windows and another one for layers that lack a part or have sizes of their own, "
        "none for both.",
        example="layers 3 drop; else swa(window=512)",
        exit_code=6,
        fixed="else swa(window=512)",
    ),
    Code(
        "LB522",
        "tokenizer cannot be expressed",
        "llama.cpp knows ways of splitting text by name; a wrong one gives other tokens, and nobody would notice.",
        exit_code=6,
        example="lbdsl export ARTIFACT --to gguf   # of a model with a tokenizer of its own",
        fixed="lbdsl export ARTIFACT --to native",
    ),
    Code(
        "LB523",
        "rotary embeddings cannot be expressed",
        "The engine turns queries and keys in a way of its own; another way is another model.",
        exit_code=6,
        example="lbdsl export ARTIFACT --to gguf   # of a model with scaled rotary embeddings",
        fixed="lbdsl export ARTIFACT --to native",
    ),
    Code(
        "LB524",
        "shapes or functions cannot be expressed",
        "The engine's architecture takes an activation, a size or a scale for granted that this model does not have.",
        exit_code=6,
        example="lbdsl export ARTIFACT --to gguf   # of a model with another activation",
        fixed="lbdsl export ARTIFACT --to native",
    ),
    Code(
        "LB525",
        "written with zeros",
        "A removed part that the engine insists on is written as weights of zero, which change nothing.",
        example="lbdsl export ARTIFACT --to gguf   # of a model without attention in layer 3",
        fixed="lbdsl export ARTIFACT --to native",
    ),
    Code(
        "LB530",
        "plain transformers classes cannot express this",
        "A class of transformers has one kind of layer, or two that `layer_types` tells apart; anything else needs the "
        "hybrid classes of the artifact itself.",
        example="lowest 4 by sensitivity drop",
        exit_code=6,
        fixed="else swa(window=512)",
    ),
    Code(
        "LB531",
        "the class loads it as another type",
        "Another class of transformers has the same weights and computes what this family's own class cannot.",
        example="lbdsl export ARTIFACT --to native   # of a windowed Llama",
        fixed="lbdsl export ARTIFACT --to decilm",
    ),
)

CODES: tuple[Code, ...] = (
    *GGUF_AND_NATIVE,
    Code(
        "LB500",
        "the format cannot express this model",
        "An engine that loads a model and computes another one is worse than one that refuses it.",
        example="lbdsl export ARTIFACT --to gguf",
        exit_code=6,
        fixed="lbdsl export ARTIFACT --to native",
    ),
    Code(
        "LB501",
        "no such export format or engine",
        "Formats are the exporters installed; an engine is what one of them serves.",
        example="lbdsl export ARTIFACT --to decilmm",
        exit_code=2,
        fixed="lbdsl export ARTIFACT --to decilm",
    ),
    Code(
        "LB502",
        "the first layer has no attention",
        "The engine starts its residual stream in the first attention; without one it stops with an error.",
        example="layers 0 drop\nelse keep",
        exit_code=6,
        fixed="layers 0 keep\nlowest 4 of rest by nll drop\nelse keep",
    ),
    Code(
        "LB503",
        "sink tokens cannot be expressed",
        "Engines free the first blocks of a sequence once they leave the window; what they call sinks are learned "
        "numbers in the softmax, not tokens that are kept.",
        example="else swa(window=512, sinks=4)",
        exit_code=6,
        fixed="else swa(window=512)",
    ),
    Code(
        "LB504",
        "more than one window size",
        "The format has one window for all windowed layers.",
        example="layers 0-3 swa(window=128); else swa(window=512)",
        exit_code=6,
        fixed="layers 0-3 keep; else swa(window=512)",
    ),
    Code(
        "LB505",
        "a part or a size that cannot be expressed",
        "The engine has no code for a part that an action brought, or takes one size for all layers.",
        exit_code=6,
        example="lbdsl export ARTIFACT --to gguf   # of a recipe with an action of your own",
        fixed="lbdsl export ARTIFACT --to native",
    ),
    Code(
        "LB506",
        "the family cannot be expressed",
        "The format has no place for something that every layer of this family has.",
        exit_code=6,
        example="lbdsl export ARTIFACT --to decilm   # of a model of the Gemma family",
        fixed="lbdsl export ARTIFACT --to gguf",
    ),
    Code(
        "LB507",
        "the artifact was rejected",
        "A quality gate of its recipe failed; it can be exported all the same.",
        example="lbdsl export ARTIFACT --to gguf   # of <out>.rejected",
        fixed="lbdsl export ARTIFACT --to gguf   # of an artifact that passed its gates",
    ),
    Code(
        "LB508",
        "what serves the engine",
        "Which format to export to, or that there is none.",
        example="lbdsl plan x.lbr MODEL --target vllm",
        fixed="lbdsl export ARTIFACT --to decilm",
    ),
    Code(
        "LB509",
        "predicted cache of vLLM",
        "vLLM groups layers of one kind (window, KV heads) and gives every group as many layers; what it pads is lost.",
        example="lbdsl plan x.lbr MODEL --target vllm",
        fixed="layers 0-14 keep; else swa(window=512)",
    ),
    Code(
        "LB510",
        "another engine reads it differently",
        "A format may be read by more than one engine, and not all follow all of it.",
        example="lbdsl export ARTIFACT --to decilm",
        fixed="lbdsl export ARTIFACT --to gguf",
    ),
    Code(
        "LB511",
        "the engine can serve none of it",
        "The plan can be applied, but no export brings its result to this engine.",
        example="lbdsl plan x.lbr MODEL --target llama.cpp",
        fixed="lbdsl plan another.lbr MODEL --target llama.cpp",
    ),
)
