//! The last 64 bytes of a shard: proof that the file is whole, and of what it holds.

use super::checksum;

/// Bytes of a trailer.
pub(super) const LENGTH: usize = 64;
const MAGIC: [u8; 8] = *b"thackend";
const VERSION: u32 = 1;

/// What the trailer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Length of the whole file.
    pub file_length: u64,
    /// CRC32C of the table of checksums.
    pub table_checksum: u32,
    /// BLAKE3 of (BLAKE3 of the header, BLAKE3 of everything up to the end of the table).
    pub root: [u8; 32],
}

impl Trailer {
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0u8; LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.table_checksum.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.file_length.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.root);
        let own = checksum::of(&bytes);
        bytes[60..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// None unless these are, to the bit, the bytes of a trailer.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; LENGTH]) -> Option<Self> {
        let mut table = [0; 4];
        table.copy_from_slice(&bytes[12..16]);
        let mut length = [0; 8];
        length.copy_from_slice(&bytes[16..24]);
        let mut root = [0; 32];
        root.copy_from_slice(&bytes[24..56]);
        let trailer =
            Self { file_length: u64::from_le_bytes(length), table_checksum: u32::from_le_bytes(table), root };
        (trailer.to_bytes() == *bytes).then_some(trailer)
    }
}

/// The root over two running hashes.
pub(super) fn root(header: &[u8], body: &blake3::Hasher) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3::hash(header).as_bytes());
    hasher.update(body.finalize().as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let trailer = Trailer { file_length: 123_456, table_checksum: 7, root: [9; 32] };
        let bytes = trailer.to_bytes();
        assert_eq!(Trailer::from_bytes(&bytes), Some(trailer));
        for bit in 0..LENGTH * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Trailer::from_bytes(&flipped), None, "bit {bit}");
        }
    }
}
