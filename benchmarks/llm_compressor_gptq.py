"""Runs in llm-compressor's own environment: its GPTQ on a plain folder, 4 bits in symmetric groups of 64.

    llm_compressor_gptq.py MODEL IDS OUT ORDER

IDS: a safetensors file with `ids` [S, N], the calibration text. OUT: a safetensors file for the quantized weights as they
compute, by name. ORDER: `none`, or an order of columns that llm-compressor knows, such as `static`.
"""

import sys

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def main(folder, ids_path, out, order):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = load_file(ids_path)["ids"]
    text = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})
    form = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=64)
    gptq = GPTQModifier(
        config_groups={"all": QuantizationScheme(targets=["Linear"], weights=form)},
        ignore=["lm_head"],
        actorder=None if order == "none" else order,
    )
    oneshot(model=model, dataset=text, recipe=gptq, max_seq_length=ids.shape[1], num_calibration_samples=len(ids))
    made = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            scales = module.weight_scale.float().unsqueeze(-1)
            integers = (module.weight.float().unflatten(1, (scales.shape[1], -1)) / scales).round().clamp(-8, 7)
            made[f"{name}.weight"] = (integers * scales).flatten(1).bfloat16()
    save_file(made, out)


main(*sys.argv[1:])
