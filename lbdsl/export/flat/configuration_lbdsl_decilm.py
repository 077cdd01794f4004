"""Configuration of a DeciLM checkpoint written by lbdsl, with the fields that vLLM and SGLang read.

It needs only transformers. The engines run their own DeciLM code, none of lbdsl's.
"""

from types import SimpleNamespace

from transformers import LlamaConfig


class LbdslDeciLMConfig(LlamaConfig):
    """A LlamaConfig in which each layer has its own number of KV heads and MLP width, may have no attention or no MLP, and
    may attend over a window.

    `lbdsl_blocks` has one entry per layer: {"kv_heads": int, "width": int, "ffn_mult": float}. `kv_heads` is None without
    attention, `width` is None without an MLP; `ffn_mult` is None unless DeciLM's rule gives exactly this width.
    `layer_types` marks the windowed layers ("sliding_attention"); all of them see `sliding_window` tokens, the token itself
    included. `qkv_bias`, if given, applies only to the biases of queries, keys and values.
    """

    model_type = "lbdsl_decilm"

    def __init__(self, lbdsl_blocks=None, layer_types=None, sliding_window=None, qkv_bias=None, **kwargs):
        super().__init__(**kwargs)
        count = self.num_hidden_layers
        own = {"kv_heads": self.num_key_value_heads, "width": self.intermediate_size, "ffn_mult": None}
        blocks = [own] * count if lbdsl_blocks is None else lbdsl_blocks
        layer_types = ["full_attention"] * count if layer_types is None else layer_types
        for name, value in (("lbdsl_blocks", blocks), ("layer_types", layer_types)):
            if len(value) != count:
                raise ValueError(f"{name} describes {len(value)} layers, the model has {count}")
        self.lbdsl_blocks = [dict(block) for block in blocks]
        self.layer_types = list(layer_types)
        self.sliding_window = sliding_window
        # SGLang reads it here (default 10,000); transformers 5 keeps it in `rope_parameters`.
        self.rope_theta = (self.rope_parameters or {}).get("rope_theta")
        # Engines check whether the attribute exists.
        if qkv_bias is not None:
            self.qkv_bias = qkv_bias

    @property
    def block_configs(self):
        """The objects that the engines read, one per layer. Created on access, because they cannot be saved as JSON."""
        return [self._block(entry) for entry in self.lbdsl_blocks]

    def _block(self, entry):
        kv_heads, width = entry["kv_heads"], entry["width"]
        attention = SimpleNamespace(
            no_op=kv_heads is None,
            replace_with_linear=False,
            sparsify=None,
            n_heads_in_group=None if kv_heads is None else self.num_attention_heads // kv_heads,
        )
        mlp = SimpleNamespace(no_op=width is None, replace_with_linear=False, sparsify=None, intermediate_size=width)
        # If it exists, vLLM uses it instead of intermediate_size; SGLang reads only ffn_mult.
        if entry["ffn_mult"] is not None:
            mlp.ffn_mult = entry["ffn_mult"]
        return SimpleNamespace(attention=attention, ffn=mlp)
