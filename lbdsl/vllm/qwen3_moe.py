"""vLLM's layers of Qwen 3 with experts; its attention is Qwen 3's, and its MLP, where there is one, Qwen 2's."""

from __future__ import annotations

from lbdsl.vllm.olmoe import moe
from lbdsl.vllm.qwen2 import mlp
from lbdsl.vllm.qwen3 import attention

__all__ = ["attention", "mlp", "moe"]
