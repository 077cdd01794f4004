"""Blocks of a resolved recipe: `measure`, `heal` and `eval`, with their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from lbdsl.core.span import Span
from lbdsl.core.units import tokens_text

RECALL = "builtin:recall"
"""Generated texts with questions about themselves, for `heal`, and for `recall` of `measure`; see `lbdsl.data.recall`."""

RECALL_HAY = ("builtin:pydoc", "builtin:docs")
"""What stands between the facts of texts of recall."""

BUILTIN_TEXTS = ("builtin:pydoc", "builtin:docs", RECALL, "builtin:wikitext")
"""Texts that are always available; see `lbdsl.data.sources`."""

JUDGING_ONLY = ("builtin:wikitext",)
"""Those that only `eval` may name: held-out text, used neither for measuring nor for healing."""

JUDGED = 2048
"""Tokens of the sequences that a result is judged on, if no window and no context needs more."""

SHORTEST_NEEDLE = 256
"""Tokens of the shortest text that facts are hidden in."""

QUESTIONS_FILE = ".jsonl"
"""How the name of a file of questions ends."""

SEQUENCES = 4
"""The minimum number of sequences for a mean and its error; `tokens` is raised to reach it."""


class Values(BaseModel):
    # Building all validators at import costs 30 ms; `check` needs few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def _set(default: Any, meaning: str, title: str | None = None, unit: str = "", **bounds: Any) -> Any:
    """A setting of a block. `meaning` is for `explain` and the reference; `title` says what a name is one of; `unit` is
    `tokens`, or `length` for the tokens of a sequence, which are usually a power of two."""
    return Field(default=default, description=meaning, title=title, json_schema_extra={"unit": unit}, **bounds)


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""As NumPy takes it."""
SEED = "seed of every random choice"
OTHER_TEXTS = "a local file, a hub data set, `self` or `mix(...)`"
LENGTH = "length of a sequence, in tokens, within the model's positions"


class SelfText(Values):
    """`self(tokens=1M)`: text that the base model writes itself, at most so many different tokens; open: as many as are
    used. Source: self-calibration (arXiv 2410.17170)."""

    node: Literal["self"] = "self"
    tokens: int | None = Field(default=None, ge=2, strict=True, json_schema_extra={"unit": "tokens", "decimal": True})
    seed: Annotated[Seed, Field(strict=True)] = 0

    def __str__(self) -> str:
        said = [] if self.tokens is None else [f"tokens={tokens_text(self.tokens)}"]
        said += [f"seed={self.seed}"] if self.seed else []
        return f"self({', '.join(said)})" if said else "self"


class Mix(Values):
    """`mix("a.txt", self, weights=[2, 1])`: several sources, by their share of the tokens."""

    node: Literal["mix"] = "mix"
    sources: tuple[str | SelfText, ...] = Field(min_length=2)
    weights: tuple[Annotated[float, Field(gt=0)], ...]

    def __str__(self) -> str:
        names = ", ".join(f'"{source}"' if isinstance(source, str) else str(source) for source in self.sources)
        weights = ", ".join(f"{weight:g}" for weight in self.weights)
        return f"mix({names})" if len(set(self.weights)) == 1 else f"mix({names}, weights=[{weights}])"


Text = str | SelfText | Mix
"""A source of text, or several."""


def sources_of(text: Text) -> tuple[str | SelfText, ...]:
    return text.sources if isinstance(text, Mix) else (text,)


class BlockSettings(Values):
    """Base of the blocks. `span` is the block's place in the text; `set_at` has, by field, the places of the values that
    the recipe sets. All other fields are open."""

    span: SkipValidation[Span | None] = Field(default=None, exclude=True, repr=False)
    set_at: SkipValidation[Mapping[str, Span]] = Field(default={}, exclude=True, repr=False)


class Measure(BlockSettings):
    """`measure { ... }`: the calibration text that scores are measured on. `lbdsl.plan.lengths` sets the lengths that are
    open. `questions` are asked of each part of a task; texts of recall have at most `recall_seq` tokens."""

    metric: str = _set("nll", "what `sensitivity` stands for")
    data: Text = _set("builtin:pydoc", f"the text: `builtin:pydoc`, `builtin:docs`, {OTHER_TEXTS}")
    tokens: int = _set(8192, "tokens of calibration text", unit="tokens", ge=1)
    seq: int | None = _set(None, f"{LENGTH}; open: 1Ki, or twice the widest window that a rule sets", unit="length", ge=2)
    seed: Seed = _set(0, SEED)
    strategy: Literal["independent", "greedy", "screen"] = _set(
        "independent", "`independent`; `screen` estimates scores; `greedy`, for `choose`", "a way to score"
    )
    tries: int = _set(200, "whole plans that `choose` may measure; 0: scores alone choose", ge=0)
    questions: int = _set(200, "how many of a task's last questions score layers; `limit` of `eval` takes the first", ge=2)
    recall: tuple[str, ...] = _set(
        (RECALL,), f"questions that `recall` is measured by: `{RECALL}`, a JSONL file of your own, or a list of them"
    )
    recall_seq: int | None = _set(
        None,
        f"tokens of the texts of `{RECALL}`; open: 1Ki, or four times the widest window that a rule sets",
        unit="length",
        ge=SHORTEST_NEEDLE,
    )
    recall_questions: int = _set(80, f"how many questions of `{RECALL}` are asked", ge=10)


class Lora(Values):
    """Low-rank adapters on all linear maps of the layers, merged at the end (arXiv 2106.09685)."""

    node: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=4096, strict=True)
    alpha: float = Field(default=32, gt=0, strict=True)


class FullWeights(Values):
    node: Literal["full"] = "full"


class LearnedSinks(Values):
    node: Literal["sinks"] = "sinks"


Method = Lora | FullWeights | LearnedSinks


class HealSettings(BlockSettings):
    """The loss of `distill` is `kl_weight * KL(base || healed) + hidden_weight * hidden`, on the tokens of `loss_on`."""

    data: Text = _set("builtin:pydoc", f"the text: `builtin:pydoc`, `builtin:docs`, `{RECALL}`, {OTHER_TEXTS}")
    tokens: int = _set(200_000, "tokens seen, passes included", unit="tokens", ge=1)
    method: Annotated[Method, Field(discriminator="node")] = _set(Lora(), "`lora(rank=16, alpha=32)`, `full`, or `sinks`")
    # Both are set by `loss`.
    kl_weight: float = Field(default=1.0, ge=0)
    hidden_weight: float = Field(default=0.0, ge=0)
    lr: float = _set(1e-3, "peak learning rate", gt=0)
    schedule: Literal["cosine", "linear", "constant"] = _set(
        "cosine", "`lr` after warm-up: `cosine`, `linear` or `constant`", "a schedule"
    )
    warmup: float = _set(0.05, "share of the steps in which the learning rate rises", ge=0, le=1)
    teacher: Literal["loaded", "cached"] = _set(
        "loaded",
        "`loaded`: the base stays in memory; `cached`: its last hidden states are written to disk first",
        "a place of the teacher",
    )
    documents: Literal["joined", "apart"] = _set(
        "joined", "`joined`, or `apart`: none sees those before it in its sequence", "a way of packing"
    )
    loss_on: Literal["all", "assistant"] = _set("all", "`all` tokens, or an `assistant`'s, in chats", "a choice of tokens")
    seq: int = _set(1024, LENGTH, unit="length", ge=2)
    batch: int = _set(2, "sequences a step", ge=1)
    seed: Seed = _set(0, SEED)

    @property
    def steps(self) -> int:
        """Number of optimizer steps: whole batches of `batch` x `seq` tokens in `tokens`, at least one."""
        return max(1, self.tokens // (self.batch * self.seq))

    @property
    def tokens_seen(self) -> int:
        """Those of whole steps."""
        return self.steps * self.batch * self.seq


class Stage(HealSettings):
    """`stage match { ... }`: each changed layer learns to give what the base's layer gives, on the base's hidden states.
    `stage distill { ... }`: the model learns to predict what the base predicts."""

    name: Literal["match", "distill"] = "distill"


class Heal(HealSettings):
    """`heal { ... }`: learning from the base model, in stages one after the other; without any, it distils."""

    stages: tuple[Stage, ...] = ()

    @property
    def runs(self) -> tuple[Stage, ...]:
        """The stages, in order; the block itself is one when it has none."""
        own = {name: getattr(self, name) for name in HealSettings.model_fields}
        return self.stages or (Stage.model_construct(**own),)

    @property
    def tokens_seen(self) -> int:
        return sum(run.tokens_seen for run in self.runs)

    @property
    def sources(self) -> tuple[str | SelfText, ...]:
        return tuple(dict.fromkeys(source for run in self.runs for source in sources_of(run.data)))


class OwnQuestions(Values):
    """`"mine.jsonl"` in `needle`: questions of the user's own, in a file; see `lbdsl.data.records`."""

    node: Literal["questions"] = "questions"
    file: str = Field(min_length=1)

    def __str__(self) -> str:
        return f'"{self.file}"'


Needle = int | OwnQuestions
"""Facts hidden in a text of so many tokens, or a user's own questions."""

Asked = Needle | str
"""What a model is asked besides texts: a needle, or a task by its name."""


class Evaluate(BlockSettings):
    """`eval { ... }`: the texts that the artifact is evaluated on. `lbdsl.plan.lengths` sets an open `seq`; of `needle` see
    `lbdsl.metrics.needle`."""

    data: tuple[str, ...] = _set(
        ("builtin:wikitext",), "the text, or a list of several; each assert must hold on every one"
    )
    tokens: int = _set(16_384, "tokens of held-out text, of each source", unit="tokens", ge=1)
    seq: int | None = _set(
        None,
        f"{LENGTH}; open: the largest context that asserts and budgets name, else 2Ki; at least twice the widest window",
        unit="length",
        ge=2,
    )
    metrics: tuple[Literal["perplexity", "kl", "agreement"], ...] = _set(
        ("perplexity", "kl", "agreement"), "what is reported of the finished model", "a metric of the finished model"
    )
    tasks: tuple[str, ...] = _set((), "benchmarks of lm-evaluation-harness, one or a list: names, or YAML files")
    limit: int | None = _set(None, "the most questions of each benchmark", ge=2)
    needle: tuple[Annotated[int, Field(ge=SHORTEST_NEEDLE)] | OwnQuestions, ...] = _set(
        (), "what is asked about long texts, one or a list: tokens of texts that hide facts, or a .jsonl file of questions"
    )
    needle_texts: int = _set(8, "how many of them for each length; the more, the smaller the error of what is found", ge=2)

    @property
    def contexts(self) -> tuple[int, ...]:
        """In tokens, of the needles that are hidden in built-in text."""
        return tuple(needle for needle in self.needle if isinstance(needle, int))

    @property
    def own_questions(self) -> tuple[OwnQuestions, ...]:
        return tuple(needle for needle in self.needle if isinstance(needle, OwnQuestions))

    def with_tasks(self, asked: Iterable[Asked]) -> Evaluate:
        """With these needles and these tasks, too."""
        asked = tuple(asked)
        needle = dict.fromkeys((*self.needle, *(one for one in asked if not isinstance(one, str))))
        tasks = dict.fromkeys((*self.tasks, *(one for one in asked if isinstance(one, str))))
        return self.model_copy(update={"needle": tuple(needle), "tasks": tuple(tasks)})


def task_name(asked: Asked) -> str:
    """The name of a needle, or of a benchmark: `needle(4Ki)`, `needle("mine.jsonl")`, `task("hellaswag")`."""
    if isinstance(asked, str):
        return f'task("{asked}")'
    return f"needle({tokens_text(asked) if isinstance(asked, int) else asked})"
