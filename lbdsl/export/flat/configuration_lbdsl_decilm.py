"""Configuration of a DeciLM checkpoint written by lbdsl: what vLLM and SGLang read, and nothing else.

It needs only transformers. The engines run their own DeciLM code, none of lbdsl's.
"""

from types import SimpleNamespace

from transformers import LlamaConfig


class LbdslDeciLMConfig(LlamaConfig):
    """A LlamaConfig whose layers may lack their attention or their MLP, or attend over a window.

    `lbdsl_blocks` has one entry a layer: {"attention": bool, "mlp": bool}. `layer_types` names the windowed layers
    ("sliding_attention"); all of them see `sliding_window` tokens, the token itself included. `qkv_bias`, where it is
    given, is about biases of queries, keys and values alone. `ffn_mult` is None unless DeciLM's rule gives the MLP's size.
    """

    model_type = "lbdsl_decilm"

    def __init__(self, lbdsl_blocks=None, layer_types=None, sliding_window=None, qkv_bias=None, ffn_mult=None, **kwargs):
        super().__init__(**kwargs)
        count = self.num_hidden_layers
        blocks = [{"attention": True, "mlp": True}] * count if lbdsl_blocks is None else lbdsl_blocks
        layer_types = ["full_attention"] * count if layer_types is None else layer_types
        for name, value in (("lbdsl_blocks", blocks), ("layer_types", layer_types)):
            if len(value) != count:
                raise ValueError(f"{name} describes {len(value)} layers, the model has {count}")
        self.lbdsl_blocks = [dict(block) for block in blocks]
        self.layer_types = list(layer_types)
        self.sliding_window = sliding_window
        self.ffn_mult = ffn_mult
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
        heads = self.num_attention_heads // (self.num_key_value_heads or self.num_attention_heads)
        attention = SimpleNamespace(
            no_op=not entry["attention"], replace_with_linear=False, sparsify=None, n_heads_in_group=heads
        )
        mlp = SimpleNamespace(
            no_op=not entry["mlp"], replace_with_linear=False, sparsify=None, intermediate_size=self.intermediate_size
        )
        if self.ffn_mult is not None:
            mlp.ffn_mult = self.ffn_mult
        return SimpleNamespace(attention=attention, ffn=mlp)
