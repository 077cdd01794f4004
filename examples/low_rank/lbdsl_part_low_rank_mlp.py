"""A gated MLP of low rank: the runtime of the part kind `low_rank_mlp`. It travels with the weights."""

from torch import nn
from transformers.activations import ACT2FN


class LowRankMLP(nn.Module):
    """down(act(gate(x)) * up(x)), [B, N, D] to [B, N, D]; each map is two without anything between them."""

    def __init__(self, config, part):
        super().__init__()
        hidden, width, rank = config.hidden_size, part["width"], part["rank"]
        self.gate_proj = _thin(hidden, rank, width)
        self.up_proj = _thin(hidden, rank, width)
        self.down_proj = _thin(width, rank, hidden)
        self.act_fn = ACT2FN[getattr(config, "hidden_act", None) or config.hidden_activation]

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def _thin(columns, rank, rows):
    return nn.Sequential(nn.Linear(columns, rank, bias=False), nn.Linear(rank, rows, bias=False))


class LowRankMlpPart:
    FIELDS = ("width", "rank")

    def build(self, mlp_class, config, part):
        return LowRankMLP(config, part)


PART = LowRankMlpPart()
