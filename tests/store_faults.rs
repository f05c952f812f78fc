//! Every storage operation of a job fails once in every way; whatever happens, running the job again
//! gives the same bytes as a job that met no fault, and what looks good before that is good.

mod common;

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::faulty::{Crash, Fault, Faulty};
use common::job;
use thack::shard::{ReadFile, Storage, WriteFile, verify};

const FAULTS: [Fault; 10] = [
    Fault::Error(ErrorKind::Other), // EIO
    Fault::Error(ErrorKind::StorageFull),
    Fault::Error(ErrorKind::PermissionDenied),
    Fault::Error(ErrorKind::Interrupted),
    Fault::Short,
    Fault::Crash(Crash::Keep),
    Fault::Crash(Crash::Drop),
    Fault::Crash(Crash::Torn),
    Fault::Crash(Crash::Empty),
    Fault::Error(ErrorKind::QuotaExceeded),
];

fn shared(storage: &Faulty) -> Arc<dyn Storage> {
    Arc::new(storage.clone())
}

/// Whatever is accepted without a look at its records is whole, and a manifest promises all shards.
fn check_invariant(storage: &Faulty, reference: &Faulty, context: &str) {
    let files = storage.files();
    let expected = reference.files();
    let mut good = 0;
    for shard in 0..job::SHARDS {
        let path = job::shard_path(shard);
        if verify(storage, &path, false).is_ok() && files[&path] == expected[&path] {
            good += 1;
        } else if verify(storage, &path, true).is_ok() {
            panic!("{context}: shard {shard} is accepted but differs");
        }
    }
    if files.get(&job::manifest_path()).is_some_and(|bytes| *bytes == expected[&job::manifest_path()]) {
        assert_eq!(good, job::SHARDS, "{context}: a manifest without its shards");
    }
}

#[test]
fn every_operation_fails_once_in_every_way() {
    let reference = Faulty::default();
    job::run(&shared(&reference)).unwrap();
    let operations = reference.operations();
    let expected = reference.files();
    assert_eq!(expected.len(), job::SHARDS + 2, "an orphan is left by a job without faults");
    let mut runs = 0;
    for fault in FAULTS {
        for operation in 0..operations {
            let context = format!("{fault:?} at operation {operation}");
            let storage = Faulty::default();
            storage.inject(operation, fault);
            let outcome = job::run(&shared(&storage));
            if matches!(fault, Fault::Short | Fault::Error(ErrorKind::Interrupted)) {
                outcome.unwrap_or_else(|error| panic!("{context}: {error}"));
            }
            storage.restart();
            check_invariant(&storage, &reference, &context);
            job::run(&shared(&storage)).unwrap_or_else(|error| panic!("{context}, resumed: {error}"));
            assert!(storage.files() == expected, "{context}: other bytes after resuming");
            runs += 1;
        }
    }
    println!("{runs} runs: {operations} operations x {} faults, all resumed to the same bytes", FAULTS.len());
}

/// A second crash while resuming from the first.
#[test]
fn crashes_while_resuming_are_survived() {
    let reference = Faulty::default();
    job::run(&shared(&reference)).unwrap();
    let (operations, expected) = (reference.operations(), reference.files());
    let crashes = [Crash::Keep, Crash::Drop, Crash::Torn, Crash::Empty];
    let mut runs = 0;
    for (i, first) in (0..operations).step_by(3).enumerate() {
        for second in (i % 5..operations).step_by(5) {
            let storage = Faulty::default();
            for (operation, crash) in [(first, crashes[i % 4]), (second, crashes[second % 4])] {
                storage.inject(operation, Fault::Crash(crash));
                let _ = job::run(&shared(&storage));
                storage.restart();
                check_invariant(&storage, &reference, "twice");
            }
            job::run(&shared(&storage)).unwrap();
            assert!(storage.files() == expected, "crashes at {first} and {second}");
            runs += 1;
        }
    }
    println!("{runs} pairs of crashes, all resumed to the same bytes");
}

/// Where links are refused a rename commits: the same bytes, over faults and over a finished shard.
#[test]
fn file_systems_without_links_serve_as_well() {
    let reference = Faulty::default();
    job::run(&shared(&reference)).unwrap();
    let expected = reference.files();
    let whole = Faulty::default();
    whole.refuse_links();
    job::run(&shared(&whole)).unwrap();
    assert!(whole.files() == expected);
    for operation in 0..whole.operations() {
        for fault in [Fault::Error(ErrorKind::Other), Fault::Crash(Crash::Keep), Fault::Crash(Crash::Drop)] {
            let storage = Faulty::default();
            storage.refuse_links();
            storage.inject(operation, fault);
            let _ = job::run(&shared(&storage));
            storage.restart();
            check_invariant(&storage, &reference, "without links");
            job::run(&shared(&storage)).unwrap();
            assert!(storage.files() == expected, "{fault:?} at operation {operation}");
        }
    }
    // Another's shard is never overwritten, with links or without.
    let path = job::shard_path(0);
    let error = job::write_shard(&shared(&whole), &path, 0, 0..3).unwrap_err();
    assert!(error.to_string().contains("the same bytes"), "{error}");
    assert!(whole.files() == expected);
}

/// Eight writers that claim the same shards at once: one wins each, all succeed, nothing is left over.
#[test]
fn concurrent_writers_of_the_same_ranges_agree() {
    let reference = Faulty::default();
    job::run(&shared(&reference)).unwrap();
    for round in 0..20 {
        let storage = Faulty::default();
        if round % 4 == 3 {
            storage.refuse_links();
        }
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| job::run(&shared(&storage)))).collect();
            for writer in writers {
                writer.join().unwrap().unwrap();
            }
        });
        assert!(storage.files() == reference.files());
    }
}

/// Another process does the whole job, and sweeps, just before our first file gets its name by a rename.
struct Overtaken(Faulty, AtomicBool);

impl Storage for Overtaken {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.0.create_new(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        self.0.open(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.1.swap(true, Ordering::SeqCst) {
            job::run(&shared(&self.0)).unwrap();
        }
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.sync_directory(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
}

/// Its sweep removes our temporary file, between our look at the name that it takes and the rename.
#[test]
fn a_writer_without_links_that_is_overtaken_finds_its_shard_there() {
    let reference = Faulty::default();
    job::run(&shared(&reference)).unwrap();
    // The plan is the first file to be renamed, a shard the second.
    for plan_is_there in [false, true] {
        let storage = Faulty::default();
        storage.refuse_links();
        if plan_is_there {
            storage.put(Path::new("/cache/plan.json"), b"{\"plan\":1}".to_vec());
            storage.put(&job::shard_path(0), reference.files()[&job::shard_path(0)].clone());
        }
        let overtaken: Arc<dyn Storage> = Arc::new(Overtaken(storage.clone(), AtomicBool::new(false)));
        job::run(&overtaken).unwrap();
        assert!(storage.files() == reference.files());
    }
}
