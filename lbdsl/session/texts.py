"""The text of each block of a recipe, as token blocks; and how much of what judges a model it was taught before."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lbdsl.core.diagnostic import Diagnostic, LbdslError, fail, note, warning
from lbdsl.core.digest import digest_file, digest_of, digest_text
from lbdsl.core.place import Folder
from lbdsl.core.units import tokens_text
from lbdsl.data import read_documents, read_parts, recall
from lbdsl.data.blocks import TokenBlocks, Used, mixed, shares, token_blocks, used_documents
from lbdsl.data.chat import Chat, chat_ids
from lbdsl.data.contamination import NOTABLE, shared
from lbdsl.data.sources import check_source
from lbdsl.data.split import TextPart
from lbdsl.data.written import Writer, written_blocks
from lbdsl.heal.text import HealingText, no_assistant
from lbdsl.plan.lengths import joint_tokens
from lbdsl.plan.schema import Plan
from lbdsl.recipe.schema import Evaluate, Heal, Measure, Recipe
from lbdsl.recipe.schema_blocks import RECALL, HealSettings, Mix, Needle, SelfText, Text, sources_of, task_name
from lbdsl.session.model import OpenModel

if TYPE_CHECKING:
    from lbdsl.evaluate.needle import NeedleTest
    from lbdsl.evaluate.tasks import Test

CHECKING = ("builtin:docs", "builtin:pydoc")
"""The first of these that is another source is the one for checking where the model cannot write it."""

CHECK_TOKENS, CHECK_LENGTH = 8192, 512
"""The most tokens for checking, and of one of their sequences: later tokens take longer to write and say little more."""


def texts_of(recipe: Recipe | Plan) -> tuple[str, ...]:
    """The text sources of a recipe for measuring, healing and evaluation, without duplicates and without `self`."""
    healing = () if recipe.heal is None else recipe.heal.sources
    judging = () if recipe.eval is None else recipe.eval.data
    every = (*sources_of(recipe.measure.data), *healing, *judging)
    return tuple(dict.fromkeys(data for data in every if isinstance(data, str)))


def text_digests(plan: Plan, bench: OpenModel, *, heal: bool) -> dict[str, str]:
    """The sha256 of what a plan's result depends on besides the plan, by name: of each text source over its documents, of
    each text with needles, and of each task over the files that it names, or its version. Text that the model writes itself
    follows from the model."""
    folder = bench.place(plan.recipe.path)
    named = texts_of(plan.model_copy(update={"eval": None} if heal else {"eval": None, "heal": None}))
    found = {data: _documents_digest(data, bench, folder) for data in named}
    if RECALL in found:
        found[RECALL] = digest_of([recall.VERSION, found[RECALL]])
    return found | judging_digests(plan.eval, bench, folder)


def judging_digests(wanted: Evaluate | None, bench: OpenModel, folder: Folder) -> dict[str, str]:
    """As `text_digests`, of what judges the result alone."""
    if wanted is None:
        return {}
    return {
        **{data: _documents_digest(data, bench, folder) for data in wanted.data},
        **{test.name: test.digest for test in needles_of(wanted, bench, folder)},
        **{task_name(task): _task_digest(task, folder) for task in wanted.tasks},
    }


def _documents_digest(data: str, bench: OpenModel, folder: Folder) -> str:
    return digest_of(sorted(map(digest_text, read_documents(data, base_dir=folder, offline=bench.options.offline))))


def _task_digest(task: str, folder: Folder) -> str:
    """Of the files of a task, wherever they are, and the version of the harness, which has tasks of its own."""
    from lbdsl.evaluate.task_files import may_name, task_file

    file = task_file(task, folder)
    left, found = [file] if file else [], dict[Path, str]()
    while left:
        path = left.pop()
        found[path] = digest_file(path)
        if path.suffix in (".yaml", ".yml"):
            # As in `include: other.yaml`, `data_files: {test: own.jsonl}`, `!function module.name`.
            words = re.findall(r"[^\s\"',:\[\]{}]+", path.read_text(encoding="utf-8", errors="replace"))
            named = {path.parent / name for word in words for name in (word, f"{word.partition('.')[0]}.py")}
            left += [place for place in named - found.keys() if os.path.isfile(place) and may_name(place, task, folder)]
    return digest_of([version("lm_eval"), sorted(found.values())])


def check_texts(recipe: Recipe, bench: OpenModel, *, heal: bool = True) -> None:
    """Raise LB44x, before measuring, for a text that cannot be read, that is too short for its block, or, offline, that is
    a hub data set which is not in the cache; LB456 for a task that cannot be asked; LB485 for a package that one of them
    needs. Sequence lengths must be resolved already."""
    folder = bench.place(recipe.path)
    check_sources(texts_of(recipe if heal else replace(recipe, heal=None)), bench, folder)
    joint_blocks(recipe.measure, bench, folder)
    for run in recipe.heal.runs if recipe.heal is not None and heal else ():
        _check_healing_text(run, bench, folder)
    if recipe.eval is not None:
        check_asked(recipe.eval.tasks, bench, folder)
        eval_blocks(recipe.eval, recipe.measure, recipe.heal, bench, folder)
        needles_of(recipe.eval, bench, folder)


def check_sources(texts: Iterable[Text], bench: OpenModel, folder: Folder) -> None:
    """Raise what `check_source` raises of each text that the model does not write itself."""
    for data in texts:
        if isinstance(data, str):
            check_source(data, base_dir=folder, offline=bench.options.offline)


def check_asked(tasks: Sequence[str], bench: OpenModel, folder: Folder) -> None:
    """Raise LB456 for tasks where both models do not fit in memory, and as `check_tasks` does."""
    from lbdsl.evaluate.harness import check_tasks

    if tasks and bench.judged_streamed:
        help = "leave out --low-memory" if bench.options.low_memory else "leave it out, or take a machine with more memory"
        raise fail("LB456", f"{task_name(tasks[0])} needs the result and its base in memory", help=help)
    check_tasks(tasks, folder)


def _check_healing_text(run: HealSettings, bench: OpenModel, folder: Folder) -> None:
    """Raise LB446 for sequences that are too short for texts of recall, LB453 for chats that the model has no template for,
    LB455 for `loss_on = assistant` and a source without an assistant."""
    for source in sources_of(run.data):
        answered = False
        if source == RECALL:
            # Short texts have one fact, of each kind by turns.
            _blocks(source, TextPart.JOINT, len(recall.KINDS) * run.seq, run.seq, bench, folder, run.seed, healing=run)
        elif isinstance(source, str):
            texts = read_parts(source, base_dir=folder, offline=bench.options.offline).texts(TextPart.HEAL)
            chats = [text for text in texts if isinstance(text, Chat)]
            answered = any(turn["role"] == "assistant" for chat in chats for turn in chat.messages)
            if chats:
                chat_ids(chats[0], bench.tokenizer, source)
        if run.loss_on == "assistant" and not answered:
            raise no_assistant(str(source))


def score_blocks(measure: Measure, bench: OpenModel, folder: Folder) -> TokenBlocks:
    """The text that layer scores are measured on."""
    return _blocks(measure.data, TextPart.SCORE, measure.tokens, measure.seq, bench, folder, measure.seed)


def joint_blocks(measure: Measure, bench: OpenModel, folder: Folder) -> TokenBlocks:
    """The text of the joint loss: half as much, without overlap with the text of the scores."""
    return _blocks(measure.data, TextPart.JOINT, joint_tokens(measure), measure.seq, bench, folder, measure.seed)


def check_blocks(measure: Measure, bench: OpenModel, folder: Folder) -> TokenBlocks:
    """Text of another source than that of the scores, which what is fitted on them is checked on: what the model writes
    itself, or text of `CHECKING` where the model does not fit in memory."""
    tokens = min(measure.tokens, CHECK_TOKENS)
    assert measure.seq is not None, "lengths are settled before any text is read"
    if bench.streamed or any(isinstance(source, SelfText) for source in sources_of(measure.data)):
        other = next((data for data in CHECKING if data not in sources_of(measure.data)), None)
        if other is None:
            help = "measure on fewer of them, or with the model in memory, which then writes such a text"
            raise fail("LB452", "no text of another source is left to check patches on", help=help)
        return _blocks(other, TextPart.SCORE, tokens, measure.seq, bench, folder, measure.seed)
    return written_blocks(writer_of(bench), tokens, min(measure.seq, CHECK_LENGTH), measure.seed)


def writer_of(bench: OpenModel) -> Writer:
    """The base as a writer of text, which takes it into memory."""
    digest = digest_of([bench.digest, bench.computed.dtype])
    stage = "the model writes text"
    return Writer(lambda: bench.base, lambda: bench.tokenizer, digest, bench.cache_dir, lambda: bench.progress.stage(stage))


def heal_blocks(heal: Heal, bench: OpenModel, folder: Folder) -> tuple[TokenBlocks, ...]:
    """The healing text of each stage in training order, repeated when it is too short. Stages of the same text read on
    where the one before ended. Raises LB455 as `HealingText.of` does."""
    counts: dict[tuple[Text, int, int, str], int] = {}
    runs: dict[tuple[Text, int, int, str], HealSettings] = {}
    places = []
    for run in heal.runs:
        text = run.data, run.seq, run.seed, run.documents
        runs[text] = run
        start = counts.get(text, 0)
        counts[text] = start + run.steps * run.batch
        places.append((text, start, counts[text]))
    whole = {
        text: _blocks(run.data, TextPart.HEAL, counts[text] * run.seq, run.seq, bench, folder, run.seed, healing=run)
        for text, run in runs.items()
    }
    found = tuple(whole[text].rows(start, end) for text, start, end in places)
    for blocks, run in zip(found, heal.runs, strict=True):
        HealingText.of(blocks, run)
    return found


def validation_blocks(heal: Heal, bench: OpenModel, folder: Folder) -> tuple[TokenBlocks | None, ...]:
    """The text that each stage of healing is watched on: of its source and as long, and no stage heals on it. None, and
    said, without enough."""
    # The parts of one source are disjoint, those of two sources that share documents are not.
    used = _documents(heal.sources if len(heal.sources) > 1 else (), (TextPart.HEAL,), bench, folder)
    return tuple(_watching(run, used, bench, folder) for run in heal.runs)


def _watching(run: HealSettings, used: Used, bench: OpenModel, folder: Folder) -> TokenBlocks | None:
    from lbdsl.heal.validation import validation_sequences

    for sequences in (validation_sequences(run), 1):
        try:
            found = _blocks(
                run.data, TextPart.JOINT, sequences * run.seq, run.seq, bench, folder, run.seed, exclude=used, healing=run
            )
            HealingText.of(found, run)
            return found
        except LbdslError as problem:
            if problem.diagnostics[0].code not in ("LB446", "LB455"):
                raise
    what = f"{tokens_text(run.seq)} tokens" + (" with words of an assistant" if run.loss_on == "assistant" else "")
    bench.progress.say(f"{run.data} has no {what} left to watch healing on: the last weights are kept")
    return None


def _documents(
    sources: Iterable[Text], parts: Iterable[TextPart], bench: OpenModel, folder: Folder, *, there: bool = True
) -> Used:
    """The documents of these sources that are used in these parts. What the model writes is another text for each part.
    Without `there`, sources that cannot be read have none."""
    found: Used = frozenset()
    for source in sources:
        if isinstance(source, str):
            try:
                found |= used_documents(source, parts, base_dir=folder, offline=bench.options.offline)
            except LbdslError:
                if there:
                    raise
    return found


def eval_blocks(
    wanted: Evaluate, measure: Measure, heal: Heal | None, bench: OpenModel, folder: Folder, *, finished: bool = False
) -> tuple[TokenBlocks, ...]:
    """The evaluation text of each source, without documents that another source of the recipe uses for calibration or
    healing. `finished`: of a model that may have left the place where it was made, and the other sources with it."""

    def used(data: str) -> Used:
        taught = (
            (sources_of(measure.data), (TextPart.SCORE, TextPart.JOINT)),
            (heal.sources if heal is not None else (), (TextPart.HEAL, TextPart.JOINT)),
        )
        others = (([one for one in sources if one != data], parts) for sources, parts in taught)
        return frozenset().union(*(_documents(*other, bench, folder, there=not finished) for other in others))

    return tuple(
        _blocks(data, TextPart.EVAL, wanted.tokens, wanted.seq, bench, folder, exclude=used(data)) for data in wanted.data
    )


def eval_tests(wanted: Evaluate, bench: OpenModel, folder: Folder) -> tuple[Test, ...]:
    """What the finished model is asked besides texts."""
    from lbdsl.evaluate.harness import HarnessTask

    batch = bench.options.batch
    tasks = (HarnessTask(task, wanted.limit, folder, bench.tokenizer, batch) for task in wanted.tasks)
    return (*needles_of(wanted, bench, folder), *tasks)


def needles_of(wanted: Evaluate, bench: OpenModel, folder: Folder) -> list[NeedleTest]:
    """The questions about texts: of facts hidden in texts of each context, and a user's own. Raises LB446 where there is
    too little text for a context, and as `read_questions` does."""
    from lbdsl.data.needle import haystacks
    from lbdsl.data.records import read_questions
    from lbdsl.evaluate.needle import NeedleTest

    tokenizer, positions, batch = bench.tokenizer, bench.facts.positions, bench.options.batch

    def test_of(needle: Needle) -> NeedleTest:
        if isinstance(needle, int):
            return NeedleTest.hidden(haystacks(tokenizer, needle, wanted.needle_texts), positions, batch)
        asked = read_questions(needle.file, tokenizer, base_dir=folder, positions=positions)
        return NeedleTest.own(needle, asked, positions, batch)

    return list(map(test_of, wanted.needle))


def unwritten(wanted: Evaluate | None, bench: OpenModel) -> tuple[Diagnostic, ...]:
    """LB452 where models that are judged from disk cannot write answers that they would write in memory."""
    if wanted is None or not wanted.needle or not bench.judged_streamed:
        return ()
    message = (
        f"{task_name(wanted.needle[0])} is judged by likelihoods alone: the model is not in memory, and writes nothing"
    )
    help = "leave out --low-memory" if bench.options.low_memory else "judge it on a machine with more memory"
    return (warning("LB452", message, wanted.set_at.get("needle"), help=help),)


def seen_shares(judging: Iterable[TokenBlocks], taught: Sequence[TokenBlocks]) -> dict[str, float]:
    """The share of each text that also occurs in those that taught a model, by its digest."""
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


def _blocks(
    data: Text,
    part: TextPart,
    tokens: int,
    seq: int | None,
    bench: OpenModel,
    folder: Folder,
    seed: int = 0,
    exclude: Used = frozenset(),
    healing: HealSettings | None = None,
) -> TokenBlocks:
    """As `token_blocks`, of one source or several; raises LB450 for a tokenizer that does not fit the model, LB452 for a
    model that is measured from disk and cannot write. (`healing` takes it into memory.)"""
    assert seq is not None, "lengths are settled before any text is read"
    if isinstance(data, SelfText):
        if bench.streamed and healing is None:
            help = "name another source, or take a machine with more memory"
            raise fail("LB452", "the model does not fit in memory, which it needs to write text", help=help)
        return written_blocks(writer_of(bench), tokens, seq, seed + data.seed, part=part, most=data.tokens)
    if isinstance(data, Mix):

        def used(source: Text) -> Used:
            """Documents that another source gives another part of the text."""
            if part is not TextPart.JOINT:
                return exclude
            others = [other for other in data.sources if other != source]
            return _documents(others, (TextPart.SCORE, TextPart.HEAL), bench, folder) | exclude

        counts = shares(max(1, tokens // seq), data.weights)
        found = [
            _blocks(source, part, count * seq, seq, bench, folder, seed, exclude=used(source), healing=healing)
            for source, count in zip(data.sources, counts, strict=True)
        ]
        return mixed(found, part, seed, str(data))
    if data == RECALL:
        if healing is None:
            raise fail("LB150", f"`{RECALL}` is for healing only", help="name a text of another source")
        blocks = recall.recall_blocks(bench.tokenizer, tokens, seq, seed, part, exclude=exclude)
    else:
        blocks = token_blocks(
            data,
            part,
            bench.tokenizer,
            tokens,
            seq,
            seed,
            base_dir=folder,
            offline=bench.options.offline,
            exclude=exclude,
            apart=healing is not None and healing.documents == "apart",
        )
    largest = int(blocks.ids.max())
    if largest >= bench.facts.vocab:
        raise fail(
            "LB450",
            f"the tokenizer gives token {largest}, and the model's vocabulary has {bench.facts.vocab}",
            help="the tokenizer's files are of another model; take both from one source",
        )
    return blocks
