//! Which weights to repack, from what was measured.
//!
//! Prefill of 128 / decode of 48, tokens/s on two cores with AVX-512, two full-width layers of Yi-34B (`yi bench --repack
//! off --repack on --kernels own,ggml`, medians of four runs):
//!
//! | repacked | kernels | Q4_K_M | Q4_0 |
//! | --- | --- | ---: | ---: |
//! | all | own | 399 / 28 | 398 / 28 |
//! | all (llama.cpp's default) | ggml's | 206 / 27 | 196 / 27 |
//! | none | own | 344 / 24 | 138 / 18 |
//! | none | ggml's | 350 / 24 | 135 / 18 |
//!
//! And prefill of 512 / decode of 32 with AVX2 only, where Q4_K's difference is within the noise of two runs
//! (prefill of 128 / decode of 16: 116 / 20.7 and 118 / 20.7):
//!
//! | repacked | Q4_K_M | Q4_0 |
//! | --- | ---: | ---: |
//! | all (llama.cpp's default) | 107 / 21.2 | 90 / 20.6 |
//! | none | 111 / 19.6 | 65 / 17.9 |
//!
//! So on x86-64 `auto` repacks Q4_0 and IQ4_NL, and Q4_K for own kernels: what is not repacked needs no memory
//! beside the file. Other machines have not been measured; there it is what llama.cpp repacks.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use regex::Regex;
use yi_gguf::{DType, Gguf, TensorInfo};

use crate::error::Error;
use crate::llama::{Backend, Kernels, Repack, can_repack};

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub enum RepackChoice {
    /// By type and machine.
    #[default]
    Auto,
    /// All that ggml has kernels for.
    On,
    /// Nothing: the mapped file is used as it is.
    Off,
    /// The tensors whose name this expression finds, if there is a kernel for their type.
    Matching(Regex),
}

impl RepackChoice {
    /// As on the command line.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            RepackChoice::Auto => "auto",
            RepackChoice::On => "on",
            RepackChoice::Off => "off",
            RepackChoice::Matching(regex) => regex.as_str(),
        }
    }

    /// What it means for a file on this machine, whose contexts compute with these kernels. With layers on a GPU, `auto`
    /// leaves the choice to llama.cpp: a tensor that is repacked by name stays on the CPU.
    ///
    /// # Errors
    /// When the expression finds no tensor that can be repacked.
    pub fn resolve(
        &self,
        headers: &[Gguf],
        backend: &Backend,
        on_gpu: bool,
        kernels: Kernels,
    ) -> Result<Repack, Error> {
        let has_own = kernels.are_own(backend);
        let chosen: Box<dyn Fn(&TensorInfo) -> bool> = match self {
            RepackChoice::On => return Ok(Repack::All),
            RepackChoice::Off => return Ok(Repack::None),
            RepackChoice::Auto if on_gpu => return Ok(Repack::All),
            RepackChoice::Auto => {
                let plain_is_faster = backend.has("AVX2") && !has_own;
                Box::new(move |t| match t.dtype() {
                    DType::Q4_K => !plain_is_faster,
                    _ => true,
                })
            }
            RepackChoice::Matching(regex) => Box::new(|t| regex.is_match(t.name())),
        };
        let (mut names, mut all) = (Vec::new(), true);
        for tensor in repackable(headers, backend) {
            if chosen(tensor) {
                names.push(tensor.name().to_owned());
            } else {
                all = false;
            }
        }
        if names.is_empty()
            && let RepackChoice::Matching(regex) = self
        {
            return Err(Error::NothingToRepack {
                pattern: regex.as_str().to_owned(),
            });
        }
        Ok(match (names.is_empty(), all) {
            // By name: where a CPU has AMX, llama.cpp's switch puts weights into AMX's layout.
            (false, true) if has_own => Repack::Tensors(names),
            // Without kernels the switch does nothing.
            (_, true) => Repack::All,
            (true, false) => Repack::None,
            (false, false) => Repack::Tensors(names),
        })
    }
}

impl fmt::Display for RepackChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RepackChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => RepackChoice::Auto,
            "on" | "1" => RepackChoice::On,
            "off" | "0" => RepackChoice::Off,
            pattern => RepackChoice::Matching(Regex::new(pattern).map_err(|e| e.to_string())?),
        })
    }
}

/// Bytes of the weights that a load repacks.
#[must_use]
pub fn repacked_bytes(repack: &Repack, headers: &[Gguf], backend: &Backend) -> u64 {
    let bytes = |tensors: &mut dyn Iterator<Item = &TensorInfo>| {
        tensors.fold(0u64, |sum, tensor| sum.saturating_add(tensor.n_bytes()))
    };
    match repack {
        Repack::None => 0,
        Repack::All => bytes(&mut repackable(headers, backend)),
        Repack::Tensors(names) => {
            let names: HashSet<&str> = names.iter().map(String::as_str).collect();
            bytes(&mut repackable(headers, backend).filter(|t| names.contains(t.name())))
        }
    }
}

/// The matrices of a file that can be repacked here: those that activations are multiplied with, which
/// the embedding is not.
pub fn repackable<'a>(
    headers: &'a [Gguf],
    backend: &'a Backend,
) -> impl Iterator<Item = &'a TensorInfo> {
    let tensors = headers.iter().flat_map(Gguf::tensors);
    tensors.filter(|tensor| match tensor.dims() {
        &[_, n_rows] => {
            let name = tensor.name();
            (name.starts_with("blk.") || name == "output.weight")
                && name.ends_with(".weight")
                && can_repack(backend, tensor.dtype(), n_rows)
        }
        _ => false,
    })
}
