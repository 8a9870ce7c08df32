//! `yi --version`.

use std::fmt::Write as _;
use std::io::Write as _;

use yi_quantize::threads::Processors;

use super::compute::no_gpu;
use crate::error::{Error, gib};
use crate::llama;

/// Prints the version; in detail also the CPU library that runs here, the GPUs, and what the CPU has.
pub fn print(detail: bool) -> Result<(), Error> {
    let mut text = format!("yi {}\n", env!("CARGO_PKG_VERSION"));
    let mut failed = None;
    if detail {
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("llama.cpp", &llama::version());
        match llama::backend() {
            Ok(backend) => {
                line("CPU library", backend.variant().unwrap_or("unknown"));
                let used: Vec<_> = backend
                    .features()
                    .iter()
                    .filter(|(_, v)| v != "0")
                    .map(|(n, _)| n.as_str())
                    .collect();
                line("it uses", &used.join(" "));
                line("from", &backend.folder().display().to_string());
                let gpus = llama::gpus(backend);
                for gpu in &gpus {
                    let memory = gib(gpu.total);
                    line(
                        "GPU",
                        &format!("{}: {}, {memory}", gpu.name, gpu.description),
                    );
                }
                if gpus.is_empty() {
                    line("GPU", &no_gpu(backend));
                }
            }
            Err(error) => failed = Some(error),
        }
        line("the CPU has", &cpu_features().join(" "));
        let processors = Processors::detect();
        line("processors", &processors.to_string());
        line("threads", &processors.threads().to_string());
    }
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Error::Write)?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

macro_rules! detected {
    ($detect:ident: $($name:tt)*) => {{
        let mut found = Vec::new();
        $(if std::arch::$detect!($name) { found.push($name); })*
        found
    }};
}

/// The instruction sets of this CPU that matter for inference, as the operating system enables them.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn cpu_features() -> Vec<&'static str> {
    detected!(is_x86_feature_detected: "sse4.2" "avx" "f16c" "fma" "avx2" "bmi2" "avxvnni" "avx512f" "avx512bw"
        "avx512vl" "avx512vbmi" "avx512vnni" "avx512bf16" "avx512fp16")
}

/// The instruction sets of this CPU that matter for inference.
#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    detected!(is_aarch64_feature_detected: "neon" "dotprod" "fp16" "i8mm" "bf16" "sve" "sve2" "sme")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}
