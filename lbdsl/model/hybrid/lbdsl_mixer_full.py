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
        given = context.attention_mask
        if context.queries == 1 and isinstance(context.cache, HybridStaticCache) and (given is None or given.dim() == 2):
            return self._single_over_reserved(context)
        return create_causal_mask(
            config=context.config,
            inputs_embeds=context.inputs_embeds,
            attention_mask=given,
            position_ids=context.position_ids,
            layer_idx=context.layer_idx,
            **{CACHE_NAME: context.cache},
        )

    def _single_over_reserved(self, context):
        """For one query a row over a static layer. transformers leaves the mask out in some cases, for such a cache is not
        compiled, and the query would see all that is only reserved."""
        reserved, _ = context.cache.get_mask_sizes(1, context.layer_idx)
        allowed_B1K = (torch.arange(reserved, device=context.device) <= context.seen).view(1, 1, -1)
        if context.real_BK is not None:
            real_BK = torch.nn.functional.pad(context.real_BK, (0, reserved - context.real_BK.shape[1]))
            # A query always sees itself, so that padding does not give a row without any key.
            real_BK[:, context.seen] = True
            allowed_B1K = allowed_B1K & real_BK.unsqueeze(1)
        return context.as_attention_mask(allowed_B1K)


MIXER = FullMixer()
