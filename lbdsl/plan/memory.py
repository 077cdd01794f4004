"""Bytes of memory that healing takes in each process. Formulas only; `benchmarks/tables/memory.py` compares them with what
is measured.

Sizes: P parameters, of which E outside the layers; D hidden size, F width of the MLP, A and K elements of a token's queries
and keys, V vocabulary, L layers; c bytes of a number in the dtype that is computed in; T tokens of a step in one process.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbdsl.cost.cost import LayerCost
from lbdsl.cost.facts import ModelFacts
from lbdsl.recipe.schema import Heal, Lora
from lbdsl.recipe.schema_blocks import HealSettings, LearnedSinks

RUNTIME = 700 * 2**20
"""Python with torch, transformers and PEFT, a tokenizer and texts, and no model."""

LOGITS, OTHER_LOGITS = {"cpu": 128, "cuda": 512}, 256
"""Tokens whose logits exist at once by device, as in `measure/predictions.py`."""

LOGIT_BUFFERS = 8
"""Arrays of logits in fp32 that exist at once: of the teacher and the student, their softmax, and the gradient."""


@dataclass(frozen=True)
class Held:
    """How the processes of a run hold the models: each the whole of them, or a share of each layer (FSDP2)."""

    processes: int = 1
    shared: bool = False

    def share(self, amount: float) -> float:
        """What a process has of something that is shared."""
        return amount / self.processes if self.shared else amount


ALONE = Held()


def healing_bytes(heal: Heal | None, facts: ModelFacts, held: Held = ALONE, device: str = "cpu") -> int:
    """The most that a stage takes; without healing, the model and its copy. `facts` have the dtype that is computed in."""
    if heal is None:
        return RUNTIME + 2 * facts.params * facts.dtype_bytes
    return max(_stage(stage, facts, held, device) for stage in heal.runs)


def model_bytes(facts: ModelFacts, held: Held = ALONE, size: int | None = None) -> float:
    """A model's weights of `size` bytes each; where they are shared, two layers at a time are whole."""
    size = size or facts.dtype_bytes
    layers = facts.params - facts.other_params
    whole = 2 * max(LayerCost.of(spec, facts).params for spec in facts.layer_specs) if held.shared else 0
    return size * (facts.other_params + held.share(layers) + whole)


def student_bytes(heal: HealSettings, facts: ModelFacts, held: Held = ALONE) -> float:
    """The weights of the model that is trained."""
    return model_bytes(facts, held, 4 if _trains_all(heal) else None)


def _stage(heal: HealSettings, facts: ModelFacts, held: Held, device: str) -> int:
    teacher, student = model_bytes(facts, held), student_bytes(heal, facts, held)
    if heal.teacher == "cached":
        # Its head is all that is needed of it; but to write what it says, it is whole, beside the copy that is changed.
        head = facts.vocab * facts.hidden * facts.dtype_bytes
        before = 2 * facts.params * facts.dtype_bytes
        return round(RUNTIME + max(before, head + student + training_bytes(heal, facts, held=held, device=device)))
    return round(RUNTIME + teacher + student + training_bytes(heal, facts, held=held, device=device))


def training_bytes(heal: HealSettings, facts: ModelFacts, held: Held = ALONE, device: str = "cpu") -> int:
    """What training takes besides the models' weights: gradients and Adam's moments, copies of weights in the dtype that is
    computed in, what a step keeps for its backward pass, and logits."""
    size = facts.dtype_bytes
    weights = trained_params(heal, facts)
    # Adam's moments; adapters themselves; where each process has the whole, gradients are added up in copies (DDP).
    state = held.share((8 if _trains_all(heal) else 12) * weights)
    state += 4 * weights if held.processes > 1 and not held.shared else 0
    copies = size * (facts.params - facts.other_params) if _trains_all(heal) and size < 4 else 0
    tokens = heal.batch * heal.seq // held.processes
    head = facts.vocab * facts.hidden * 4 if size < 4 and not _trains_all(heal) else 0
    logits = LOGIT_BUFFERS * 4 * min(LOGITS.get(device, OTHER_LOGITS), tokens) * facts.vocab
    # The backward pass frees what it has used while gradients grow.
    grows = max(copies + tokens * _kept(heal, facts, size), held.share(4 * weights))
    return round(state + grows + head + logits)


def trained_params(heal: HealSettings, facts: ModelFacts) -> int:
    """As if all layers were trained: which ones are is known when they have been measured."""
    if isinstance(heal.method, LearnedSinks):
        return facts.layers * facts.heads
    if isinstance(heal.method, Lora):
        maps = (t.shape for spec in facts.layer_specs for t in spec.tensors(facts) if t.is_matrix and len(t.shape) == 2)
        return sum(heal.method.rank * (rows + columns) for rows, columns in maps)
    return facts.params - facts.other_params + facts.hidden


def _kept(heal: HealSettings, facts: ModelFacts, size: int) -> float:
    """Bytes that a token keeps in all layers for its backward pass: c (2 D + 4 F + 6 A + 2 K) + 8 D a layer, counted where
    autograd saves them in layers with windows (without, 4 c A less); in 16 bits the inputs of six maps, which are cast, and
    with LoRA of rank r 7 c r more."""
    heads = facts.head_dim * (3 * facts.heads + facts.kv_heads)
    rank = heal.method.rank if isinstance(heal.method, Lora) else 0
    hidden = (8 if size < 4 else 2) * facts.hidden
    layer = size * (hidden + 4 * facts.intermediate + 2 * heads + 7 * rank) + 8 * facts.hidden
    return facts.layers * layer


def _trains_all(heal: HealSettings) -> bool:
    return not isinstance(heal.method, Lora | LearnedSinks)
