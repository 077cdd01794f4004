"""vLLM plug-in: serves lbdsl artifacts without conversion.

vLLM finds `register` through the entry point `vllm.general_plugins`. This package needs only vLLM and its dependencies;
lbdsl's other dependencies need not be installed. Importing it imports nothing else. `Family.vllm` declares whether a family
can be served, and which module of this package creates its attention and MLP.
"""

from __future__ import annotations


def register() -> None:
    """Register the artifacts' architectures and configurations. vLLM calls it in each of its processes."""
    from vllm import ModelRegistry

    from lbdsl.vllm.configurations import register_configurations
    from lbdsl.vllm.served import served

    register_configurations()
    for name in served().values():
        # By name: importing the classes here would initialize worker state in processes that are not workers.
        ModelRegistry.register_model(name, f"lbdsl.vllm.models:{name}")
