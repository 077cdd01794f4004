"""The healing losses, computed in chunks so that logits of all tokens x vocabulary never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lbdsl.heal.processes import average
from lbdsl.measure.predictions import chunk_tokens


class _ChunkedKL(torch.autograd.Function):
    """Mean KL(teacher || student) over N tokens; the gradient for the student's hidden states is computed in `forward`."""

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
        # A batch of chats may have no token that counts.
        tokens = average(torch.tensor(float(len(student_ND)), device=student_ND.device)).clamp_min(1.0)
        total = torch.zeros((), dtype=torch.float64, device=student_ND.device)
        grad_ND = torch.empty_like(student_ND) if ctx.needs_input_grad[0] else None
        # A trained final norm is in fp32; the head is frozen, and computes in its own dtype as it does when it serves.
        computed_ND = student_ND.to(head_VD.dtype)
        for start in range(0, len(student_ND), chunk):
            part = slice(start, start + chunk)
            teacher_logp_CV = F.log_softmax(_capped((teacher_ND[part] @ teacher_head_VD.T).float(), cap), dim=-1)
            student_CV = _capped((computed_ND[part] @ head_VD.T).float(), cap)
            student_logp_CV = F.log_softmax(student_CV, dim=-1)
            teacher_p_CV = teacher_logp_CV.exp()
            total += (teacher_p_CV * (teacher_logp_CV - student_logp_CV)).sum().double()
            if grad_ND is not None:
                # d KL / d student logits = p_student - p_teacher; in place, as the buffers are not needed again.
                diff_CV = student_logp_CV.exp_().sub_(teacher_p_CV)
                if cap is not None:
                    # d cap tanh(x / cap) / dx = 1 - tanh(x / cap)^2
                    diff_CV.mul_(1 - (student_CV / cap).square_())
                grad_ND[part] = diff_CV.to(head_VD.dtype) @ head_VD
        if grad_ND is not None:
            ctx.save_for_backward(grad_ND)
            ctx.tokens = tokens
        return (total / tokens.double()).to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_ND,) = ctx.saved_tensors
        # Divide by `tokens` only here, after the loss scale of mixed precision is applied: before, float16 underflows to 0.
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

    At most `chunk` x V logits of each model exist at a time, in fp32 (the default suits the device). Gradients flow only
    to `student_ND` (the head is not trained). `cap` is a logit softcap as in Gemma 2. Source: Hinton et al. 2015 (arXiv
    1503.02531), temperature 1. Of several processes each divides by the mean of their tokens, so that the mean of their
    losses is that over all tokens; the other losses do so, too.
    """
    if head_VD.requires_grad:
        raise ValueError("the head is not trained in healing: freeze it, or its gradient would be lost")
    chunk = chunk or chunk_tokens(student_ND.device.type)
    return _ChunkedKL.apply(student_ND, head_VD, teacher_ND.to(teacher_head_VD.dtype), teacher_head_VD, chunk, cap)


def hidden_loss(student_LBND: list[Tensor], teacher_LBND: list[Tensor]) -> Tensor:
    """Mean over layers of ||s - t||^2 / ||t||^2, for the hidden states after each layer; a dimensionless scalar."""
    if len(student_LBND) != len(teacher_LBND) or not student_LBND:
        raise ValueError("hidden states of the same, at least one, layers are compared")
    terms = []
    for student_BND, teacher_BND in zip(student_LBND, teacher_LBND, strict=True):
        target = teacher_BND.detach().float()
        terms.append((student_BND.float() - target).square().sum() / average(target.square().sum()).clamp_min(1e-12))
    return torch.stack(terms).mean()


def layer_loss(student_BND: Tensor, before_BND: Tensor, after_BND: Tensor) -> Tensor:
    """||s - t||^2 / ||t - x||^2 for a layer's output, the base's, and its input; a dimensionless scalar. 1 is the loss of
    a layer that does nothing."""
    before, target = before_BND.detach().float(), after_BND.detach().float()
    return (student_BND.float() - target).square().sum() / average((target - before).square().sum()).clamp_min(1e-12)
