"""The losses of healing, computed so that tokens x vocabulary logits never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lbdsl.measure.predictions import chunk_tokens


class _ChunkedKL(torch.autograd.Function):
    """Mean KL(teacher || student) over N tokens; the gradient to the student's hidden states is made in the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        student_ND: Tensor,
        head_VD: Tensor,
        teacher_ND: Tensor,
        teacher_head_VD: Tensor,
        chunk: int,
        cap: float | None,
    ) -> Tensor:
        tokens = student_ND.shape[0]
        total = torch.zeros((), dtype=torch.float64, device=student_ND.device)
        grad_ND = torch.empty_like(student_ND) if ctx.needs_input_grad[0] else None
        head_cast_VD = head_VD.to(student_ND.dtype)
        for start in range(0, tokens, chunk):
            part = slice(start, start + chunk)
            teacher_logp_CV = F.log_softmax(_capped((teacher_ND[part] @ teacher_head_VD.T).float(), cap), dim=-1)
            student_CV = _capped((student_ND[part] @ head_cast_VD.T).float(), cap)
            student_logp_CV = F.log_softmax(student_CV, dim=-1)
            teacher_p_CV = teacher_logp_CV.exp()
            total += (teacher_p_CV * (teacher_logp_CV - student_logp_CV)).sum().double()
            if grad_ND is not None:
                # d KL / d student logits = p_student - p_teacher; in place, the buffers are not needed again.
                diff_CV = student_logp_CV.exp_().sub_(teacher_p_CV)
                if cap is not None:
                    # d cap tanh(x / cap) / dx = 1 - tanh(x / cap)^2
                    diff_CV.mul_(1 - (student_CV / cap).square_())
                grad_ND[part] = diff_CV.to(head_cast_VD.dtype) @ head_cast_VD
        if grad_ND is not None:
            ctx.save_for_backward(grad_ND)
            ctx.tokens = tokens
        return (total / tokens).to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_ND,) = ctx.saved_tensors
        # Only now, when the scale of mixed precision is known: a gradient already divided by the tokens is 0 in float16.
        return (grad_ND * (grad_outputs[0] / ctx.tokens)).to(grad_ND.dtype), None, None, None, None, None


def _capped(logits_CV: Tensor, cap: float | None) -> Tensor:
    return logits_CV if cap is None else cap * torch.tanh(logits_CV / cap)


def chunked_kl(
    student_ND: Tensor,
    head_VD: Tensor,
    teacher_ND: Tensor,
    teacher_head_VD: Tensor,
    *,
    chunk: int | None = None,
    cap: float | None = None,
) -> Tensor:
    """Mean over N tokens of KL(softmax(teacher @ teacher_head') || softmax(student @ head')), in nats; a scalar.

    At most `chunk` x V logits of each model (by default what suits the device) exist at a time, in fp32; gradients flow
    to `student_ND` alone (the head is not trained). `cap` bounds the logits as Gemma 2 does. Hinton et al. 2015 (arXiv
    1503.02531), temperature 1.
    """
    if head_VD.requires_grad:
        raise ValueError("the head is not trained in healing: freeze it, or its gradient would be lost")
    chunk = chunk or chunk_tokens(student_ND.device.type)
    return _ChunkedKL.apply(student_ND, head_VD, teacher_ND.to(teacher_head_VD.dtype), teacher_head_VD, chunk, cap)


def hidden_loss(student_LBND: list[Tensor], teacher_LBND: list[Tensor]) -> Tensor:
    """Mean over layers of ||s - t||^2 / ||t||^2, residual streams after each layer; a scalar without unit."""
    if len(student_LBND) != len(teacher_LBND) or not student_LBND:
        raise ValueError("hidden states of the same, at least one, layers are compared")
    terms = []
    for student_BND, teacher_BND in zip(student_LBND, teacher_LBND, strict=True):
        target = teacher_BND.detach().float()
        terms.append((student_BND.float() - target).square().sum() / target.square().sum().clamp_min(1e-12))
    return torch.stack(terms).mean()
