//! Merges by rank, how each token comes to be by them, and whether two tokens stay apart.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::sorted::Sorted;

/// Multiplies: the keys are pairs of ids.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    merged: u32,
}

/// A token at the edge of another one while that is being merged, and the rank of the merge that takes it in.
#[derive(Debug, Clone, Copy)]
struct Edge {
    id: u32,
    until: u32,
}

const NEVER: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Merges {
    by_pair: HashMap<u64, Merge, BuildHasherDefault<PairHasher>>,
    symbols: Symbols,
    /// The last merge of each token: left, right and rank; None: the merges do not reach it.
    last: Vec<Option<(u32, u32, u32)>>,
    reached: Vec<bool>,
    /// Whether each merge on the way to the token has a higher rank than those before it.
    ordered: Vec<bool>,
    left_edges: Edges,
    right_edges: Edges,
}

/// The edges of each token, from its outermost symbol to itself.
#[derive(Debug, Default)]
struct Edges {
    edges: Vec<Edge>,
    ends: Vec<usize>,
}

impl Edges {
    fn of(&self, id: u32) -> &[Edge] {
        let id = id as usize;
        &self.edges[if id == 0 { 0 } else { self.ends[id - 1] }..self.ends[id]]
    }

    fn push(&mut self, id: u32, inner: impl Fn(u32) -> Option<(u32, u32)>) {
        let start = self.edges.len();
        let mut edge = Edge { id, until: NEVER };
        self.edges.push(edge);
        while let Some((id, until)) = inner(edge.id) {
            edge = Edge { id, until };
            self.edges.push(edge);
        }
        self.edges[start..].reverse();
        self.ends.push(self.edges.len());
    }
}

/// What a text is made up of before anything is merged.
#[derive(Debug)]
struct Symbols {
    /// Byte to id.
    bytes: [Option<u32>; 256],
    /// Characters instead of bytes: of the characters that the vocabulary lacks, the bytes.
    characters: Option<HashMap<char, u32>>,
}

impl Symbols {
    fn new(tokens: &[&[u8]], fallback: &[bool], sorted: &Sorted) -> Self {
        let mut bytes = [None; 256];
        if !fallback.iter().any(|flag| *flag) {
            for byte in 0..=255u8 {
                bytes[usize::from(byte)] = sorted.find(&[&[byte]]);
            }
            return Self { bytes, characters: None };
        }
        for (id, token) in tokens.iter().enumerate().filter(|(id, _)| fallback[*id]) {
            bytes[usize::from(token[0])] = Some(id as u32);
        }
        let single = |token: &[u8]| {
            let text = std::str::from_utf8(token).ok()?;
            let c = text.chars().next()?;
            (c.len_utf8() == token.len()).then_some(c)
        };
        let characters = tokens
            .iter()
            .filter_map(|token| Some((single(token)?, sorted.find(&[token])?)))
            .filter(|(_, id)| !fallback[*id as usize])
            .collect();
        Self { bytes, characters: Some(characters) }
    }

    fn of(&self, text: &[u8]) -> Option<Vec<u32>> {
        let Some(characters) = &self.characters else {
            return text.iter().map(|byte| self.bytes[usize::from(*byte)]).collect();
        };
        let mut found = Vec::with_capacity(text.len());
        for chunk in text.utf8_chunks() {
            for c in chunk.valid().chars() {
                if let Some(id) = characters.get(&c) {
                    found.push(Some(*id));
                } else {
                    found
                        .extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| self.bytes[usize::from(byte)]));
                }
            }
            found.extend(chunk.invalid().iter().map(|byte| self.bytes[usize::from(*byte)]));
        }
        found.into_iter().collect()
    }
}

impl Merges {
    pub(super) fn new(tokens: &[&[u8]], merges: &[i32], fallback: &[bool], sorted: &Sorted) -> Self {
        let by_pair = merges
            .chunks_exact(3)
            .enumerate()
            .map(|(rank, m)| {
                (key(m[0] as u32, m[1] as u32), Merge { rank: rank as u32, merged: m[2] as u32 })
            })
            .collect();
        let mut found = Self {
            by_pair,
            symbols: Symbols::new(tokens, fallback, sorted),
            last: vec![None; tokens.len()],
            reached: vec![false; tokens.len()],
            ordered: vec![true; tokens.len()],
            left_edges: Edges::default(),
            right_edges: Edges::default(),
        };
        for (id, token) in tokens.iter().enumerate() {
            let (merged, last) = found.merge(token);
            if merged == [id as u32] {
                found.reached[id] = true;
                found.last[id] = last;
            }
        }
        found.measure(tokens);
        found
    }

    fn measure(&mut self, tokens: &[&[u8]]) {
        // Shorter tokens first: a token's parts are measured before it.
        let mut ids: Vec<usize> = (0..tokens.len()).collect();
        ids.sort_by_key(|id| tokens[*id].len());
        for id in ids {
            if let Some((left, right, rank)) = self.last[id] {
                let is_below = |part: u32| {
                    self.ordered[part as usize]
                        && self.last[part as usize].is_none_or(|(_, _, inner)| inner < rank)
                };
                self.ordered[id] = is_below(left) && is_below(right);
            }
        }
        let last = &self.last;
        for id in 0..tokens.len() as u32 {
            self.left_edges.push(id, |id| last[id as usize].map(|(left, _, rank)| (left, rank)));
            self.right_edges.push(id, |id| last[id as usize].map(|(_, right, rank)| (right, rank)));
        }
    }

    /// Whether the merges turn the bytes of the token into it.
    pub(super) fn reaches(&self, id: u32) -> bool {
        self.reached[id as usize]
    }

    fn get(&self, left: u32, right: u32) -> Option<Merge> {
        self.by_pair.get(&key(left, right)).copied()
    }

    /// The symbols of one piece, merged; and the last merge. The lowest rank first, then the leftmost.
    fn merge(&self, text: &[u8]) -> (Vec<u32>, Option<(u32, u32, u32)>) {
        let Some(mut symbols) = self.symbols.of(text) else { return (Vec::new(), None) };
        let mut last = None;
        loop {
            let ranked = symbols.windows(2).enumerate().filter_map(|(place, pair)| {
                self.get(pair[0], pair[1]).map(|merge| (merge.rank, place, merge.merged))
            });
            let Some((rank, place, merged)) = ranked.min() else { return (symbols, last) };
            last = Some((symbols[place], symbols[place + 1], rank));
            symbols[place] = merged;
            symbols.remove(place + 1);
        }
    }

    /// Whether the merges of the bytes of both, as one piece, end in these two.
    ///
    /// Until something is merged across, each side goes through the same merges as alone. So it is enough to look at
    /// the two tokens that meet, from the outermost symbols on:
    ///
    /// ```text
    /// while the sides are not complete:
    ///     across = rank of the merge of the two that meet
    ///     if it comes before the merges that take them in (at equal ranks the left one comes first): false
    ///     take the next edge of the side that is merged first
    /// ```
    pub(super) fn keeps_apart<'a>(&self, left: u32, right: u32, token: impl Fn(u32) -> &'a [u8]) -> bool {
        if !self.reaches(left) || !self.reaches(right) {
            return false;
        }
        if !self.ordered[left as usize] || !self.ordered[right as usize] || self.symbols.characters.is_some()
        {
            return self.merge(&[token(left), token(right)].concat()).0 == [left, right];
        }
        let (lefts, rights) = (self.right_edges.of(left), self.left_edges.of(right));
        let (mut i, mut j) = (0, 0);
        loop {
            let (a, b) = (lefts[i], rights[j]);
            if self.get(a.id, b.id).is_some_and(|across| across.rank < a.until && across.rank <= b.until) {
                return false;
            }
            if a.until == NEVER && b.until == NEVER {
                return true;
            }
            if a.until <= b.until {
                i += 1;
            } else {
                j += 1;
            }
        }
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
