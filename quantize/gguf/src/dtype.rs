//! ggml's tensor types: ids, block lengths and block sizes.
//!
//! Source: `enum ggml_type` in `ggml.h`, the block structures in `ggml-common.h` and
//! `type_traits` in `ggml.c` of the llama.cpp that llama-cpp-sys-2 0.1.160 carries.

use std::fmt;

/// Defines the enum and its tables in one place, so that no list can miss a type.
macro_rules! dtypes {
    ($($name:ident = $id:literal, $block_len:literal, $block_bytes:literal;)+) => {
        /// A ggml tensor type that a GGUF file may hold.
        ///
        /// A row of a tensor is stored as blocks of [`block_len`](DType::block_len) weights,
        /// each [`block_bytes`](DType::block_bytes) bytes.
        #[allow(non_camel_case_types)] // the names that ggml, and everyone who uses it, writes
        #[allow(missing_docs)] // a type is documented by its block in ggml-common.h
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType { $($name = $id,)+ }

        impl DType {
            /// Every type, in the order of the ids.
            pub const ALL: &'static [DType] = &[$(DType::$name,)+];

            /// The type with this id in a GGUF file; None for an unknown or removed id.
            pub const fn from_id(id: u32) -> Option<DType> {
                match id { $($id => Some(DType::$name),)+ _ => None }
            }

            /// The usual name, as in `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$name => stringify!($name),)+ }
            }

            /// Weights per block.
            pub const fn block_len(self) -> u64 {
                match self { $(DType::$name => $block_len,)+ }
            }

            /// Bytes per block.
            pub const fn block_bytes(self) -> u64 {
                match self { $(DType::$name => $block_bytes,)+ }
            }
        }
    };
}

dtypes! {
    // name = id, weights per block, bytes per block
    F32 = 0, 1, 4;
    F16 = 1, 1, 2;
    Q4_0 = 2, 32, 18;
    Q4_1 = 3, 32, 20;
    Q5_0 = 6, 32, 22;
    Q5_1 = 7, 32, 24;
    Q8_0 = 8, 32, 34;
    Q8_1 = 9, 32, 36;
    Q2_K = 10, 256, 84;
    Q3_K = 11, 256, 110;
    Q4_K = 12, 256, 144;
    Q5_K = 13, 256, 176;
    Q6_K = 14, 256, 210;
    Q8_K = 15, 256, 292;
    IQ2_XXS = 16, 256, 66;
    IQ2_XS = 17, 256, 74;
    IQ3_XXS = 18, 256, 98;
    IQ1_S = 19, 256, 50;
    IQ4_NL = 20, 32, 18;
    IQ3_S = 21, 256, 110;
    IQ2_S = 22, 256, 82;
    IQ4_XS = 23, 256, 136;
    I8 = 24, 1, 1;
    I16 = 25, 1, 2;
    I32 = 26, 1, 4;
    I64 = 27, 1, 8;
    F64 = 28, 1, 8;
    IQ1_M = 29, 256, 56;
    BF16 = 30, 1, 2;
    TQ1_0 = 34, 256, 54;
    TQ2_0 = 35, 256, 66;
    MXFP4 = 39, 32, 17;
    NVFP4 = 40, 64, 36;
    Q1_0 = 41, 128, 18;
    Q2_0 = 42, 64, 18;
}

impl DType {
    /// The id that a GGUF file stores.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The type with this name, in any case: `q4_K`, `Q4_K` and `q4_k` are one type.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL
            .iter()
            .copied()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of one row of `n_cols` weights; None if the block length does not divide `n_cols`
    /// or the product passes 2^64.
    pub const fn row_bytes(self, n_cols: u64) -> Option<u64> {
        if !n_cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether ggml can multiply with a matrix of this type: `type_traits_cpu` in `ggml-cpu.c` has
    /// no dot product for the others, and calls it unchecked.
    pub(crate) const fn is_matrix_type(self) -> bool {
        use DType::*;
        !matches!(self, Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64)
    }

    /// The name of a type that ggml once had and no longer reads; None for any other id.
    pub const fn removed_name(id: u32) -> Option<&'static str> {
        match id {
            4 => Some("Q4_2"),
            5 => Some("Q4_3"),
            31 => Some("Q4_0_4_4"),
            32 => Some("Q4_0_4_8"),
            33 => Some("Q4_0_8_8"),
            36 => Some("IQ4_NL_4_4"),
            37 => Some("IQ4_NL_4_8"),
            38 => Some("IQ4_NL_8_8"),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_type_or_removed_or_unknown() {
        let known = (0..64).filter(|&id| DType::from_id(id).is_some()).count();
        let removed = (0..64).filter(|&id| DType::removed_name(id).is_some());
        assert_eq!(known, DType::ALL.len());
        assert_eq!(known + removed.count(), 43); // GGML_TYPE_COUNT
        for &dtype in DType::ALL {
            assert_eq!(DType::from_id(dtype.id()), Some(dtype));
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
            assert_eq!(DType::removed_name(dtype.id()), None);
        }
        assert_eq!(DType::from_name("q4_k"), Some(DType::Q4_K));
        assert_eq!(DType::from_name("Q4"), None);
    }

    #[test]
    fn row_bytes_refuses_partial_blocks_and_overflow() {
        assert_eq!(DType::Q4_K.row_bytes(7168), Some(28 * 144));
        assert_eq!(DType::Q4_K.row_bytes(7169), None);
        assert_eq!(DType::F32.row_bytes(u64::MAX), None);
        assert_eq!(DType::F64.row_bytes(0), Some(0));
    }
}
