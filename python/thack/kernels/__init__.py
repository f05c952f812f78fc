"""Row kernels on torch tensors: Rust on the CPU, torch elsewhere; the same names, chosen by device.

Shape legend: N rows (response tokens), V vocabulary, K kept ids. Logits are float32, bfloat16 or float16; all
arithmetic is in float32 or wider.
"""

from thack.kernels.divergence import sparse_divergence, sparse_divergence_
from thack.kernels.select import TopK, sample, threshold_sample, topk_logsumexp

__all__ = ["TopK", "sample", "sparse_divergence", "sparse_divergence_", "threshold_sample", "topk_logsumexp"]
