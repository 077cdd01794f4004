"""The `lbdsl` entry of a configuration: what each layer of a hybrid model is."""

import json

VERSION = 1


def checked_layers(entry, base_model_type, config):
    """A checked copy of the entry for `config`; None stands for the base model's own layers. Raises ValueError."""
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
        if not isinstance(spec, dict) or not isinstance(spec.get("attn"), str):
            raise ValueError(f"config.lbdsl.layers[{index}] has no `attn`: {spec!r}")
        if spec.get("mlp", "full") not in ("full", "none"):
            raise ValueError(f"config.lbdsl.layers[{index}].mlp is {spec['mlp']!r}; it is full or none")
    return {"version": VERSION, "base_model_type": base_model_type, "layers": [dict(spec) for spec in layers]}


def native_layers(config):
    """What each layer of an unchanged model of `config` is: full, or a window that the family has by itself.

    A family without `layer_types` has one window for all layers, or none.
    """
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [
        {"attn": "swa", "window": window, "sinks": 0}
        if kind == "sliding_attention" and window is not None
        else {"attn": "full"}
        for kind in types
    ]


def merged_spec(spec, entries):
    """A layer's specification with `entries` put in; a new `attn` takes the old one's parameters away."""
    if "attn" in entries:
        spec = {key: value for key, value in spec.items() if key == "mlp"}
    return {**spec, **entries}


def spec_key(spec):
    """What makes two layers share a mask: the specification of their attention."""
    return json.dumps({key: value for key, value in spec.items() if key != "mlp"}, sort_keys=True)
