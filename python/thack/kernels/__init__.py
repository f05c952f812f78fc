"""Row kernels on torch tensors: selection and sampling on any device, divergences on the CPU.

Rust runs on the CPU and torch elsewhere, under the same names. Shape legend: N rows (response tokens), V vocabulary,
K kept ids. Logits are float32, bfloat16 or float16; all arithmetic is in float32 or wider.
"""

from thack.kernels.divergence import cells_divergence_, dense_forward_kl, sparse_divergence, sparse_divergence_
from thack.kernels.select import sample, threshold_sample, topk_logsumexp
from thack.kernels.types import CellMembers, CellRows, SparseRows, ThresholdSample, TopK

__all__ = [
    "CellMembers",
    "CellRows",
    "SparseRows",
    "ThresholdSample",
    "TopK",
    "cells_divergence_",
    "dense_forward_kl",
    "sample",
    "sparse_divergence",
    "sparse_divergence_",
    "threshold_sample",
    "topk_logsumexp",
]
