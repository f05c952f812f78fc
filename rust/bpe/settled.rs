//! Settled tokens: those whose first student token does not depend on what follows.

use super::Vocabulary;

/// Whether each teacher token is settled; `first` holds its first student token, below 0: none, and not settled.
///
/// Token v is not settled if the teacher's encoder allows tokens w₁ … wₙ behind it such that the student's encoding of
/// v·w₁ … wₙ begins with another token than f(v). Then a student token x crosses the end of v, and w₁ … wₙ are the
/// first that cover x.
///
/// ```text
/// for each prefix of v whose student encoding does not begin with f(v), and the empty one:
///     for each student token x that begins with the rest of v, is longer, and may stand behind that encoding:
///         for each way in which teacher tokens behind v cover the rest of x:
///             if the student's encoding continues behind x to their end: not settled
/// ```
pub fn settled(teacher: &Vocabulary, student: &Vocabulary, first: &[i32]) -> Vec<bool> {
    let pair = Pair { teacher, student };
    (0..teacher.len() as u32)
        .zip(first)
        .map(|(v, first)| {
            u32::try_from(*first).is_ok_and(|first| teacher.token(v).is_empty() || !pair.changes(v, first))
        })
        .collect()
}

struct Pair<'a> {
    teacher: &'a Vocabulary,
    student: &'a Vocabulary,
}

impl Pair<'_> {
    fn changes(&self, v: u32, first: u32) -> bool {
        let text = self.teacher.token(v);
        let prefixes = self.student.prefixes(None, text);
        (0..text.len()).any(|start| match prefixes[start] {
            None if start > 0 => false,
            Some(prefix) if prefix.first == first => false,
            prefix => {
                let rest = &text[start..];
                let sorted = &self.student.sorted;
                sorted.beginning_with(rest).map(|place| sorted.id(place)).any(|x| {
                    let fits = || {
                        prefix
                            .map_or_else(|| self.student.alone(x), |prefix| self.student.can(prefix.last, x))
                    };
                    let overshoot = &self.student.token(x)[rest.len()..];
                    !overshoot.is_empty() && fits() && self.covers(v, overshoot, x)
                })
            }
        })
    }

    /// Whether teacher tokens behind `v` cover `rest`, which ends the student token `x`, and the student's encoding
    /// continues behind `x` to their end.
    fn covers(&self, v: u32, rest: &[u8], x: u32) -> bool {
        let sorted = &self.teacher.sorted;
        let longer = sorted.beginning_with(rest).map(|place| sorted.id(place));
        let ends = |w: u32| {
            let behind = &self.teacher.token(w)[rest.len()..];
            self.teacher.can(v, w)
                && (behind.is_empty() || self.student.prefixes(Some(x), behind)[behind.len()].is_some())
        };
        if longer.into_iter().any(ends) {
            return true;
        }
        let mut shorter = Vec::new();
        sorted.each_prefix(rest, |w, size| shorter.push((w, size)));
        shorter
            .into_iter()
            .any(|(w, size)| size < rest.len() && self.teacher.can(v, w) && self.covers(w, &rest[size..], x))
    }
}
