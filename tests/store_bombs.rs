//! Files that promise the world: refused within 64 MiB, however large what they promise.
//!
//! In a binary of its own, whose allocator counts.
#![allow(unsafe_code, reason = "an allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use common::job;
use thack::shard::{FileStorage, ShardReader, Storage, verify};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: hands every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes in use while `work` ran, beyond those before.
fn peak_of(work: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

fn good_shard(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("shard-00000.safetensors");
    let storage: Arc<dyn Storage> = Arc::new(FileStorage);
    job::write_shard(&storage, &path, 0, 0..300).unwrap();
    path
}

fn check(path: &Path, what: &str) {
    for full in [false, true] {
        let peak = peak_of(|| assert!(verify(&FileStorage, path, full).is_err(), "{what}"));
        println!(
            "bomb refused, {what}{}: +{:.2} MiB",
            if full { ", --full" } else { "" },
            peak as f64 / 1_048_576.0
        );
        assert!(peak < 64 << 20, "{what}: {peak} bytes");
    }
}

/// A FIFO without a writer would be waited for, and /dev/zero has no end.
#[test]
fn what_is_no_regular_file() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [fifo.as_path(), Path::new("/dev/zero"), directory.path()] {
        let error = ShardReader::open(&FileStorage, path).err().unwrap();
        assert!(error.to_string().ends_with("not a regular file"), "{error}");
    }
}

#[test]
fn lengths_of_the_header() {
    let _alone = ALONE.lock().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = good_shard(scratch.path());
    let size = std::fs::metadata(&path).unwrap().len();
    for length in [1u64 << 20 | 1, 1 << 40, u64::MAX, u64::MAX - 7, size, size - 8] {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&length.to_le_bytes(), 0).unwrap();
        check(&path, &format!("a header of {length} bytes"));
    }
}

/// JSON that is deep, or long, or repeats itself, behind an honest length; the trailer is a good one.
#[test]
fn contents_of_the_header() {
    let _alone = ALONE.lock().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = good_shard(scratch.path());
    let bytes = std::fs::read(&path).unwrap();
    let room = (1 << 20) - 8;
    let entry = "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},";
    let jsons = [
        ("a million brackets", "[".repeat(room)),
        ("a million objects", "{\"a\":".repeat(room / 5)),
        ("many tensors", format!("{{{}\"b\":1}}", entry.repeat(room / entry.len() - 1))),
        ("many numbers", format!("{{\"a\":[{}1]}}", "1,".repeat(room / 2 - 8))),
        ("one long name", format!("{{\"{}\":1}}", "a".repeat(room - 6))),
        ("escapes", format!("{{\"{}\":1}}", "\\u0041".repeat(room / 6 - 2))),
    ];
    for (what, json) in jsons {
        let bomb = [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &bytes[4096..]].concat();
        // The trailer is made to fit, so that the header is what is refused.
        std::fs::write(&path, &bomb).unwrap();
        reseal(&path);
        check(&path, what);
    }
}

/// Counts that a file of 16 GB might have, in a file that is a hole.
#[test]
fn counts_beyond_the_file() {
    let _alone = ALONE.lock().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = good_shard(scratch.path());
    let bytes = std::fs::read(&path).unwrap();
    let json = String::from_utf8(bytes[8..4096].to_vec()).unwrap();
    let header = thack::shard::Header::from_json(json.as_bytes()).unwrap();
    for (what, from, to) in [
        ("2^31 tokens", format!("[{},", header.counts.tokens), format!("[{},", 1u64 << 31)),
        ("2^64 - 1 tokens", format!("[{},", header.counts.tokens), format!("[{},", u64::MAX)),
        ("2^19 sequences", "\"shape\":[300]".to_owned(), format!("\"shape\":[{}]", 1u64 << 19)),
        ("2^62 sequences", "\"shape\":[300]".to_owned(), format!("\"shape\":[{}]", 1u64 << 62)),
    ] {
        let mut changed = json.replace(&from, &to);
        assert_ne!(changed, json, "{what}");
        let length = changed.trim_end().len().next_multiple_of(4096) - 8;
        changed = format!("{:<length$}", changed.trim_end());
        let bomb = [&(changed.len() as u64).to_le_bytes(), changed.as_bytes(), &bytes[4096..]].concat();
        std::fs::write(&path, &bomb).unwrap();
        reseal(&path);
        check(&path, what);
    }
    // As long as a shard may be, and one byte more; nearly all of it is a hole.
    for length in [1u64 << 34, (1 << 34) + 1, 1 << 40] {
        std::fs::write(&path, &bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        reseal(&path);
        check(&path, &format!("a hole of {length} bytes"));
    }
}

/// The largest shard that a header can promise, honest in every checksum, over a file that is a hole.
#[test]
fn an_honest_frame_around_nothing() {
    let _alone = ALONE.lock().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("shard-00000.safetensors");
    let stride = thack::codec::Layout::from_metadata(&job::metadata(0)).unwrap().stride() as u64;
    let counts = thack::shard::Counts {
        stride,
        tokens: (15u64 << 30) / (stride + 6),
        sequences: 1 << 19,
        prompt_tokens: 1 << 20,
        prompt_id_bytes: 1 << 20,
    };
    let header = thack::shard::Header::new(job::metadata(0), counts).unwrap();
    let chunk = 16 << 10;
    let mut first = header.to_bytes();
    first.resize(chunk, 0);
    let zeros = crc32c::crc32c(&vec![0; chunk]);
    let checked = header.checked_length() as usize;
    let mut sums = vec![zeros; checked.div_ceil(chunk)];
    sums[0] = crc32c::crc32c(&first);
    *sums.last_mut().unwrap() = crc32c::crc32c(&vec![0; (checked - 1) % chunk + 1]);
    let table: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    let file = File::options().create(true).truncate(true).write(true).open(&path).unwrap();
    file.set_len(header.file_length()).unwrap();
    file.write_all_at(&header.to_bytes(), 0).unwrap();
    file.write_all_at(&table, header.checked_length()).unwrap();
    let (file_length, table_checksum) = (header.file_length(), crc32c::crc32c(&table));
    let trailer = thack::shard::Trailer { file_length, table_checksum, root: [0; 32] };
    file.write_all_at(&trailer.to_bytes(), file_length - 64).unwrap();
    assert!(ShardReader::open(&FileStorage, &path).is_ok(), "the frame is honest");
    check(&path, "15 GB of nothing in an honest frame");
}

/// The largest index that a good shard may have is read within the limit.
#[test]
fn a_full_index_is_read_within_the_limit() {
    let _alone = ALONE.lock().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("shard-00000.safetensors");
    let storage: Arc<dyn Storage> = Arc::new(FileStorage);
    let metadata = [("format", "any")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let mut writer = thack::shard::ShardWriter::create(storage, &path, metadata, 1).unwrap();
    for number in 0..1u64 << 18 {
        let row = thack::shard::Sequence {
            sequence: number,
            example: number,
            sample: 0,
            prompt_id: "",
            prompt: &[1],
            response: &[2],
            realised: &[],
        };
        writer.sequence(row).unwrap();
        writer.records(&[0]).unwrap();
    }
    writer.finish().unwrap();
    let peak = peak_of(|| {
        ShardReader::open(&FileStorage, &path).unwrap().index().unwrap();
    });
    println!("an index of 2^18 sequences: +{:.2} MiB", peak as f64 / 1_048_576.0);
    assert!(peak < 64 << 20, "{peak} bytes");
}

/// Gives the file a trailer whose length and checksum are right.
fn reseal(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let trailer = thack::shard::Trailer { file_length: length, table_checksum: 0, root: [0; 32] };
    file.write_all_at(&trailer.to_bytes(), length - 64).unwrap();
}
