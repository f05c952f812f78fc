//! A shard's header: a function of its counts and metadata, and its strict inverse.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::error::Fault;
use super::{checksum, trailer};

/// Larger headers are refused before any parsing.
pub const MAX_HEADER_BYTES: u64 = 1 << 20;
/// No shard is longer, has more tokens or more sequences: what a reader allocates stays bounded.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 34;
pub(super) const MAX_SEQUENCES: u64 = 1 << 19;
const MAX_TOKENS: u64 = 1 << 31;
/// Headers are padded to this, so that the records are aligned and the header can be written last.
const ALIGNMENT: usize = 4096;
/// The tensor of the log-probabilities of the realised tokens.
pub(super) const REALISED: &str = "realised_log_probs";
/// The metadata entry that names the version of the format, and how all of ours begin.
const FORMAT: &str = "format";
const FAMILY: &str = "thack-shard";
/// Versions that are read: 1.0, and 1.1 with the log-probability of each realised token.
const WITHOUT_REALISED: &str = "thack-shard 1";
const WITH_REALISED: &str = "thack-shard 1.1";

/// How many of everything a shard holds: with the metadata, all that its header depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub stride: u64,
    pub tokens: u64,
    pub sequences: u64,
    pub prompt_tokens: u64,
    pub prompt_id_bytes: u64,
}

/// One tensor: where its bytes are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: &'static str,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub start: u64,
    pub end: u64,
}

/// A parsed or planned header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub metadata: BTreeMap<String, String>,
    pub counts: Counts,
    /// Bytes before the first tensor.
    pub length: u64,
    pub tensors: Vec<Tensor>,
}

/// Whether shards with this metadata hold the log-probability of each realised token. Refuses later versions.
fn has_realised(metadata: &BTreeMap<String, String>) -> Result<bool, Fault> {
    match metadata.get(FORMAT).map_or("", String::as_str) {
        WITH_REALISED => Ok(true),
        found if found.starts_with(FAMILY) && found != WITHOUT_REALISED => {
            Err(Fault::Version { found: found.to_owned() })
        }
        _ => Ok(false),
    }
}

impl Header {
    /// The layout of a shard with these counts. Fails where a count is beyond what a shard can hold.
    pub fn new(metadata: BTreeMap<String, String>, counts: Counts) -> Result<Self, Fault> {
        let realised = has_realised(&metadata)?;
        let length = reserved_length(&metadata, realised)?;
        let tensors = place(counts, length, realised)
            .ok_or(Fault::Header("its counts are beyond what a shard can hold"))?;
        Ok(Self { metadata, counts, length, tensors })
    }

    /// The first bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.length - 8).to_le_bytes().to_vec();
        bytes.extend_from_slice(render(&self.metadata, &self.tensors, self.length).as_bytes());
        bytes.resize(self.length as usize, b' ');
        bytes
    }

    /// Parses the JSON part and accepts it only if this is the header that [`Header::new`] gives.
    pub fn from_json(json: &[u8]) -> Result<Self, Fault> {
        let value: Value =
            serde_json::from_slice(json).map_err(|_| Fault::Header("its header is not JSON"))?;
        let metadata =
            value.get("__metadata__").and_then(strings).ok_or(Fault::Header("it has no metadata"))?;
        let counts = counts(&value).ok_or(Fault::Header("its tensors are not those of a shard"))?;
        let header = Self::new(metadata, counts)?;
        if header.to_bytes()[8..] == *json {
            Ok(header)
        } else {
            Err(Fault::Header("its header is not the one that thack writes"))
        }
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> &Tensor {
        let found = self.tensors.iter().find(|tensor| tensor.name == name);
        found.unwrap_or(&self.tensors[0])
    }

    /// Whether it has the log-probability of each realised token.
    #[must_use]
    pub fn has_realised(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.name == REALISED)
    }

    /// Where checksummed bytes end and the table of checksums begins.
    #[must_use]
    pub fn checked_length(&self) -> u64 {
        self.tensor("checksums").start
    }

    /// Length of the whole file.
    #[must_use]
    pub fn file_length(&self) -> u64 {
        self.tensor("trailer").end
    }
}

fn strings(value: &Value) -> Option<BTreeMap<String, String>> {
    let pairs = value.as_object()?.iter();
    pairs.map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn counts(value: &Value) -> Option<Counts> {
    let dimension = |name: &str, axis: usize| value.get(name)?.get("shape")?.get(axis)?.as_u64();
    Some(Counts {
        tokens: dimension("records", 0)?,
        stride: dimension("records", 1)?,
        sequences: dimension("sequence", 0)?,
        prompt_tokens: dimension("prompt_tokens", 0)?,
        prompt_id_bytes: dimension("prompt_ids", 0)?,
    })
}

/// Room for the header whatever the counts turn out to be.
fn reserved_length(metadata: &BTreeMap<String, String>, realised: bool) -> Result<u64, Fault> {
    let widest = Counts {
        stride: MAX_TOKENS / 2, // the product must not overflow; it has more digits than any real one
        tokens: MAX_TOKENS,
        sequences: MAX_TOKENS,
        prompt_tokens: MAX_TOKENS,
        prompt_id_bytes: MAX_TOKENS,
    };
    let tensors = offsets(widest, 0, realised).unwrap_or_default();
    let length = (8 + render(metadata, &tensors, 0).len()).next_multiple_of(ALIGNMENT) as u64;
    if length > MAX_HEADER_BYTES { Err(Fault::HeaderTooLarge { length }) } else { Ok(length) }
}

fn place(counts: Counts, header_length: u64, realised: bool) -> Option<Vec<Tensor>> {
    let within = counts.tokens <= MAX_TOKENS
        && counts.stride <= 4 * MAX_TOKENS
        && counts.sequences <= MAX_SEQUENCES
        && counts.prompt_tokens <= MAX_TOKENS
        && counts.prompt_id_bytes <= MAX_TOKENS;
    let tensors = if within { offsets(counts, header_length, realised)? } else { return None };
    (tensors.last()?.end <= MAX_FILE_BYTES).then_some(tensors)
}

/// All tensors, one after the other.
fn offsets(counts: Counts, header_length: u64, realised: bool) -> Option<Vec<Tensor>> {
    let records = counts.tokens.checked_mul(counts.stride)?;
    let padding = (8 - records.checked_add(counts.prompt_id_bytes)? % 8) % 8;
    let (sequences, starts) = (counts.sequences, counts.sequences + 1);
    let mut tensors = Vec::with_capacity(15);
    let mut at = header_length;
    let mut add = |name, dtype, size: u64, shape: &[u64]| -> Option<u64> {
        let length = shape.iter().try_fold(size, |all, &axis| all.checked_mul(axis))?;
        let end = at.checked_add(length)?;
        tensors.push(Tensor { name, dtype, shape: shape.to_vec(), start: at, end });
        at = end;
        Some(end)
    };
    add("records", "U8", 1, &[counts.tokens, counts.stride])?;
    add("prompt_ids", "U8", 1, &[counts.prompt_id_bytes])?;
    add("padding", "U8", 1, &[padding])?;
    for name in ["sequence", "example", "sample"] {
        add(name, "I64", 8, &[sequences])?;
    }
    for name in ["response_starts", "prompt_starts", "prompt_id_starts"] {
        add(name, "I64", 8, &[starts])?;
    }
    add("response_tokens", "I32", 4, &[counts.tokens])?;
    let mut end = add("prompt_tokens", "I32", 4, &[counts.prompt_tokens])?;
    if realised {
        add(REALISED, "U16", 2, &[counts.tokens])?;
        end = add("realised_padding", "U8", 1, &[2 * (counts.tokens % 2)])?;
    }
    add("checksums", "U32", 4, &[checksum::count(end)])?;
    add("trailer", "U8", 1, &[trailer::LENGTH as u64])?;
    Some(tensors)
}

/// The JSON without its padding.
fn render(metadata: &BTreeMap<String, String>, tensors: &[Tensor], header_length: u64) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let pairs: Vec<String> =
        metadata.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
    let mut json = format!("{{\"__metadata__\":{{{}}}", pairs.join(","));
    for tensor in tensors {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let (start, end) = (tensor.start - header_length, tensor.end - header_length);
        let _ = write!(
            json,
            ",\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{start},{end}]}}",
            tensor.name,
            tensor.dtype,
            shape.join(",")
        );
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let metadata =
            [("kind", "top-k"), ("plan", "sha256:\"ä\\")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let counts = Counts { stride: 44, tokens: 7, sequences: 2, prompt_tokens: 9, prompt_id_bytes: 5 };
        Header::new(metadata.into(), counts).unwrap()
    }

    /// One of a minor version.
    fn versioned(version: &str) -> Result<Header, Fault> {
        let Header { mut metadata, counts, .. } = header();
        metadata.insert(FORMAT.to_owned(), version.to_owned());
        Header::new(metadata, counts)
    }

    #[test]
    fn a_header_comes_back() {
        for header in [header(), versioned(WITHOUT_REALISED).unwrap(), versioned(WITH_REALISED).unwrap()] {
            let bytes = header.to_bytes();
            assert_eq!(bytes.len() % 4096, 0);
            assert_eq!(Header::from_json(&bytes[8..]).unwrap(), header);
        }
    }

    #[test]
    fn versions_have_their_tensors_and_later_ones_are_refused() {
        assert_eq!(versioned(WITHOUT_REALISED).unwrap().tensors.len(), 13);
        assert_eq!(versioned(WITH_REALISED).unwrap().tensors.len(), 15);
        for later in ["thack-shard 1.2", "thack-shard 2", "thack-shard", "thack-shard 1.0"] {
            assert!(matches!(versioned(later), Err(Fault::Version { found }) if found == later));
        }
    }

    #[test]
    fn numbers_stand_at_multiples_of_their_size() {
        let tensors = [header().tensors, versioned(WITH_REALISED).unwrap().tensors].concat();
        for tensor in &tensors {
            let size = match tensor.dtype {
                "I64" => 8,
                "I32" | "U32" => 4,
                "U16" => 2,
                _ => 1,
            };
            assert_eq!(tensor.start % size, 0, "{}", tensor.name);
        }
    }

    #[test]
    fn other_dialects_are_refused() {
        let json = String::from_utf8(header().to_bytes()[8..].to_vec()).unwrap();
        for (from, to) in [
            ("\"kind\":\"top-k\"", "\"kind\":\"top-k\",\"kind\":\"top-k\""),
            ("[7,44]", "[7, 44]"),
            ("[7,44]", "[44,7]"),
            ("[7,44]", "[9223372036854775807,44]"),
            ("\"U8\"", "\"I8\""),
            ("[0,308]", "[1,308]"),
            ("\"trailer\"", "\"trailor\""),
            ("{\"__metadata__\"", "[\"__metadata__\""),
        ] {
            assert!(json.contains(from), "{from}");
            let changed = json.replacen(from, to, 1);
            assert!(Header::from_json(changed.as_bytes()).is_err(), "{to}");
            let same_length = &changed.as_bytes()[..json.len().min(changed.len())];
            assert!(Header::from_json(same_length).is_err(), "{to}");
        }
    }
}
