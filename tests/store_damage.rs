//! Damaged, cut, swapped, renamed and made-up files: an error or the same data, never a panic.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::faulty::Faulty;
use common::job;
use proptest::prelude::*;
use thack::shard::{Fault, Parts, ShardReader, Storage, Trailer, verify};

fn long() -> bool {
    std::env::var("THACK_LONG").is_ok_and(|value| value == "1")
}

/// A cache whose only shard has about 64 KiB.
fn big_shard() -> (PathBuf, Vec<u8>) {
    let storage = Faulty::default();
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let path = job::shard_path(0);
    job::write_shard(&shared, &path, 0, 0..340).unwrap();
    let bytes = storage.files()[&path].clone();
    assert!((64_000..74_000).contains(&bytes.len()), "{}", bytes.len());
    (path, bytes)
}

fn open(path: &Path, bytes: &[u8]) -> Faulty {
    let storage = Faulty::default();
    storage.put(path, bytes.to_vec());
    storage
}

/// Trap 19: stock safetensors readers accept about half of all bit flips.
#[test]
fn every_flipped_bit_is_detected() {
    let (path, bytes) = big_shard();
    let storage = Faulty::default();
    let mut flipped = bytes.clone();
    let (mut ours, mut stock) = (0usize, 0usize);
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        storage.put(&path, std::mem::take(&mut flipped));
        ours += usize::from(verify(&storage, &path, true).is_err());
        flipped = storage.take(&path);
        if bit % 101 == 0 {
            stock += usize::from(safetensors::SafeTensors::deserialize(&flipped).is_err());
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    let bits = bytes.len() * 8;
    println!("{ours} of {bits} flipped bits detected; the stock reader: {stock} of {}", bits.div_ceil(101));
    assert_eq!(ours, bits);
}

/// Numbers that may be NaN, to compare.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Reading at random from a flipped shard gives an error or what was written.
#[test]
fn reads_of_flipped_shards_give_errors_or_the_same() {
    let (path, bytes) = big_shard();
    let wanted: Vec<u64> = (0..340).step_by(60).collect();
    let reader = |storage: &Faulty| {
        let expected = [("plan".to_owned(), "sha256:of-the-plan".to_owned())].into();
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        thack::shard::CacheReader::new(shared, &job::directory(), vec![0, 340], expected)
    };
    let good = reader(&open(&path, &bytes)).read(&wanted, job::ALL).unwrap();
    let (mut errors, mut same) = (0, 0);
    for bit in (0..bytes.len() * 8).step_by(if long() { 1 } else { 67 }) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match reader(&open(&path, &flipped)).read(&wanted, job::ALL) {
            Err(_) => errors += 1,
            Ok(found) => {
                assert_eq!((&found.records, &found.responses), (&good.records, &good.responses), "bit {bit}");
                assert_eq!(bits(&found.realised), bits(&good.realised), "bit {bit}");
                assert_eq!(
                    (&found.prompts, &found.prompt_ids),
                    (&good.prompts, &good.prompt_ids),
                    "bit {bit}"
                );
                same += 1;
            }
        }
    }
    println!("reads of flipped shards: {errors} errors, {same} unharmed, 0 wrong");
}

#[test]
fn every_truncation_and_extension_is_detected() {
    let (path, bytes) = big_shard();
    let storage = Faulty::default();
    let mut cut = bytes.clone();
    for length in (0..bytes.len()).rev() {
        cut.truncate(length);
        storage.put(&path, std::mem::take(&mut cut));
        assert!(verify(&storage, &path, false).is_err(), "cut to {length}");
        cut = storage.take(&path);
    }
    println!("{} truncations, every one detected", bytes.len());
    for extra in [1, 7, 64, 4096] {
        for fill in [0, 0x20, 0xff] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + extra, fill);
            assert!(verify(&open(&path, &longer), &path, false).is_err());
        }
        let doubled = [&bytes[..], &bytes[bytes.len() - extra..]].concat();
        assert!(verify(&open(&path, &doubled), &path, false).is_err());
    }
}

#[test]
fn zeroed_and_swapped_pages_are_detected() {
    let (path, bytes) = big_shard();
    for page in [512, 4096] {
        let pages = bytes.len() / page;
        for a in 0..pages {
            let mut zeroed = bytes.clone();
            zeroed[a * page..(a + 1) * page].fill(0);
            if zeroed != bytes {
                assert!(verify(&open(&path, &zeroed), &path, true).is_err(), "page {a} of {page} zeroed");
            }
            let b = (a * 7 + 3) % pages;
            let mut swapped = bytes.clone();
            let first = swapped[a * page..(a + 1) * page].to_vec();
            swapped.copy_within(b * page..(b + 1) * page, a * page);
            swapped[b * page..(b + 1) * page].copy_from_slice(&first);
            if swapped != bytes {
                assert!(verify(&open(&path, &swapped), &path, true).is_err(), "pages {a} and {b} swapped");
            }
        }
    }
}

/// A shard under another's name, or of another plan: valid in itself, refused in its place.
#[test]
fn shards_in_the_wrong_place_are_refused() {
    let storage = Faulty::default();
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    job::run(&shared).unwrap();
    let files = storage.files();
    storage.put(&job::shard_path(0), files[&job::shard_path(1)].clone());
    let error = job::reader(&shared).read(&[0], job::ALL).unwrap_err();
    assert!(matches!(error.fault, Fault::Foreign { .. }), "{error}");
    let expected = [("plan".to_owned(), "sha256:another".to_owned())].into();
    let other =
        thack::shard::CacheReader::new(Arc::clone(&shared), &job::directory(), job::firsts(), expected);
    let error = other.read(&[5], job::ALL).unwrap_err();
    assert!(error.to_string().contains("sha256:another"), "{error}");
}

#[test]
fn verify_names_the_chunk() {
    let (path, mut bytes) = big_shard();
    bytes[40_000] ^= 1;
    let error = verify(&open(&path, &bytes), &path, true).unwrap_err();
    assert!(matches!(error.fault, Fault::Chunk { chunk: 2 }), "{error}");
    assert!(error.to_string().contains("shard-00000.safetensors: chunk 2 (from byte 32768)"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if long() { 20_000 } else { 500 }, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes at all.
    #[test]
    fn made_up_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let path = job::shard_path(0);
        prop_assert!(verify(&open(&path, &bytes), &path, true).is_err());
    }
}

/// What is written of each token comes back within half a step, and what is not a number as what it means.
#[test]
fn realised_log_probs_come_back() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    job::run(&storage).unwrap();
    let found = job::reader(&storage).read(&[7, 3], job::ALL).unwrap();
    let written: Vec<f32> = [7, 3].iter().flat_map(|&s| job::realised(s, job::tokens(s).1.len())).collect();
    assert_eq!(found.realised.len(), written.len());
    for (&back, &given) in found.realised.iter().zip(&written) {
        let same = back.to_bits() == given.to_bits() || (back.is_nan() && given.is_nan());
        assert!(same || (back - given).abs() <= 2.5e-4 || (given < -32.0 && back < -32.0), "{given} {back}");
    }
    let tokens_alone = job::reader(&storage).read(&[7], Parts { records: false, realised: true }).unwrap();
    assert!(tokens_alone.records.is_empty() && tokens_alone.realised.len() == job::tokens(7).1.len());
}

/// A code between the deepest number and the first of the other meanings, under good checksums.
#[test]
fn a_code_without_meaning_is_refused() {
    let (path, bytes) = small_shard_with("realised_log_probs", &65_510u16.to_le_bytes());
    let error = verify(&open(&path, &bytes), &path, true).unwrap_err();
    assert!(matches!(error.fault, Fault::Record { token: 0, .. }), "{error}");
    assert!(verify(&open(&path, &bytes), &path, false).is_ok());
}

/// Bytes that only fill up, under good checksums.
#[test]
fn padding_that_is_not_zero_is_refused() {
    let (path, bytes) = small_shard_with("realised_padding", &[1]);
    let error = verify(&open(&path, &bytes), &path, true).unwrap_err();
    assert!(matches!(error.fault, Fault::Index("its padding is not zero")), "{error}");
    assert!(verify(&open(&path, &bytes), &path, false).is_ok());
}

/// A shard with these bytes at the beginning of a tensor, and whose checksums and root are those of its bytes.
fn small_shard_with(tensor: &str, first: &[u8]) -> (PathBuf, Vec<u8>) {
    let path = job::shard_path(0);
    // Of as many sequences as it takes for the tensor to have room: padding may be empty.
    let (header, mut bytes) = (1..9)
        .map(|count| {
            let storage = Faulty::default();
            let shared: Arc<dyn Storage> = Arc::new(storage.clone());
            job::write_shard(&shared, &path, 0, 0..count).unwrap();
            let header = ShardReader::open(&storage, &path).unwrap().header().clone();
            (header, storage.take(&path))
        })
        .find(|(header, _)| header.tensor(tensor).end - header.tensor(tensor).start >= first.len() as u64)
        .unwrap();
    let place = header.tensor(tensor).start as usize;
    bytes[place..place + first.len()].copy_from_slice(first);
    let (checked, end) = (header.checked_length() as usize, header.file_length() as usize);
    let table: Vec<u8> =
        bytes[..checked].chunks(16 << 10).flat_map(|chunk| crc32c::crc32c(chunk).to_le_bytes()).collect();
    bytes[checked..end - 64].copy_from_slice(&table);
    let head = header.length as usize;
    let halves = [blake3::hash(&bytes[..head]), blake3::hash(&bytes[head..end - 64])];
    let root = blake3::hash(&[*halves[0].as_bytes(), *halves[1].as_bytes()].concat());
    let trailer =
        Trailer { file_length: end as u64, table_checksum: crc32c::crc32c(&table), root: *root.as_bytes() };
    bytes[end - 64..].copy_from_slice(&trailer.to_bytes());
    (path, bytes)
}
