//! The cgroups that limit this process, as Linux shows them: its own and all above it.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of one cgroup.
#[derive(Debug, PartialEq)]
pub(crate) struct Folder {
    /// With the limits below it, as files.
    pub(crate) path: PathBuf,
    /// Whether they are those of version 2.
    pub(crate) v2: bool,
}

/// The folders of this process's cgroups that may limit what `controller` counts (`cpu`, `memory`), and those of
/// their parents up to the mount point; below `root`, which is `/` but in a test.
pub(crate) fn folders(root: &Path, controller: &str) -> Vec<Folder> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (cgroups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut folders = Vec::new();
    for line in cgroups.lines() {
        // hierarchy-ID:controllers:path
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let v2 = controllers.is_empty();
        if !v2 && !controllers.split(',').any(|c| c == controller) {
            continue;
        }
        let paths = with_parents(root, mount(&mounts, v2, controller), path).into_iter();
        folders.extend(paths.map(|path| Folder { path, v2 }));
    }
    folders
}

/// The folder of the cgroup `path` and those of its parents up to the mount point.
fn with_parents(root: &Path, mount: Option<(&str, &str)>, path: &str) -> Vec<PathBuf> {
    let Some((mount_root, mount_point)) = mount else {
        return Vec::new();
    };
    let mount_point = root.join(mount_point.trim_start_matches('/'));
    // In a container the mount shows a part of the hierarchy: the path is relative to that part, or
    // (with a cgroup namespace) to the process's own root.
    let relative = Path::new(path)
        .strip_prefix(mount_root)
        .unwrap_or_else(|_| Path::new(path).strip_prefix("/").unwrap_or(Path::new("")));
    let mut folders = Vec::new();
    // `..` appears where the process's cgroup lies outside its namespace's root.
    let clean = relative
        .components()
        .all(|c| matches!(c, std::path::Component::Normal(_)));
    if clean {
        for ancestor in relative.ancestors() {
            folders.push(mount_point.join(ancestor));
        }
    }
    if folders.is_empty() {
        folders.push(mount_point);
    }
    folders
}

/// Root and mount point of the cgroup hierarchy that holds the controller.
fn mount<'a>(mounts: &'a str, v2: bool, controller: &str) -> Option<(&'a str, &'a str)> {
    mounts.lines().find_map(|line| {
        // 36 35 98:0 /root /point rw,noatime master:1 - type source options
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = right.nth(1).unwrap_or("");
        let matches = if v2 {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && options.split(',').any(|o| o == controller)
        };
        matches.then_some((root, point))
    })
}
