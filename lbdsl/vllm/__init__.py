"""vLLM plug-in: serves artifacts of lbdsl as they are.

vLLM finds `register` through the entry point `vllm.general_plugins`. This package needs nothing but vLLM and what vLLM
brings; lbdsl's other dependencies need not be installed there. Importing it imports nothing. A family says whether it can
be served, and which module here makes its attention and its MLP (`Family.vllm`).
"""

from __future__ import annotations


def register() -> None:
    """Teach this process of vLLM the architectures and configurations of artifacts. vLLM calls it in each of its own."""
    from vllm import ModelRegistry

    from lbdsl.vllm.configurations import register_configurations
    from lbdsl.vllm.served import served

    register_configurations()
    for name in served().values():
        # By name: importing the classes here would bring a worker's state into processes that have none.
        ModelRegistry.register_model(name, f"lbdsl.vllm.models:{name}")
