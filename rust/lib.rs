//! thack's rows and bytes: selection, sampling and divergences over rows of logits, and the files that
//! keep what a teacher knows.
//!
//! Nothing here knows Python except the `python` module, which the feature of that name switches on.

pub mod bpe;
pub mod codec;
pub mod error;
pub mod kernels;
pub mod shard;

#[cfg(feature = "python")]
mod python;
