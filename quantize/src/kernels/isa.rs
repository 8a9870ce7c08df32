//! The instruction sets that kernels are written for.

use std::fmt;

use yi_gguf::DType;

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::{ErrorSums, convert, error_sums, lanes};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this machine has: one other than scalar carries the proof.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    /// Plain Rust: the code that defines the bytes.
    Scalar,
    /// 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// 4 lanes.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Isa {
    /// The best that this machine has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this machine has, the best first, scalar last.
    pub fn available() -> Vec<Self> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            available.extend(Avx512::new().map(Self::Avx512));
            available.extend(Avx2::new().map(Self::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        available.extend(Neon::new().map(Self::Neon));
        available.push(Self::Scalar);
        available
    }

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }
}

/// Methods that run code of all instruction sets, compiled for this one.
macro_rules! compiled {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $function:path;)+) => { $(
        #[doc = concat!("[`", stringify!($function), "`]")]
        pub(super) fn $name(self, $($arg: $type),*) -> $result {
            match self {
                Self::Scalar => $function($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2(s) => s.$name($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512(s) => s.$name($($arg),*),
                // Every aarch64 CPU has NEON, and so all code is compiled for it.
                #[cfg(target_arch = "aarch64")]
                Self::Neon(_) => $function($($arg),*),
            }
        }
    )+ };
}

impl Isa {
    lanes::scalar_code!(compiled);
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
