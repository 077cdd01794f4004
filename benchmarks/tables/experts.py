"""Fewer experts by each method of `experts`, and by chance, in a model of eight experts a layer that is trained here.

The first row trains it, for ten minutes of one core: six layers, 8 million parameters, a token a byte, on 2.4 MB of pydoc
and other documentation. A row is METHOD-SHARE: the rise of perplexity with so many percent of the experts of all layers,
before healing and after it on 100k tokens of these texts, on parts of WikiText and pydoc that neither trained nor healed;
of `random` the mean over three draws, and their standard error.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.table import HEALING, HOME, ROOT, Row, Table, once

SHARES, METHODS, DRAWS = (75, 50), ("reap", "frequency", "norm", "random"), range(3)
SEQ, BATCH, STEPS, RATE = 256, 16, 600, 2e-3
TEXTS = ("wikitext", "pydoc")
DATA = 'mix("builtin:pydoc", "builtin:docs")'
MEASURE = f'measure {{ data = "builtin:pydoc"; tokens = 32Ki; seq = {SEQ} }}'
HEAL = f"heal {{ data = {DATA}; tokens = 100k; seq = {SEQ}; batch = 8; lr = 1e-3 }}"


def trained(folder: Path) -> None:
    """Train the model and save it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

    from lbdsl.data.blocks import token_blocks
    from lbdsl.data.split import TextPart

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    bytes_.add_special_tokens(["<|end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<|end|>", pad_token="<|end|>")
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=260,
        hidden_size=192,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256,
        router_aux_loss_coef=0.01,
    )
    model = MixtralForCausalLM(config).train()
    half = STEPS * BATCH * SEQ // 2
    texts = [token_blocks(f"builtin:{text}", TextPart.HEAL, tokenizer, half, SEQ, seed=0).ids for text in ("pydoc", "docs")]
    ids = torch.cat(texts)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.05)
    for step in range(STEPS):
        rows = ids[order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(order)]]
        # The routers' loss keeps all experts in use.
        found = model(input_ids=rows, labels=rows, output_router_logits=True)
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} of {STEPS}: {found.loss.item():.3f}", file=sys.stderr, flush=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def lbdsl(*words: str) -> str:
    """What a command prints, with randomly chosen experts among the actions."""
    environment = {**os.environ, "LBDSL_PLUGINS": str(HOME / "random_experts.py")}
    done = subprocess.run(
        [sys.executable, "-m", "lbdsl", *words], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def judged(work: Path, action: str, heal: str) -> dict[str, float]:
    """The rise of perplexity by text."""
    base, recipe, out = once(work / "model", trained), work / "tried.lbr", work / "tried"
    shutil.rmtree(out, ignore_errors=True)
    recipe.write_text(f"lbr 1\n{MEASURE}\nlayers all {action}\n{heal}\n", encoding="utf-8")
    lbdsl("apply", str(recipe), str(base), "-o", str(out), "--yes")
    words = ("--seq", str(SEQ), "--tokens", str(128 * SEQ), "--json")
    said = {text: json.loads(lbdsl("eval", str(out), "--data", f"builtin:{text}", *words)) for text in TEXTS}
    return {text: each["ppl_increase"] for text, each in said.items()}


def row(method: str, share: int) -> Row:
    def run(work: Path) -> Mapping[str, float]:
        chance = [f"random_experts({share}%, seed={seed})" for seed in DRAWS]
        actions = chance if method == "random" else [f"experts({share}%, method={method})"]
        done: dict[str, float] = {}
        for when, heal in {"": "", ", healed": HEAL}.items():
            found = [judged(work, action, heal) for action in actions]
            for text in TEXTS:
                values = [each[text] for each in found]
                done[f"{text}{when}"] = statistics.mean(values)
                if len(values) > 1:
                    done[f"{text}{when} error"] = statistics.stdev(values) / len(values) ** 0.5
        return done

    return Row(f"{method}-{share}", run)


TABLE = Table(
    title="the rise of perplexity of a model of eight experts, trained here, with fewer of them",
    columns={
        f"{text}{when}{what}": form
        for when in ("", ", healed")
        for text in TEXTS
        for what, form in {"": "+.1%", " error": ".1%"}.items()
    },
    rows=[row(method, share) for share in SHARES for method in METHODS],
    measures=HEALING,
)
