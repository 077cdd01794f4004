"""Artifacts: weights, tokenizer, the runtime's code, `lbdsl.json` and a model card."""
