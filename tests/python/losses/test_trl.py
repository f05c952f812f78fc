"""Agreement with TRL 1.16: `trl.experimental.gkd.GKDTrainer.generalized_jsd_loss`, loss and gradient, to 1e-6."""

from __future__ import annotations

import pytest
import torch

from thack.losses import jsd
from thack.targets.types import DenseTarget

CASES = [(beta, t) for beta in (0.0, 0.01, 0.1, 0.5, 0.9, 1.0) for t in (0.7, 1.0, 2.0)]


@pytest.mark.filterwarnings("ignore")  # it brings transformers' trainers, which warn about themselves
def test_generalised_jsd_is_that_of_trl() -> None:
    pytest.importorskip("trl", reason="SKIPPED: TRL is not installed (make test installs it; by hand: the group `trl`)")
    pytest.importorskip("datasets", reason="SKIPPED: TRL needs the package datasets")
    from trl.experimental.gkd import GKDTrainer

    generator = torch.Generator().manual_seed(11)
    student = torch.randn(3, 5, 37, generator=generator, dtype=torch.float64) * 2
    teacher = torch.randn(3, 5, 37, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(37, (3, 5), generator=generator)
    labels[0, :2] = labels[2, 3:] = -100
    valid = labels != -100
    for beta, temperature in CASES:
        theirs = student.clone().requires_grad_()
        expected = GKDTrainer.generalized_jsd_loss(theirs, teacher, labels, beta=beta, temperature=temperature)
        expected.backward()
        ours = student.clone().requires_grad_()
        target = DenseTarget(log_probs_NV=torch.log_softmax(teacher[valid], 1))
        # TRL leaves T² out (pitfall 3), of the loss and of its gradient alike.
        loss = jsd(ours[valid], target, beta=beta, temperature=temperature).mean() / temperature**2
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6), (beta, temperature)
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-6)
