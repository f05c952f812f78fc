//! Files in memory with what is durable kept apart from what is not, and one fault at one operation.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use thack::shard::{ReadFile, Storage, WriteFile};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operation fails; a file system may also have done half of a write.
    Error(ErrorKind),
    /// A write writes half of what it was given; other operations succeed.
    Short,
    /// The machine stops here, and every operation after fails; see [`Crash`].
    Crash(Crash),
}

/// What a restart finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Everything: only the process was killed.
    Keep,
    /// Nothing that was not synced, neither bytes nor names.
    Drop,
    /// All names, but of unsynced bytes every other block of 512.
    Torn,
    /// All names, but no unsynced bytes: files of the right name and no content.
    Empty,
}

#[derive(Default, Clone)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    crashed: bool,
    has_no_links: bool,
}

/// The file system; clones share it.
#[derive(Default, Clone)]
pub(crate) struct Faulty(Arc<Mutex<State>>);

struct Open {
    storage: Faulty,
    inode: usize,
}

impl Faulty {
    /// Fails at the `operation`-th operation from now on.
    pub(crate) fn inject(&self, operation: usize, fault: Fault) {
        let mut state = self.lock();
        state.operations = 0;
        state.fault = Some((operation, fault));
    }

    /// Refuses hard links from now on, as some network file systems do.
    pub(crate) fn refuse_links(&self) {
        self.lock().has_no_links = true;
    }

    pub(crate) fn operations(&self) -> usize {
        self.lock().operations
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Starts the machine again after a crash, if there was one, and injects no more faults.
    pub(crate) fn restart(&self) {
        let mut state = self.lock();
        let fault = state.fault.take();
        if !std::mem::take(&mut state.crashed) {
            return;
        }
        let Some((_, Fault::Crash(crash))) = fault else { return };
        if crash == Crash::Drop {
            state.names = state.durable_names.clone();
        }
        for inode in &mut state.inodes {
            match crash {
                Crash::Keep => {}
                Crash::Drop | Crash::Empty => inode.bytes = inode.durable.clone(),
                Crash::Torn => tear(inode),
            }
        }
    }

    /// All files, by name.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock();
        state.names.iter().map(|(path, &inode)| (path.clone(), state.inodes[inode].bytes.clone())).collect()
    }

    /// Puts a file there, for a test without crashes.
    pub(crate) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.lock();
        state.inodes.push(Inode { durable: Vec::new(), bytes });
        let inode = state.inodes.len() - 1;
        state.names.insert(path.to_owned(), inode);
    }

    /// Takes a file out, without a copy.
    pub(crate) fn take(&self, path: &Path) -> Vec<u8> {
        let mut state = self.lock();
        let inode = state.names.remove(path).unwrap();
        state.durable_names.remove(path);
        let bytes = std::mem::take(&mut state.inodes[inode].bytes);
        if inode + 1 == state.inodes.len() {
            state.inodes.pop();
        }
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Counts an operation; returns its fault, if it has one that the caller has to act out.
    fn step(&self) -> io::Result<Option<Fault>> {
        let mut state = self.lock();
        if state.crashed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let operation = state.operations;
        state.operations += 1;
        match state.fault {
            Some((at, fault)) if at == operation => {
                state.crashed = matches!(fault, Fault::Crash(_));
                Ok(Some(fault))
            }
            _ => Ok(None),
        }
    }

    /// Counts an operation that does nothing if it fails.
    fn whole(&self) -> io::Result<MutexGuard<'_, State>> {
        match self.step()? {
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Crash(_)) => Err(ErrorKind::BrokenPipe.into()),
            _ => Ok(self.lock()),
        }
    }
}

/// Whatever a test writes as a shard, the safetensors crate must read, every tensor of it.
fn check_with_stock_reader(path: &Path, bytes: &[u8]) {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        let stock = safetensors::SafeTensors::deserialize(bytes).expect("a shard is a safetensors file");
        for name in stock.names() {
            stock.tensor(name).expect("every tensor of it can be read");
        }
    }
}

fn tear(inode: &mut Inode) {
    let mut torn = inode.durable.clone();
    torn.resize(inode.bytes.len(), 0);
    for (block, (to, from)) in torn.chunks_mut(512).zip(inode.bytes.chunks(512)).enumerate() {
        if block % 2 == 0 {
            to.copy_from_slice(from);
        }
    }
    inode.bytes = torn;
}

impl WriteFile for Open {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let fault = self.storage.step()?;
        let written = match fault {
            None => bytes.len(),
            Some(Fault::Error(ErrorKind::Interrupted)) => return Err(ErrorKind::Interrupted.into()),
            Some(Fault::Short) => bytes.len().div_ceil(2),
            Some(_) => bytes.len() / 2,
        };
        let mut state = self.storage.lock();
        let content = &mut state.inodes[self.inode].bytes;
        let end = offset as usize + written;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(&bytes[..written]);
        match fault {
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Crash(_)) => Err(ErrorKind::BrokenPipe.into()),
            _ => Ok(written),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.storage.whole()?;
        let inode = &mut state.inodes[self.inode];
        inode.durable = inode.bytes.clone();
        Ok(())
    }
}

impl ReadFile for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(self.storage.whole()?.inodes[self.inode].bytes.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let fault = self.storage.step()?;
        match fault {
            Some(Fault::Error(kind)) => return Err(kind.into()),
            Some(Fault::Crash(_)) => return Err(ErrorKind::BrokenPipe.into()),
            _ => {}
        }
        let state = self.storage.lock();
        let rest = state.inodes[self.inode].bytes.get(offset as usize..).unwrap_or_default();
        let mut read = rest.len().min(bytes.len());
        if fault == Some(Fault::Short) {
            read = read.div_ceil(2);
        }
        bytes[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

impl Storage for Faulty {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut state = self.whole()?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.names.insert(path.to_owned(), inode);
        drop(state);
        Ok(Box::new(Open { storage: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let inode = *self.whole()?.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(Open { storage: self.clone(), inode }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.whole()?;
        let inode = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
        if state.has_no_links {
            return Err(ErrorKind::PermissionDenied.into());
        }
        if state.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        check_with_stock_reader(to, &state.inodes[inode].bytes);
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.whole()?;
        let inode = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        check_with_stock_reader(to, &state.inodes[inode].bytes);
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.whole()?.names.remove(path).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.whole()?;
        let here = |name: &Path| name.parent() == Some(path);
        let (names, mut durable) = (state.names.clone(), state.durable_names.clone());
        durable.retain(|name, _| !here(name));
        durable.extend(names.into_iter().filter(|(name, _)| here(name)));
        state.durable_names = durable;
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.whole()?;
        let names = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned())).collect())
    }
}
