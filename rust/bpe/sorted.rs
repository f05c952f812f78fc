//! Tokens in the order of their bytes: those that begin a text, and those that a text begins.

use std::cmp::Ordering;
use std::ops::Range;

/// The ids that an encoder can produce, by their bytes; each string once.
#[derive(Debug)]
pub(super) struct Sorted {
    ids: Vec<u32>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Where the tokens of each first byte begin.
    firsts: Vec<usize>,
}

impl Sorted {
    pub(super) fn new(tokens: &[&[u8]], added: &[bool], fallback: &[bool]) -> Self {
        let mut ids: Vec<u32> = (0..tokens.len() as u32)
            .filter(|id| !added[*id as usize] && !tokens[*id as usize].is_empty())
            .collect();
        // A byte of a lacking character stands behind a character of the same bytes.
        ids.sort_by_key(|id| (tokens[*id as usize], fallback[*id as usize], *id));
        ids.dedup_by_key(|id| tokens[*id as usize]);
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(ids.len());
        for id in &ids {
            bytes.extend_from_slice(tokens[*id as usize]);
            ends.push(bytes.len());
        }
        let mut found = Self { ids, bytes, ends, firsts: Vec::new() };
        found.firsts = (0..=256)
            .map(|byte| found.position(0..found.ids.len(), |token| usize::from(token[0]) < byte))
            .collect();
        found
    }

    fn token(&self, place: usize) -> &[u8] {
        &self.bytes[if place == 0 { 0 } else { self.ends[place - 1] }..self.ends[place]]
    }

    /// The id at a place of the order.
    pub(super) fn id(&self, place: usize) -> u32 {
        self.ids[place]
    }

    fn position(&self, range: Range<usize>, before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = usize::midpoint(low, high);
            if before(self.token(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn of_first(&self, byte: u8) -> Range<usize> {
        self.firsts[usize::from(byte)]..self.firsts[usize::from(byte) + 1]
    }

    /// Places of the tokens that begin with `text`, which is not empty; the token `text` itself comes first.
    pub(super) fn beginning_with(&self, text: &[u8]) -> Range<usize> {
        let all = self.of_first(text[0]);
        let start = self.position(all.clone(), |token| token < text);
        let end = self.position(start..all.end, |token| token.starts_with(text));
        start..end
    }

    /// The id and size of each token that `text` begins with, the shortest first.
    pub(super) fn each_prefix(&self, text: &[u8], mut each: impl FnMut(u32, usize)) {
        let Some(first) = text.first() else { return };
        let mut range = self.of_first(*first);
        for size in 1..=text.len() {
            if size > 1 {
                let byte = text[size - 1];
                // All tokens here share size − 1 bytes; one that ends there sorts first.
                let key = |token: &[u8]| token.get(size - 1).copied();
                let start = self.position(range.clone(), |token| key(token) < Some(byte));
                range = start..self.position(start..range.end, |token| key(token) == Some(byte));
            }
            if range.is_empty() {
                return;
            }
            if self.token(range.start).len() == size {
                each(self.ids[range.start], size);
            }
        }
    }

    /// The id whose bytes are these parts together.
    pub(super) fn find(&self, parts: &[&[u8]]) -> Option<u32> {
        let first = parts.iter().find_map(|part| part.first())?;
        let text = || parts.iter().flat_map(|part| part.iter().copied());
        let range = self.of_first(*first);
        let place = self.position(range.clone(), |token| token.iter().copied().cmp(text()) == Ordering::Less);
        (place < range.end && self.token(place).iter().copied().eq(text())).then(|| self.ids[place])
    }
}
