//! Row kernels: one pass over a row of logits, then work on the few blocks that matter.
