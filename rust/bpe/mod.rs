//! Byte-pair encodings as bytes and merges: which two tokens stand beside each other in an encoding, the encoding of
//! short bytes, and what one vocabulary says of another one.
//!
//! The encoder of a BPE is known by its pairs: a sequence of tokens is the encoding of its bytes where that holds of
//! every two neighbours.

mod merges;
mod settled;
mod sorted;

pub use settled::settled;

use crate::error::{Class, Error, Result};
use merges::Merges;
use sorted::Sorted;

/// How the texts of two tokens are split before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// In another way.
    Other,
    /// They are one piece.
    Joined,
    /// Two pieces, which meet between the tokens.
    Cut,
}

/// What Python hands over: slices of one entry for each id, but for `bytes`, `merges` and `splits`.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The bytes of all tokens, one behind the other; an id that is no text has none.
    pub bytes: &'a [u8],
    /// Where the bytes of each id end.
    pub ends: &'a [i64],
    /// Left, right and merged id of each merge, by rank.
    pub merges: &'a [i32],
    /// 1: an added token, which the text is split at before anything else.
    pub added: &'a [u8],
    /// 1: a byte of a character that the vocabulary lacks.
    pub fallback: &'a [u8],
    /// The shape of each id.
    pub shapes: &'a [i32],
    /// [shapes, shapes] 0: other, 1: joined, 2: cut.
    pub splits: &'a [u8],
    /// A piece that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
}

/// A vocabulary and its encoder.
#[derive(Debug)]
pub struct Vocabulary {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    added: Vec<bool>,
    shapes: Vec<u32>,
    splits: Vec<u8>,
    num_shapes: usize,
    ignore_merges: bool,
    merges: Merges,
    sorted: Sorted,
}

impl Vocabulary {
    /// Takes the parts over.
    ///
    /// # Errors
    /// The lengths do not fit, or an id is outside the vocabulary.
    pub fn new(parts: Parts<'_>) -> Result<Self> {
        let num_ids = parts.ends.len();
        let num_shapes = parts.splits.len().isqrt();
        let wrong = |what: &str| Err(Error::new(Class::Usage, format!("vocabulary: {what}")));
        if [parts.added.len(), parts.fallback.len(), parts.shapes.len()] != [num_ids; 3] {
            return wrong("one entry for each id is needed");
        }
        let last = parts.ends.last().copied().unwrap_or(0);
        if !parts.ends.is_sorted()
            || parts.ends.first().is_some_and(|end| *end < 0)
            || last as usize != parts.bytes.len()
        {
            return wrong("the ends are not those of the bytes");
        }
        let known = |id: &i32, size: usize| usize::try_from(*id).is_ok_and(|id| id < size);
        if !parts.merges.len().is_multiple_of(3) || !parts.merges.iter().all(|id| known(id, num_ids)) {
            return wrong("a merge is outside of it");
        }
        if num_shapes * num_shapes != parts.splits.len()
            || !parts.shapes.iter().all(|shape| known(shape, num_shapes))
        {
            return wrong("a shape is outside of the table");
        }
        Ok(Self::of(parts, num_shapes))
    }

    fn of(parts: Parts<'_>, num_shapes: usize) -> Self {
        let ends: Vec<usize> = parts.ends.iter().map(|end| *end as usize).collect();
        let tokens: Vec<&[u8]> = ends
            .iter()
            .scan(0, |start, end| Some(&parts.bytes[std::mem::replace(start, *end)..*end]))
            .collect();
        let added: Vec<bool> = parts.added.iter().map(|flag| *flag != 0).collect();
        let fallback: Vec<bool> = parts.fallback.iter().map(|flag| *flag != 0).collect();
        let sorted = Sorted::new(&tokens, &added, &fallback);
        let merges = Merges::new(&tokens, parts.merges, &fallback, &sorted);
        Self {
            bytes: parts.bytes.to_vec(),
            added,
            shapes: parts.shapes.iter().map(|shape| *shape as u32).collect(),
            splits: parts.splits.to_vec(),
            num_shapes,
            ignore_merges: parts.ignore_merges,
            merges,
            sorted,
            ends,
        }
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of an id; empty: it is no text.
    pub fn token(&self, id: u32) -> &[u8] {
        let id = id as usize;
        &self.bytes[if id == 0 { 0 } else { self.ends[id - 1] }..self.ends[id]]
    }

    fn split(&self, left: u32, right: u32) -> Split {
        let (left, right) = (self.shapes[left as usize], self.shapes[right as usize]);
        match self.splits[left as usize * self.num_shapes + right as usize] {
            0 => Split::Other,
            1 => Split::Joined,
            _ => Split::Cut,
        }
    }

    /// Whether the encoder turns the bytes of the token into the token.
    pub fn alone(&self, id: u32) -> bool {
        let shape = self.shapes[id as usize] as usize;
        // The first shape is that of no text at all.
        self.splits[shape * self.num_shapes] != 0
            && (self.merges.reaches(id)
                || (self.ignore_merges && self.sorted.find(&[self.token(id)]) == Some(id)))
    }

    /// Whether the encoder turns the bytes of both tokens into these two; true where one is no text.
    pub fn can(&self, left: u32, right: u32) -> bool {
        let outside = |id: u32| self.added[id as usize] || self.token(id).is_empty();
        if outside(left) || outside(right) {
            return true;
        }
        match self.split(left, right) {
            Split::Other => false,
            Split::Cut => self.alone(left) && self.alone(right),
            Split::Joined => {
                self.merges.keeps_apart(left, right, |id| self.token(id))
                    && !(self.ignore_merges
                        && self.sorted.find(&[self.token(left), self.token(right)]).is_some())
            }
        }
    }

    /// The last token of the encoding of each prefix of `text`, and the first; `begins`: whether a token may be first.
    ///
    /// ```text
    /// for each place that the encoding of a prefix reaches:
    ///     for each token that begins there and may stand behind the last one: it reaches its end
    /// ```
    fn prefixes(&self, mut begins: impl FnMut(u32) -> bool, text: &[u8]) -> Vec<Option<Prefix>> {
        let mut found: Vec<Option<Prefix>> = vec![None; text.len() + 1];
        for start in 0..text.len() {
            let before = found[start];
            if start > 0 && before.is_none() {
                continue;
            }
            self.sorted.each_prefix(&text[start..], |id, size| {
                let fits = before.map_or_else(|| begins(id), |prefix| self.can(prefix.last, id));
                if fits && found[start + size].is_none() {
                    found[start + size] =
                        Some(Prefix { first: before.map_or(id, |prefix| prefix.first), last: id });
                }
            });
        }
        found
    }

    /// First token of the encoding of `text`; None: no tokens whose neighbours fit make it up.
    pub fn first(&self, text: &[u8]) -> Option<u32> {
        self.prefixes(|id| self.alone(id), text).last().copied().flatten().map(|prefix| prefix.first)
    }
}

/// First and last token of an encoding.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    first: u32,
    last: u32,
}
