//! How much memory a context takes, and how much there is.

use std::fs;
use std::path::Path;

use yi_gguf::{Metadata, Value};

/// Bytes of the key-value cache for `n_ctx` tokens in F16, from the file's own numbers (`u64::MAX` where
/// they overflow); `None` for models that do not state them (recurrent ones keep a state of fixed size).
#[must_use]
pub fn kv_cache_bytes(metadata: &Metadata, n_ctx: u64) -> Option<u64> {
    let architecture = metadata.str("general.architecture").ok()??;
    let number = |name: &str| {
        metadata
            .unsigned(&format!("{architecture}.{name}"))
            .ok()
            .flatten()
    };
    let n_layers = number("block_count")?;
    let n_heads = number("attention.head_count").filter(|&n| n > 0);
    let head =
        |name: &str| number(name).or_else(|| number("embedding_length")?.checked_div(n_heads?));
    let (k, v) = (
        head("attention.key_length")?,
        head("attention.value_length")?,
    );
    // One number for all layers, or one for each.
    let key = format!("{architecture}.attention.head_count_kv");
    let n_kv_heads: u64 = match metadata.get(&key) {
        None => n_heads?.saturating_mul(n_layers),
        Some(Value::Array(_)) => metadata
            .u32s(&key)
            .ok()??
            .iter()
            .map(|&n| u64::from(n))
            .sum(),
        Some(_) => metadata.unsigned(&key).ok()??.saturating_mul(n_layers),
    };
    Some(
        n_kv_heads
            .saturating_mul(k.saturating_add(v))
            .saturating_mul(2)
            .saturating_mul(n_ctx),
    )
}

/// Bytes of the attention mask for a batch of `n_ubatch` tokens: F32 and its F16 copy.
#[must_use]
pub fn mask_bytes(n_ctx: u64, n_ubatch: u64) -> u64 {
    n_ctx.saturating_mul(n_ubatch).saturating_mul(6)
}

/// Bytes of memory that this process can still get, as the kernel estimates it: free and reclaimable
/// memory, less where a cgroup sets a limit. `None` where the system does not tell.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    meminfo(Path::new("/"), "MemAvailable:")
}

/// Bytes of this machine's memory, less where a cgroup sets a limit. `None` where the system does not
/// tell.
#[must_use]
pub fn total_bytes() -> Option<u64> {
    meminfo(Path::new("/"), "MemTotal:")
}

fn meminfo(root: &Path, name: &str) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    let number = |path: &str| {
        fs::read_to_string(root.join(path))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let cgroup = "sys/fs/cgroup";
    // In a container the group's own files lie at the mount's root; v2 first, then v1. File pages that a
    // group holds can be reclaimed, so only its limit counts here, not its usage.
    let limit = number(&format!("{cgroup}/memory.max"))
        .or_else(|| number(&format!("{cgroup}/memory/memory.limit_in_bytes")));
    Some(kib.saturating_mul(1024).min(limit.unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yi_34b_cache_at_4096_tokens() {
        let mut metadata = Metadata::new();
        metadata
            .insert("general.architecture", Value::String("llama".into()))
            .unwrap();
        for (key, value) in [
            ("block_count", 60u32),
            ("embedding_length", 7168),
            ("attention.head_count", 56),
            ("attention.head_count_kv", 8),
        ] {
            metadata
                .insert(format!("llama.{key}"), Value::U32(value))
                .unwrap();
        }
        // 60 layers, 8 heads of 128 numbers for keys and for values, 2 bytes each.
        assert_eq!(
            kv_cache_bytes(&metadata, 4096),
            Some(60 * 8 * 256 * 2 * 4096)
        );
        // Too many to count is too many to hold, not unknown.
        assert_eq!(kv_cache_bytes(&metadata, u64::MAX), Some(u64::MAX));
        assert_eq!(kv_cache_bytes(&Metadata::new(), 1), None);
    }

    #[test]
    fn the_smaller_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(meminfo(root.path(), "MemAvailable:"), None);
        write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    2048 kB\n");
        assert_eq!(meminfo(root.path(), "MemAvailable:"), Some(2 << 20));
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(meminfo(root.path(), "MemAvailable:"), Some(2 << 20));
        write("sys/fs/cgroup/memory.max", "1048576\n");
        assert_eq!(meminfo(root.path(), "MemAvailable:"), Some(1 << 20));
    }
}
