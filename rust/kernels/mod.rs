//! Work over rows of logits: each kernel is written once over sixteen lanes and dispatched at run time.
//!
//! A row is read once, in blocks of 128 values, of which it keeps the maximum and the sum of exponentials (`pass`);
//! everything after that looks into the few blocks that matter (`sweep`, `topk`).

pub mod divergence;
pub mod element;
mod exp;
mod kth;
mod pass;
pub mod philox;
pub mod pool;
pub mod row;
pub mod sample;
pub mod simd;
mod sweep;
pub mod threshold;
pub mod topk;
