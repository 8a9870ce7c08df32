//! The output: what may be written, what happens on the way, and what is left when it goes wrong.

mod util;

use util::{TestCheckpoint, names_in};
use yi_quantize::digest::Digest;
use yi_quantize::error::Error;
use yi_quantize::journal::{File, Header};
use yi_quantize::output::{OutputError, Target};

/// Of a run whose output is one file of so many bytes.
fn header(n_bytes: u64) -> Header {
    header_of(&["x"], n_bytes)
}

/// Of a run whose output is these files.
fn header_of(names: &[&str], n_bytes: u64) -> Header {
    let files = names.iter().map(|name| File {
        name: (*name).to_owned(),
        n_bytes,
    });
    Header::new(Digest::of(b""), files.collect(), Vec::new())
}

#[test]
fn output_that_is_the_input_by_any_name() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    let input = checkpoint.path().join("model.safetensors");
    let before = std::fs::read(&input).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let hard_link = elsewhere.path().join("hard");
    std::fs::hard_link(&input, &hard_link).unwrap();
    let mut names = vec![input.clone(), hard_link];
    #[cfg(unix)]
    {
        let link = elsewhere.path().join("link");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        names.push(link);
    }
    for output in names {
        for force in [false, true] {
            let error = Target::new(&output, force, checkpoint.path()).unwrap_err();
            assert!(matches!(error, OutputError::IsInput { .. }), "{error}");
        }
    }
    assert_eq!(std::fs::read(&input).unwrap(), before);
}

#[test]
fn output_that_is_a_folder_a_device_or_in_no_folder() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = |path: &std::path::Path| Target::new(path, true, checkpoint.path()).unwrap_err();
    assert!(matches!(
        target(elsewhere.path()),
        OutputError::NotRegular { .. }
    ));
    // These exist no more than `x.gguf` does, but no file can get such a name in the end.
    for name in ["x.gguf/", "x.gguf/.", "x.gguf//", ".."] {
        let error = target(&elsewhere.path().join(name));
        assert!(matches!(error, OutputError::NoFileName { .. }), "{error}");
    }
    #[cfg(unix)]
    {
        let dangling = elsewhere.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(matches!(target(&dangling), OutputError::NotRegular { .. }));
    }
    #[cfg(unix)]
    assert!(matches!(
        target("/dev/null".as_ref()),
        OutputError::NotRegular { .. }
    ));
    assert!(matches!(
        target("/no/such/folder/x.gguf".as_ref()),
        OutputError::Folder { .. }
    ));
}

#[test]
fn too_little_space_is_refused_with_both_figures() {
    let dir = tempfile::tempdir().unwrap();
    let target =
        |name: &str| Target::new(&dir.path().join(name), false, std::path::Path::new(".")).unwrap();
    let error = target("x").create(&header(u64::MAX)).unwrap_err();
    assert!(
        matches!(
            error,
            OutputError::NoSpace {
                needed_bytes: u64::MAX,
                free_bytes: 1..,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_disk_that_fills_up_while_writing_or_syncing_has_a_hint() {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    for kind in [StorageFull, QuotaExceeded, FileTooLarge] {
        let (source, path) = (kind.into(), "x".into());
        let error = Error::Output(OutputError::Write { path, source });
        assert_eq!(error.exit_code(), 4);
        assert!(error.hint().unwrap().contains("another disk"));
    }
}

#[test]
fn an_output_with_the_longest_name_a_folder_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["x".repeat(255), "易".repeat(85)] {
        let path = dir.path().join(name);
        let target = Target::new(&path, false, ".".as_ref()).unwrap();
        target
            .create(&header(1))
            .unwrap()
            .output
            .commit(b"")
            .unwrap();
        assert!(path.exists());
    }
}

#[test]
fn two_writers_of_one_output() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let target = Target::new(&path, false, ".".as_ref()).unwrap();
    let first = target.clone().create(&header(1)).unwrap().output;
    for second in [target.clone(), target.clone().resuming()] {
        let error = second.create(&header(1)).unwrap_err();
        assert!(matches!(error, OutputError::Busy { .. }), "{error}");
    }
    first.commit(b"").unwrap();
    drop(first);
    assert_eq!(names_in(dir.path()), ["x", "x.manifest.json"]);
}

#[test]
fn two_writers_of_the_same_parts_under_two_names() {
    let dir = tempfile::tempdir().unwrap();
    let parts = ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"];
    let create = |name: &str| {
        let target = Target::new(&dir.path().join(name), false, ".".as_ref()).unwrap();
        target.create(&header_of(&parts, 1))
    };
    let first = create("x").unwrap().output;
    let error = create("x.gguf").unwrap_err();
    assert!(matches!(error, OutputError::Busy { .. }), "{error}");
    first.commit(b"").unwrap();
    drop(first);
    let manifest = "x-00001-of-00002.gguf.manifest.json";
    assert_eq!(names_in(dir.path()), [parts[0], manifest, parts[1]]);
}

// Elsewhere files have no numbers to tell them apart by.
#[cfg(unix)]
#[test]
fn a_partial_file_that_another_run_has_put_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let partial = dir.path().join(".x.partial");
    let target = Target::new(&path, false, ".".as_ref()).unwrap();
    let output = target.create(&header(1)).unwrap().output;
    std::fs::remove_file(&partial).unwrap();
    std::fs::write(&partial, "another run's").unwrap();
    let error = output.commit(b"").unwrap_err();
    assert!(matches!(error, OutputError::Busy { .. }), "{error}");
    drop(output);
    assert_eq!(std::fs::read(&partial).unwrap(), b"another run's");
    assert_eq!(names_in(dir.path()), [".x.partial"]);
}

#[test]
fn a_file_that_is_read_is_no_leftover() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".x.partial", ".x.manifest.json.partial", ".x.journal"] {
        let input = dir.path().join(name);
        std::fs::write(&input, "precious").unwrap();
        let target = Target::new(&dir.path().join("x"), false, &input).unwrap();
        for target in [target.clone(), target.resuming()] {
            let error = target.create(&header(1)).unwrap_err();
            assert!(matches!(error, OutputError::IsInput { .. }), "{error}");
        }
        assert_eq!(std::fs::read(&input).unwrap(), b"precious");
        assert_eq!(names_in(dir.path()), [name]);
        // In a folder that is read it may lie.
        let target = Target::new(&dir.path().join("x"), false, dir.path()).unwrap();
        drop(target.create(&header(1)).unwrap().output);
        assert!(names_in(dir.path()).is_empty(), "{name}");
    }
}

#[test]
fn a_file_of_that_name_that_is_none_of_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    for name in [".x.journal", ".x.partial"] {
        let there = dir.path().join(name);
        let check = |what: &str| {
            // Without --resume a partial file of ours is replaced; whatever else stands there is not.
            let target = Target::new(&path, false, ".".as_ref()).unwrap();
            let error = target.create(&header(1)).unwrap_err();
            assert!(
                matches!(error, OutputError::InTheWay { .. }),
                "{what}: {error}"
            );
            assert_eq!(std::fs::read(&precious).unwrap(), b"precious", "{what}");
        };
        std::fs::create_dir(&there).unwrap();
        check("a folder");
        std::fs::remove_dir(&there).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&precious, &there).unwrap();
            check("a symbolic link");
            std::fs::remove_file(&there).unwrap();
        }
        #[cfg(unix)]
        if name == ".x.journal" {
            std::fs::hard_link(&precious, &there).unwrap();
            check("a hard link");
            std::fs::remove_file(&there).unwrap();
        }
    }
    assert_eq!(names_in(dir.path()), ["precious"]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_written_is_told_before_any_work() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let target = Target::new(&dir.path().join("x"), false, ".".as_ref()).unwrap();
    match target.create(&header(1)) {
        Err(error) => assert!(matches!(error, OutputError::Folder { .. }), "{error}"),
        Ok(_) => println!("skipped: this user may write everywhere"),
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(names_in(dir.path()).is_empty());
}

#[test]
fn an_output_that_appeared_meanwhile_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let target = Target::new(&path, false, std::path::Path::new(".")).unwrap();
    let output = target.create(&header(1)).unwrap().output;
    std::fs::write(&path, "somebody else's").unwrap();
    assert!(matches!(
        output.commit(b""),
        Err(OutputError::Exists { .. })
    ));
    drop(output);
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
