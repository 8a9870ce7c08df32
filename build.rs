//! Puts llama.cpp's libraries beside the executable, so that the folder runs wherever it is copied.
//!
//! llama-cpp-sys-2 leaves them in its own build folder: `lib/` holds llama and ggml, `backends/` one
//! ggml CPU library for each level of instruction set. Here they become
//!
//! ```text
//! target/release/yi
//! target/release/libllama.so.0, libggml.so.0, libggml-base.so.0
//! target/release/backends/libggml-cpu-*.so
//! ```
//!
//! and the executables get a search path relative to themselves.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let Some(backends) = env::var_os("DEP_LLAMA_BACKENDS_DIR").map(PathBuf::from) else {
        panic!("llama-cpp-sys-2 must be built with its feature dynamic-backends");
    };
    let llama_root = backends
        .parent()
        .expect("the backends folder lies in llama.cpp's build folder");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // <profile>/build/<package>-<hash>/out
    let profile_dir = out_dir
        .ancestors()
        .nth(3)
        .expect("OUT_DIR lies three levels below the profile");

    for library in libraries(&backends, |name| {
        name.starts_with("libggml-") || name.starts_with("ggml-")
    }) {
        place(&library, &profile_dir.join("backends"));
    }
    // On Windows the DLLs are in bin; elsewhere lib, where the loader asks for the name with one version
    // number (libllama.so.0, libllama.0.dylib).
    for folder in ["lib", "lib64", "bin"] {
        for library in libraries(&llama_root.join(folder), is_runtime_name) {
            place(&library, profile_dir);
        }
    }
    for folder in ["", "deps", "examples"] {
        remove_dangling_links(&profile_dir.join(folder));
    }
    search_path();
}

/// Removes the links `libllama.so -> libllama.so.0` that llama-cpp-sys-2 leaves in cargo's folders without
/// what they point to: its next build would take them for missing and fail on them.
fn remove_dangling_links(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_ours = name.starts_with("libllama") || name.starts_with("libggml");
        if is_ours && path.is_symlink() && !path.exists() {
            // Whoever removed it first did the same.
            let _ = fs::remove_file(&path);
        }
    }
}

/// Names that the dynamic loader asks for: not the link-time name, not the full version.
fn is_runtime_name(name: &str) -> bool {
    if name.contains("llama-common") {
        return false;
    }
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if let Some((_, version)) = name.split_once(".so.") {
        return digits(version);
    }
    if let Some(stem) = name.strip_suffix(".dylib") {
        let mut parts = stem.split('.').skip(1);
        return parts.next().is_some_and(digits) && parts.next().is_none();
    }
    name.ends_with(".dll")
}

/// The files in `folder` whose name is wanted, in a fixed order.
fn libraries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(&wanted)
        })
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

/// Makes `folder/<name>` the library at `source`: a hard link, or a copy across file systems.
fn place(source: &Path, folder: &Path) {
    let name = source.file_name().expect("a library has a name");
    let target = folder.join(name);
    println!("cargo:rerun-if-changed={}", target.display());
    let real = fs::canonicalize(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    if same_file(&real, &target) {
        return;
    }
    // A new name first: a program that runs keeps the file it has mapped.
    let temporary = folder.join(format!(
        ".{}.{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let placed = fs::create_dir_all(folder)
        .and_then(|()| link_or_copy(&real, &temporary))
        .and_then(|()| fs::rename(&temporary, &target));
    if let Err(e) = placed {
        let _ = fs::remove_file(&temporary);
        panic!("cannot put {} to {}: {e}", real.display(), target.display());
    }
}

fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (fs::metadata(a), fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => a.len() == b.len() && a.modified().ok() <= b.modified().ok(),
        _ => false,
    }
}

/// Tells the linker where the executables find the libraries: beside themselves. Tests and examples
/// are one folder deeper.
fn search_path() {
    match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos" | "ios") => {
            println!("cargo:rustc-link-arg-bins=-Wl,-rpath,@loader_path");
            for kind in ["tests", "examples"] {
                println!("cargo:rustc-link-arg-{kind}=-Wl,-rpath,@loader_path/..");
            }
        }
        Ok("windows") => {} // A DLL beside the executable is found by rule.
        _ => {
            // Old-style RPATH: it also serves what the libraries need themselves, and LD_LIBRARY_PATH
            // cannot put another llama.cpp in front of it.
            for kind in ["bins", "tests", "examples"] {
                println!("cargo:rustc-link-arg-{kind}=-Wl,--disable-new-dtags");
            }
            println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN");
            for kind in ["tests", "examples"] {
                println!("cargo:rustc-link-arg-{kind}=-Wl,-rpath,$ORIGIN/..");
            }
        }
    }
}
