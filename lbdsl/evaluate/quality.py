"""How good an artifact is against its base model: perplexity, KL, top-1 agreement, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lbdsl.core.measurement import Measurement, clustered_mean
from lbdsl.core.progress import Report

CHUNK_TOKENS = 256


@dataclass(frozen=True)
class Quality:
    """Means over the tokens of the evaluation text; standard errors are clustered by sequence.

    `rise` is the artifact's next-token loss minus the base's, paired token by token (nats a token); `kl` is
    KL(base || artifact); `agreement` the share of tokens at which both models' most likely next token is the same.
    """

    data: str
    digest: str
    base_nll: Measurement
    nll: Measurement
    rise: Measurement
    kl: Measurement
    agreement: Measurement

    @property
    def ppl_increase(self) -> float:
        """Perplexity of the artifact over the base's, minus one (a ratio)."""
        return math.expm1(self.rise.value)

    @property
    def ppl_increase_stderr(self) -> float:
        """First-order standard error of `ppl_increase`."""
        return math.exp(self.rise.value) * self.rise.stderr

    def post_scores(self) -> Mapping[str, float]:
        """The values that post asserts speak of."""
        return {"ppl_increase": self.ppl_increase, "agreement": self.agreement.value, "kl_healed": self.kl.value}

    def to_json(self) -> dict[str, Any]:
        """The fields of `eval --json` that come from measuring."""
        base, artifact = math.exp(self.base_nll.value), math.exp(self.nll.value)
        return {
            "data": self.data, "data_digest": self.digest, "tokens": self.nll.tokens, "sequences": self.nll.sequences,
            "perplexity": {"base": base, "artifact": artifact},
            "nll": {"base": self.base_nll.value, "artifact": self.nll.value},
            "loss_rise": self.rise.value, "ppl_increase": self.ppl_increase,
            "kl": self.kl.value, "agreement": self.agreement.value,
            "stderr": {name: None if math.isnan(value) else value for name, value in {
                "perplexity_base": base * self.base_nll.stderr, "perplexity_artifact": artifact * self.nll.stderr,
                "loss_rise": self.rise.stderr, "ppl_increase": self.ppl_increase_stderr,
                "kl": self.kl.stderr, "agreement": self.agreement.stderr}.items()},
        }


@torch.inference_mode()
def judge(base: Any, artifact: Any, ids_SN: Tensor, *, data: str, digest: str, progress: Report,
          batch: int = 1) -> Quality:
    """Compare two causal language models on S sequences of N tokens; every token but the first of each is predicted.

    Logits are made for `CHUNK_TOKENS` positions at a time, log-probabilities in fp32, sums in fp64.
    """
    names = ("base_nll", "nll", "rise", "kl", "agreement")
    sums: dict[str, list[float]] = {name: [] for name in names}
    device = next(base.parameters()).device
    total = ids_SN.shape[0]
    for start in range(0, total, batch):
        ids_BN = ids_SN[start : start + batch].to(device)
        base_BND = base.model(input_ids=ids_BN, use_cache=False).last_hidden_state
        changed_BND = artifact.model(input_ids=ids_BN, use_cache=False).last_hidden_state
        for row in range(ids_BN.shape[0]):
            row_sums = _row_sums(base, artifact, base_BND[row, :-1], changed_BND[row, :-1], ids_BN[row, 1:])
            for name in names:
                sums[name].append(row_sums[name])
        progress(min(start + batch, total), total)
    counts = [ids_SN.shape[1] - 1] * total
    means = {name: clustered_mean(sums[name], counts, "1" if name == "agreement" else "nats/token") for name in names}
    return Quality(data=data, digest=digest, **means)


def _row_sums(base: Any, artifact: Any, base_ND: Tensor, changed_ND: Tensor, target_N: Tensor) -> dict[str, float]:
    sums = dict.fromkeys(("base_nll", "nll", "rise", "kl", "agreement"), 0.0)
    for start in range(0, target_N.shape[0], CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        base_CV = F.log_softmax(base.lm_head(base_ND[part]).float(), dim=-1)
        changed_CV = F.log_softmax(artifact.lm_head(changed_ND[part]).float(), dim=-1)
        index_C1 = target_N[part].unsqueeze(-1)
        base_nll = -base_CV.gather(-1, index_C1).double().sum().item()
        nll = -changed_CV.gather(-1, index_C1).double().sum().item()
        sums["base_nll"] += base_nll
        sums["nll"] += nll
        sums["rise"] += nll - base_nll
        sums["kl"] += (base_CV.exp() * (base_CV - changed_CV)).sum(-1).double().sum().item()
        sums["agreement"] += (base_CV.argmax(-1) == changed_CV.argmax(-1)).double().sum().item()
    return sums
