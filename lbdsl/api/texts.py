"""Which text each block of a recipe means, as token blocks."""

from __future__ import annotations

from pathlib import Path

from lbdsl.api.workbench import Workbench
from lbdsl.data import hub
from lbdsl.data.blocks import TokenBlocks, documents_of, token_blocks
from lbdsl.data.files import READERS
from lbdsl.data.sources import read_documents
from lbdsl.data.split import Part
from lbdsl.recipe.schema import Evaluate, Heal, Measure, Recipe


def data_folder(recipe_path: str) -> Path:
    """Relative paths in a recipe start at the recipe's folder."""
    return Path(recipe_path).parent


def texts_of(recipe: Recipe) -> tuple[str, ...]:
    """The sources that a recipe names to measure, heal and judge on, each once."""
    blocks = (recipe.measure, recipe.heal, recipe.eval)
    return tuple(dict.fromkeys(block.data for block in blocks if block is not None))


def check_texts(recipe: Recipe, bench: Workbench, *, heal: bool = True) -> None:
    """LB44x for a text that is known not to be readable now: a local file of healing or judging, and without a connection
    any hub data set that is not in the cache. Else it would be found after the measuring."""
    folder, offline = data_folder(recipe.path), bench.options.offline
    for data in texts_of(recipe if heal else recipe.model_copy(update={"heal": None})):
        if Path(data).suffix.lower() in READERS:
            if data != recipe.measure.data:
                read_documents(data, base_dir=folder)
        elif hub.is_hub_name(data) and not (folder / data).exists():
            hub.check_cached(data, offline=offline)


def score_blocks(measure: Measure, bench: Workbench, folder: Path) -> TokenBlocks:
    """The text of the layers' scores."""
    return token_blocks(
        measure.data,
        Part.SCORE,
        bench.tokenizer,
        measure.tokens,
        measure.seq,
        measure.seed,
        base_dir=folder,
        offline=bench.options.offline,
    )


def joint_blocks(measure: Measure, bench: Workbench, folder: Path) -> TokenBlocks:
    """The text of the joint loss: half as much, and none that a score was taken on."""
    return token_blocks(
        measure.data,
        Part.JOINT,
        bench.tokenizer,
        max(measure.tokens // 2, 2),
        measure.seq,
        measure.seed,
        base_dir=folder,
        offline=bench.options.offline,
    )


def heal_blocks(heal: Heal, bench: Workbench, folder: Path) -> TokenBlocks:
    """The healing text in training order, repeated where there is too little of it."""
    from lbdsl.heal.heal import steps_of

    return token_blocks(
        heal.data,
        Part.HEAL,
        bench.tokenizer,
        steps_of(heal) * heal.batch * heal.seq,
        heal.seq,
        heal.seed,
        base_dir=folder,
        offline=bench.options.offline,
    )


def eval_blocks(wanted: Evaluate, measure: Measure, heal: Heal | None, bench: Workbench, folder: Path) -> TokenBlocks:
    """The text to judge on, without any document that another source of the recipe gave to calibration or healing."""
    offline = bench.options.offline
    used: frozenset[str] = frozenset()
    if measure.data != wanted.data:
        used |= documents_of(measure.data, (Part.SCORE, Part.JOINT), base_dir=folder, offline=offline)
    if heal is not None and heal.data != wanted.data:
        used |= documents_of(heal.data, (Part.HEAL,), base_dir=folder, offline=offline)
    return token_blocks(
        wanted.data, Part.EVAL, bench.tokenizer, wanted.tokens, wanted.seq, base_dir=folder, offline=offline, exclude=used
    )
