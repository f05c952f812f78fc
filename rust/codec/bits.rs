//! A cursor over a bit stream, least significant bit of each byte first.

/// Writes into zeroed bytes. Layouts compute the size beforehand, so running over the end is a bug.
pub struct BitWriter<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> BitWriter<'a> {
    /// Clears `bytes` and starts at its first bit.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        bytes.fill(0);
        Self { bytes, at: 0 }
    }

    /// Appends `value`, which has at most `width` ≤ 32 bits.
    pub fn put(&mut self, value: u32, width: u32) {
        let mut rest = u64::from(value) << (self.at % 8);
        // Anywhere but at the end of the record, one word instead of a loop over its bytes.
        if let Some(bytes) = self.bytes[self.at / 8..].first_chunk_mut::<8>() {
            *bytes = (u64::from_le_bytes(*bytes) | rest).to_le_bytes();
            self.at += width as usize;
            return;
        }
        let last = (self.at + width as usize).div_ceil(8);
        for byte in &mut self.bytes[self.at / 8..last] {
            *byte |= (rest & 0xff) as u8;
            rest >>= 8;
        }
        self.at += width as usize;
    }

    /// Sets the bit `offset` places behind the cursor.
    pub fn set(&mut self, offset: usize) {
        let at = self.at + offset;
        self.bytes[at / 8] |= 1 << (at % 8);
    }

    /// Moves on without writing.
    pub fn skip(&mut self, width: usize) {
        self.at += width;
    }
}

/// Reads what [`BitWriter`] wrote.
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `width` ≤ 32 bits.
    pub fn get(&mut self, width: u32) -> u32 {
        let first = self.at / 8;
        let mut value = 0u64;
        if let Some(bytes) = self.bytes[first..].first_chunk::<8>() {
            value = u64::from_le_bytes(*bytes);
        } else {
            let last = (self.at + width as usize).div_ceil(8);
            for (i, &byte) in self.bytes[first..last].iter().enumerate() {
                value |= u64::from(byte) << (8 * i);
            }
        }
        value >>= self.at % 8;
        self.at += width as usize;
        (value & ((1u64 << width) - 1)) as u32
    }

    /// The next 64 bits, or fewer at the end of `limit` bits from the cursor: bits beyond are zero.
    pub fn word(&mut self, limit: usize) -> u64 {
        let width = limit.min(64);
        let low = u64::from(self.get(width.min(32) as u32));
        let high = if width > 32 { u64::from(self.get((width - 32) as u32)) } else { 0 };
        low | high << 32
    }

    /// Whether every bit from the cursor on is zero.
    pub fn rest_is_zero(&self) -> bool {
        let Some((&first, rest)) = self.bytes.get(self.at / 8..).and_then(<[u8]>::split_first) else {
            return true;
        };
        first >> (self.at % 8) == 0 && rest.iter().all(|&byte| byte == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_got_at_every_offset() {
        for offset in 0..9u32 {
            for width in 1..=32u32 {
                let mut bytes = [0xffu8; 10];
                let value = 0xdead_beefu32 & (u32::MAX >> (32 - width));
                let mut writer = BitWriter::new(&mut bytes);
                writer.put(0, offset);
                writer.put(value, width);
                writer.put(1, 1);
                let mut reader = BitReader::new(&bytes);
                assert_eq!(reader.get(offset), 0);
                assert_eq!(reader.get(width), value);
                assert_eq!(reader.get(1), 1);
                assert!(reader.rest_is_zero());
            }
        }
    }

    #[test]
    fn words_stop_at_the_limit() {
        let bytes = [0xffu8; 10];
        let mut reader = BitReader::new(&bytes);
        reader.get(3);
        assert_eq!(reader.word(70), u64::MAX);
        assert_eq!(reader.word(6), 0x3f);
        assert!(!reader.rest_is_zero());
    }
}
