"""Read by vLLM's own workers, which import it: how many threads each computes with."""


class Threads:
    """An extension of the worker's class."""

    def lbdsl_threads(self):
        import torch

        return torch.get_num_threads()
