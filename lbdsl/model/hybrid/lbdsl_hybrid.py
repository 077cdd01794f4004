"""What hybrid models of all families share: layers by specification, masks and caches that fit, and running a part."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.cache_utils import DynamicCache

from .lbdsl_cache import CACHE_NAME, NoCacheLayer, adopt_cache
from .lbdsl_layers import merged_spec, spec_key
from .lbdsl_masks import MaskContext, first_real_columns, real_columns
from .lbdsl_mixers import mixer


@dataclass
class LayerInputs:
    """What every layer of one forward gets beside the hidden states; masks are made when first asked for."""

    context: MaskContext
    position_embeddings: tuple
    extra: dict
    _masks: dict = field(default_factory=dict)

    def mask(self, spec, layer_idx):
        key = spec_key(spec)
        if key not in self._masks:
            self.context.layer_idx = layer_idx
            self._masks[key] = mixer(spec["attn"]).make_mask(self.context, spec)
        return self._masks[key]


class HybridDecoderLayer(GradientCheckpointingLayer):
    """A pre-norm decoder layer under a specification; an absent attention or MLP has no weights and no norm.

    A family gives its `attention_class`, `mlp_class` and `norm_class`.
    """

    attention_class = mlp_class = norm_class = None

    def __init__(self, config, layer_idx):
        super().__init__()
        self.layer_idx = layer_idx
        self.spec = dict(config.lbdsl["layers"][layer_idx])
        self.self_attn = self.mlp = self.input_layernorm = self.post_attention_layernorm = None
        if self.spec["attn"] != "none":
            self.self_attn = mixer(self.spec["attn"]).build_attention(
                self.attention_class, config, layer_idx, self.spec)
            self.input_layernorm = self.norm_class(config.hidden_size, eps=config.rms_norm_eps)
        if self.spec.get("mlp", "full") != "none":
            self.mlp = self.mlp_class(config)
            self.post_attention_layernorm = self.norm_class(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        if self.self_attn is not None:
            hidden_states = self._attend(hidden_states, attention_mask, kwargs)
        if self.mlp is not None:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states

    def _attend(self, hidden_states, attention_mask, kwargs):
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states), attention_mask=attention_mask, **kwargs)
        return hidden_states + attended

    def attention_residual(self, hidden_BND, inputs):
        """The residual stream after the attention sub-block alone, [B, N, D]: x + Attn(norm(x))."""
        if self.self_attn is None:
            return hidden_BND
        kwargs = {"position_embeddings": inputs.position_embeddings, **inputs.extra}
        return self._attend(hidden_BND, inputs.mask(self.spec, self.layer_idx), kwargs)


class HybridModelMixin:
    """The body of a hybrid model. A family's class has embed_tokens, layers, norm, rotary_emb and `layer_class`."""

    layer_class = None

    def prepare(self, inputs_embeds_BND, attention_mask=None, position_ids=None, cache=None, use_cache=False, **extra):
        """LayerInputs for N new tokens a row: position embeddings, masks, and our layers in a fresh cache."""
        if cache is not None:
            adopt_cache(cache, self.new_cache_layers)
        seen = cache.get_seq_length() if cache is not None else 0
        batch, new = inputs_embeds_BND.shape[:2]
        if position_ids is None:
            position_ids = (torch.arange(new, device=inputs_embeds_BND.device) + seen).unsqueeze(0)
        real_BK = real_columns(attention_mask, seen + new)
        starts = first_real_columns(real_BK)
        if cache is not None:
            for layer in cache.layers:
                layer.starts = starts
        context = MaskContext(config=self.config, inputs_embeds=inputs_embeds_BND, attention_mask=attention_mask,
                              position_ids=position_ids, cache=cache, seen=seen, real_BK=real_BK, starts=starts)
        extra = {**extra, "position_ids": position_ids, CACHE_NAME: cache, "use_cache": use_cache}
        embeddings = self.rotary_emb(inputs_embeds_BND, position_ids=position_ids)
        return LayerInputs(context, embeddings, extra)

    def run_layers(self, hidden_BND, inputs, start=0, stop=None, replace=None, observe=None):
        """Layers start .. stop-1 on the residual stream, [B, N, D] to [B, N, D], without the final norm.

        `replace` maps an index to a layer that is run instead; `observe(i, hidden)` sees the stream before layer i.
        """
        cache = inputs.context.cache
        for index in range(start, len(self.layers) if stop is None else stop):
            layer = self.layers[index] if replace is None or index not in replace else replace[index]
            if observe is not None:
                observe(index, hidden_BND)
            mask = None
            if layer.self_attn is not None:
                mask = inputs.mask(layer.spec, index)
            elif cache is not None:
                cache.layers[index].advance(hidden_BND.shape[1])
            hidden_BND = layer(hidden_BND, attention_mask=mask, position_embeddings=inputs.position_embeddings,
                               **inputs.extra)
        return hidden_BND

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, use_cache=None,
                output_hidden_states=None, **kwargs):
        """As the family's own model; the cache comes in and goes out under transformers' name for it."""
        given = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
        cache = next((value for value in given if value is not None), None)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache is None:
            use_cache = self.config.use_cache
        if use_cache and self.training and getattr(self, "gradient_checkpointing", False):
            use_cache = False
        if use_cache and cache is None:
            cache = DynamicCache()
        for name in ("return_dict", "output_attentions"):
            kwargs.pop(name, None)
        inputs = self.prepare(inputs_embeds, attention_mask, position_ids, cache, use_cache, **kwargs)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        seen = []
        hidden = self.run_layers(inputs_embeds, inputs,
                                 observe=(lambda _index, state: seen.append(state)) if wanted else None)
        hidden = self.norm(hidden)
        return BaseModelOutputWithPast(last_hidden_state=hidden, hidden_states=(*seen, hidden) if wanted else None,
                                       **{CACHE_NAME: cache})

    def new_cache_layers(self):
        """One empty cache layer a decoder layer."""
        layers = []
        for index, spec in enumerate(self.config.lbdsl["layers"]):
            if spec["attn"] == "none":
                layers.append(NoCacheLayer())
            else:
                layers.append(mixer(spec["attn"]).make_cache(self.config, index, spec))
        return layers

    def layer_variant(self, index, spec):
        """A decoder layer under `spec` that shares every parameter of layer `index` that it has use for.

        Parameters that only the variant has are made as its mixer makes them. ValueError when it needs weights that
        are gone.
        """
        ours = dict(self.layers[index].named_parameters())
        config = copy.copy(self.config)
        config.lbdsl = {**self.config.lbdsl, "layers": [dict(s) for s in self.config.lbdsl["layers"]]}
        config.lbdsl["layers"][index] = dict(spec)
        with torch.device("meta"):
            layer = self.layer_class(config, index)
        names = [name for name, _ in layer.named_parameters()]
        old = {name.partition(".")[0] for name in ours}
        lost = sorted({name for name in names if name not in ours and name.partition(".")[0] not in old})
        if lost:
            raise ValueError(f"layer {index} has lost the weights that {spec} needs: {lost[0]} ...")
        if any(name not in ours for name in names):
            like = next(iter(ours.values()))
            layer = self.layer_class(config, index).to(device=like.device, dtype=like.dtype)
        for name in names:
            if name in ours:
                owner, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(owner), leaf, ours[name])
        self._share_config(layer)
        return layer.train(self.layers[index].training)

    def set_layer(self, index, entries):
        """Put `entries` into the specification of layer `index` and swap the layer; weights without use are let go."""
        spec = merged_spec(self.config.lbdsl["layers"][index], entries)
        layer = self.layer_variant(index, spec)
        self.config.lbdsl["layers"][index] = spec
        self.layers[index] = layer

    def _share_config(self, layer):
        """Modules keep the model's own config object, so that a later change (the attention implementation) reaches them."""
        for module in layer.modules():
            if getattr(module, "config", None) is not None and isinstance(module, nn.Module):
                module.config = self.config
