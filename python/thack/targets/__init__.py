"""What a teacher knows about one batch of response tokens: value types, and the selection that makes them."""

from thack.targets.projected import ProjectedTeacher, Projection
from thack.targets.select import select
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, SparseTarget, Target, TopKTarget

__all__ = [
    "DenseTarget",
    "FrozenHeadTarget",
    "ProjectedTeacher",
    "Projection",
    "SampledTarget",
    "SparseTarget",
    "Target",
    "TopKTarget",
    "select",
]
