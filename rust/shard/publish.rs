//! How a finished file gets its name: by a hard link, so that the first writer wins and nothing is overwritten.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Fault, ShardError};
use super::storage::{Storage, read_exact_at, uninterrupted, write_all_at};

/// How temporary names end; they begin with a dot.
pub const TEMPORARY: &str = ".tmp";

/// Whether publishing made the file or found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    New,
    /// Another process had published the same bytes before.
    Same,
}

/// A name beside `path` that no other process uses.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random = RandomState::new().build_hasher().finish();
    path.with_file_name(format!(".{name}.{}.{random:016x}{TEMPORARY}", std::process::id()))
}

/// Gives the synced file `temporary` its name `path`.
///
/// If the name is taken, `is_same` compares the file there: `Some(true)` is the same content,
/// `Some(false)` is an error, `None` is a damaged file that is replaced. On a file system without links the
/// file is renamed instead: then the later of two writers wins, with the same bytes.
pub(super) fn commit(
    storage: &dyn Storage,
    temporary: &Path,
    path: &Path,
    is_same: impl Fn() -> Result<Option<bool>, ShardError>,
) -> Result<Published, ShardError> {
    let failed = |error| ShardError::new(path, Fault::Io(error));
    let resolve = || match is_same() {
        Ok(Some(true)) => Ok(Published::Same),
        Ok(Some(false)) => Err(ShardError::new(path, foreign("content", "the same bytes", "others"))),
        Ok(None) => replace(storage, temporary, path).map_err(failed),
        Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => {
            replace(storage, temporary, path).map_err(failed)
        }
        Err(error) => Err(error),
    };
    let named = match uninterrupted(|| storage.link(temporary, path)) {
        Ok(()) => Ok(Published::New),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || has_no_links(&error) => resolve(),
        Err(error) => Err(failed(error)),
    };
    let outcome = match named {
        // Another process may have completed the cache and removed our temporary file: then the file is there.
        Err(error)
            if error.io_kind() == Some(io::ErrorKind::NotFound) && matches!(is_same(), Ok(Some(true))) =>
        {
            Published::Same
        }
        other => other?,
    };
    match uninterrupted(|| storage.remove(temporary)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    uninterrupted(|| storage.sync_directory(directory)).map_err(failed)?;
    Ok(outcome)
}

fn foreign(key: &str, expected: &str, found: &str) -> Fault {
    Fault::Foreign { key: key.to_owned(), expected: expected.to_owned(), found: found.to_owned() }
}

fn replace(storage: &dyn Storage, temporary: &Path, path: &Path) -> io::Result<Published> {
    uninterrupted(|| storage.rename(temporary, path))?;
    Ok(Published::New)
}

/// Some network file systems refuse hard links.
fn has_no_links(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), PermissionDenied | TooManyLinks | Unsupported)
}

/// Writes a small file, once: a second writer must bring the same bytes.
pub fn publish(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<Published, ShardError> {
    let temporary = temporary_name(path);
    let written =
        write_whole(storage, &temporary, bytes).map_err(|error| ShardError::new(path, Fault::Io(error)));
    let is_same = || Ok(Some(read_whole(storage, path, bytes.len() as u64 + 1)? == bytes));
    let outcome = written.and_then(|()| commit(storage, &temporary, path, is_same));
    if outcome.is_err() {
        let _ = storage.remove(&temporary);
    }
    outcome
}

fn write_whole(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = uninterrupted(|| storage.create_new(path))?;
    write_all_at(&mut *file, bytes, 0)?;
    uninterrupted(|| file.sync())
}

/// At most `limit` bytes of a file.
fn read_whole(storage: &dyn Storage, path: &Path, limit: u64) -> Result<Vec<u8>, ShardError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = uninterrupted(|| storage.open(path))?;
        let mut bytes = vec![0; uninterrupted(|| file.length())?.min(limit) as usize];
        read_exact_at(&*file, &mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(|error| ShardError::new(path, Fault::Io(error)))
}

/// Removes the temporary files of killed writers in a directory; returns how many.
pub fn sweep(storage: &dyn Storage, directory: &Path) -> Result<usize, ShardError> {
    let failed = |error| ShardError::new(directory, Fault::Io(error));
    let mut removed = 0;
    for name in uninterrupted(|| storage.list(directory)).map_err(failed)? {
        if name.starts_with('.') && name.ends_with(TEMPORARY) {
            match uninterrupted(|| storage.remove(&directory.join(&name))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome.map_err(failed)?,
            }
            removed += 1;
        }
    }
    Ok(removed)
}
