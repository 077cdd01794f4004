"""Whether two models find the facts that are hidden in long texts."""

from __future__ import annotations

import math

import torch

from lbdsl.core.progress import Progress
from lbdsl.data.needle import Haystacks
from lbdsl.evaluate.tasks import TaskResult, answers_of, summed
from lbdsl.measure.answers import first_choices
from lbdsl.measure.flow import Flow, Meter, grouped, push, room_for_streams, stream_bytes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import base_not_finite
from lbdsl.recipe.schema_blocks import task_name


class NeedleTest:
    """Up to ten facts a text, each asked for after the answers before it. An answer is right if each of its tokens is the
    most probable one behind those before it, which is what greedy decoding gives."""

    def __init__(self, texts: Haystacks):
        self._texts = texts
        self.name = task_name(texts.ids_SN.shape[1])

    def answered(self, base: LayerSource, artifact: LayerSource | None, progress: Progress) -> TaskResult:
        models = {"base": base} if artifact is None else {"base": base, "result": artifact}
        with progress.stage(f"asking {self.name}") as report:
            meter = Meter(report, base)
            meter.expect(len(models) * meter.runs(len(self._texts.needles)))
            right = [self._right(source, meter, what) for what, source in models.items()]
        if any(math.isnan(share) for text in right[0] for share in text):
            raise base_not_finite(f"in {self.name}")
        # By text and depth.
        found = [answers_of(of_text) for of_text in zip(*right, strict=True)]
        return TaskResult(
            self.name,
            "answers found",
            self._texts.digest,
            tuple(map(summed, found)),
            {
                f"{(2 * at + 1) / (2 * self._texts.depths):.0%}": summed(of_depth)
                for at, of_depth in enumerate(zip(*found, strict=True))
            },
        )

    @torch.inference_mode()
    def _right(self, source: LayerSource, meter: Meter, what: str) -> list[list[float]]:
        """For each text, 1 for each of its facts that is found, else 0; NaN where likelihoods are not finite."""
        found: list[list[float]] = []
        ids_SN, needles = self._texts.ids_SN, self._texts.needles
        room = 0.0 if source.in_memory else room_for_streams(source)
        for group in grouped(ids_SN.split(1), lambda ids_BN: 3 * stream_bytes(source, 1, ids_BN.shape[1]), room):
            flows = [Flow(ids_BN.to(source.device)) for ids_BN in group]
            push(source, flows, meter.layers_of(flows, f"text {len(found) + 1} of {len(needles)}, {what}"))
            with source.head() as head:
                for flow in flows:
                    ids_N = flow.ids_BN[0]
                    places = needles[len(found)]
                    at_M = torch.tensor([place for answer in places for place in answer], device=ids_N.device)
                    logits_MV = head.predict(flow.base_BND[0][at_M - 1])
                    first_M = first_choices(torch.log_softmax(logits_MV, dim=-1, dtype=torch.float32), ids_N[at_M])
                    found.append([float(part.prod()) for part in first_M.split([len(answer) for answer in places])])
                    meter.add(meter.heads(1), f"text {len(found)} of {len(needles)}, {what}")
        return found
