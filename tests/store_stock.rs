//! Differential fuzzing against the safetensors crate: what we accept it accepts, and reads the same.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::faulty::Faulty;
use common::job;
use proptest::prelude::*;
use safetensors::SafeTensors;
use thack::shard::{Sequence, ShardReader, ShardWriter, Storage};

fn cases() -> u32 {
    if std::env::var("THACK_LONG").is_ok_and(|value| value == "1") { 50_000 } else { 400 }
}

fn small_shard() -> Vec<u8> {
    let storage = Faulty::default();
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let path = job::shard_path(0);
    job::write_shard(&shared, &path, 0, 0..3).unwrap();
    storage.take(&path)
}

/// Both readers on the same bytes; where ours accepts, the other must see the same.
fn compare(path: &Path, bytes: &[u8]) -> Result<bool, TestCaseError> {
    let storage = Faulty::default();
    storage.put(path, bytes.to_vec());
    let Ok(reader) = ShardReader::open(&storage, path) else { return Ok(false) };
    let stock = SafeTensors::deserialize(bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(stock.names().len(), reader.header().tensors.len());
    for tensor in &reader.header().tensors {
        let view = stock.tensor(tensor.name).unwrap();
        prop_assert_eq!(view.data(), &bytes[tensor.start as usize..tensor.end as usize]);
        let shape: Vec<usize> = tensor.shape.iter().map(|&axis| axis as usize).collect();
        prop_assert_eq!(view.shape(), &shape[..]);
        prop_assert_eq!(view.dtype().to_string(), tensor.dtype);
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let theirs = metadata.metadata().clone().unwrap();
    prop_assert_eq!(
        theirs.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        reader.header().metadata.clone()
    );
    Ok(true)
}

/// One change to the JSON of a header, as another writer or an attacker might make it.
fn mutate(json: &str, kind: usize, at: usize, value: u64) -> String {
    let digits: Vec<(usize, &str)> = json.match_indices(|c: char| c.is_ascii_digit()).collect();
    let entries: Vec<usize> = json.match_indices("},\"").map(|(place, _)| place).collect();
    let marks: Vec<usize> = json.match_indices([',', ':', '[', '{']).map(|(place, _)| place).collect();
    match kind {
        0 => {
            // Another number.
            let (place, _) = digits[at % digits.len()];
            let end = json[place..].find(|c: char| !c.is_ascii_digit()).map_or(json.len(), |n| place + n);
            format!("{}{value}{}", &json[..place], &json[end..])
        }
        1 => {
            // An entry twice.
            let (from, to) = (entries[at % (entries.len() - 1)], entries[at % (entries.len() - 1) + 1]);
            format!("{}{}{}", &json[..to], &json[from + 1..to], &json[to..])
        }
        2 => {
            // An entry left out: a hole.
            let (from, to) = (entries[at % (entries.len() - 1)], entries[at % (entries.len() - 1) + 1]);
            format!("{}{}", &json[..from], &json[to..])
        }
        3 => {
            // White space, which means nothing.
            let place = marks[at % marks.len()] + 1;
            format!("{}{}{}", &json[..place], [" ", "\t", "\n"][value as usize % 3], &json[place..])
        }
        4 => json.replacen("U8", ["I8", "BOOL", "F8_E4M3", "U16"][value as usize % 4], 1 + at % 4),
        5 => json.replacen("\"kind\"", ["\"kind\\u0000\"", "\"\"", "\"plan\""][value as usize % 3], 1),
        6 => json.replacen("\"k\":\"8\"", ["\"k\":8", "\"k\":null", "\"k\":[\"8\"]"][value as usize % 3], 1),
        7 => json.replacen("records", ["r\\u0065cords", "Records", "records\\u0000"][value as usize % 3], 1),
        _ => json.replacen(
            "\"checksums\":",
            "\"extra\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"checksums\":",
            1,
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes of the header, and a file cut short.
    #[test]
    fn bytes_changed_at_random(
        edits in prop::collection::vec((0usize..4200, any::<u8>()), 0..3),
        cut in 0usize..3,
    ) {
        let mut bytes = small_shard();
        for (at, value) in edits {
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        compare(&job::shard_path(0), &bytes)?;
    }

    /// A header that means something else, or the same in other words, over a body that is whole.
    #[test]
    fn headers_in_other_words(
        changes in prop::collection::vec((0usize..9, any::<usize>(), prop_oneof![0u64..5000, any::<u64>()]), 1..4),
    ) {
        let bytes = small_shard();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let (head, body) = bytes[8..].split_at(length);
        let original = std::str::from_utf8(head).unwrap().trim_end();
        let mut json = original.to_owned();
        for (kind, at, value) in changes {
            json = mutate(&json, kind, at, value);
        }
        let mut padded = json.clone().into_bytes();
        padded.resize(length.max(json.len()), b' ');
        let changed = [&(padded.len() as u64).to_le_bytes(), &padded[..], body].concat();
        let accepted = compare(&job::shard_path(0), &changed)?;
        prop_assert_eq!(accepted, json == original, "{}", json);
    }

    /// Whatever we write, of any sizes and names, both read.
    #[test]
    fn whatever_is_written_is_read_by_both(
        sequences in prop::collection::vec(("\\PC{0,12}", 1usize..40, 1usize..70), 1..12),
        mut metadata in prop::collection::btree_map("[a-z\"\\\\é ]{1,8}", "\\PC{0,20}", 0..4),
        minor in 0usize..2,
        stride in 1usize..90,
    ) {
        metadata.insert("format".to_owned(), ["thack-shard 1", "thack-shard 1.1"][minor].to_owned());
        let storage = Faulty::default();
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        let path = job::shard_path(7);
        let mut writer = ShardWriter::create(shared, &path, metadata, stride).unwrap();
        for (number, (prompt_id, prompt, response)) in sequences.iter().enumerate() {
            let (prompt, response): (Vec<i32>, Vec<i32>) =
                ((0..*prompt as i32).collect(), (0..*response as i32).map(|i| i * 3).collect());
            writer.records(&vec![number as u8; response.len() * stride]).unwrap();
            let (number, realised) = (number as u64, job::realised(number as u64, response.len()));
            writer.sequence(Sequence {
                sequence: number, example: number, sample: 0, prompt_id, prompt: &prompt, response: &response,
                realised: if minor == 1 { &realised } else { &[] },
            }).unwrap();
        }
        writer.finish().unwrap();
        let bytes = storage.take(&path);
        prop_assert!(compare(&path, &bytes)?);
        let index = { storage.put(&path, bytes); ShardReader::open(&storage, &path).unwrap().index().unwrap() };
        prop_assert_eq!(index.sequence.iter().collect::<Vec<_>>(), (0..sequences.len() as u64).collect::<Vec<_>>());
    }
}
