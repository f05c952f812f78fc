//! Settled tokens: those whose first student token does not depend on what follows.

use super::Vocabulary;

/// Whether each teacher token is settled; `first` holds its first student token, below 0: none, and not settled.
///
/// Token v is not settled if the teacher's encoder allows tokens w₁ … wₙ behind it such that the student's encoding of
/// v·w₁ … wₙ begins with another token than f(v). Then a student token x crosses the end of v. Looked at are those
/// w₁ … wₙ of which wₙ is the first that covers x.
///
/// ```text
/// for each prefix of v whose student encoding does not begin with f(v), and the empty one:
///     for each student token x that begins with the rest of v, is longer, and may stand behind that encoding:
///         for each way in which teacher tokens behind v cover the rest of x:
///             if the student's encoding continues behind x to their end: not settled
/// ```
pub fn settled(teacher: &Vocabulary, student: &Vocabulary, first: &[i32]) -> Vec<bool> {
    let (mut behind_v, mut behind_x) = (Behind::new(teacher), Behind::new(student));
    (0..teacher.len() as u32)
        .zip(first)
        .map(|(v, first)| {
            u32::try_from(*first).is_ok_and(|first| {
                teacher.token(v).is_empty() || !changes(v, first, &mut behind_v, &mut behind_x)
            })
        })
        .collect()
}

fn changes(v: u32, first: u32, behind_v: &mut Behind<'_>, behind_x: &mut Behind<'_>) -> bool {
    let (student, text) = (behind_x.vocabulary, behind_v.vocabulary.token(v));
    let prefixes = student.prefixes(|id| student.alone(id), text);
    behind_v.restart(v);
    (0..text.len()).any(|start| match prefixes[start] {
        None if start > 0 => false,
        Some(prefix) if prefix.first == first => false,
        prefix => {
            let rest = &text[start..];
            student.sorted.beginning_with(rest).map(|place| student.sorted.id(place)).any(|x| {
                let fits = || prefix.map_or_else(|| student.alone(x), |prefix| student.can(prefix.last, x));
                let overshoot = &student.token(x)[rest.len()..];
                !overshoot.is_empty() && fits() && {
                    behind_x.restart(x);
                    covers(overshoot, behind_v, behind_x)
                }
            })
        }
    })
}

/// Whether teacher tokens behind v cover `rest`, which ends the student token x, and the student's encoding continues
/// behind x to their end.
fn covers(rest: &[u8], behind_v: &mut Behind<'_>, behind_x: &mut Behind<'_>) -> bool {
    let teacher = behind_v.vocabulary;
    // An encoding is unique: one token at most ends at each place.
    let before = teacher.prefixes(|id| behind_v.can(id), rest);
    (0..rest.len()).any(|start| {
        let rest = &rest[start..];
        let mut longer = teacher.sorted.beginning_with(rest).map(|place| teacher.sorted.id(place));
        let mut student_ends = |w: u32| behind_x.encodes(&teacher.token(w)[rest.len()..]);
        match before[start] {
            None => start == 0 && longer.any(|w| behind_v.can(w) && student_ends(w)),
            Some(prefix) => longer.any(|w| teacher.can(prefix.last, w) && student_ends(w)),
        }
    })
}

/// Which tokens may stand behind one token. Many ask for the same.
struct Behind<'a> {
    vocabulary: &'a Vocabulary,
    token: u32,
    /// Number of the token that is asked about, and in which an answer was found.
    round: u32,
    known: Vec<(u32, bool)>,
}

impl<'a> Behind<'a> {
    fn new(vocabulary: &'a Vocabulary) -> Self {
        Self { vocabulary, token: 0, round: 0, known: vec![(0, false); vocabulary.len()] }
    }

    fn restart(&mut self, token: u32) {
        self.token = token;
        self.round += 1;
    }

    fn can(&mut self, next: u32) -> bool {
        let known = &mut self.known[next as usize];
        if known.0 != self.round {
            *known = (self.round, self.vocabulary.can(self.token, next));
        }
        known.1
    }

    /// Whether an encoding of `text` may stand behind the token.
    fn encodes(&mut self, text: &[u8]) -> bool {
        let vocabulary = self.vocabulary;
        text.is_empty() || vocabulary.prefixes(|id| self.can(id), text)[text.len()].is_some()
    }
}
