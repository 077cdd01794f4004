"""Generate the two flat files of a family, `configuration_lbdsl_<family>.py` and `modeling_lbdsl_<family>.py`, from its
declaration. They are written beside saved weights; the same text can be imported as modules of this package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

from lbdsl.families import FAMILIES, Family
from lbdsl.families.base import Norms
from lbdsl.parts import Slot

CONFIGURATION = '''"""Configuration of {model_type} models whose layers differ."""

from transformers import {of.config}

from .lbdsl_layers import checked_layers


class Lbdsl{of.stem}Config({of.config}):
    """{of.config} with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_{model_type}"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "{model_type}", self)
'''
MODELING = '''"""Models of the family {model_type} whose layers differ: each is what its specification says."""

from transformers.models.{of.module}.modeling_{of.module} import (
{imports}
)

from .configuration_lbdsl_{model_type} import Lbdsl{of.stem}Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class Lbdsl{of.stem}DecoderLayer(HybridDecoderLayer):
    attention_class = {of.attention}
{ffn_classes}
    norm_class = {of.norm}
    attention_norms = {attention_norms}
    mlp_norms = {mlp_norms}
{layer_fields}

class Lbdsl{of.stem}Model(HybridModelMixin, {of.body}):
    """{of.body} with each layer as its specification says."""

    config_class = Lbdsl{of.stem}Config
    layer_class = Lbdsl{of.stem}DecoderLayer
    _no_split_modules = ["Lbdsl{of.stem}DecoderLayer"]
{model_fields}

class Lbdsl{of.stem}ForCausalLM(HybridCausalLMMixin, {of.causal_lm}):
    """{of.causal_lm} on a hybrid body."""

    config_class = Lbdsl{of.stem}Config
    body_class = Lbdsl{of.stem}Model
    _no_split_modules = ["Lbdsl{of.stem}DecoderLayer"]
{causal_lm_fields}'''
NO_SDPA = "    # SDPA cannot compute its scores.\n    _supports_sdpa = False\n"


def configuration_module(family: str) -> str:
    return f"configuration_lbdsl_{family}"


def modeling_module(family: str) -> str:
    return f"modeling_lbdsl_{family}"


def flat_files(family: Family) -> dict[str, str]:
    """The text of the family's two flat files, by module."""
    classes, scaled = family.classes, family.multipliers
    sdpa = "" if family.attention_implementation == "sdpa" else NO_SDPA
    ffns = {"mlp_class": classes.mlp} if "gated_mlp" in family.rows else {}
    ffns |= {"moe_class": classes.moe} if "moe" in family.rows else {}
    ffns |= {"delta_net_class": classes.delta_net} if "gated_delta_net" in family.rows else {}
    imported = (classes.attention, classes.causal_lm, *ffns.values(), classes.body, classes.norm)
    fields = {
        "model_type": family.model_type,
        "of": classes,
        "imports": "\n".join(f"    {name}," for name in sorted(imported)),
        "ffn_classes": "\n".join(f"    {name} = {cls}" for name, cls in ffns.items()),
        "attention_norms": _norms(family.norms[Slot.MIXER]),
        "mlp_norms": _norms(family.norms[Slot.FFN]),
        "layer_fields": _field("residual_multiplier_field", scaled.residual)
        + _field("ffn_name", family.ffn_name if family.ffn_name != "mlp" else None),
        "model_fields": _field("embedding_multiplier_field", scaled.embedding)
        + ("    rope_by_layer_type = True\n" if family.rope_by_layer_type else "")
        + sdpa,
        "causal_lm_fields": _field("logits_divisor_field", scaled.logits)
        + _field("logit_softcap_field", family.logit_softcap)
        + sdpa,
    }
    return {
        configuration_module(family.model_type): CONFIGURATION.format_map(fields),
        modeling_module(family.model_type): MODELING.format_map(fields),
    }


def _norms(norms: Norms) -> str:
    names = (None if norm is None else f'"{norm.name}"' for norm in norms)
    return f"({', '.join(map(str, names))})"


def _field(name: str, value: str | None) -> str:
    return "" if value is None else f'    {name} = "{value}"\n'


class FlatModules(MetaPathFinder, ExecutionLoader):
    """Imports the generated files as modules of the package `parent`, although they do not exist in its `folder`."""

    def __init__(self, parent: str, folder: Path) -> None:
        self.parent, self.folder = parent, folder
        self.files = {
            f"{parent}.{module}": family
            for family in FAMILIES
            for module in (configuration_module(family), modeling_module(family))
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in self.files else None

    def get_source(self, fullname: str) -> str:
        return flat_files(FAMILIES[self.files[fullname]])[fullname.rpartition(".")[2]]

    def get_filename(self, fullname: str) -> str:
        """The path that the file would have, for tracebacks; their source lines come from this loader."""
        return str(self.folder / f"{fullname.rpartition('.')[2]}.py")
