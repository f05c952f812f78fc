//! Every way in which a row cannot be written, or bytes are not a record.

use std::fmt;

/// A row that has no record: the caller's data is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EncodeError {
    /// Ids must be strictly increasing; the place of the first that is not.
    IdsNotIncreasing { at: usize },
    /// An id at or beyond the vocabulary.
    IdBeyondVocabulary { id: i64, vocab_size: u32 },
    /// A number that is NaN, or infinite where it cannot be, or a positive log-probability.
    BadNumber { field: &'static str, value: f32 },
    /// A count of valid ids outside 1..=K.
    BadCount { count: i64, k: usize },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdsNotIncreasing { at } => write!(f, "ids are not increasing at place {at}"),
            Self::IdBeyondVocabulary { id, vocab_size } => {
                write!(f, "id {id} is outside the vocabulary of {vocab_size}")
            }
            Self::BadNumber { field, value } => write!(f, "{field} is {value}"),
            Self::BadCount { count, k } => write!(f, "count {count} is outside 1..={k}"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// Bytes that no row would have been written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The unary part of the ids does not have exactly K ones.
    WrongIdCount,
    /// Ids that do not increase.
    IdsNotIncreasing,
    /// An id at or beyond the vocabulary.
    IdBeyondVocabulary,
    /// A field that holds NaN or a value which its meaning excludes.
    BadNumber(&'static str),
    /// Bits after the last field that are not zero.
    Padding,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongIdCount => write!(f, "the record does not have exactly k ids"),
            Self::IdsNotIncreasing => write!(f, "the record's ids do not increase"),
            Self::IdBeyondVocabulary => write!(f, "the record has an id outside the vocabulary"),
            Self::BadNumber(field) => write!(f, "the record's {field} is not a valid number"),
            Self::Padding => write!(f, "the record's padding is not zero"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Metadata that is not a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutError {
    /// The entry that is missing or not accepted.
    pub key: &'static str,
    /// What it says.
    pub value: String,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata {} = {:?} is not accepted", self.key, self.value)
    }
}

impl std::error::Error for LayoutError {}
