"""Read the sizes and layer specifications of a model from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import canonical_json
from lbdsl.cost.facts import ModelFacts
from lbdsl.families import ARTIFACT_PREFIX, FAMILIES, Family
from lbdsl.families.base import ROPE_REASON, Sizes
from lbdsl.families.missing import missing
from lbdsl.families.windows import positive_int
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.config_file import check_positive

LAYER_CAP = 10_000
LABEL_CAP = 10_000
"""Maximum `num_labels` in a configuration: transformers creates a name for each label, whatever the model is."""

_NUMBERS = (
    "rms_norm_eps",
    "rope_theta",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "original_max_position_embeddings",
)
_ROPE_NUMBERS = (
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "llama_4_scaling_beta",
)
_ROPE_NEEDS = MappingProxyType(
    {"linear": ("factor",), "yarn": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
)
"""The required fields of each kind of RoPE scaling."""

_ATTENTION_FIELDS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)
_IMPLEMENTATIONS = (None, "sdpa", "eager")


LAYERS_VERSION = 2
"""The format version of the list of layers in an artifact's config.json."""


@dataclass(frozen=True)
class Layout:
    """A checkpoint's structure. `specs` has one entry per layer: `lbdsl.layers` of an artifact, else the family's own
    layers, with full attention or its native window."""

    family: Family
    architecture: str
    sizes: Sizes
    tied: bool
    flags: tuple[str, ...]
    """Names of the configuration's boolean fields that are true."""

    specs: tuple[LayerSpec, ...]
    rotary: int | None = None
    """Number of elements of a head that RoPE rotates; None for all."""

    def facts(self, dtype: str) -> ModelFacts:
        return ModelFacts(
            family=self.family.model_type,
            architecture=self.architecture,
            hidden=self.sizes.hidden,
            vocab=self.sizes.vocab,
            positions=self.sizes.positions,
            tied=self.tied,
            dtype=dtype,
            layer_specs=self.specs,
            flags=self.flags,
            rotary=self.rotary,
        )


def layout_of(config: Mapping[str, Any]) -> Layout:
    """Read and check a config.json's fields. Raises LbdslError with LB402, LB403 or LB404."""
    config = dict(config)
    model_type = config.get("model_type")
    artifact = isinstance(model_type, str) and model_type.startswith(ARTIFACT_PREFIX)
    base_type = model_type.removeprefix(ARTIFACT_PREFIX) if isinstance(model_type, str) else None
    family = FAMILIES.get(base_type or "")
    if family is None:
        named = f"model_type {str(model_type)[:40]!r}" if model_type is not None else "a config.json without model_type"
        reason = missing(base_type) if base_type is not None else None
        message = f"{named} is not a supported family" + (f": it {reason}" if reason else "")
        help = ["supported: " + "; ".join(f"{row.model_type} ({row.examples})" for row in FAMILIES.values())]
        if base_type is not None and not reason:
            help.append(
                "a family of pre- or post-norm layers with softmax attention and a gated MLP is one file: docs/families.md"
            )
        raise fail("LB403", message, help=tuple(help))
    sizes = _sizes(family, config)
    _check_obeyed(config)
    _check_numbers(config, sizes.layers)
    if not artifact:
        _check_limits(family, config)
    specs = family.layers(family, config, sizes) if not artifact else artifact_specs(config.get("lbdsl"), sizes.layers)
    if artifact and config["lbdsl"].get("base_model_type") != base_type:
        of = str(config["lbdsl"].get("base_model_type"))[:40]
        raise fail("LB402", f"lbdsl.base_model_type in the configuration is {of!r}, and model_type says {base_type}")
    _check_rope(family, config)
    layout = Layout(
        family,
        _architecture(family, config, artifact),
        sizes,
        tied=_flag(config, "tie_word_embeddings", family.tied_by_default),
        flags=tuple(name for name, usual in family.flags.items() if _flag(config, name, usual)),
        specs=specs,
        rotary=_rotary(family, config, sizes.head_dim),
    )
    _check_layers(layout)
    return layout


def _check_layers(layout: Layout) -> None:
    """Raise LB402 for a part without an implementation, for stored weights of a module that the layer does not have, and
    for a head size other than that of the rotary embeddings, which all layers share."""
    for index, spec in enumerate(layout.specs):
        head_dim = spec.mixer.dims().get("head_dim") if spec.mixer is not None else None
        if head_dim is not None and head_dim != layout.sizes.head_dim:
            raise fail(
                "LB402",
                f"lbdsl.layers[{index}] in the configuration has heads of {head_dim}; the model's rotary "
                f"embeddings are made for {layout.sizes.head_dim}",
            )
        if spec.weights and spec != (had := spec.stored(layout.facts("float32"))):
            name = next(name for name, stored in spec.weights if had.storage(name) != stored)
            said = "the layer has no such module" if had.storage(name) is None else "how it is stored is left open"
            raise fail("LB402", f"lbdsl.layers[{index}].weights in the configuration names {name!r}: {said}")
        parts = (spec.mixer, spec.ffn, *(stored for _, stored in spec.weights))
        unbuilt = next((part.kind for part in parts if part is not None and part.runtime is None), None)
        if unbuilt is not None:
            raise fail("LB402", f"lbdsl.layers[{index}] in the configuration has `{unbuilt}`, which nothing computes yet")


def native_layers(config: Mapping[str, Any]) -> tuple[LayerSpec, ...]:
    """The layers of an unchanged model; `config` must have the family's own `model_type`; an `lbdsl` entry is ignored."""
    family = FAMILIES[config["model_type"]]
    return family.layers(family, config, _sizes(family, dict(config)))


def _sizes(family: Family, config: dict[str, Any]) -> Sizes:
    names, usual = family.sizes, family.size_defaults
    heads = positive_int(config, names["heads"], default=usual.get("heads"))
    hidden = positive_int(config, names["hidden"])
    head_dim = config.get(names["head_dim"], usual.get("head_dim"))
    if head_dim is None and hidden % heads:
        raise fail("LB402", f"{names['hidden']} {hidden} is not a multiple of {names['heads']} {heads}")
    # A null field means "as many as query heads"; an absent one has transformers' default of the family.
    kv_heads = usual.get("kv_heads", heads) if names["kv_heads"] not in config else heads
    sizes = Sizes(
        layers=positive_int(config, names["layers"], cap=LAYER_CAP),
        hidden=hidden,
        heads=heads,
        kv_heads=positive_int(config, names["kv_heads"], default=kv_heads),
        head_dim=positive_int(config, names["head_dim"], default=usual.get("head_dim", hidden // heads)),
        intermediate=positive_int(config, names["intermediate"], default=usual.get("intermediate")),
        vocab=positive_int(config, names["vocab"], default=usual.get("vocab")),
        positions=positive_int(config, names["positions"], default=usual.get("positions")),
    )
    if heads % sizes.kv_heads:
        raise fail("LB402", f"{names['heads']} {heads} is not a multiple of {names['kv_heads']} {sizes.kv_heads}")
    if sizes.head_dim % 2:
        raise fail("LB402", f"{names['head_dim']} {sizes.head_dim} is odd, and rotary embeddings turn pairs")
    return sizes


def _architecture(family: Family, config: dict[str, Any], artifact: bool) -> str:
    given = config.get("architectures")
    if given is None:
        return family.architecture
    if not isinstance(given, list) or not given or not all(isinstance(name, str) for name in given):
        raise fail("LB402", "architectures in the configuration must be a list of names")
    if not artifact and family.architecture not in given:
        raise fail(
            "LB404",
            f"the model is a {given[0][:60]}; only {family.architecture} predicts next tokens",
            help="give a causal language model",
        )
    return family.architecture if not artifact else given[0]


def _check_limits(family: Family, config: dict[str, Any]) -> None:
    for limit in family.limits:
        value = config.get(limit.field)
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, (dict, list)) or v not in limit.allowed for v in values):
            raise fail(
                "LB404",
                f"{limit.field} is set in this {family.model_type} model: {limit.reason}",
                help=f"remove {limit.field} from config.json if the model was trained without it"
                if limit.field != "quantization_config"
                else "give the model's folder before quantization",
            )


def _check_obeyed(config: dict[str, Any]) -> None:
    """Check fields that do not describe the model but change how transformers loads it."""
    for name in _ATTENTION_FIELDS:
        if config.get(name) not in _IMPLEMENTATIONS:
            # It would override the implementation that lbdsl chooses, and may name code to download from the hub.
            raise fail(
                "LB404",
                f"{name} in the configuration is {str(config[name])[:40]!r}; sdpa and eager are understood",
                help=f"remove {name} from config.json",
            )
    labels = config.get("num_labels")
    if labels is not None and (type(labels) is not int or not 0 <= labels <= LABEL_CAP):
        raise fail("LB402", f"num_labels in the configuration is {str(labels)[:40]}, not a whole number up to {LABEL_CAP}")


def _check_numbers(config: dict[str, Any], layers: int) -> None:
    for name in _NUMBERS:
        check_positive(config, name)
    listed = config.get("no_rope_layers")
    if isinstance(listed, list) and len(listed) < layers:
        raise fail(
            "LB402", f"no_rope_layers in the configuration has {len(listed)} entries, fewer than the {layers} layers"
        )
    if config.get("no_rope_layer_interval") is not None:
        positive_int(config, "no_rope_layer_interval")


def _check_rope(family: Family, config: dict[str, Any]) -> None:
    # transformers 5 writes rope_parameters, earlier versions rope_scaling, and the earliest with the key `type`.
    for name in ("rope_parameters", "rope_scaling"):
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise fail("LB402", f"{name} in the configuration is not an object")
        # Families with rotary embeddings per layer type have one object for each type.
        by_type = [part for part in value.values() if isinstance(part, dict)]
        for part in (value, *by_type):
            _check_rope_type(family, part)
        if lacking := [field for field in family.rope_needs if value.get(field) is None]:
            raise fail("LB402", f"{name} in the configuration has no {lacking[0]}")


def _rotary(family: Family, config: dict[str, Any], head_dim: int) -> int | None:
    """Rotated elements per head, None for all; rounded as in transformers (the rotated share down, to whole pairs up)."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    share = given.get("partial_rotary_factor") or config.get("partial_rotary_factor") or family.rotary_share
    if share > 1 or (share != 1 and not family.partial_rotary):
        limit = "at most 1" if family.partial_rotary else f"{family.model_type}'s code rotates whole heads"
        raise fail("LB404", f"partial_rotary_factor in the configuration is {share:g}: {limit}")
    pairs = -(-int(head_dim * share) // 2)
    return 2 * pairs if 2 * pairs < head_dim else None


def _check_rope_type(family: Family, value: dict[str, Any]) -> None:
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in family.rope_types:
        raise fail(
            "LB404",
            f"rotary embeddings of type {str(kind)[:40]!r} are not supported: {ROPE_REASON}",
            help=f"supported: {', '.join(family.rope_types)}",
        )
    for name in _ROPE_NUMBERS:
        check_positive(value, name)
    lacking = [name for name in _ROPE_NEEDS.get(kind, ()) if value.get(name) is None]
    if lacking:
        raise fail("LB402", f"rotary embeddings of type {kind} have no {lacking[0]} in the configuration")
    if kind == "llama3" and value["high_freq_factor"] <= value["low_freq_factor"]:
        raise fail("LB402", "high_freq_factor in the configuration is not above low_freq_factor")


def _flag(config: dict[str, Any], name: str, usual: bool) -> bool:
    value = config.get(name)
    if value is None:
        return usual
    if not isinstance(value, bool):
        raise fail("LB402", f"{name} in the configuration is {str(value)[:40]}, not true or false")
    return value


def artifact_specs(entry: Any, layers: int) -> tuple[LayerSpec, ...]:
    """The layers of the `lbdsl` entry of an artifact's config.json. Raises LB403 for another version,
    LB402 for an invalid entry."""
    version = entry.get("version") if isinstance(entry, dict) else None
    if type(version) is not int or version != LAYERS_VERSION:
        raise fail(
            "LB403" if isinstance(version, int) else "LB402",
            f"lbdsl.version in the configuration is {version!r}; this lbdsl reads version {LAYERS_VERSION}",
            help="make the artifact again from its base model: its recipe is in lbdsl.json",
        )
    return checked_specs(entry.get("layers"), layers)


def checked_specs(specs: Any, layers: int) -> tuple[LayerSpec, ...]:
    """The specifications of `layers` layers, from `lbdsl.layers` of an artifact's config.json. Raises LB402, naming the
    unknown kind, field or value."""
    if not isinstance(specs, list | tuple) or len(specs) != layers:
        raise fail("LB402", f"lbdsl.layers in the configuration must be a list with an entry for each of {layers} layers")
    return tuple(_spec(spec, layer) for layer, spec in enumerate(specs))


_PLAIN = MappingProxyType({"extra_forbidden": "there is no such field", "missing": "it is not there"})
"""Plain texts for pydantic's error types."""


def _spec(spec: Any, layer: int) -> LayerSpec:
    try:
        found = LayerSpec.model_validate(spec)
        # The runtime reads only the canonical form: no omitted fields, no other notation.
        if isinstance(spec, LayerSpec) or found.to_json() == spec:
            return found
        said = f"it is written as {canonical_json(found.to_json())}"
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
        said = f"`{where}`: {said}" if where else said
    raise fail(
        "LB402",
        f"lbdsl.layers[{layer}] in the configuration is not understood: {said[:300]}",
        help="config.json was edited, or another version of lbdsl wrote it",
    )
