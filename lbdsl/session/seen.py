"""How much of the text that judges a model also occurs in the text that calibrated or healed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lbdsl.core.diagnostic import Diagnostic, LbdslError, fail, note, warning
from lbdsl.core.place import Folder
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.contamination import NOTABLE, shared
from lbdsl.plan.schema import Plan
from lbdsl.recipe.schema_blocks import SelfText, sources_of
from lbdsl.session.model import OpenModel
from lbdsl.session.texts import heal_blocks, score_blocks, validation_blocks


def seen_shares(judging: Iterable[TokenBlocks], taught: Sequence[TokenBlocks]) -> dict[str, float]:
    """The share of each text, by its digest."""
    return {text.digest: shared(text.ids, [part.ids for part in taught]) for text in judging}


def seen_findings(judging: Iterable[TokenBlocks], shares: Mapping[str, float]) -> list[Diagnostic]:
    return [
        warning(
            "LB478",
            f"{shares[text.digest]:.1%} of {text.data} also occurs in the text that calibrated or healed the model",
            help="judge on text of another source: what it has seen flatters it",
        )
        for text in judging
        if shares.get(text.digest, 0.0) >= NOTABLE
    ]


def seen_by_artifact(
    plan: Plan, no_heal: bool, known: Mapping[str, float], judging: Sequence[TokenBlocks], bench: OpenModel, folder: Folder
) -> tuple[dict[str, float], list[Diagnostic]]:
    """As `seen_shares`, of texts by which a finished model is judged again, and what is to be said of them; `known` are the
    shares of the texts that judged it first."""
    others = [text for text in judging if text.digest not in known]
    shares, found = dict(known), []
    try:
        if others:
            shares |= seen_shares(others, _taught(plan, no_heal, bench, folder))
    except LbdslError as problem:
        names = ", ".join(text.data for text in others)
        said = f"how much of {names} calibrated or healed the model is not known: {problem.diagnostics[0].message}"
        found.append(note("LB478", said, help="judge where the texts of the recipe can be read"))
    return shares, found + seen_findings(judging, shares)


def _taught(plan: Plan, no_heal: bool, bench: OpenModel, folder: Folder) -> list[TokenBlocks]:
    heal = None if no_heal else plan.heal
    sources = (*sources_of(plan.measure.data), *(heal.sources if heal is not None else ()))
    if any(isinstance(source, SelfText) for source in sources):
        # It may not be kept here, and takes the model hours to write again.
        raise fail("LB478", "the model wrote some of it itself")
    found = [score_blocks(plan.measure, bench, folder)] if plan.scored else []
    if heal is not None:
        found += heal_blocks(heal, bench, folder)
        found += filter(None, validation_blocks(heal, bench, folder))
    return found
