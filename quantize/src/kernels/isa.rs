//! The instruction sets that kernels are written for.

use std::fmt;

/// An instruction set that this machine has: only [`Isa::detect`] and [`Isa::available`] give one
/// other than scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust: the code that defines the bytes.
    Scalar,
}

impl Isa {
    /// The best that this machine has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this machine has, the best first.
    pub fn available() -> Vec<Self> {
        vec![Self::Scalar]
    }

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
