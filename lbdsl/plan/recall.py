"""What a plan forgets: answers about what stands far back in a text, of the base and of the whole changed model."""

from __future__ import annotations

from lbdsl.core.units import tokens_text
from lbdsl.solve.select import PlanValue

FINDS = 0.2
"""The least share of a kind's questions that the base has to find: of what it does not find nothing can be lost."""

LOST = 0.25
"""A plan that loses more of what the base finds is warned of."""


class RecallOfKind(PlanValue):
    """Of the questions of one kind: how many are asked, how many the base and the changed model find, and the rise of the
    loss in nats a token of an answer."""

    asked: int
    base: int
    found: int
    rise: float

    @property
    def counts(self) -> bool:
        return self.base >= FINDS * self.asked


class RecallLoss(PlanValue):
    """`value` is `recall` of the whole changed model, with its standard error (None: of one text only), before healing;
    `left_out` are the kinds of which the base finds too few. `longest`: tokens of the longest text with its question;
    `tokens` are those of one pass over all; `digest` is of the questions."""

    value: float
    stderr: float | None = None
    kinds: dict[str, RecallOfKind]
    left_out: tuple[str, ...] = ()
    longest: int
    tokens: int
    digest: str

    @property
    def asked(self) -> int:
        return sum(kind.asked for kind in self.kinds.values())

    @property
    def base(self) -> float:
        """The share of all answers that the base finds."""
        return sum(kind.base for kind in self.kinds.values()) / self.asked

    @property
    def found(self) -> float:
        """The share of all answers that the changed model finds."""
        return sum(kind.found for kind in self.kinds.values()) / self.asked

    @property
    def worst(self) -> str:
        """The kind of which the least is left, of those that the base finds."""
        counting = {name: kind for name, kind in self.kinds.items() if name not in self.left_out}
        return min(counting, key=lambda name: counting[name].found / counting[name].base)

    def text(self, pm: str) -> str:
        """`answers +1.42 ±0.1 nats, found 12 % (base 67 %) in 1Ki tokens; worst: words 4 % (base 60 %)`."""
        error = f" {pm}{self.stderr:.2g}" if self.stderr is not None else ""
        worst = self.kinds[self.worst]
        said = f"answers {self.value:+.3g}{error} nats, found {self.found:.0%} (base {self.base:.0%})"
        said += f" in {tokens_text(self.longest)} tokens"
        said += f"; worst: {self.worst} {worst.found / worst.asked:.0%} (base {worst.base / worst.asked:.0%})"
        return said.replace("%", " %")
