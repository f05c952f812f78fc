//! Checks a whole shard: every checksum, the root, the index and every record.

use std::collections::BTreeMap;
use std::path::Path;

use super::checksum::CHUNK;
use super::error::{Fault, ShardError};
use super::header::REALISED;
use super::index::Column;
use super::reader::ShardReader;
use super::storage::{Storage, read_exact_at};
use super::trailer;
use crate::codec::{Layout, realised};

/// What a valid shard holds.
#[derive(Debug, Clone)]
pub struct Report {
    pub tokens: u64,
    pub sequences: u64,
    pub file_length: u64,
    pub root: [u8; 32],
    pub metadata: BTreeMap<String, String>,
}

/// Records decoded at a time.
const ROWS: u64 = 64;

/// Opens a shard and, with `full`, reads and decodes all of it. Memory stays bounded.
pub fn verify(storage: &dyn Storage, path: &Path, full: bool) -> Result<Report, ShardError> {
    let reader = ShardReader::open(storage, path)?;
    let layout = reader.layout()?;
    let index = reader.index()?;
    if full {
        check_bytes(&reader).map_err(|fault| ShardError::new(path, fault))?;
        check_tokens(&reader, &layout)?;
        check_prompt_ids(&reader, &index.prompt_id_starts)?;
        check_padding(&reader)?;
        check_records(&reader, &layout)?;
        check_realised(&reader)?;
    }
    let counts = reader.header().counts;
    Ok(Report {
        tokens: counts.tokens,
        sequences: counts.sequences,
        file_length: reader.trailer().file_length,
        root: reader.trailer().root,
        metadata: reader.header().metadata.clone(),
    })
}

/// Every chunk and the root over all of them.
fn check_bytes(reader: &ShardReader) -> Result<(), Fault> {
    let header = reader.header();
    let (head, checked) = (header.length, header.checked_length());
    let end = header.tensor("checksums").end;
    let mut body = blake3::Hasher::new();
    let mut chunk = 0;
    let mut at = 0;
    let mut buffer = vec![0u8; CHUNK];
    while at < end {
        // Chunks before the table; the table itself is read in pieces of its own.
        let stop = if at < checked { (at + CHUNK as u64).min(checked) } else { (at + CHUNK as u64).min(end) };
        let part = &mut buffer[..(stop - at) as usize];
        read_exact_at(reader.file(), part, at).map_err(Fault::Io)?;
        if at < checked && reader.checksums()[chunk as usize] != super::checksum::of(part) {
            return Err(Fault::Chunk { chunk });
        }
        let skipped = head.saturating_sub(at).min(stop - at);
        body.update(&part[skipped as usize..]);
        chunk += 1;
        at = stop;
    }
    if trailer::root(&header.to_bytes(), &body) != reader.trailer().root {
        return Err(Fault::Root);
    }
    Ok(())
}

fn check_tokens(reader: &ShardReader, layout: &Layout) -> Result<(), ShardError> {
    let limit = layout.vocab_size();
    let counts = reader.header().counts;
    for (name, count, fault) in [
        ("response_tokens", counts.tokens, "a response token beyond the vocabulary"),
        ("prompt_tokens", counts.prompt_tokens, "a prompt token below zero"),
    ] {
        let is_response = name == "response_tokens";
        let mut at = 0;
        while at < count {
            let stop = (at + CHUNK as u64).min(count);
            let bytes = reader.tensor(name, 4, at, stop)?;
            let good = bytes.chunks_exact(4).all(|part| {
                let id = i32::from_le_bytes([part[0], part[1], part[2], part[3]]);
                id >= 0 && (!is_response || (id as u32) < limit)
            });
            if !good {
                return Err(ShardError::new(reader.path(), Fault::Index(fault)));
            }
            at = stop;
        }
    }
    Ok(())
}

fn check_realised(reader: &ShardReader) -> Result<(), ShardError> {
    let count = if reader.header().has_realised() { reader.header().counts.tokens } else { 0 };
    let mut at = 0;
    while at < count {
        let stop = (at + CHUNK as u64).min(count);
        let bytes = reader.tensor(REALISED, 2, at, stop)?;
        for (token, part) in (at..).zip(bytes.chunks_exact(2)) {
            let outcome = realised::decode(u16::from_le_bytes([part[0], part[1]]));
            outcome.map_err(|error| ShardError::new(reader.path(), Fault::Record { token, error }))?;
        }
        at = stop;
    }
    Ok(())
}

fn check_prompt_ids(reader: &ShardReader, starts: &Column) -> Result<(), ShardError> {
    for (start, end) in starts.iter().zip(starts.iter().skip(1)) {
        let bytes = reader.tensor("prompt_ids", 1, start, end)?;
        if std::str::from_utf8(&bytes).is_err() {
            return Err(ShardError::new(reader.path(), Fault::Index("a prompt id is not UTF-8")));
        }
    }
    Ok(())
}

fn check_padding(reader: &ShardReader) -> Result<(), ShardError> {
    for tensor in &reader.header().tensors {
        if tensor.name.ends_with("padding") {
            let bytes = reader.tensor(tensor.name, 1, 0, tensor.end - tensor.start)?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Err(ShardError::new(reader.path(), Fault::Index("its padding is not zero")));
            }
        }
    }
    Ok(())
}

fn check_records(reader: &ShardReader, layout: &Layout) -> Result<(), ShardError> {
    let counts = reader.header().counts;
    let mut decoder = layout.decoder();
    let mut at = 0;
    while at < counts.tokens {
        let stop = (at + ROWS).min(counts.tokens);
        let bytes = reader.tensor("records", counts.stride, at, stop)?;
        for (token, record) in (at..).zip(bytes.chunks_exact(layout.stride())) {
            let outcome = decoder.check(record);
            outcome.map_err(|error| ShardError::new(reader.path(), Fault::Record { token, error }))?;
        }
        at = stop;
    }
    Ok(())
}
