"""`starting_recipe`: a starter recipe that fits a model, made from its configuration and headers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lbdsl.actions import Action
from lbdsl.api.goals import MOST_RISE, Goals
from lbdsl.api.inspecting import Inspected, inspect_model
from lbdsl.core.diagnostic import Diagnostic, LbdslError, fail, note
from lbdsl.core.paths import plain_name
from lbdsl.core.units import bytes_text, count_text, ranges_text
from lbdsl.cost.cost import model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.cost.profile import calibrate_line
from lbdsl.language.format import format_text
from lbdsl.model.source import is_artifact
from lbdsl.parts.int_weights import STEP
from lbdsl.parts.moe import Moe
from lbdsl.plan.findings import static_findings
from lbdsl.recipe.beyond import recall_gate
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema import Recipe, action_from
from lbdsl.solve.case import Case

SWA = "swa(window=$window)"

MAX_CONTEXT = 8 * 1024
"""Context length in tokens of cost asserts and of evaluation; the model's positions when those are fewer. The built-in
text holds four sequences of this length."""


@dataclass(frozen=True)
class Start:
    """A starter recipe as canonical text with comments, and the model's short name for use in a file name."""

    text: str
    model_name: str
    diagnostics: tuple[Diagnostic, ...]


def starting_recipe(model: str | Path, *, goals: Sequence[str] = (), offline: bool = False) -> Start:
    """A recipe for a local folder, a GGUF file or a hub id; no weights are read. Raises LbdslError.

    Two thirds of the attentions get windows, those that hold least of what stands far back, as in recipes/quickstart.lbr;
    the numbers are only a starting point: nothing is measured.
    With `goals`, conditions such as `kv(8Ki) <= 50%`, the plan is chosen that meets them with the least damage; one that
    they cannot be met with is LB356. One on a predicted value gives a note with the line that calibrates for it.
    """
    found = inspect_model(model, offline=offline)
    if is_artifact(found.source):
        raise fail("LB467", f"{model} is already an artifact of lbdsl", help="give its base model")
    text, notes = recipe_for(found, goals), found.diagnostics
    if goals:
        loaded = recipe_from_text(text, "--goal")
        problems = loaded.diagnostics if loaded.value is None else static_findings(Case(loaded.value, found.facts))
        if any(d.is_error for d in problems):
            raise LbdslError(problems)
        notes += tuple(_profiles_needed(loaded.unwrap(), found.source.text))
    return Start(text, plain_name(found.source.short_name, "model"), notes)


def _profiles_needed(recipe: Recipe, model: str) -> Iterator[Diagnostic]:
    for engine, values in recipe.predictions_asked.items():
        line = calibrate_line(engine, [(value.name, value.arguments) for value in values], model)
        names = ", ".join(dict.fromkeys(f"`{value.name}`" for value in values))
        message = f"`plan` predicts {names} from a profile of {engine}, of this model and device"
        yield note("LB353", message, help=f"if there is none yet, measure it: {line}")


def recipe_for(found: Inspected, goals: Sequence[str] = ()) -> str:
    """The canonical text for a model that was inspected. Raises LbdslError for a goal that does not parse."""
    wanted = Goals.of(goals)
    shape = _Shape.of(found.facts, plain_name(found.source.short_name, "model"), whole=wanted.smallest or not goals)
    rules = _goal(shape, wanted) if goals else _balanced(shape)
    remembers = any("recall" in line for line in rules)
    # Of `kl` only where whole plans are measured, too: alone a screen may rank worse.
    screens = any("kl" in line for line in rules) if goals else remembers
    widest = max(_sizes(shape, wanted)) if wanted.smallest else 0
    name = f"{shape.name}-{'goal' if goals else 'start'}"
    head = _head(shape, name, screens, bool(goals) and screens and remembers, widest)
    text = "\n".join([*head, *rules, *_tail(shape, wanted, remembers, widest)])
    return format_text(text, "--goal" if goals else "<string>").unwrap()


@dataclass(frozen=True)
class _Shape:
    """The properties of a model that a starter recipe depends on.

    The first rules keep the first and last layers (`ends`: how many of each), and those that do not attend to all tokens
    while others do (`own`). `free` are the rest. `window` in tokens, `windows` the parameter's range.
    """

    facts: ModelFacts
    name: str
    ends: tuple[int, int]
    own: tuple[int, ...]
    free: tuple[int, ...]
    window: int
    windows: tuple[int, int]
    ctx: int

    @classmethod
    def of(cls, facts: ModelFacts, name: str, *, whole: bool = False) -> _Shape:
        """With `whole` the ends are free, too."""
        mixers = ((i, spec.mixer) for i, spec in enumerate(facts.layer_specs))
        attentions = {i: mixer for i, mixer in mixers if mixer is not None and "window" in mixer.changeable}
        full = [i for i, attention in attentions.items() if attention.sees is None]
        chosen = full or list(attentions)
        seen = min([facts.positions, *(tokens for i in chosen for tokens in attentions[i].seen(facts.positions))])
        if not chosen or seen < 8:
            has = f"{facts.layers} layers, {len(chosen)} with attention over {seen} tokens"
            help = has if chosen else f"none of its {facts.layers} layers has attention"
            raise fail("LB048", f"{name} has no attention that a starter recipe could change", help=help)
        own = [i for i in range(facts.layers) if i not in chosen]
        first, last = (2, 1) if facts.layers >= 12 else (1, 1) if facts.layers >= 4 else (0, 0)
        ends = {*range(first), *range(facts.layers - last, facts.layers)}
        if whole or ends >= set(chosen):
            first, last, ends = 0, 0, set()
        widest = _power_of_two(seen // 2)
        window = min(widest, 1024, max(64, _power_of_two(max(1, facts.positions // 16))))
        return cls(
            facts=facts,
            name=name,
            ends=(first, last),
            own=tuple(own),
            free=tuple(i for i in chosen if i not in ends),
            window=window,
            windows=(max(1, window // 8), widest),
            ctx=min(facts.positions, MAX_CONTEXT),
        )

    @property
    def full_heads(self) -> tuple[int, ...]:
        """How many KV heads of a windowed layer may stay full: half and a quarter of the fewest that a free layer has."""
        mixers = (self.facts.layer_specs[i].mixer for i in self.free)
        least = min(mixer.dims().get("kv_heads", 0) if mixer is not None and mixer.sees is None else 0 for mixer in mixers)
        return tuple(sorted({least // 2, least // 4} - {0}, reverse=True))

    @property
    def has_experts(self) -> bool:
        """Whether each free layer has experts, and half of them are enough for a token."""
        ffns = [self.facts.layer_specs[i].ffn for i in self.free]
        return bool(ffns) and all(isinstance(ffn, Moe) and ffn.experts >= 2 * ffn.top_k for ffn in ffns)

    def part(self, share: float) -> int:
        """The number of layers in this share of the free layers, rounded."""
        return int(share * len(self.free) + 0.5)

    def cache_share(self, choices: Sequence[tuple[Action, int]]) -> float:
        """Of the base's, when each action is applied to the given number of free layers, starting with those that gain
        least."""
        specs = list(self.facts.layer_specs)
        order = sorted(self.free, key=lambda layer: self.facts.cost.layers[layer].kv_bytes(self.ctx))
        for action, count in choices:
            for layer in order[:count]:
                specs[layer] = action.change(specs[layer], self.facts.linear_maps[layer])
            order = order[count:]
        return model_cost(self.facts, specs).kv_bytes(self.ctx) / self.facts.cost.kv_bytes(self.ctx)


def _head(shape: _Shape, name: str, screens: bool, asks: bool, widest: int) -> list[str]:
    """`asks`: each plan that is tried is measured by its recall. `widest`: of the windows that the rules name by number; 0
    where they have `$window`."""
    facts = shape.facts
    lines = [
        f"# A start for {shape.name}: {facts.family}, {facts.layers} layers, {count_text(facts.params)} parameters,",
        f"# {_tokens(facts.positions)} positions, {bytes_text(facts.kv_bytes(shape.ctx))} of cache at "
        f"{_tokens(shape.ctx)} tokens. Made by `lbdsl init`; every number is yours to change.",
        "lbr 1",
        f'recipe "{name}"',
        "",
        "# Another model is refused, since the counts below are for this one.",
        f'requires model.family == "{facts.family}" and model.layers == {facts.layers}',
        "",
    ]
    if not widest:
        low, high = shape.windows
        other = _tokens(max(low, shape.window // 2))
        lines += [
            f"# Tokens that a windowed layer sees. Try others with `--set window={other}`.",
            f"param $window: tokens in {_tokens(low)}..{_tokens(high)} = {_tokens(shape.window)}",
            "",
        ]
    # Four sequences of twice the window are the minimum. A bound on what is measured decides by more.
    tokens = max(4096 if facts.params >= 3e9 else 8192, 16 * widest, 8 * shape.window)
    lines.append("# Text for measuring. More tokens rank the layers better and take longer; your own file is best.")
    strategy = ""
    # A screen needs the whole model in memory.
    if screens and facts.params < 3e9:
        lines.append("# `screen` estimates what each change does, which is quicker; whole plans are measured.")
        strategy = "; strategy = screen"
    if asks:
        lines.append("# Each of the plans that are tried is asked all questions, too.")
        strategy += "; tries = 24"
    lines += [
        # The part of pydoc that ranks has fewer than 10,000 tokens.
        f'measure {{ data = "builtin:{"pydoc" if tokens <= 8192 else "docs"}"; tokens = {_tokens(tokens)}{strategy} }}',
        "",
        "# Rules from top to bottom: the first that matches a layer claims the parts of it that it changes.",
    ]
    first, last = shape.ends
    if first:
        lines.append(f'layers first {first}, last {last} keep because "the ends carry the model"')
    own = [i for i in shape.own if first <= i < shape.facts.layers - last]
    if own:
        lines.append(f'layers {ranges_text(own)} keep because "these do not attend to all tokens"')
    return lines


def _balanced(shape: _Shape) -> list[str]:
    """The form of recipes/quickstart.lbr; windows by `kl` where texts are too short to ask for what stands beyond them."""
    count = max(1, shape.part(2 / 3))
    remembers = _gate_beyond(shape) is not None
    by, becomes = (SWA.replace(")", f", sinks={sinks})") for sinks in (4, "learned"))
    ranked = f"recall({by}) {becomes}" if remembers else f"kl({SWA}) {SWA}"
    swa = action_from({"kind": "swa", "window": shape.window})
    # In percent, rounded up to a multiple of five, so that the assert holds.
    bound = min(100, 5 * -int(-100 * shape.cache_share([(swa, count)]) // 5))
    said = (
        "# The layers that hold least of what stands far back. A learned sink begins at nothing; sink tokens show what",
        "# the window itself takes away.",
    )
    return [
        *(said if remembers else ()),
        f"lowest {count} {'of rest ' if shape.own else ''}by {ranked}",
        "else keep",
        "",
        "# Bytes of cache, as a share of the base model's; known before anything is changed.",
        f"assert kv({_tokens(shape.ctx)}) <= {bound}%",
    ]


def _goal(shape: _Shape, goals: Goals) -> list[str]:
    if goals.smallest:
        return _smallest(shape, goals)
    alternatives = ["keep", SWA, "drop"]
    words = ("weights", "params", "flops", "latency", "memory", "throughput")
    if any(word in goal for goal in goals.budgets for word in words):
        alternatives.append("drop(block)")
    of_weights = any(word in goal for goal in goals.budgets for word in ("weights", "memory"))
    dense = not any(isinstance(spec.ffn, Moe) for spec in shape.facts.layer_specs)
    fits = all(columns % STEP == 0 for columns in shape.facts.columns)
    # Engines that serve experts want all of them stored alike.
    if of_weights and fits and (dense or goals.served <= {"transformers"}):
        alternatives += ["quantize(bits=8)", "quantize(bits=4)", f"{SWA} + quantize(bits=8)"]
    # Engines' own classes have as many experts in each layer.
    if of_weights and shape.has_experts and goals.served <= {"vllm+lbdsl", "transformers"}:
        alternatives += ["experts(75%)", "experts(50%)", f"{SWA} + experts(50%)"]
    said = (
        "The least damage that meets the goal, chosen by scores and joint measurements: docs/choosing.md.",
        "More alternatives: `kv_heads(1)`, `swa(window=$window, sinks=learned)`.",
        'More budgets: `weights <= 80%`, `serves("vllm")`.',
    )
    least = f"kl{' + 0.2 * recall' if _gate_beyond(shape) else ''}"
    return _choose(shape, said, alternatives, least, (*goals.budgets, *goals.scores))


def _choose(shape: _Shape, said: Sequence[str], among: Sequence[str], least: str, within: Sequence[str]) -> list[str]:
    return [
        *(f"# {line}" for line in said),
        f"choose for layers {ranges_text(shape.free)} among {', '.join(among)}",
        f"  minimizing {least}",
        f"  subject to {', '.join(within)}",
        "else keep",
    ]


def _sizes(shape: _Shape, goals: Goals) -> list[int]:
    """Windows of an eighth and a quarter of the context that a gate asks about."""
    context = min(goals.context or 4 * shape.window, shape.facts.positions)
    low, high = shape.windows
    return [size for size in (context // 8, context // 4) if low <= size <= high] or [shape.window]


def _smallest(shape: _Shape, goals: Goals) -> list[str]:
    """The smallest cache with which no more is lost than the gates allow."""
    sinks = "learned" if goals.served else "4"
    # Where texts are too short for what stands far back, nothing is lost of it.
    known = {name for name in goals.bounds if name != "recall" or goals.gates or _gate_beyond(shape)}
    bounds = [f"{name} <= {most:.2g}" for name, most in goals.bounds.items() if name in known]
    said = [
        "The smallest cache that loses at most so much before healing.",
        *(["The bounds on scores are a first guess at what the asserts below need: docs/choosing.md."] if bounds else []),
    ]
    if not goals.served:
        said.append('Only transformers serves sink tokens; a goal `serves("vllm")` gives learned sinks.')
    sizes = [_tokens(size) for size in reversed(_sizes(shape, goals))]
    full = shape.full_heads if goals.served <= {"vllm+lbdsl", "transformers"} else ()
    if full:
        said.append("Full heads keep what a window of the whole layer loses; vLLM needs lbdsl beside it for them.")
    beside = [*(f", full_heads={heads}" for heads in full), ""]
    windows = [f"swa(window={size}, sinks={sinks}{more})" for size in sizes for more in beside]
    least = f"kv({_tokens(shape.ctx)})"
    return _choose(shape, said, ["keep", *windows], least, (*goals.budgets, *goals.scores, *bounds))


def _gate_beyond(shape: _Shape) -> str | None:
    return recall_gate(shape.window, shape.ctx, shape.facts.positions)


def _tail(shape: _Shape, goals: Goals, remembers: bool, widest: int) -> list[str]:
    facts = shape.facts
    tokens, rate = ("200k", "1e-3") if facts.params < 5e8 else ("1M", "5e-4") if facts.params < 3e9 else ("2M", "3e-4")
    if goals.smallest and not goals.served and facts.params < 5e8:
        rate = "2e-4"  # Models with sink tokens, which lose little, get worse at 1e-3: docs/tasks.md.
    # Sequences shorter than twice the window would not heal what the window takes away.
    # Those of `builtin:recall` ask for what stands up to four windows back.
    times = 4 if remembers else 2
    seq = min(max(1024, times * (widest or shape.window)), facts.positions)
    gate = round(100 * MOST_RISE) if goals.smallest or not goals.budgets else 50
    recall = _gate_beyond(shape)
    asked = [f"assert {goal}" for goal in goals.gates]
    perplexity = [] if any("ppl" in gate for gate in asked) else [f"assert ppl_increase < {gate}%"]
    beyond = any("needle" in gate for gate in asked)
    gates = asked if beyond or not recall else [*asked, recall]
    data = 'mix("builtin:pydoc", "builtin:recall", weights=[3, 1])' if remembers else '"builtin:pydoc"'
    return [
        "",
        "# Healing by distillation from the base model. More tokens heal more: LayerBoost (arXiv 2604.22050)",
        "# uses 10M.",
        f"heal {{ data = {data}; tokens = {tokens}; seq = {_tokens(seq)}; lr = {rate} }}",
        "",
        "# The result is judged on text of another source, at the context above, and saved only if every assert holds.",
        'eval { data = "builtin:wikitext" }',
        *perplexity,
        *(("# Perplexity hardly shows facts lost beyond the window: they are asked for.", *gates) if gates else ()),
    ]


def _power_of_two(n: int) -> int:
    """The largest power of two that is at most n; n is at least 1."""
    return 1 << (n.bit_length() - 1)


def _tokens(n: int) -> str:
    """8192 as `8Ki`, 4000 as `4000`: decimal prefixes are not used for lengths."""
    return f"{n // 1024}Ki" if n >= 1024 and n % 1024 == 0 else str(n)
