"""Words that users of model compression may write and that the language does not have: what it has instead."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from lbdsl.core import nearest

_UNTIL = "`lowest by SCORE until kv(32Ki) <= 50% ACTION` takes as few layers as a budget needs"
_CONDITION = "a rule's condition stands before its action, as in `where nll < 0.1 drop`"
_COSTS = "`assert` knows `kv(CTX)`, `flops(CTX)` and `params`"
_QUALITY = "`ppl_increase`, `kl_healed` and `agreement` compare the finished model with its base"
_SCORES = "scores are `nll`, `kl`, `influence` and `sensitivity`"
_HEAL = "`heal` has `tokens`, `batch`, `lr`, `method` and `loss`"
_DROP = "`drop` removes attentions, `drop(mlp)` MLPs and `drop(block)` whole layers"
_WIDTH = "`width(75%)` keeps the channels of an MLP that matter most"
_QUANTIZE = "`quantize(bits=4)` says how many bits; it can be planned, but not applied in this version"

ROWS: tuple[tuple[str, str, str], ...] = (
    # where, the words, what to say. "" is anywhere that no other row knows the word.
    # Weights and cache in fewer bits
    (
        "",
        "kv_quantize quantize_kv kv_quant quantize_cache kv_cache_quantize quantize_kv_cache kv_bits kv_int8 kv_fp8",
        "the language has no quantization of the KV cache; `swa(window=...)` and `drop` make the cache smaller",
    ),
    ("parameter", "kv cache", "the KV cache cannot be quantized or chosen by itself; `swa(window=...)` makes it smaller"),
    (
        "",
        "awq gptq rtn hqq smoothquant bnb bitsandbytes autoround aqlm quip quarot spinquant",
        f"the language has no choice of quantization method; {_QUANTIZE}",
    ),
    ("parameter", "method scheme algorithm", f"there is no choice of quantization method; {_QUANTIZE}"),
    (
        "",
        "fp8 fp4 nf4 mxfp4 nvfp4 fp8_e4m3 float8 float4 ternary binary",
        f"the language has no floating-point, ternary or binary weights; {_QUANTIZE}",
    ),
    ("", "int2 int3 int4 int8 w4a16 w8a16 q4 q8 q4_0 q4_k_m q8_0 four_bit", f"a format is said by its bits; {_QUANTIZE}"),
    (
        "",
        "w8a8 w4a8 w4a4 activations activation_bits",
        "activations stay as they are: `quantize(bits=8)` is of weights only; and this version plans it only",
    ),
    (
        "",
        "symmetric asymmetric zero_point scale",
        "how weights are rounded cannot be chosen; `quantize` has `bits` and `group`",
    ),
    # Pruning
    (
        "",
        "prune pruning sparse sparsity sparsify wanda sparsegpt unstructured semi_structured masking",
        f"the language has no pruning of single weights or sparsity such as 2:4; {_DROP}; {_WIDTH}",
    ),
    (
        "",
        "heads head prune_heads drop_heads head_pruning remove_heads",
        "the language has no action, selector or score for single heads; `lowest 4 by nll drop` drops whole attentions, "
        "and `kv_heads(1)` lets query heads share KV heads",
    ),
    ("", "gqa mqa merge_heads share_heads num_kv_heads", "`kv_heads(1)` makes one KV head of all, `kv_heads(n)` n of them"),
    (
        "",
        "mla share_kv cla cross_layer kv_sharing tie tie_layers share",
        "the language has no latent attention, and layers share no keys and values; `kv_heads(1)` merges the KV heads of a "
        "layer",
    ),
    ("parameter", "average avg pool pooling mean_pool meanpool", "KV heads are averaged with `method=mean`"),
    (
        "",
        "narrow intermediate intermediate_size ffn_width slim channels neurons prune_mlp shrink",
        f"an MLP is narrowed by its channels: {_WIDTH}",
    ),
    ("", "hidden_size hidden_dim", f"the language has no action that changes the hidden size; {_WIDTH}"),
    (
        "",
        "svd low_rank lowrank rank_reduce factorize slicegpt pca decompose",
        f"the language has no low-rank weights; {_DROP}",
    ),
    (
        "",
        "vocab vocabulary prune_vocab vocab_prune trim_vocab embedding embeddings embed lm_head tokenizer embed_tokens",
        "the language has no action on the vocabulary, the embeddings or the LM head; rules are about layers",
    ),
    (
        "",
        "moe experts expert router mixture merge_experts",
        "the language has no action on experts; mixture-of-experts models are not supported",
    ),
    ("", "skip remove delete discard bypass identity ablate", f"the word for this is `drop`: {_DROP}"),
    (
        "statement",
        "ignore exclude skip_modules",
        "rules are about layers and the modules in them; embeddings and `lm_head` are never changed",
    ),
    (
        "",
        "none nothing noop no_op pass ignore preserve unchanged",
        "a layer stays as it is with `keep`; `else` is every layer left",
    ),
    # Order and number of layers
    (
        "",
        "merge merging average fuse fold slerp soup collapse",
        "the language has no merging of layers; `drop(block)` removes a layer whole",
    ),
    (
        "",
        "swap reorder permute move repeat duplicate copy loop recur recurrent insert add upscale",
        "the language cannot repeat, move or add layers; it can only remove one whole: `drop(block)`",
    ),
    # Attention
    (
        "",
        "linear linear_attention mamba mamba2 ssm rwkv retnet deltanet gla lolcats performer gated_delta hyena state_space",
        "the language has no linear attention or state-space layer; `swa(window=512)` makes the cost linear in length",
    ),
    (
        "",
        "window sliding sliding_window local local_attention windowed swin attention_window",
        "a sliding window is `swa(window=512)`",
    ),
    ("parameter", "length window_size tokens", "the window's size is `window`, as in `swa(window=512)`"),
    (
        "parameter",
        "size width",
        "a window's size is `window`, as in `swa(window=512)`, an MLP's is `channels`, as in `width(channels=75%)`",
    ),
    (
        "",
        "dilated dilation global global_attention block_sparse bigbird longformer strided stride random_attention",
        "the language has no dilated, global or block-sparse attention; `swa(window=512, sinks=4)` is a sliding window",
    ),
    (
        "",
        "streaming_llm streamingllm streaming sink attention_sink attention_sinks sinks",
        "sinks belong to a window, as in `swa(window=512, sinks=4)`; that is StreamingLLM's cache",
    ),
    (
        "",
        "h2o snapkv pyramidkv eviction evict scissorhands tova quest compress compress_kv",
        "the language has no eviction of tokens by score; `swa(window=512, sinks=4)` keeps the last tokens and the first",
    ),
    (
        "",
        "rope yarn ntk rope_scaling rope_theta theta alibi nope context_extension longrope extend positions",
        "the language has no action on position embeddings or context length; they stay the base model's",
    ),
    (
        "",
        "softcap attention_temperature qk_norm logit_softcap attention_scale",
        "the language cannot change how attention computes its scores; `swa` limits which tokens it sees",
    ),
    # Values
    (
        "",
        "latency throughput speed speedup time ttft tpot tokens_per_second tps qps milliseconds energy power cost",
        f"the language has no measured speed; {_COSTS}, and `lbdsl plan` prints a bound for decoding",
    ),
    (
        "",
        "memory vram ram peak_memory gpu_memory footprint",
        f"the language has no value for memory as a whole; {_COSTS}, and `kv(CTX)` is in bytes",
    ),
    (
        "",
        "size bytes weight_bytes model_size disk file_size",
        "the bytes of a model's weights are `weights`, as in `assert weights <= 90%`",
    ),
    ("parameter", "weights", "`quantize` is about weights already: the bits are `bits`"),
    ("", "kv_cache kvcache cache kv_size cache_size", "the bytes of the KV cache are `kv(CTX)`, as in `kv(32Ki) <= 50%`"),
    ("", "macs compute gflops tflops", "the computation of a token is `flops(CTX)`, as in `flops(8Ki) <= 80%`"),
    ("", "parameters num_params param_count nparams", "the number of parameters is `params`, as in `params <= 90%`"),
    (
        "score",
        "perplexity ppl loss cross_entropy ce",
        "perplexity under an action is scored as `nll(ACTION)`: 0.1 is about 10.5 % more perplexity",
    ),
    (
        "",
        "perplexity ppl",
        "there is no gate on perplexity itself; `ppl_increase < 5%` compares it with the base's; `lbdsl eval` prints both",
    ),
    (
        "",
        "mmlu hellaswag arc arc_easy arc_challenge winogrande gsm8k piqa boolq truthfulqa humaneval lambada "
        "ifeval bbh accuracy acc f1 bleu rouge task tasks benchmark benchmarks lm_eval score judge elo",
        f"the language has no benchmarks or tasks; {_QUALITY}",
    ),
    (
        "",
        "magnitude norm weight_norm l1 l2 fisher hessian taylor gradient gradients grad saliency importance entropy "
        "attention_entropy variance rank cka shapley",
        f"the language has no score from weights, gradients or attention patterns; {_SCORES}",
    ),
    (
        "",
        "cosine similarity angular redundancy bi block_influence",
        "`influence` is 1 - cosine, of the attention or of the whole layer with `influence(block)`",
    ),
    (
        "",
        "mean median avg average_score max min quantile percentile percent std sum threshold count abs sqrt log",
        "the language has no functions over scores; `lowest 50% by SCORE` takes a share of the layers",
    ),
    ("", "random rand shuffle", f"nothing in the language is random; {_SCORES}"),
    (
        "fact",
        "type name kind class arch model_type model",
        'the kind of model is `model.family`, as in `model.family == "llama"`, or `model.architecture`',
    ),
    ("fact", "moe experts", "the facts tell nothing of experts; mixture-of-experts models are not supported"),
    (
        "fact",
        "quantization quantized quant bits",
        "the facts tell nothing of quantization; `model.dtype` is the weights' number format",
    ),
    ("fact", "window sliding_window", "the facts tell nothing of windows; `lbdsl inspect MODEL` shows each layer's"),
    (
        "fact",
        "memory vram size_bytes gpu device",
        "the facts are the model's, not the machine's; `model.params` counts parameters",
    ),
    ("fact", "size num_params parameters", "the number of parameters is `model.params`"),
    (
        "fact",
        "context context_length max_length ctx seq max_position_embeddings",
        "the context is `model.positions`, as in `>= 8Ki`",
    ),
    ("fact", "num_layers num_hidden_layers depth n_layers", "the number of layers is `model.layers`"),
    ("fact", "hidden_size d_model dim", "the hidden size is `model.hidden`"),
    ("fact", "head", "the number of heads is `model.heads`"),
    ("fact", "num_heads n_heads num_attention_heads", "the number of heads is `model.heads`"),
    ("fact", "num_key_value_heads num_kv_heads", "the number of KV heads is `model.kv_heads`"),
    ("fact", "vocab_size", "the size of the vocabulary is `model.vocab`"),
    ("score", "window sliding_window", f"a layer's own window is no score; {_SCORES}"),
    ("score", "random rand", f"nothing in the language is random; {_SCORES}"),
    ("score", "latency speed time cost size memory flops_per_layer", f"layers are not ranked by their cost; {_SCORES}"),
    (
        "score",
        "attention mlp ffn layer_type is_attention has_attention full full_attention",
        f"layers cannot be chosen by their type; {_SCORES}",
    ),
    # Settings
    (
        "",
        "epoch epochs steps max_steps num_steps iterations num_epochs train_steps",
        "the length of healing is `tokens` seen, as in `heal { tokens = 200k }`; 3 epochs are 3 times the text's",
    ),
    ("setting", "samples num_samples n_samples examples limit", "the amount of text is `tokens`"),
    ("", "learning_rate", "the learning rate is `lr`"),
    ("", "batch_size bs micro_batch per_device_batch", "the batch size is `batch`, in `heal`"),
    (
        "",
        "gradient_accumulation accumulation grad_accum gradient_accumulation_steps gradient_checkpointing",
        f"the language has no gradient accumulation or checkpointing; {_HEAL}",
    ),
    ("", "max_length max_seq_len seq_len sequence_length seqlen context", "the length of a sequence is `seq`"),
    (
        "",
        "optimizer adam adamw sgd muon lion betas eps momentum",
        f"the optimizer cannot be chosen; {_HEAL}",
    ),
    (
        "",
        "scheduler schedule lr_scheduler lr_schedule cosine_schedule warmup warmup_steps decay anneal",
        f"the learning rate's schedule cannot be chosen; `lr` is the peak; {_HEAL}",
    ),
    (
        "",
        "weight_decay dropout clip grad_clip max_grad_norm clipping ema label_smoothing regularization",
        f"the language has no such setting of the training; {_HEAL}",
    ),
    (
        "",
        "early_stopping early_stop patience val validation val_data eval_every best checkpoint",
        "the language has no early stopping; healing ends after `tokens`, and `assert ppl_increase < 5%` judges the result",
    ),
    (
        "",
        "teacher teacher_model student reference ref",
        "the teacher is always the base model itself; another one cannot be named",
    ),
    (
        "",
        "temperature kd_temperature tau softmax_temperature",
        "the temperature of the distillation is fixed; `loss` is `kl` or `kl + 0.1 * hidden`",
    ),
    ("choice", "adamw sgd", f"the optimizer cannot be chosen; {_HEAL}"),
    (
        "choice",
        "latency throughput speed memory",
        "speed and memory are not measured; `eval` reports `perplexity`, `kl` and `agreement`",
    ),
    (
        "choice",
        "ce mse kd l2 l1 cosine cross_entropy kl_div jsd logits sft dpo",
        "healing distils: `loss` is `kl` or `kl + 0.1 * hidden`",
    ),
    (
        "choice",
        "qlora dora lora_plus loraplus loha lokr olora vera adapter prefix ia3 peft rslora",
        "the language has no adapters but LoRA; healing trains `lora(rank=16, alpha=32)` or `full` weights",
    ),
    ("statement", "params kv flops budget", "a budget is a gate: `assert params <= 100M`, or `assert kv(8Ki) <= 50%`"),
    ("parameter", "groups", "`group` is the number of weights in a group, not of groups"),
    ("parameter", "norm layernorm rmsnorm", "norms go with their part: `drop`, `drop(mlp)` and `drop(block)`"),
    ("action", "replace", "the language has no other mixer to put in; `swa(window=512)` and `drop` change attention"),
    (
        "statement",
        "prune",
        "the language cannot prune weights, heads, embeddings or the vocabulary; it removes attentions, MLPs and layers",
    ),
    (
        "",
        "sft dpo rlhf grpo ppo chat instruct chat_template template prompt prompts system orpo pretrain",
        "healing only distils from the base model; the language has no SFT or preference training. "
        '`heal { data = "chats.jsonl" }` reads chats as text',
    ),
    ("", "lora qlora dora adapter adapters peft", "LoRA is a method of healing: `heal { method = lora(rank=16) }`"),
    ("setting", "rank alpha target_modules", "it belongs to LoRA: `method = lora(rank=16, alpha=32)`"),
    (
        "",
        "distill distillation finetune fine_tune retrain recover train training kd",
        "healing is a block: `heal { tokens = 200k }`",
    ),
    (
        "",
        "freeze frozen unfreeze trainable train_layers requires_grad",
        "the language cannot freeze layers, and `keep` does not: healing trains all of them, by `lora(rank=16)` or `full`",
    ),
    (
        "",
        "device devices gpu cuda cpu gpus dtype precision float16 bfloat16 bf16 fp16 float32 fp32",
        "a recipe names no device or number format; they are options of the command line, as in `lbdsl plan --device cuda`",
    ),
    (
        "",
        "output out output_dir save save_to export path format gguf onnx safetensors vllm push push_to_hub",
        "a recipe names no output; `lbdsl apply -o FOLDER` saves and `lbdsl export FOLDER --to gguf` exports",
    ),
    (
        "",
        "model base base_model checkpoint_path pretrained from_pretrained",
        "a recipe names no model; it is given on the command line, as in `lbdsl plan RECIPE MODEL`",
    ),
    ("statement", "data dataset datasets corpus text", 'data stands in a block, as in `measure { data = "file.txt" }`'),
    ("", "dataset datasets corpus data_path", 'the text is `data`, as in `data = "file.txt"`'),
    (
        "statement",
        "seed seq tokens batch lr method loss metric metrics trials",
        "this is a setting of a block, as in `measure { seed = 0; tokens = 8Ki }`",
    ),
    (
        "",
        "strategy greedy iterative sequential exhaustive algorithm",
        f"layers are scored each by itself, and no other strategy can be chosen; {_UNTIL}",
    ),
    (
        "",
        "offload cpu_offload disk_offload low_memory",
        "a recipe says nothing of where the model is kept; `lbdsl plan --low-memory` reads it layer by layer",
    ),
    (
        "",
        "tensor_parallel parallel tp pp fsdp deepspeed ddp distributed world_size zero shard pipeline_parallel workers",
        "a recipe says nothing of parallel or distributed runs; lbdsl runs on one device",
    ),
    (
        "",
        "speculative speculative_decoding draft draft_model medusa eagle lookahead early_exit layerskip",
        "the language has no speculative decoding or early exit; it changes the layers of one model",
    ),
    # Statements
    (
        "",
        "if elif elseif elsif then case switch match",
        f"the language has no `if`; {_CONDITION}, and `requires` says what the model must be",
    ),
    (
        "",
        "when unless provided",
        "a condition is said with `where` or `where not`, before the action: `layers 0-9 where nll < 0.1 drop`",
    ),
    (
        "",
        "for foreach while do map each range",
        "the language has no loops; a rule is about all the layers that it names: `layers 0-3 keep`",
    ),
    (
        "",
        "function fn func def define lambda macro return class",
        "the language has no functions; `let $x = ...` names a value and `group @x = ...` a set of layers",
    ),
    ("", "import use require load from_file source", 'another file is taken in with `include "FILE"`'),
    (
        "",
        "set const var assign",
        "a value is named with `let $x = 512`, or with `param $x: tokens = 512` where `--set` may change it",
    ),
    ("", "print echo show debug", "a recipe prints nothing; `lbdsl plan` shows what every rule takes"),
    (
        "",
        "budget allocate allocation constraint constrain limit goal optimize optimise objective pareto",
        f"the language does not choose actions for a budget; {_UNTIL}, and `assert` refuses a plan that is over it",
    ),
    (
        "",
        "grid sweep trial bayesian optuna autotune vary minimize maximize hyperparameters",
        "a value that may vary is `param $x: tokens in 64..512 = 64`; `--set x=128` tries another one, and a later version "
        "tries several",
    ),
    ("", "stages phase step", "healing has one stage: `heal { tokens = 200k }`"),
    ("statement", "ensure expect check must gate guard", "a gate is `assert`, as in `assert ppl_increase < 5%`"),
    (
        "statement",
        "test evaluate evaluation benchmark validate",
        "the finished model is judged in a block: `eval { tokens = 16Ki }`",
    ),
    ("statement", "calibrate calibration calib profile", "calibration is a block: `measure { tokens = 8Ki }`"),
    ("statement", "target", f"there is no target for a whole recipe; {_UNTIL}, and a gate is `assert kv(32Ki) <= 50%`"),
    ("statement", "any every each", "a rule about every layer begins with `layers all`; what is left is `else`"),
    ("statement", "log", "a recipe prints nothing; `lbdsl plan` shows what every rule takes"),
    ("statement", "random", "nothing in the language is random; layers are chosen by number or by score"),
    ("statement", "default otherwise rest others remaining", "every layer that is left is `else`, as in `else keep`"),
    ("", "otherwise default", "every layer that is left is `else`, as in `else keep`"),
    (
        "statement",
        "top bottom best worst most least smallest largest",
        "ranked layers are `lowest 5 by nll drop` or `highest 5 by nll keep`",
    ),
    (
        "statement",
        "name title description version author",
        'a recipe has `recipe "NAME"` and `lbr 1`; other notes stand in comments, after `#`',
    ),
    (
        "statement",
        "block attention mlp attn ffn",
        "a rule about layers begins with `layers`, one about weights with `modules`",
    ),
    # Sets of layers, and words between
    (
        "set",
        "odd even alternate alternating other second third",
        "`every 2` is the even layers, `every 2 from 1` the odd ones",
    ),
    (
        "set",
        "attention mlp ffn attn full full_attention local dense type kind named sliding linear mamba moe",
        "layers are chosen by number or score, not by type; the action says which part: `drop` the attention, "
        "`drop(mlp)` the MLP",
    ),
    ("set", "any some", "every layer is `all`"),
    ("set", "none nothing", "there is no empty set of layers; leave the rule out"),
    (
        "set",
        "top bottom best worst most least smallest largest",
        "ranked layers are `lowest 5 by nll` or `highest 5 by nll`",
    ),
    ("set", "random", "nothing in the language is random; layers are chosen by number or by score"),
    (
        "set",
        "half quarter early late beginning end deep shallow middle_third",
        "parts of the model are `first 50%`, `last 25%` and `middle 10`",
    ),
    ("set", "then also", "actions of one rule join with `+`, as in `swa(window=512) + drop(mlp)`"),
    ("set", "step stride", "a step is `every 4`, or `every 4 from 1`"),
    (
        "set",
        "between is are has above below greater less than",
        "conditions compare with `<`, `<=`, `>`, `>=`, `==`, as in `where 0.01 <= nll < 0.1 drop`",
    ),
    ("set", "asc ascending desc descending reverse", "`lowest` takes the smallest scores and `highest` the largest"),
    (
        "set",
        "with to into via using as instead",
        "the action follows the layers at once, as in `layers 0-3 swa(window=512)`",
    ),
)


@cache
def _table() -> dict[tuple[str, str], str]:
    return {(where, word): said for where, words, said in ROWS for word in words.split()}


@cache
def _words() -> frozenset[str]:
    return frozenset(word for _, word in _table())


def wish(name: str, where: str) -> str | None:
    """What to say of a word that the language does not have. `where` is an action, score, value, setting, choice, fact,
    parameter, statement or set."""
    word, table = name.lower().replace("-", "_"), _table()
    return table.get((where, word)) or table.get(("", word))


def slip(name: str, choices: Iterable[str]) -> str | None:
    """The one choice that `name` is a slip of the keyboard for; a word with a meaning of its own is none."""
    return None if name.lower() in _words() else nearest.slip(name, choices)
