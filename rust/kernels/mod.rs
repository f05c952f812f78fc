//! Work over rows of logits: each kernel is written once over sixteen lanes and dispatched at run time.
//!
//! A row is read in blocks of 128 values. The first pass keeps each block's maximum, the second each block's
//! sum of exponentials; everything after that looks into the few blocks that matter.

pub mod divergence;
pub mod element;
mod exp;
pub mod philox;
pub mod pool;
pub mod row;
pub mod sample;
pub mod simd;
pub mod threshold;
pub mod topk;
