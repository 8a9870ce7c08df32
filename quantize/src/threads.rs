//! How many threads to compute with by default.
//!
//! [`num_cpus`] knows the affinity mask and the cgroup quota, but not both together with the physical
//! cores: with hyper-threads, a matrix product runs slower on two threads of one core than on one, and
//! threads beyond a container's quota stop the others at every barrier. So on Linux this module reads
//! what the kernel says itself, all of it below one root folder (a recorded tree in the tests):
//!
//! - `/proc/self/status`: the affinity mask (`Cpus_allowed_list`);
//! - `/sys/devices/system/cpu/cpu*/topology`: which of those CPUs share a core;
//! - `/sys/devices/cpu_core/cpus` and `cpu*/cpu_capacity`: which cores are the fast ones of a hybrid CPU;
//! - `/proc/self/{cgroup,mountinfo}` and `cpu.max` (v2) or `cpu.cfs_{quota,period}_us` (v1) in every
//!   cgroup from this process's up to the root: the smallest quota counts.
//!
//! Elsewhere num_cpus answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use crate::cgroup;

/// What bounds the number of threads, as found on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Processors {
    /// CPUs (hardware threads) that this process may run on.
    pub logical: usize,
    /// Physical cores among those.
    pub physical: usize,
    /// Physical cores of the fastest kind among those: fewer than `physical` on a hybrid CPU.
    pub fast: usize,
    /// The cgroup's limit in CPUs (1.5 = one and a half), where there is one.
    pub quota: Option<f64>,
}

impl Processors {
    /// Reads this machine.
    #[must_use]
    pub fn detect() -> Self {
        if cfg!(target_os = "linux")
            && let Some(found) = linux(Path::new("/"))
        {
            return found;
        }
        let logical = num_cpus::get().max(1);
        let physical = num_cpus::get_physical().clamp(1, logical);
        Processors {
            logical,
            physical,
            fast: physical,
            quota: None,
        }
    }

    /// The default number of threads: one for each fast physical core, at most the quota in whole
    /// CPUs, at least 1.
    ///
    /// The quota is rounded down: the thread that has to share the last half CPU is stopped by the
    /// kernel in each period, and at the next barrier all others wait for it.
    #[must_use]
    pub fn threads(&self) -> usize {
        let whole = self
            .quota
            .map_or(usize::MAX, |quota| quota.floor() as usize);
        self.fast.min(whole).max(1)
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} logical CPUs, {} physical cores",
            self.logical, self.physical
        )?;
        if self.fast != self.physical {
            write!(f, ", {} of them fast", self.fast)?;
        }
        if let Some(quota) = self.quota {
            write!(f, ", quota {quota:.2} CPUs")?;
        }
        Ok(())
    }
}

/// The default number of threads on this machine; see [`Processors::threads`].
#[must_use]
pub fn default_threads() -> usize {
    Processors::detect().threads()
}

/// Reads `/proc` and `/sys` below `root`; `None` when the affinity mask cannot be read.
fn linux(root: &Path) -> Option<Processors> {
    let status = read(&root.join("proc/self/status"))?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let cpus = parse_list(allowed)?;
    // The mask may name CPUs that are not plugged in.
    let online = read(&root.join("sys/devices/system/cpu/online")).and_then(|s| parse_list(&s));
    let cpus: BTreeSet<usize> = match online {
        Some(online) => cpus.intersection(&online).copied().collect(),
        None => cpus,
    };
    if cpus.is_empty() {
        return None;
    }
    let cores = cores(root, &cpus);
    let fast = fast_cores(root, &cores);
    Some(Processors {
        logical: cpus.len(),
        physical: cores.len(),
        fast,
        quota: quota(root),
    })
}

/// Groups the CPUs by physical core. A CPU whose topology is unknown counts as a core of its own.
fn cores(root: &Path, cpus: &BTreeSet<usize>) -> Vec<Vec<usize>> {
    let mut cores: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for &cpu in cpus {
        let topology = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
        // `core_cpus_list` is the newer name of `thread_siblings_list`.
        let siblings = read(&topology.join("core_cpus_list"))
            .or_else(|| read(&topology.join("thread_siblings_list")))
            .filter(|list| parse_list(list).is_some_and(|list| list.contains(&cpu)))
            .unwrap_or_else(|| cpu.to_string());
        cores
            .entry(siblings.trim().to_owned())
            .or_default()
            .push(cpu);
    }
    cores.into_values().collect()
}

/// Counts the cores of the fastest kind.
fn fast_cores(root: &Path, cores: &[Vec<usize>]) -> usize {
    let count = |is_fast: &dyn Fn(usize) -> bool| {
        cores
            .iter()
            .filter(|core| core.iter().any(|&cpu| is_fast(cpu)))
            .count()
    };
    // Intel's hybrid CPUs have one event source for each kind of core.
    let performance = read(&root.join("sys/devices/cpu_core/cpus")).and_then(|s| parse_list(&s));
    if let Some(performance) = performance {
        let n = count(&|cpu| performance.contains(&cpu));
        if n > 0 {
            return n;
        }
    }
    // Arm states each CPU's capacity, 1024 being the fastest. A middle core still keeps pace; one below
    // half of the fastest makes the others wait.
    let capacity = |cpu: usize| -> Option<u64> {
        read(&root.join(format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity")))?
            .trim()
            .parse()
            .ok()
    };
    let fastest = cores
        .iter()
        .flatten()
        .filter_map(|&cpu| capacity(cpu))
        .max();
    match fastest {
        Some(fastest) => count(&|cpu| capacity(cpu).is_none_or(|c| c.saturating_mul(2) >= fastest)),
        None => cores.len(),
    }
}

/// The smallest CPU quota of this process's cgroups and of all above them.
fn quota(root: &Path) -> Option<f64> {
    let folders = cgroup::folders(root, "cpu").into_iter();
    let quotas = folders.filter_map(|folder| match folder.v2 {
        true => quota_v2(&folder.path),
        false => quota_v1(&folder.path),
    });
    quotas.reduce(f64::min)
}

/// `cpu.max`: `max 100000` or `150000 100000`.
fn quota_v2(folder: &Path) -> Option<f64> {
    let text = read(&folder.join("cpu.max"))?;
    let mut fields = text.split_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next().unwrap_or("100000").parse().ok()?;
    ratio(quota, period)
}

/// `cpu.cfs_quota_us` (-1 = none) over `cpu.cfs_period_us`.
fn quota_v1(folder: &Path) -> Option<f64> {
    let quota: f64 = read(&folder.join("cpu.cfs_quota_us"))?
        .trim()
        .parse()
        .ok()?;
    let period: f64 = read(&folder.join("cpu.cfs_period_us"))?
        .trim()
        .parse()
        .ok()?;
    ratio(quota, period)
}

fn ratio(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0 && quota.is_finite()).then(|| quota / period)
}

/// Parses the kernel's list format: `0-3,8,10-11`.
fn parse_list(text: &str) -> Option<BTreeSet<usize>> {
    /// More CPUs than Linux supports (8192): a larger number is not a list of CPUs.
    const LIMIT: usize = 1 << 16;
    let mut cpus = BTreeSet::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= LIMIT {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the given files, as read from real machines.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn siblings(pairs: &[(usize, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(cpu, list)| {
                (
                    format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                    format!("{list}\n"),
                )
            })
            .collect()
    }

    fn detect(files: &[(&str, &str)], cores: &[(usize, &str)]) -> Processors {
        let cores = siblings(cores);
        let mut all: Vec<(&str, &str)> = files.to_vec();
        all.extend(
            cores
                .iter()
                .map(|(path, text)| (path.as_str(), text.as_str())),
        );
        let root = tree(&all);
        linux(root.path()).unwrap()
    }

    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNT: &str = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct\n\
                            34 32 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:17 - cgroup cgroup rw,memory\n";
    const SMT8: [(usize, &str); 8] = [
        (0, "0,4"),
        (1, "1,5"),
        (2, "2,6"),
        (3, "3,7"),
        (4, "0,4"),
        (5, "1,5"),
        (6, "2,6"),
        (7, "3,7"),
    ];

    #[test]
    fn hyper_threads_count_once() {
        let p = detect(
            &[("proc/self/status", "Name:\tyi\nCpus_allowed_list:\t0-7\n")],
            &SMT8,
        );
        assert_eq!(
            p,
            Processors {
                logical: 8,
                physical: 4,
                fast: 4,
                quota: None
            }
        );
        assert_eq!(p.threads(), 4);
    }

    #[test]
    fn affinity_mask_keeps_the_cores_it_touches() {
        // CPUs 0 and 4 share a core: three CPUs, two cores.
        let p = detect(
            &[("proc/self/status", "Cpus_allowed_list:\t0,4-5\n")],
            &SMT8,
        );
        assert_eq!((p.logical, p.physical), (3, 2));
    }

    #[test]
    fn cpus_that_are_offline_do_not_count() {
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-127\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
        ];
        assert_eq!(detect(&files, &SMT8).logical, 4);
    }

    #[test]
    fn cgroup_v2_quota_is_the_smallest_on_the_way_up() {
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
            ("proc/self/cgroup", "0::/user.slice/job.scope\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/user.slice/job.scope/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/user.slice/cpu.max", "250000 100000\n"),
        ];
        let p = detect(&files, &SMT8);
        assert_eq!(p.quota, Some(2.5));
        assert_eq!(p.threads(), 2);
    }

    #[test]
    fn cgroup_v2_namespace_reads_the_mounted_root() {
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
        ];
        assert_eq!(detect(&files, &SMT8).threads(), 1);
    }

    #[test]
    fn cgroup_v1_quota() {
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
            (
                "proc/self/cgroup",
                "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
            ),
            ("proc/self/mountinfo", V1_MOUNT),
            (
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us",
                "300000\n",
            ),
            (
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us",
                "100000\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        let p = detect(&files, &SMT8);
        assert_eq!(p.quota, Some(3.0));
        assert_eq!(p.threads(), 3);
    }

    #[test]
    fn cgroup_v1_container_mount_shows_its_own_part() {
        let mount =
            "33 32 0:29 /docker/abc /sys/fs/cgroup/cpu ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n";
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
            ("proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n"),
            ("proc/self/mountinfo", mount),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        let p = detect(&files, &SMT8);
        assert_eq!(p.quota, Some(0.5));
        assert_eq!(p.threads(), 1, "never zero");
    }

    #[test]
    fn hybrid_intel_counts_performance_cores() {
        // Two performance cores with two threads each, four efficiency cores.
        let cores = [
            (0, "0-1"),
            (1, "0-1"),
            (2, "2-3"),
            (3, "2-3"),
            (4, "4"),
            (5, "5"),
            (6, "6"),
            (7, "7"),
        ];
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
            ("sys/devices/cpu_core/cpus", "0-3\n"),
        ];
        let p = detect(&files, &cores);
        assert_eq!((p.logical, p.physical, p.fast, p.threads()), (8, 6, 2, 2));
        // Pinned to efficiency cores only, those are the fast ones.
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t4-7\n"),
            ("sys/devices/cpu_core/cpus", "0-3\n"),
        ];
        assert_eq!(detect(&files, &cores).threads(), 4);
    }

    #[test]
    fn big_little_leaves_out_the_little_cores() {
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-3\n"),
            ("sys/devices/system/cpu/cpu0/cpu_capacity", "325\n"),
            ("sys/devices/system/cpu/cpu1/cpu_capacity", "325\n"),
            ("sys/devices/system/cpu/cpu2/cpu_capacity", "870\n"),
            ("sys/devices/system/cpu/cpu3/cpu_capacity", "1024\n"),
        ];
        let p = detect(&files, &[(0, "0"), (1, "1"), (2, "2"), (3, "3")]);
        assert_eq!((p.physical, p.fast), (4, 2));
    }

    #[test]
    fn broken_files_are_ignored() {
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-3\n"),
            ("proc/self/cgroup", "garbage\n0::/../../outside\n::\n"),
            ("proc/self/mountinfo", "x - y\n- -\n"),
            ("sys/devices/system/cpu/online", "0-99999999999\n"),
            ("sys/devices/cpu_core/cpus", "\n"),
        ];
        let p = detect(&files, &[(0, "nonsense"), (1, "7")]);
        assert_eq!(
            p,
            Processors {
                logical: 4,
                physical: 4,
                fast: 4,
                quota: None
            }
        );
    }

    #[test]
    fn no_mask_no_answer() {
        assert_eq!(
            linux(tree(&[("proc/self/status", "Name:\tyi\n")]).path()),
            None
        );
        assert_eq!(linux(tree(&[]).path()), None);
    }

    #[test]
    fn this_machine_has_at_least_one() {
        let p = Processors::detect();
        assert!(p.threads() >= 1 && p.threads() <= p.logical, "{p}");
    }
}
