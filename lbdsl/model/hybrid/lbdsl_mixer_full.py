"""Full causal attention, as in the base model; and what a mixer file is.

A mixer file is named `lbdsl_mixer_<name>.py` and defines one object, `MIXER`, with

    build_attention(attention_class, config, layer_idx, spec) -> nn.Module   called as the family's attention is
    make_cache(config, layer_idx, spec) -> cache layer                       see lbdsl_cache.HybridCacheLayer
    make_mask(context, spec) -> what the attention gets as `attention_mask`  once a forward; see lbdsl_masks.MaskContext
"""

import torch
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import create_causal_mask

from .lbdsl_cache import CACHE_NAME, HybridStaticCache


class FullMixer:
    """The family's own attention, mask and cache: bit for bit what the base model does."""

    def build_attention(self, attention_class, config, layer_idx, spec):
        return attention_class(config=config, layer_idx=layer_idx)

    def make_cache(self, config, layer_idx, spec):
        return DynamicLayer()

    def make_mask(self, context, spec):
        attention_mask = context.attention_mask
        if attention_mask is None and isinstance(context.cache, HybridStaticCache):
            # Without it, transformers lets a single query see all that is reserved, for such a cache is not compiled.
            rows, seen = context.inputs_embeds.shape[0], context.seen + context.queries
            attention_mask = torch.ones((rows, seen), dtype=torch.long, device=context.device)
        return create_causal_mask(
            config=context.config, inputs_embeds=context.inputs_embeds, attention_mask=attention_mask,
            position_ids=context.position_ids, layer_idx=context.layer_idx, **{CACHE_NAME: context.cache})


MIXER = FullMixer()
