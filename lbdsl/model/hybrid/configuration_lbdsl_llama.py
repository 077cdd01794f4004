"""Configuration of a Llama model whose layers differ."""

from transformers import LlamaConfig

from .lbdsl_layers import checked_layers


class LbdslLlamaConfig(LlamaConfig):
    """A LlamaConfig with one more entry, `lbdsl`, the only source of what each layer is:

        {"version": 1, "base_model_type": "llama",
         "layers": [{"attn": "full"}, {"attn": "swa", "window": 512, "sinks": 4}, {"attn": "none", "mlp": "none"}, ...]}

    Without it every layer is full. ValueError for an unknown version, a wrong number of layers or a bad entry.
    """

    model_type = "lbdsl_llama"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "llama", self.num_hidden_layers)
