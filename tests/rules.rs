//! Rules of the code base that the compiler does not know.

use std::path::{Path, PathBuf};

/// Where unsafe code may live, as prefixes of paths below the repository's root.
const UNSAFE_ROOMS: [&str; 6] = [
    "quantize/src/digest/sha_ni.rs",
    "quantize/src/kernels/avx2",
    "quantize/src/kernels/avx512",
    "quantize/src/kernels/neon",
    "quantize/src/map.rs",
    "src/llama/",
];

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether a line of code, its comment aside, has the keyword.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == "unsafe")
}

#[test]
fn unsafe_code_lives_in_its_rooms_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for package in ["src", "quantize/src", "quantize/gguf/src"] {
        rust_files(&root.join(package), &mut files);
    }
    let mut found_in_rooms = 0;
    for path in files {
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/");
        let in_room = UNSAFE_ROOMS.iter().any(|room| name.starts_with(room));
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            if is_unsafe(line) {
                assert!(in_room, "{name}:{}: {line}", number + 1);
                found_in_rooms += 1;
            }
        }
    }
    // The search itself works: the rooms do hold some.
    assert!(found_in_rooms > 0);
}
