"""Whether two models find the facts that are hidden in long texts."""

from __future__ import annotations

import torch

from lbdsl.core.progress import Progress
from lbdsl.data.needle import Haystacks
from lbdsl.evaluate.tasks import Answers, TaskResult
from lbdsl.measure.flow import Flow, Meter, grouped, push, room_for_streams, stream_bytes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.recipe.schema_blocks import task_name


class NeedleTest:
    """Ten facts a text, each asked for after the answers before it. An answer is right if each of its tokens is the most
    probable one behind those before it, which is what greedy decoding gives."""

    def __init__(self, texts: Haystacks):
        self._texts = texts
        self.name = task_name(texts.ids_SN.shape[1])

    def answered(self, base: LayerSource, artifact: LayerSource, progress: Progress) -> TaskResult:
        with progress.stage(f"asking {self.name}") as report:
            meter = Meter(report, base)
            meter.expect(2 * meter.runs(len(self._texts.needles)))
            before, after = (self._right(source, meter, what) for source, what in ((base, "base"), (artifact, "result")))
        texts = list(zip(before, after, strict=True))
        depths = [list(zip(*(model[text] for text in range(len(texts))), strict=True)) for model in (before, after)]
        return TaskResult(
            self.name,
            "answers found",
            self._texts.digest,
            tuple(Answers(len(was), sum(was), sum(now)) for was, now in texts),
            {
                f"{(2 * at + 1) / (2 * self._texts.depths):.0%}": Answers(len(texts), sum(was), sum(now))
                for at, (was, now) in enumerate(zip(*depths, strict=True))
            },
        )

    @torch.inference_mode()
    def _right(self, source: LayerSource, meter: Meter, what: str) -> list[list[bool]]:
        """For each text, whether each of its facts is found."""
        found: list[list[bool]] = []
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
                    right_M = head.predict(flow.base_BND[0][at_M - 1]).argmax(-1) == ids_N[at_M]
                    found.append([bool(part.all()) for part in right_M.split([len(answer) for answer in places])])
                    meter.add(meter.heads(1), f"text {len(found)} of {len(needles)}, {what}")
        return found
