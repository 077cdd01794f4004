"""Base classes of hybrid models, for all families: layers built from specifications, with matching masks and caches."""

import copy
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, MoeModelOutputWithPast

from .lbdsl_cache import CACHE_NAME, NoCacheLayer, adopt_cache
from .lbdsl_layers import native_layers
from .lbdsl_masks import MaskContext, first_real_columns, packed_segments, real_columns
from .lbdsl_parts import checked_spec, part


@dataclass
class LayerInputs:
    """The inputs of all layers in one forward, besides the hidden states; masks are created on first use."""

    context: MaskContext
    position_embeddings: list
    """One pair (cos, sin) per layer; layers of one type share theirs."""
    extra: dict
    _masks: dict = field(default_factory=dict)

    def mask(self, layer, layer_idx):
        """The mask of a layer with attention; layers with the same `mask_key` share one."""
        if layer.mask_key not in self._masks:
            self.context.layer_idx = layer_idx
            mixer = layer.spec["mixer"]
            self._masks[layer.mask_key] = part(mixer["kind"]).make_mask(self.context, mixer)
        return self._masks[layer.mask_key]


class HybridDecoderLayer(GradientCheckpointingLayer):
    """A decoder layer built from a specification; an absent attention or MLP has no weights and no norms.

    A family sets `attention_class`, `mlp_class` or `moe_class` (and `delta_net_class`), `norm_class`, the names of the
    norms before and after each sub-block (None if there is none), and the name of the configuration's field that scales
    each sub-block's output.
    """

    attention_class = delta_net_class = mlp_class = moe_class = norm_class = None
    attention_norms = mlp_norms = (None, None)
    residual_multiplier_field = None
    ffn_name = "mlp"
    """The module that has the MLP or the experts."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.layer_idx = layer_idx
        self.multiplier = _number(config, self.residual_multiplier_field)
        self.mask_key = None
        self.spec = checked_spec(config.lbdsl["layers"][layer_idx], layer_idx)
        mixer, ffn = self.spec["mixer"], self.spec["ffn"]
        self.mixer_name = "self_attn"
        setattr(self, self.ffn_name, None)
        for name in (*self.attention_norms, *self.mlp_norms):
            if name is not None:
                setattr(self, name, None)
        if mixer is not None:
            kind = part(mixer["kind"])
            self.mixer_name = getattr(kind, "NAME", self.mixer_name)
            mixer_class = getattr(self, getattr(kind, "CLASS", "attention_class"))
            setattr(self, self.mixer_name, kind.build(mixer_class, config, layer_idx, mixer))
            self.mask_key = json.dumps([mixer["kind"], *(mixer[name] for name in kind.MASK_FIELDS)], sort_keys=True)
            self._add_norms(self.attention_norms, config)
        else:
            self.self_attn = None
        if ffn is not None:
            kind = part(ffn["kind"])
            setattr(self, self.ffn_name, kind.build(getattr(self, getattr(kind, "CLASS", "mlp_class")), config, ffn))
            self._add_norms(self.mlp_norms, config)
        maps = {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        experts = {name for name, tensor in self.named_parameters() if tensor.ndim == 3}
        for name, stored in self.spec["weights"].items():
            kind, (owner, _, leaf) = part(stored["kind"]), name.rpartition(".")
            if name in maps:
                setattr(self.get_submodule(owner), leaf, kind.wrap(maps[name], stored))
            elif name not in experts:
                raise ValueError(f"layer {layer_idx} has no linear map {name!r}, and its weights say how it is stored")
            elif hasattr(kind, "hold_experts"):
                kind.hold_experts(self.get_submodule(owner), leaf, stored, "packed" in config.lbdsl)

    def _add_norms(self, names, config):
        for name in names:
            if name is not None:
                setattr(self, name, self.norm_class(config.hidden_size, config.rms_norm_eps))

    @property
    def mixer(self):
        """The attention, or what is in its place; None without."""
        return getattr(self, self.mixer_name)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        if self.mixer is not None:
            hidden_states = self._attend(hidden_states, attention_mask, kwargs)
        ffn = getattr(self, self.ffn_name)
        if ffn is not None:
            before, after = self.mlp_norms
            changed = ffn(self._normed(before, hidden_states))
            # Some experts give what their router scored, too.
            changed = changed[0] if isinstance(changed, tuple) else changed
            hidden_states = self._added(hidden_states, self._normed(after, changed))
        return hidden_states

    def _attend(self, hidden_states, attention_mask, kwargs):
        before, after = self.attention_norms
        attended = self.mixer(hidden_states=self._normed(before, hidden_states), attention_mask=attention_mask, **kwargs)[0]
        return self._added(hidden_states, self._normed(after, attended))

    def _added(self, hidden_states, change):
        return hidden_states + (change if self.multiplier is None else change * self.multiplier)

    def _normed(self, name, hidden_states):
        return hidden_states if name is None else getattr(self, name)(hidden_states)

    def attention_residual(self, hidden_BND, inputs):
        """The residual stream after the attention sub-block alone, [B, N, D]: x + Attn(norm(x))."""
        if self.mixer is None:
            return hidden_BND
        kwargs = {"position_embeddings": inputs.position_embeddings[self.layer_idx], **inputs.extra}
        return self._attend(hidden_BND, inputs.mask(self, self.layer_idx), kwargs)


class _Supports:
    """The attention implementations that masks of windowed layers support; transformers raises an error for others."""

    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    # The hybrid caches count tokens in Python.
    _can_compile_fullgraph = False


class HybridModelMixin(_Supports):
    """Mixin for the body of a hybrid model, placed before the family's own class; the family sets `layer_class`.

    If all layers have the base's specification, its outputs equal the base's bit for bit; but on a CPU windows over many
    tokens are computed in bands, and a single token's query heads together; on a GPU by lbdsl's kernels, if installed.
    """

    layer_class = None
    embedding_multiplier_field = None
    """Name of the configuration's field that scales embeddings."""
    rope_by_layer_type = False
    """Whether the family has different rotary embeddings for each of `config.layer_types`."""

    def __init__(self, config):
        with _no_layers(config):
            super().__init__(config)
        self.layers = nn.ModuleList(self.layer_class(config, index) for index in range(config.num_hidden_layers))
        self.post_init()

    def embed(self, input_ids):
        """Map [B, N] token ids to the hidden states before the first layer, [B, N, D]."""
        return self._multiplied(self.embed_tokens(input_ids))

    def _multiplied(self, inputs_embeds):
        multiplier = _number(self.config, self.embedding_multiplier_field)
        return inputs_embeds if multiplier is None else inputs_embeds * multiplier

    def prepare(self, inputs_embeds_BND, attention_mask=None, position_ids=None, cache=None, use_cache=False, **extra):
        """LayerInputs for N new tokens per row: position embeddings and masks; gives an empty cache its hybrid layers."""
        if cache is not None:
            adopt_cache(cache, self.config.lbdsl["layers"], self.new_cache_layers, inputs_embeds_BND.device)
        # A static cache keeps its length on the device.
        seen = int(cache.get_seq_length()) if cache is not None else 0
        new, device = inputs_embeds_BND.shape[1], inputs_embeds_BND.device
        if attention_mask is not None:
            attention_mask = attention_mask.to(device)
        segments = None
        if position_ids is not None and position_ids.dim() != 2:
            raise ValueError(f"position_ids have {position_ids.dim()} dimensions; give one position for each token, [B, N]")
        if position_ids is None:
            position_ids = (torch.arange(new, device=device) + seen).unsqueeze(0)
        else:
            segments = packed_segments(position_ids, attention_mask, cache)
        real_BK = real_columns(attention_mask, seen + new)
        starts = first_real_columns(real_BK)
        if cache is not None:
            for layer in cache.layers:
                layer.starts = starts
        context = MaskContext(
            config=self.config,
            inputs_embeds=inputs_embeds_BND,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            seen=seen,
            real_BK=real_BK,
            starts=starts,
            segments_BQ=segments,
        )
        extra = {**extra, "position_ids": position_ids, CACHE_NAME: cache, "use_cache": use_cache}
        return LayerInputs(context, self._position_embeddings(inputs_embeds_BND, position_ids), extra)

    def _position_embeddings(self, inputs_embeds_BND, position_ids):
        """(cos, sin) of each layer. A layer keeps its own type of rotary embeddings even if its attention changes."""
        if not self.rope_by_layer_type:
            return [self.rotary_emb(inputs_embeds_BND, position_ids)] * self.config.num_hidden_layers
        types = self.config.layer_types
        by_type = {kind: self.rotary_emb(inputs_embeds_BND, position_ids, kind) for kind in dict.fromkeys(types)}
        return [by_type[kind] for kind in types]

    def run_layer(self, layer, index, hidden_BND, inputs):
        """Run one layer, which may be a variant of the model's own layer `index`: [B, N, D] to [B, N, D]."""
        mask = None
        if layer.mixer is not None:
            mask = inputs.mask(layer, index)
        elif inputs.context.cache is not None:
            inputs.context.cache.layers[index].advance(hidden_BND.shape[1])
        return layer(hidden_BND, attention_mask=mask, position_embeddings=inputs.position_embeddings[index], **inputs.extra)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        inputs_embeds=None,
        use_cache=None,
        output_hidden_states=None,
        **kwargs,
    ):
        """Like the family's own forward; the cache is passed and returned under transformers' name for it."""
        given = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
        cache = next((value for value in given if value is not None), None)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        inputs_embeds = self.embed(input_ids) if inputs_embeds is None else self._multiplied(inputs_embeds)
        if use_cache is None:
            use_cache = self.config.use_cache
        if use_cache and self.training and getattr(self, "gradient_checkpointing", False):
            use_cache = False
        if use_cache and cache is None:
            cache = DynamicCache()
        if kwargs.pop("output_attentions", None) or self.config.output_attentions:
            raise ValueError("a hybrid model does not give attention weights: its layers attend over different tokens")
        if kwargs.get("output_router_logits"):
            raise ValueError("a hybrid model does not give what routers score")
        as_tuple = kwargs.pop("return_dict", True) is False
        inputs = self.prepare(inputs_embeds, attention_mask, position_ids, cache, use_cache, **kwargs)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden, seen = inputs_embeds, []
        for index, layer in enumerate(self.layers):
            if wanted:
                seen.append(hidden)
            hidden = self.run_layer(layer, index, hidden, inputs)
        hidden = self.norm(hidden)
        # Causal language models with experts read the routers' logits of it, which are none.
        output_class = BaseModelOutputWithPast if self.layer_class.moe_class is None else MoeModelOutputWithPast
        outputs = output_class(
            last_hidden_state=hidden, hidden_states=(*seen, hidden) if wanted else None, **{CACHE_NAME: cache}
        )
        return outputs.to_tuple() if as_tuple else outputs

    def new_cache_layers(self, reserved=None):
        """One empty cache layer per decoder layer; full-attention ones preallocate `reserved` tokens if that is given."""
        layers = []
        for index, spec in enumerate(self.config.lbdsl["layers"]):
            mixer = spec["mixer"]
            if mixer is None:
                layers.append(NoCacheLayer())
            else:
                layers.append(part(mixer["kind"]).make_cache(self.config, index, mixer, reserved))
        return layers

    def layer_variant(self, index, spec, made=None):
        """A decoder layer with specification `spec`. It shares all parameters of layer `index` that it uses, except those
        in `made`, which gives new ones by name.

        Parameters that exist only in the variant are initialized by its parts, except those of a linear map stored in
        another form, which must exist or be in `made`. Raises ValueError if weights are missing or of another shape.
        """
        before = self.layers[index]
        ours = dict(before.named_parameters())
        layer = self._new_layer(index, spec, "meta")
        names = [name for name, _ in layer.named_parameters()]
        made = made or {}
        ours = {name: parameter for name, parameter in ours.items() if name not in made}
        new = [name for name in names if name not in ours and name not in made]
        stored = tuple(f"{name}." for name in layer.spec["weights"])
        of_the_family = self._names_of_the_family(index) if new else ()
        lost = sorted(name for name in new if name in of_the_family or f"{name}.".startswith(stored))
        if lost:
            raise ValueError(f"layer {index} has lost the weights that it would need: {', '.join(lost)}")
        shapes = {name: parameter.shape for name, parameter in layer.named_parameters()}
        given = {**ours, **made}
        other = [name for name in names if name in given and shapes[name] != given[name].shape]
        if other:
            raise ValueError(f"layer {index} has weights of another shape than it would need: {', '.join(other)}")
        if new or any(True for _ in layer.buffers()):
            like = next(self.parameters())
            layer = self._new_layer(index, spec, like.device)
            for name in new:
                parameter = layer.get_parameter(name)
                parameter.data = parameter.data.to(like.dtype)
        for name in names:
            if name in given:
                owner, _, leaf = name.rpartition(".")
                value = ours[name] if name in ours else nn.Parameter(made[name])
                setattr(layer.get_submodule(owner), leaf, value)
        for name in ("gradient_checkpointing", "_gradient_checkpointing_func"):
            if hasattr(before, name):
                setattr(layer, name, getattr(before, name))
        self._share_config(layer)
        return layer.train(before.training)

    def _names_of_the_family(self, index):
        layer = self._new_layer(index, native_layers(self.config)[index], "meta")
        return {name for name, _ in layer.named_parameters()}

    def _new_layer(self, index, spec, device):
        config = copy.copy(self.config)
        config.lbdsl = self._with_spec(index, spec)
        with torch.device(device):
            return self.layer_class(config, index)

    def _with_spec(self, index, spec):
        """The `lbdsl` entry with a new specification for one layer; a new object, so that config copies are unaffected."""
        layers = [dict(spec if place == index else old) for place, old in enumerate(self.config.lbdsl["layers"])]
        return {**self.config.lbdsl, "layers": layers}

    def set_layer(self, index, spec, made=None):
        """Rebuild layer `index` with specification `spec` and the new parameters `made`; unused weights are freed."""
        layer = self.layer_variant(index, spec, made)
        self.config.lbdsl = self._with_spec(index, spec)
        self.layers[index] = layer

    def _share_config(self, layer):
        """Make modules use the model's own config, so that later changes (the attention implementation) reach them."""
        for module in layer.modules():
            if getattr(module, "config", None) is not None and isinstance(module, nn.Module):
                module.config = self.config


def _number(config, field):
    return None if field is None else getattr(config, field)


@contextmanager
def _no_layers(config):
    """Context in which `config` has no layers, so that the family's constructor creates everything else."""
    count, config.num_hidden_layers = config.num_hidden_layers, 0
    try:
        yield
    finally:
        config.num_hidden_layers = count


class HybridCausalLMMixin(_Supports):
    """Mixin for the causal language models of all families; the family sets its hybrid `body_class`, and the names of
    the configuration's fields for the logits divisor and the logit softcap."""

    body_class = None
    logits_divisor_field = logit_softcap_field = None
    # Set if lbdsl is installed: writes the runtime's code beside weights that were just saved.
    after_save: object = None

    def __init__(self, config):
        with _no_layers(config):
            super().__init__(config)
        self.model = self.body_class(config)
        self.post_init()

    @property
    def logits_divisor(self):
        return _number(self.config, self.logits_divisor_field)

    @property
    def logit_softcap(self):
        return _number(self.config, self.logit_softcap_field)

    def predict(self, hidden):
        """Logits [..., V] from the hidden states after the last layer, [..., D]: final norm, head, and the family's
        scaling and softcap of logits."""
        logits = self.lm_head(self.model.norm(hidden))
        if self.logits_divisor is not None:
            logits = logits / self.logits_divisor
        cap = self.logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def set_layer(self, index, spec, made=None):
        """Replace layer `index`; see HybridModelMixin.set_layer."""
        self.model.set_layer(index, spec, made)

    @staticmethod
    def create_masks_for_generate(config, inputs_embeds, attention_mask, *_args, **_kwargs):
        """Return the padding mask unchanged: each kind of layer creates its own mask from it in the forward."""
        return attention_mask

    def init_continuous_batching(self, *_args, **_kwargs):
        """Not supported: transformers' continuous batching needs one kind of paged cache and the stock attention mask."""
        raise ValueError(
            "a hybrid model cannot be batched continuously by transformers: its layers hold different "
            "caches; `generate` takes padded batches, and an engine such as vLLM serves an export"
        )

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        hub = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")
        sent = {name: kwargs.pop(name) for name in hub if push_to_hub and name in kwargs}
        super().save_pretrained(save_directory, **kwargs)
        if self.after_save is not None:
            self.after_save(save_directory, self.config)
        if push_to_hub:
            # With the code that was written after the weights.
            self.push_to_hub(sent.pop("repo_id", os.path.basename(os.path.abspath(save_directory))), **sent)
