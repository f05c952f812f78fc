//! What a user can act on: what is wrong, the two values or the place, what to do next.

use std::fmt;

/// The exception of `thack.errors` that an [`Error`] becomes in Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A combination of arguments that makes no sense.
    Usage,
    /// A file that is not in the expected format.
    Data,
    /// Output of a model that cannot be used: NaN, infinite or empty rows of logits.
    Model,
    /// A cache or shard that is damaged, incomplete or of another kind.
    Cache,
    /// Two inputs that do not match.
    Mismatch,
    /// A divergence that is not defined on the given target.
    UndefinedLoss,
}

impl Class {
    /// Name of the Python class.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "UsageError",
            Self::Data => "DataError",
            Self::Model => "ModelError",
            Self::Cache => "CacheError",
            Self::Mismatch => "MismatchError",
            Self::UndefinedLoss => "UndefinedLoss",
        }
    }
}

/// One error: a line, details below it, and a hint at what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Which kind of mistake it is.
    pub class: Class,
    /// What is wrong, in lower case, on one line.
    pub message: String,
    /// The two values, or the place.
    pub details: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
}

impl Error {
    /// An error without details.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), details: Vec::new(), hint: None }
    }

    /// Adds a line that shows a value or a place.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.message)?;
        self.details.iter().try_for_each(|detail| write!(out, "\n  {detail}"))?;
        self.hint.iter().try_for_each(|hint| write!(out, "\n  {hint}"))
    }
}

impl std::error::Error for Error {}

/// The result of everything that can fail for a reason the user can act on.
pub type Result<T> = std::result::Result<T, Error>;
