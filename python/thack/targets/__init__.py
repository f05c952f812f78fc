"""What a teacher knows about one batch of response tokens."""

from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget

__all__ = ["DenseTarget", "SampledTarget", "Target", "TopKTarget"]
