//! CRC32C of every chunk of a file, while it is written and when it is read.

/// Bytes under one checksum: small enough that reading one sequence at random reads little more.
pub(super) const CHUNK: usize = 16 << 10;

/// CRC32C of one chunk.
pub(super) fn of(chunk: &[u8]) -> u32 {
    crc32c::crc32c(chunk)
}

/// Number of chunks that cover `length` bytes.
pub(super) fn count(length: u64) -> u64 {
    length.div_ceil(CHUNK as u64)
}

/// Checksums of a stream whose first bytes (the header) become known last.
pub(super) struct Running {
    /// Bytes of the chunks that the header reaches into, kept until it is known.
    head: Vec<u8>,
    head_length: usize,
    sums: Vec<u32>,
    current: u32,
    filled: usize,
}

impl Running {
    /// `header_length` bytes come before what is added.
    pub(super) fn new(header_length: usize) -> Self {
        let head_length = header_length.div_ceil(CHUNK) * CHUNK;
        Self { head: vec![0; header_length], head_length, sums: Vec::new(), current: 0, filled: 0 }
    }

    /// Adds the next bytes of the stream.
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        let room = self.head_length - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        bytes = rest;
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at((CHUNK - self.filled).min(bytes.len()));
            self.current = crc32c::crc32c_append(self.current, part);
            self.filled += part.len();
            if self.filled == CHUNK {
                self.sums.push(self.current);
                (self.current, self.filled) = (0, 0);
            }
            bytes = rest;
        }
    }

    /// All checksums, now that the header is known.
    pub(super) fn finish(mut self, header: &[u8]) -> Vec<u32> {
        self.head[..header.len()].copy_from_slice(header);
        let mut all: Vec<u32> = self.head.chunks(CHUNK).map(of).collect();
        all.append(&mut self.sums);
        if self.filled > 0 {
            all.push(self.current);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_the_sums_of_its_chunks() {
        for (header, length) in
            [(8usize, 5usize), (4096, CHUNK), (4096, 3 * CHUNK + 7), (CHUNK + 1, 5 * CHUNK)]
        {
            let body: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let head = vec![0xabu8; header];
            let mut running = Running::new(header);
            body.chunks(1000).for_each(|part| running.add(part));
            let whole = [head.clone(), body].concat();
            let expected: Vec<u32> = whole.chunks(CHUNK).map(of).collect();
            assert_eq!(running.finish(&head), expected);
        }
    }
}
