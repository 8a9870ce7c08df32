//! How much memory a context takes, and how much there is.

use std::fs;
use std::path::Path;

use yi_gguf::{Metadata, Value};

use crate::cgroup;

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
    // File pages that a group holds can be reclaimed, so only its limit counts here, not its usage.
    let limits = cgroup::folders(root, "memory")
        .into_iter()
        .filter_map(|folder| {
            let name = match folder.v2 {
                true => "memory.max",
                false => "memory.limit_in_bytes",
            };
            let text = fs::read_to_string(folder.path.join(name)).ok()?;
            // `max` where there is none.
            text.trim().parse::<u64>().ok()
        });
    Some(limits.fold(kib.saturating_mul(1024), u64::min))
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
        // A container's own root, at version 2.
        write("proc/self/cgroup", "0::/\n");
        write(
            "proc/self/mountinfo",
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(meminfo(root.path(), "MemAvailable:"), Some(2 << 20));
        write("sys/fs/cgroup/memory.max", "1048576\n");
        assert_eq!(meminfo(root.path(), "MemAvailable:"), Some(1 << 20));
    }

    #[test]
    fn a_limit_on_any_cgroup_on_the_way_up_counts() {
        let tree = |files: &[(&str, &str)]| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            meminfo(root.path(), "MemTotal:")
        };
        let memory = ("proc/meminfo", "MemTotal: 4096 kB\n");
        // A systemd unit with MemoryMax, in a slice with more.
        let v2 = [
            memory,
            ("proc/self/cgroup", "0::/system.slice/yi.service\n"),
            (
                "proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            (
                "sys/fs/cgroup/system.slice/yi.service/memory.max",
                "1048576\n",
            ),
            ("sys/fs/cgroup/system.slice/memory.max", "2097152\n"),
        ];
        assert_eq!(tree(&v2), Some(1 << 20));
        // Version 1 has a hierarchy for each controller.
        let v1 = [
            memory,
            ("proc/self/cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n"),
            (
                "proc/self/mountinfo",
                "33 32 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                 34 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            (
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3145728\n"),
        ];
        assert_eq!(tree(&v1), Some(3 << 20));
    }
}
