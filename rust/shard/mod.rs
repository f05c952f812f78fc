//! Shards: strictly valid safetensors files with checksums, and the cache that they make up.
//!
//! ```text
//! header     u64 length, JSON padded with spaces to 4096 − 8 (mod 4096)
//! records    U8  [tokens, stride]      one fixed-size record per response token
//! prompt_ids U8  [bytes]               stable ids of the prompts, UTF-8, one after the other
//! padding    U8  [0..8]                so that all later numbers are at multiples of their size
//! sequence   I64 [sequences]           number of the sequence in the cache, in the order of storage
//! example, sample                      I64 [sequences]: place in the data set; which response
//! response_starts, prompt_starts, prompt_id_starts   I64 [sequences + 1]
//! response_tokens, prompt_tokens       I32 [tokens], I32 [prompt tokens]
//! realised_log_probs U16 [tokens]      from version 1.1 on: log p of each response token
//! realised_padding   U8 [0 or 2]
//! checksums  U32 [chunks]              CRC32C of every 16 KiB of the file before this tensor
//! trailer    U8  [64]                  length, CRC32C of the table and of itself, BLAKE3 root
//! ```
//!
//! The header is a function of the counts and the metadata: a reader parses it, writes it again and
//! compares bytes, which leaves no room for duplicate keys, holes, overlaps or other dialects. Stock
//! readers accept half of all bit flips silently (pitfall 19); here every byte is under a checksum, and
//! the trailer, being the last tensor, also proves that the file is whole.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "fields say what they hold by name and shape, and each error type lists what can go wrong"
)]

mod cache;
mod checksum;
mod error;
mod header;
mod index;
mod pool;
mod publish;
mod reader;
mod recent;
mod storage;
mod trailer;
mod verify;
mod writer;

pub use cache::{Batch, CacheReader, Parts, shard_name};
pub use error::{Fault, ShardError};
pub use header::{Counts, Header, MAX_HEADER_BYTES};
pub use publish::{Published, TEMPORARY, publish, sweep};
pub use reader::ShardReader;
pub use storage::{FileStorage, ReadFile, Storage, WriteFile};
pub use trailer::Trailer;
pub use verify::{Report, verify};
pub use writer::{Sequence, ShardWriter, Written};
