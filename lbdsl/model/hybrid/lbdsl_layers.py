"""The `lbdsl` entry of a configuration: the specification of each layer of a hybrid model.

    {"version": 2, "base_model_type": "llama", "layers": [
        {"mixer": {"kind": "attention", "heads": 9, "kv_heads": 3, "head_dim": 64, "window": null},
         "ffn": {"kind": "gated_mlp", "width": 1536}, "weights": {}}, ...]}

`mixer` and `ffn` are null if the layer has none; `weights` maps modules, by name relative to the layer, to how their matrix
is stored. `packed`, if it is there, says that experts are read as `weights` stores them; else they have become matrices.
"""

import copy

VERSION = 2
SLOTS = ("mixer", "ffn", "weights")
OPTIONAL = {"attention": ("cache",), "moe": ("shared",)}
"""Fields that are null where a part does not name them."""


def checked_layers(entry, base_model_type, config):
    """A checked copy of the entry for `config`; None means the base model's own layers. Raises ValueError."""
    count = config.num_hidden_layers
    if entry is None:
        entry = {"version": VERSION, "base_model_type": base_model_type, "layers": native_layers(config)}
    if not isinstance(entry, dict) or entry.get("version") != VERSION:
        version = entry.get("version") if isinstance(entry, dict) else entry
        raise ValueError(f"config.lbdsl has version {version!r}; this runtime reads version {VERSION}")
    if entry.get("base_model_type") != base_model_type:
        raise ValueError(f"config.lbdsl is for {entry.get('base_model_type')!r}, not for {base_model_type!r}")
    layers = entry.get("layers")
    if not isinstance(layers, (list, tuple)) or len(layers) != count:
        found = len(layers) if isinstance(layers, (list, tuple)) else "no"
        raise ValueError(f"config.lbdsl describes {found} layers, the model has {count}")
    for index, spec in enumerate(layers):
        check_layer(spec, f"config.lbdsl.layers[{index}]")
    packed = {"packed": True} if entry.get("packed") else {}
    layers = [copy.deepcopy(spec) for spec in layers]
    return {"version": VERSION, "base_model_type": base_model_type, "layers": layers, **packed}


def check_layer(spec, where, known=None):
    """Raise ValueError if `spec` is not a layer specification. `known` gives the fields of each kind by slot, such as
    {"ffn": {"gated_mlp": ("width",)}}; if given, every other kind or field is an error that names it."""
    check_fields(spec, SLOTS, where)
    if not isinstance(spec["weights"], dict):
        raise ValueError(f"{where}.weights is {spec['weights']!r}; it maps modules to how they are stored")
    parts = [(slot, spec[slot], f"{where}.{slot}") for slot in ("mixer", "ffn") if spec[slot] is not None]
    parts += [("weights", part, f"{where}.weights[{name!r}]") for name, part in spec["weights"].items()]
    for slot, part, place in parts:
        if not isinstance(part, dict) or not isinstance(part.get("kind"), str):
            raise ValueError(f"{place} has no `kind`: {part!r}")
        if known is not None:
            kinds = known.get(slot, {})
            if part["kind"] not in kinds:
                raise ValueError(f"{place} is of the kind {part['kind']!r}; known here: {', '.join(kinds) or 'none'}")
            check_fields({**dict.fromkeys(OPTIONAL.get(part["kind"], ())), **part}, ("kind", *kinds[part["kind"]]), place)


def check_fields(value, names, where):
    """Raise ValueError unless `value` is a mapping with exactly these keys; the message names an unknown or missing key."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}, not an object")
    unknown, missing = sorted(set(value) - set(names)), sorted(set(names) - set(value))
    if unknown or missing:
        said = f"has the unknown field {unknown[0]!r}" if unknown else f"lacks the field {missing[0]!r}"
        raise ValueError(f"{where} {said}; its fields are {', '.join(names)}")


def native_layers(config):
    """The specifications of the layers of an unchanged model: full attention, or the family's native window.

    A family without `layer_types` has one window for all layers, or none.
    """
    size = getattr(config, "sliding_window", None)
    window = None if size is None else {"size": size, "sink_tokens": 0}
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    heads = config.num_attention_heads
    attention = {
        "kind": "attention",
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
    }
    return [
        {
            "mixer": _delta_net(config)
            if kind == "linear_attention"
            else {**attention, "window": window if kind == "sliding_attention" else None},
            "ffn": _native_ffn(config, index),
            "weights": {},
        }
        for index, kind in enumerate(types)
    ]


DELTA_NET = {
    "key_heads": "linear_num_key_heads",
    "value_heads": "linear_num_value_heads",
    "key_dim": "linear_key_head_dim",
    "value_dim": "linear_value_head_dim",
    "kernel": "linear_conv_kernel_dim",
}
"""The fields of a gated delta net, and those of configurations."""


def _delta_net(config):
    return {"kind": "gated_delta_net", **{name: getattr(config, field) for name, field in DELTA_NET.items()}}


EXPERTS = ("num_experts", "num_local_experts")
"""Names of the number of experts in configurations."""


def expert_width(config):
    """The name of the field for the width of an expert."""
    return "moe_intermediate_size" if hasattr(config, "moe_intermediate_size") else "intermediate_size"


def _native_ffn(config, layer):
    experts = next((getattr(config, name) for name in EXPERTS if hasattr(config, name)), None) or 0
    dense = layer in (getattr(config, "mlp_only_layers", None) or ())
    if not experts or dense or (layer + 1) % (getattr(config, "decoder_sparse_step", None) or 1):
        return {"kind": "gated_mlp", "width": config.intermediate_size}
    width = getattr(config, expert_width(config))
    shared = getattr(config, "shared_expert_intermediate_size", None)
    beside = {"shared": shared} if shared else {}
    return {"kind": "moe", "experts": experts, "top_k": config.num_experts_per_tok, "width": width, **beside}


def config_with(config, sizes):
    """`config` itself if it has these sizes, else a copy that has them, for building the modules of one layer."""
    if all(getattr(config, name, None) == value for name, value in sizes.items()):
        return config
    config = copy.copy(config)
    for name, value in sizes.items():
        setattr(config, name, value)
    return config
