//! Every way in which a file is not a valid shard: one variant each, so that the list describes the format.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::codec::{DecodeError, EncodeError, LayoutError};
use crate::error::{Class, Error};

/// What is wrong with a shard.
#[derive(Debug)]
pub enum Fault {
    /// The file system refused.
    Io(io::Error),
    /// Shorter than header, table and trailer together.
    Truncated { length: u64 },
    /// Longer than any shard may be: nothing of it is read.
    TooLong { length: u64 },
    /// The last 64 bytes are not a trailer, or not the one that was written.
    Trailer,
    /// The trailer was written for a file of another length.
    Length { expected: u64, found: u64 },
    /// A header of more than 1 MiB is not parsed.
    HeaderTooLarge { length: u64 },
    /// The header is not the one our writer makes from the same counts and metadata.
    Header(&'static str),
    /// A version of the format that this reader does not know.
    Version { found: String },
    /// A metadata entry is missing or not accepted.
    Metadata(LayoutError),
    /// The table of checksums does not have the checksum that the trailer keeps for it.
    ChecksumTable,
    /// A chunk of 16 KiB does not have its checksum.
    Chunk { chunk: u64 },
    /// All checksums are right but the BLAKE3 root is not: the file was forged, or written by a bug.
    Root,
    /// The index arrays contradict each other.
    Index(&'static str),
    /// Bytes that are not a record or its realised log-probability, with a valid checksum.
    Record { token: u64, error: DecodeError },
    /// A row that cannot be written.
    Row { token: u64, error: EncodeError },
    /// A shard of another plan, another place or another kind.
    Foreign { key: String, expected: String, found: String },
    /// A sequence that this cache does not have.
    NoSuchSequence { sequence: u64, count: u64 },
}

/// A fault and the file that has it.
#[derive(Debug)]
pub struct ShardError {
    pub path: PathBuf,
    pub fault: Fault,
}

impl ShardError {
    pub fn new(path: &Path, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault }
    }

    /// The operating system's number, where it was the file system that refused.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &self.fault {
            Fault::Io(error) => Some(error.kind()),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{}", plain(error)),
            Self::Truncated { length } => write!(f, "truncated: only {length} bytes long"),
            Self::TooLong { length } => write!(f, "{length} bytes are more than a shard can have"),
            Self::Trailer => write!(f, "no valid trailer: it was not finished, or is damaged"),
            Self::Length { expected, found } => write!(f, "{found} bytes long, written with {expected}"),
            Self::HeaderTooLarge { length } => write!(f, "a header of {length} bytes is too large"),
            Self::Header(what) => write!(f, "not a thack shard: {what}"),
            Self::Version { found } => {
                write!(f, "of format {found:?}; this thack reads thack-shard 1 and 1.1")
            }
            Self::Metadata(error) => write!(f, "{error}"),
            Self::ChecksumTable => write!(f, "the table of checksums is damaged"),
            Self::Chunk { chunk } => {
                let first = chunk * super::checksum::CHUNK as u64;
                write!(f, "chunk {chunk} (from byte {first}) does not have its checksum")
            }
            Self::Root => write!(f, "the BLAKE3 root does not match, although every checksum does"),
            Self::Index(what) => write!(f, "its index contradicts itself: {what}"),
            Self::Record { token, error } => write!(f, "token {token}: {error}"),
            Self::Row { token, error } => write!(f, "token {token} cannot be written: {error}"),
            Self::Foreign { key, expected, found } => {
                write!(f, "belongs elsewhere: {key} is {found:?}, expected {expected:?}")
            }
            Self::NoSuchSequence { sequence, count } => {
                write!(f, "no sequence {sequence}: the cache has {count}")
            }
        }
    }
}

/// The message without Rust's "(os error 28)", in lower case like all others.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl fmt::Display for ShardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.fault)
    }
}

impl std::error::Error for ShardError {}

impl From<ShardError> for Error {
    fn from(error: ShardError) -> Self {
        let class = match error.fault {
            Fault::Foreign { .. } => Class::Mismatch,
            Fault::Row { .. } => Class::Model,
            Fault::NoSuchSequence { .. } => Class::Usage,
            _ => Class::Cache,
        };
        let found = Self::new(class, error.to_string());
        match &error.fault {
            Fault::Io(io)
                if matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                found.hint("nothing is lost: free space and run the same command again")
            }
            Fault::Io(io) if io.kind() == io::ErrorKind::PermissionDenied => {
                found.hint("choose another directory, or change its permissions")
            }
            Fault::Version { .. } => found.hint("update thack to read it"),
            Fault::Io(_) | Fault::Foreign { .. } | Fault::Row { .. } | Fault::NoSuchSequence { .. } => found,
            _ => found.hint(
                "delete this file and run the same cache-logits command again: it writes the shard again",
            ),
        }
    }
}
