//! A cache of a few small shards, made in the steps of `thack.cache.capture`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thack::codec::{Layout, TopKRows};
use thack::shard::{
    CacheReader, Parts, Sequence, ShardError, ShardReader, ShardWriter, Storage, publish, sweep,
};

pub(crate) const SHARDS: usize = 3;
pub(crate) const PER_SHARD: u64 = 5;
pub(crate) const K: usize = 8;
pub(crate) const VOCAB: i32 = 1000;

pub(crate) fn directory() -> PathBuf {
    PathBuf::from("/cache/shards")
}

pub(crate) fn shard_path(shard: usize) -> PathBuf {
    directory().join(thack::shard::shard_name(shard))
}

pub(crate) fn manifest_path() -> PathBuf {
    PathBuf::from("/cache/manifest.json")
}

pub(crate) fn metadata(shard: usize) -> BTreeMap<String, String> {
    let shard = shard.to_string();
    let pairs = [
        ("format", "thack-shard 1.1"),
        ("kind", "top-k"),
        ("k", "8"),
        ("vocab_size", "1000"),
        ("value_bits", "8"),
        ("tail", "exact"),
        ("temperatures", ""),
        ("plan", "sha256:of-the-plan"),
        ("shard", &shard),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Everything that a reader may give.
pub(crate) const ALL: Parts = Parts { records: true, realised: true };

pub(crate) fn firsts() -> Vec<u64> {
    (0..=SHARDS as u64).map(|shard| shard * PER_SHARD).collect()
}

/// A response and a prompt that depend on the number of the sequence alone.
pub(crate) fn tokens(sequence: u64) -> (Vec<i32>, Vec<i32>) {
    let response = (0..3 + sequence as i32 % 4).map(|i| (sequence as i32 * 37 + i * 11) % VOCAB).collect();
    let prompt = (0..=(sequence as i32 % 3)).map(|i| (sequence as i32 * 17 + i) % VOCAB).collect();
    (prompt, response)
}

/// log p of the tokens of a response; one in five is cut, −∞, or not known.
pub(crate) fn realised(sequence: u64, rows: usize) -> Vec<f32> {
    let one = |row: usize| match (sequence as usize * 3 + row) % 15 {
        2 => -40.0,
        7 => f32::NEG_INFINITY,
        11 => f32::NAN,
        other => -0.25 * other as f32 - 0.001 * sequence as f32,
    };
    (0..rows).map(one).collect()
}

/// Records of `rows` tokens of a sequence.
pub(crate) fn records(sequence: u64, rows: usize) -> Vec<u8> {
    let Layout::TopK(layout) = Layout::from_metadata(&metadata(0)).unwrap() else { unreachable!() };
    let mut ids = Vec::new();
    let mut log_probs = Vec::new();
    for row in 0..rows {
        for k in 0..K {
            ids.push((sequence as i32 * 7 + row as i32 * 3 + k as i32 * 101) % 190 + k as i32 * 100);
            log_probs.push(-0.7 - 0.4 * ((k * 5 + row) % K) as f32 - 0.01 * sequence as f32);
        }
    }
    let rows_in =
        TopKRows { ids: &ids, log_probs: &log_probs, log_tails: &vec![-1.5; rows], log_tails_at: &[] };
    let mut out = vec![0; rows * layout.stride()];
    layout.encode_rows(rows_in, &mut out).unwrap();
    out
}

/// Writes one shard of any number of sequences.
pub(crate) fn write_shard(
    storage: &Arc<dyn Storage>,
    path: &Path,
    shard: usize,
    sequences: std::ops::Range<u64>,
) -> Result<[u8; 32], ShardError> {
    let stride = Layout::from_metadata(&metadata(0)).unwrap().stride();
    let mut writer = ShardWriter::create(Arc::clone(storage), path, metadata(shard), stride)?;
    for sequence in sequences {
        let (prompt, response) = tokens(sequence);
        writer.records(&records(sequence, response.len()))?;
        let prompt_id = format!("p{sequence}");
        let row = Sequence {
            sequence,
            example: sequence,
            sample: 0,
            prompt_id: &prompt_id,
            prompt: &prompt,
            response: &response,
            realised: &realised(sequence, response.len()),
        };
        writer.sequence(row)?;
    }
    Ok(writer.finish()?.root)
}

/// The whole job, from where it stands: plan, missing shards, manifest, sweep.
pub(crate) fn run(storage: &Arc<dyn Storage>) -> Result<(), ShardError> {
    publish(&**storage, Path::new("/cache/plan.json"), b"{\"plan\":1}")?;
    let good = |shard: usize| ShardReader::open(&**storage, &shard_path(shard)).is_ok();
    for shard in 0..SHARDS {
        if !good(shard) {
            let first = shard as u64 * PER_SHARD;
            write_shard(storage, &shard_path(shard), shard, first..first + PER_SHARD)?;
        }
    }
    let mut manifest = String::new();
    for shard in 0..SHARDS {
        let reader = ShardReader::open(&**storage, &shard_path(shard))?;
        writeln!(manifest, "{:02x?}", reader.trailer().root).unwrap();
    }
    publish(&**storage, &manifest_path(), manifest.as_bytes())?;
    sweep(&**storage, Path::new("/cache"))?;
    sweep(&**storage, &directory())?;
    Ok(())
}

pub(crate) fn reader(storage: &Arc<dyn Storage>) -> CacheReader {
    let expected = [("plan".to_owned(), "sha256:of-the-plan".to_owned())].into();
    CacheReader::new(Arc::clone(storage), &directory(), firsts(), expected)
}
