"""What a teacher knows about one batch of response tokens: value types, and the selection that makes them."""

from thack.targets.projected import ProjectedTeacher, Projection
from thack.targets.select import select
from thack.targets.types import DenseTarget, SampledTarget, SparseTarget, Target, TopKTarget

__all__ = [
    "DenseTarget",
    "ProjectedTeacher",
    "Projection",
    "SampledTarget",
    "SparseTarget",
    "Target",
    "TopKTarget",
    "select",
]
