"""Forward KL over the whole vocabulary from one vector a token, where the student's head W is frozen.

With logits z = s·W·h of hidden states h, and m = Wᵀp:

    KL(p‖q) = −H(p) − Σ_v p_v log q_v = −H(p) − s·h·m + LSE(z)          gradient by h: s·(Wᵀq − m)

So m and H(p) are all that it needs of the teacher: exact for every p, up to the rounding of m. An error δ of m moves
the gradient by s·‖δ‖ and the value by s·|h·δ|, whatever the student does. Defined at temperature 1, and for a head
without bias or bound; where W is trained, its gradient needs p itself.

Two parts: LSE(z) goes through the logits, which only the fused head sees, chunk by chunk; −s·h·m is linear in h.
C tokens of a chunk, H hidden width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack.targets.types import FrozenHeadTarget


def log_sum_exp_(logits_CV: Tensor) -> Tensor:
    """LSE(z) of each row, with the rows overwritten by its gradient, the softmax."""
    found_C = torch.logsumexp(logits_CV, dim=1)
    logits_CV.sub_(found_C[:, None]).exp_()
    return found_C


def linear_part(hidden_NH: Tensor, target: FrozenHeadTarget, scale: float) -> Tensor:
    """−H(p) − s·h·m of each token, differentiable in the hidden states; float32 at least."""
    dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
    product_N: Tensor = (hidden_NH.to(dtype) * target.mean_NH.to(dtype)).sum(dim=1)
    return -target.entropy_N.to(dtype) - scale * product_N
