"""The mask of the family's own attention over all previous tokens."""

import torch
from transformers.masking_utils import create_causal_mask

from .lbdsl_cache import CACHE_NAME, HybridStaticCache


def make_full_mask(context):
    """transformers' own causal mask."""
    given = context.attention_mask
    if context.queries == 1 and isinstance(context.cache, HybridStaticCache) and (given is None or given.dim() == 2):
        return _single_over_reserved(context)
    return create_causal_mask(
        config=context.config,
        inputs_embeds=context.inputs_embeds,
        attention_mask=given,
        position_ids=context.position_ids,
        layer_idx=context.layer_idx,
        **{CACHE_NAME: context.cache},
    )


def _single_over_reserved(context):
    """The mask for one query per row over a static cache. transformers skips the mask in some cases because this cache is
    not compiled; the query would then attend to reserved slots that are still empty."""
    reserved, _ = context.cache.get_mask_sizes(1, context.layer_idx)
    allowed_B1K = (torch.arange(reserved, device=context.device) <= context.seen).view(1, 1, -1)
    if context.real_BK is not None:
        real_BK = torch.nn.functional.pad(context.real_BK, (0, reserved - context.real_BK.shape[1]))
        # A query always sees itself, so that a padded row has at least one key.
        real_BK[:, context.seen] = True
        allowed_B1K = allowed_B1K & real_BK.unsqueeze(1)
    return context.as_attention_mask(allowed_B1K)
