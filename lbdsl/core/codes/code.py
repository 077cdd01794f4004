"""What a diagnostic code is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A kind of finding.

    `example` is a recipe with this finding, or the command that meets it; `fixed` is the same put right. `exit_code` is
    what a verb ends with when an error of this kind stops it: 1 a problem in the recipe or its input, 3 a stale plan, 4 a
    failed quality gate, 5 unsatisfiable, 6 an unsafe or unsupported model or artifact.
    """

    id: str
    title: str
    reason: str = ""
    example: str = ""
    exit_code: int = 1
    fixed: str = ""

    @property
    def is_command(self) -> bool:
        """Whether the example is a command line or a call; the others are recipes."""
        return self.example.startswith(("lbdsl ", "lbdsl.", "LBDSL_"))
