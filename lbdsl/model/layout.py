"""From a configuration to sizes and to the tensors that must be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.model.config_file import check_positive, positive_int
from lbdsl.families import ARTIFACT_PREFIX, FAMILIES, Family, TensorRow
from lbdsl.families.missing import missing

LAYER_CAP = 10_000
LABEL_CAP = 10_000
"""Classes that a configuration may promise: transformers makes a name for each of them, whatever the model is."""

_NUMBERS = (
    "rms_norm_eps",
    "rope_theta",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
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
)
_ROPE_NEEDS = MappingProxyType(
    {"linear": ("factor",), "yarn": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
)
"""What a kind of scaling cannot be computed without."""

_ATTENTION_FIELDS = ("_attn_implementation", "_attn_implementation_internal")
_IMPLEMENTATIONS = (None, "sdpa", "eager")


@dataclass(frozen=True)
class Sizes:
    """The sizes that `TensorRow.dims` names; `query` and `key_value` are heads times head_dim, `qkv` and `gate_up` those
    of fused projections."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def qkv(self) -> int:
        return self.query + 2 * self.key_value

    @property
    def gate_up(self) -> int:
        return 2 * self.intermediate

    def shape(self, row: TensorRow) -> tuple[int, ...]:
        return tuple(getattr(self, dim) for dim in row.dims)


FULL: Mapping[str, Any] = MappingProxyType({"attn": "full"})


@dataclass(frozen=True)
class Layout:
    """A checkpoint's structure. `specs` has one entry a layer: `lbdsl.layers` of an artifact, else what the family's own
    attention is, full or with its native window."""

    family: Family
    architecture: str
    sizes: Sizes
    tied: bool
    flags: Mapping[str, bool]
    specs: tuple[Mapping[str, Any], ...]
    eager: bool = False
    """True when SDPA cannot compute the attention."""

    def rows(self, rows: tuple[TensorRow, ...]) -> tuple[TensorRow, ...]:
        """Those rows that the configuration switches on."""
        return tuple(row for row in rows if row.when is None or self.flags[row.when])

    def has_attention(self, layer: int) -> bool:
        return self.specs[layer].get("attn", "full") != "none"

    def has_mlp(self, layer: int) -> bool:
        return self.specs[layer].get("mlp", "full") != "none"

    def own_mixer(self, layer: int) -> bool:
        """True when an action brought a mixer of its own, whose parameters are not in the table."""
        return self.specs[layer].get("attn", "full") not in ("full", "swa", "none")

    def native_window(self, layer: int) -> int | None:
        """Tokens a layer sees at most: None for all of them, 0 for a layer without attention."""
        spec = self.specs[layer]
        if not self.has_attention(layer):
            return 0
        if spec.get("attn") == "swa":
            return spec["window"] + spec.get("sinks", 0)
        return None

    def layer_rows(self, layer: int) -> Iterator[tuple[str, TensorRow]]:
        """Full names and rows of the parameters of one layer, attention first."""
        prefix = self.family.layer_prefix.format(layer)
        rows = self.family.attention if self.has_attention(layer) and not self.own_mixer(layer) else ()
        for row in self.rows(rows) + (self.rows(self.family.mlp) if self.has_mlp(layer) else ()):
            yield prefix + row.name, row


def layout_of(config: Mapping[str, Any]) -> Layout:
    """Read and check a config.json's fields. Raises LbdslError with LB402, LB403 or LB404."""
    config = dict(config)
    model_type = config.get("model_type")
    artifact = isinstance(model_type, str) and model_type.startswith(ARTIFACT_PREFIX)
    base_type = model_type.removeprefix(ARTIFACT_PREFIX) if isinstance(model_type, str) else None
    family = FAMILIES.get(base_type) if base_type is not None else None
    if family is None:
        named = f"model_type {str(model_type)[:40]!r}" if model_type is not None else "a config.json without model_type"
        reason = missing(base_type) if base_type is not None else None
        raise fail(
            "LB403",
            f"{named} is not a supported family" + (f": it {reason}" if reason else ""),
            help=(
                "supported: " + "; ".join(f"{row.model_type} ({row.examples})" for row in FAMILIES.values()),
                *(
                    ()
                    if reason or base_type is None
                    else (
                        "a family of pre- or post-norm layers with softmax "
                        "attention and a gated MLP is two files: docs/families.md",
                    )
                ),
            ),
        )
    sizes = _sizes(family, config)
    _check_obeyed(config)
    _check_numbers(config, sizes.layers)
    if not artifact:
        _check_limits(family, config)
    specs = _artifact_specs(config, sizes.layers) if artifact else native_specs(family, config, sizes.layers)
    _check_rope(family, config)
    return Layout(
        family,
        _architecture(family, config, artifact),
        sizes,
        tied=_flag(config, "tie_word_embeddings", family.tied_by_default),
        flags=MappingProxyType({name: _flag(config, name, usual) for name, usual in family.flags.items()}),
        specs=specs,
        eager=family.attention_softcap is not None and config.get(family.attention_softcap, 0) is not None,
    )


def native_specs(family: Family, config: Mapping[str, Any], layers: int) -> tuple[Mapping[str, Any], ...]:
    """What each layer of an unchanged model is. Raises LB402 or LB404."""
    return tuple(
        FULL if window is None else MappingProxyType({"attn": "swa", "window": window, "sinks": 0})
        for window in family.windows(config, layers)
    )


def _sizes(family: Family, config: dict[str, Any]) -> Sizes:
    names, usual = family.sizes, family.size_defaults
    heads = positive_int(config, names["heads"])
    hidden = positive_int(config, names["hidden"])
    head_dim = config.get(names["head_dim"], usual.get("head_dim"))
    if head_dim is None and hidden % heads:
        raise fail("LB402", f"{names['hidden']} {hidden} is not a multiple of {names['heads']} {heads}")
    # A field that is there and null means "as many as query heads"; transformers has other defaults for an absent one.
    kv_heads = usual.get("kv_heads", heads) if names["kv_heads"] not in config else heads
    sizes = Sizes(
        layers=positive_int(config, names["layers"], cap=LAYER_CAP),
        hidden=hidden,
        heads=heads,
        kv_heads=positive_int(config, names["kv_heads"], default=kv_heads),
        head_dim=positive_int(config, names["head_dim"], default=usual.get("head_dim", hidden // heads)),
        intermediate=positive_int(config, names["intermediate"]),
        vocab=positive_int(config, names["vocab"]),
        positions=positive_int(config, names["positions"]),
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
        raise fail("LB402", "architectures in the configuration is not a list of names")
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
    """Fields that say nothing about the model, and that transformers obeys while it loads one."""
    for name in _ATTENTION_FIELDS:
        if config.get(name) not in _IMPLEMENTATIONS:
            # It would win over what lbdsl asks for, and may name code to be fetched from a hub.
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
        raise fail("LB402", f"no_rope_layers in the configuration is not a list of {layers} layers")
    if config.get("no_rope_layer_interval") is not None:
        positive_int(config, "no_rope_layer_interval")


def _check_rope(family: Family, config: dict[str, Any]) -> None:
    # transformers 5 writes rope_parameters, earlier ones rope_scaling, whose key was `type` still earlier.
    for name in ("rope_parameters", "rope_scaling"):
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise fail("LB402", f"{name} in the configuration is not an object")
        # Families with one kind of embeddings for each type of layer name them by it.
        by_type = [part for part in value.values() if isinstance(part, dict)]
        for part in by_type or [value]:
            _check_rope_type(family, part)


def _check_rope_type(family: Family, value: dict[str, Any]) -> None:
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in family.rope_types:
        raise fail(
            "LB404",
            f"rotary embeddings of type {str(kind)[:40]!r} are not supported: {family.rope_reason}",
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


def _artifact_specs(config: dict[str, Any], layers: int) -> tuple[Mapping[str, Any], ...]:
    stub = config.get("lbdsl")
    return checked_specs(stub.get("layers") if isinstance(stub, dict) else None, layers)


def checked_specs(specs: Any, layers: int) -> tuple[Mapping[str, Any], ...]:
    """The specifications of so many layers, as `lbdsl.layers` of an artifact's config.json has them. Raises LB402."""
    if not isinstance(specs, list | tuple) or len(specs) != layers:
        raise fail("LB402", f"lbdsl.layers in the configuration is not a list of {layers} layers")
    return tuple(_spec(spec, layer) for layer, spec in enumerate(specs))


def _spec(spec: Any, layer: int) -> Mapping[str, Any]:
    def bad(what: str) -> LbdslError:
        return fail("LB402", f"lbdsl.layers[{layer}] in the configuration {what}")

    if not isinstance(spec, Mapping) or not isinstance(spec.get("attn", "full"), str):
        raise bad("is not an object with a text `attn`")
    if spec.get("mlp", "full") not in ("full", "none"):
        raise bad("has an `mlp` that is neither full nor none")
    if spec.get("attn") == "swa":
        window, sinks = spec.get("window"), spec.get("sinks", 0)
        if type(window) is not int or window < 1 or type(sinks) is not int or sinks < 0:
            raise bad("is a window without a positive `window`, or with negative `sinks`")
    return MappingProxyType(dict(spec))
