//! The fuzz target's corpus and mutations of it, for machines without nightly Rust and cargo-fuzz (`make fuzz`).

#[path = "../fuzz/decode.rs"]
mod decode;

use std::fs;
use std::path::PathBuf;

use decode::{Shape, check};
use proptest::prelude::*;
use thack::codec::{Dither, SampledRow, TopKRow};

fn corpus_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode")
}

fn corpus() -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(corpus_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn the_corpus_holds() {
    let corpus = corpus();
    assert!(corpus.len() >= 12, "{} files in {}", corpus.len(), corpus_dir().display());
    for data in &corpus {
        check(data);
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Flip(u16, u8),
    Set(u16, u8),
    Cut(u16),
    /// From another file, at the same place.
    Splice(u16, u16, u8),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        (any::<u16>(), 0u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        any::<u16>().prop_map(Edit::Cut),
        (any::<u16>(), any::<u16>(), any::<u8>())
            .prop_map(|(at, length, file)| Edit::Splice(at, length, file)),
    ];
    prop::collection::vec(edit, 1..8)
}

fn apply(data: &mut Vec<u8>, edit: &Edit, corpus: &[Vec<u8>]) {
    let place = |at: u16, length: usize| usize::from(at) % length.max(1);
    let length = data.len();
    match *edit {
        _ if length == 0 => {}
        Edit::Flip(at, bit) => data[place(at, length)] ^= 1 << bit,
        Edit::Set(at, byte) => data[place(at, length)] = byte,
        Edit::Cut(at) => data.truncate(place(at, length)),
        Edit::Splice(at, count, file) => {
            let other = &corpus[usize::from(file) % corpus.len()];
            let start = place(at, length.min(other.len()));
            let end = (start + place(count, 64)).min(length).min(other.len());
            data[start..end].copy_from_slice(&other[start..end]);
        }
    }
}

fn config() -> ProptestConfig {
    let long = std::env::var("THACK_LONG").is_ok_and(|value| value == "1");
    let cases = if long { 1_000_000 } else { 5_000 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn mutations_of_the_corpus_hold(file: u8, edits in edits()) {
        let corpus = corpus();
        let mut data = corpus[usize::from(file) % corpus.len()].clone();
        for edit in &edits {
            apply(&mut data, edit, &corpus);
        }
        check(&data);
    }
}

/// Writes the corpus: a valid record of every kind of layout. Run with `cargo test -- --ignored write_the_corpus`
/// after a change of the format, and commit what it wrote.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_corpus() {
    fs::create_dir_all(corpus_dir()).unwrap();
    // options: 1 sampled, 2 eight bits, 4 tail, 8 one temperature; k − 1; index of the vocabulary
    let shapes =
        [[6, 63, 9], [4, 63, 9], [14, 63, 7], [0, 63, 10], [6, 63, 8], [7, 15, 9], [1, 3, 9], [1, 0, 0]]
            .into_iter()
            .chain([[6, 0, 0], [2, 62, 2], [6, 9, 4], [1, 129, 5], [22, 127, 11], [4, 1, 1]]);
    for shape in shapes {
        let mut data = shape.to_vec();
        data.extend(valid_record(shape));
        let name = shape.map(|byte: u8| byte.to_string()).join("-");
        fs::write(corpus_dir().join(name), data).unwrap();
    }
}

fn valid_record(shape: [u8; 3]) -> Vec<u8> {
    let dither = Dither::new(1, shape.map(u64::from));
    match Shape::read(shape) {
        Shape::TopK(layout) => {
            let (k, mut record) = (layout.k(), vec![0; layout.stride()]);
            let values: Vec<f32> = (0..k as u64).map(|i| -9.0 * dither.uniform(i)).collect();
            let row = TopKRow {
                ids: &spread_ids(k, layout.vocab_size()),
                log_probs: &values,
                log_tail: -1.5,
                log_tail_at: &vec![0.5; layout.num_temperatures()],
            };
            layout.encode(row, &mut vec![0; k], &mut record).unwrap();
            record
        }
        Shape::Sampled(layout) => {
            let (k, mut record) = (layout.k(), vec![0; layout.stride()]);
            let weights: Vec<f32> = (0..k as u64).map(|i| 0.01 + 0.2 * dither.uniform(i)).collect();
            let ids = spread_ids(k, layout.vocab_size());
            let row =
                SampledRow { ids: &ids, weights: &weights, count: k.div_ceil(2), tau: 0.01, entropy: 2.5 };
            layout.encode(row, dither, &mut record).unwrap();
            record
        }
    }
}

fn spread_ids(k: usize, vocab: u32) -> Vec<u32> {
    (0..k as u64).map(|i| (i * u64::from(vocab) / k as u64) as u32).collect()
}
