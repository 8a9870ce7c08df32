//! The types a user can ask for.

use serde::{Deserialize, Serialize};
use yi_gguf::DType;

/// Defines the recipes in one place: id, and the type of every matrix that no rule singles out.
macro_rules! file_types {
    ($($(#[$attribute:meta])* $name:ident = $id:literal, $dtype:ident;)+) => {
        /// A quantization recipe by llama-quantize's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
        #[allow(non_camel_case_types, missing_docs)] // the names that ggml's users know
        #[value(rename_all = "verbatim")]
        pub enum FileType { $($(#[$attribute])* $name,)+ }

        impl FileType {
            /// Every recipe.
            pub const ALL: &'static [FileType] = &[$(FileType::$name,)+];

            /// `general.file_type`: llama.cpp's `enum llama_ftype`.
            pub const fn id(self) -> u32 {
                match self { $(FileType::$name => $id,)+ }
            }

            /// The type of every matrix that no rule singles out.
            pub const fn default_dtype(self) -> DType {
                match self { $(FileType::$name => DType::$dtype,)+ }
            }

            /// As on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(FileType::$name => stringify!($name),)+ }
            }
        }
    };
}

file_types! {
    F32 = 0, F32;
    F16 = 1, F16;
    BF16 = 32, BF16;
    Q8_0 = 7, Q8_0;
    Q4_0 = 2, Q4_0;
    Q4_1 = 3, Q4_1;
    Q5_0 = 8, Q5_0;
    Q5_1 = 9, Q5_1;
    Q2_K = 10, Q2_K;
    Q3_K_S = 11, Q3_K;
    #[value(alias = "Q3_K")]
    Q3_K_M = 12, Q3_K;
    Q3_K_L = 13, Q3_K;
    Q4_K_S = 14, Q4_K;
    #[value(alias = "Q4_K")]
    Q4_K_M = 15, Q4_K;
    Q5_K_S = 16, Q5_K;
    #[value(alias = "Q5_K")]
    Q5_K_M = 17, Q5_K;
    Q6_K = 18, Q6_K;
    IQ4_NL = 25, IQ4_NL;
    IQ4_XS = 30, IQ4_XS;
}

impl FileType {
    /// Whether weights are stored in blocks with a scale. Only these recipes single tensors out.
    pub const fn is_quantized(self) -> bool {
        self.default_dtype().block_len() > 1
    }
}

impl std::fmt::Display for FileType {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn names_without_a_size_are_llama_quantizes_aliases() {
        for (alias, file_type) in [
            ("q3_k", FileType::Q3_K_M),
            ("Q4_K", FileType::Q4_K_M),
            ("Q5_K", FileType::Q5_K_M),
            ("iq4_xs", FileType::IQ4_XS),
        ] {
            assert_eq!(FileType::from_str(alias, true), Ok(file_type));
        }
        for &file_type in FileType::ALL {
            assert_eq!(FileType::from_str(file_type.name(), false), Ok(file_type));
            let json = serde_json::to_string(&file_type).unwrap();
            assert_eq!(json, format!("\"{file_type}\""));
        }
    }
}
