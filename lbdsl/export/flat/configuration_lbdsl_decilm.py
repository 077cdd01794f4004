"""Configuration of a DeciLM checkpoint written by lbdsl: what vLLM and SGLang read, and nothing else.

It needs only transformers. The engines run their own DeciLM code, none of lbdsl's.
"""

from types import SimpleNamespace

from transformers import LlamaConfig


class LbdslDeciLMConfig(LlamaConfig):
    """A LlamaConfig whose layers have KV heads and MLP widths of their own, lack their attention or their MLP, or attend
    over a window.

    `lbdsl_blocks` has one entry a layer: {"kv_heads": int, "width": int, "ffn_mult": float}. `kv_heads` is None where there
    is no attention, `width` where there is no MLP; `ffn_mult` is None unless DeciLM's rule gives exactly this width.
    `layer_types` names the windowed layers ("sliding_attention"); all of them see `sliding_window` tokens, the token itself
    included. `qkv_bias`, where it is given, is about biases of queries, keys and values alone.
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
        # SGLang looks for it here, and takes 10,000 when it is not; transformers 5 keeps it in `rope_parameters`.
        self.rope_theta = (self.rope_parameters or {}).get("rope_theta")
        # Engines ask whether it is there at all.
        if qkv_bias is not None:
            self.qkv_bias = qkv_bias

    @property
    def block_configs(self):
        """What the engines' code reads, one object a layer. Made when asked for: such objects cannot be saved as JSON."""
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
        # vLLM takes it rather than the size where it is there at all; SGLang knows nothing else.
        if entry["ffn_mult"] is not None:
            mlp.ffn_mult = entry["ffn_mult"]
        return SimpleNamespace(attention=attention, ffn=mlp)
