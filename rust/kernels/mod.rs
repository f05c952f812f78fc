//! Work over rows of logits: each kernel is written once over sixteen lanes and dispatched at run time.

pub mod element;
pub mod simd;
