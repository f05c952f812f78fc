//! Records of fixed size: what is stored of one distribution.
//!
//! A record is one bit stream, least significant bit first, padded with zeros to whole bytes. Its
//! size follows from the layout alone, so that a shard is a plain `[tokens, stride]` array and any
//! token is found by multiplication. Encoding is deterministic, and decoding accepts a byte string
//! only if it is the one that encoding would write for some row: ids increasing and below the
//! vocabulary, finite numbers, zero padding.
//!
//! | kind | record |
//! |---|---|
//! | dense | V × f32 log-probabilities, unchanged |
//! | top-k | f16 top, f16 range, f16 log-tail, f16 log-tail per temperature, K quantised log-probs, K ids |
//! | sampled | τ and largest weight in 15 bits, entropy in 14, K × 4-bit weights, K ids |
//! | projected | f32 entropy, f32 scale, d numbers of a projection of p in f16 or FP8 |
//!
//! Beside each record a shard holds the log-probability of the realised token in 16 bits ([`realised`]).

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::needless_pass_by_value,
    clippy::neg_cmp_op_on_partial_ord,
    reason = "fields say what they hold by name and shape; each error type lists what can go wrong; rows are \
              bundles of borrows; a negated comparison refuses NaN, which is meant"
)]

#[cfg(test)]
mod agreement;
mod bits;
mod column;
mod dense;
mod dither;
mod error;
mod few;
mod ids;
mod layout;
mod minifloat;
mod projected;
pub mod realised;
mod rows;
mod sampled;
mod sampled_row;
mod shape;
mod topk;
mod wide;

pub use dense::DenseLayout;
pub use dither::Dither;
pub use error::{DecodeError, EncodeError, LayoutError};
pub use ids::IdLayout;
pub use layout::{Decoder, Layout};
pub use projected::ProjectedLayout;
pub use rows::{At, SampledRows, SampledRowsMut, TopKRows, TopKRowsMut};
pub use sampled::SampledLayout;
pub use sampled_row::{SampledRow, SampledRowMut};
pub use shape::{TopKRow, TopKRowMut};
pub use topk::TopKLayout;
