"""Recipes, facts and scores written by hand, shared by the planner's tests."""

from __future__ import annotations

from lbdsl.core.facts import ModelFacts


def llama_facts(*, layers=4, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=256, positions=512,
                tied=True, dtype="bfloat16", native_window=None) -> ModelFacts:
    """Facts of a Llama of these shapes: two norms a layer and a final one, no biases."""
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads) + hidden
    mlp = 3 * hidden * intermediate + hidden
    return ModelFacts(
        family="llama", architecture="LlamaForCausalLM", layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, intermediate=intermediate, vocab=vocab, positions=positions, tied=tied, dtype=dtype,
        attention_params=(attention,) * layers, mlp_params=(mlp,) * layers,
        other_params=vocab * hidden * (1 if tied else 2) + hidden,
        native_window=(native_window,) * layers, modules=("model.embed_tokens",))


def smollm2_facts() -> ModelFacts:
    return llama_facts(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocab=49152,
                       positions=8192)
