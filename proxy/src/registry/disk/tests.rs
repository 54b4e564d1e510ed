//! Snapshot files, whole, damaged and foreign.

use super::layout::{MAGIC, MAX_SECONDS, VERSION, decode, encode};
use super::*;
use portico_routing::backend::Backend;
use portico_routing::table::{Entry, MAX_ROUTES};
use proptest::prelude::*;
use std::collections::HashSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

fn admit_all(_: &Backend) -> Result<(), String> {
    Ok(())
}

/// What a [`ToolRecord`] holds, on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tool {
    name: String,
    redirect: bool,
    kept: bool,
    routes: Vec<(String, String)>,
}

impl Tool {
    fn entry(&self) -> Entry {
        let routes = self.routes.iter();
        let saved = ToolRecord {
            name: &self.name,
            redirect: self.redirect,
            kept: self.kept,
            routes: routes.map(|(p, b)| (&**p, &**b)).collect(),
        };
        saved.entry(&admit_all)
    }
}

impl From<ToolRecord<'_>> for Tool {
    fn from(tool: ToolRecord<'_>) -> Self {
        let routes = tool.routes.into_iter();
        Self {
            name: tool.name.into(),
            redirect: tool.redirect,
            kept: tool.kept,
            routes: routes.map(|(p, b)| (p.into(), b.into())).collect(),
        }
    }
}

/// The tools of `snapshot`, as many as it says.
#[track_caller]
fn tools_of(snapshot: &Snapshot) -> Vec<Tool> {
    let tools: Vec<_> = snapshot.tools().map(Tool::from).collect();
    assert_eq!(tools.len(), snapshot.len());
    tools
}

fn table(tools: &[Tool]) -> Table {
    let table = Table::new();
    for tool in tools {
        table.set(&tool.name, tool.entry());
    }
    table
}

fn nothing_kept(_: &str) -> bool {
    false
}

fn bytes(tools: &[Tool], seconds: u64) -> Vec<u8> {
    let kept: HashSet<&str> = tools.iter().filter(|t| t.kept).map(|t| &*t.name).collect();
    let mut out = Vec::new();
    let in_step = UNIX_EPOCH + Duration::from_secs(seconds);
    let is_kept = |tool: &str| kept.contains(tool);
    encode(&table(tools), &is_kept, in_step, &mut out).unwrap();
    out
}

fn write_table(path: &Path, tools: &[Tool]) -> io::Result<u64> {
    write(path, &table(tools), &nothing_kept, UNIX_EPOCH)
}

fn saved(name: &str, redirect: bool, routes: &[(&str, &str)]) -> Tool {
    Tool {
        name: name.into(),
        redirect,
        kept: false,
        routes: routes
            .iter()
            .map(|(p, b)| ((*p).into(), (*b).into()))
            .collect(),
    }
}

fn three() -> Vec<Tool> {
    vec![
        saved(
            "both",
            true,
            &[
                ("^/api/.*", "http://192.0.2.2:80"),
                (".*", "http://192.0.2.1:8000/base"),
            ],
        ),
        saved("grid", false, &[(".*", "http://192.0.2.1:8000")]),
        saved("moved", true, &[]),
    ]
}

/// In a fixed order, routes too: the table has its own.
fn sorted(mut tools: Vec<Tool>) -> Vec<Tool> {
    tools.iter_mut().for_each(|tool| tool.routes.sort());
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    tools
}

#[test]
fn what_is_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("routes.snapshot");
    assert!(read(&path).unwrap().is_none());
    let written = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for tools in [vec![], three()] {
        let count = write(&path, &table(&tools), &nothing_kept, written).unwrap();
        assert_eq!(count as usize, tools.len());
        let snapshot = read(&path).unwrap().unwrap();
        assert_eq!(snapshot.written, written);
        assert_eq!(sorted(tools_of(&snapshot)), sorted(tools));
    }
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left behind");
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_no_litter() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/routes.snapshot");
    assert!(write_table(&missing, &[]).is_err());
    // A directory in the file's place cannot be replaced by a file.
    let occupied = directory.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    assert!(write_table(&occupied, &three()).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[track_caller]
fn check_not_read(path: &Path, reason: &str) {
    let error = read(path).unwrap_err().to_string();
    assert!(error.contains(reason), "{error:?} lacks {reason:?}");
}

#[test]
fn what_is_no_file_is_refused_and_nothing_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    check_not_read(&path("directory"), "a directory, not a file");
    write_table(&path("good"), &three()).unwrap();
    std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
    check_not_read(&path("link"), "a symbolic link");
    std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
    check_not_read(&path("dangling"), "a symbolic link");
    let mut make = std::process::Command::new("mkfifo");
    assert!(make.arg(path("pipe")).status().unwrap().success());
    check_not_read(&path("pipe"), "a named pipe");
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    check_not_read(&path("socket"), "a socket");
    check_not_read(Path::new("/dev/zero"), "a device");
    check_not_read(&path("good").join("below"), "Not a directory");
    let huge = File::create(path("huge")).unwrap();
    huge.set_len(MAX_FILE_BYTES + 1).unwrap();
    check_not_read(&path("huge"), "larger than");
    // All but the directory give way to the next write, and what a link pointed at stays.
    for name in ["link", "dangling", "pipe", "socket", "huge"] {
        write_table(&path(name), &[]).unwrap();
        assert_eq!(read(&path(name)).unwrap().unwrap().len(), 0);
    }
    assert_eq!(read(&path("good")).unwrap().unwrap().len(), 3);
    assert!(!path("nowhere").exists());
}

#[test]
fn a_writer_that_died_leaves_the_old_file_and_its_litter_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let snapshot = path("routes.snapshot");
    write_table(&snapshot, &three()).unwrap();
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let alive = temporary_path(&snapshot, child.id()).unwrap();
    let own = temporary_path(&snapshot, std::process::id()).unwrap();
    // No process has such a number.
    let dead = temporary_path(&snapshot, u32::MAX).unwrap();
    let others = [
        path(".routes.snapshot.4294967295.tmp.bak"),
        path(".routes.snapshot.tmp"),
        path(".routes.snapshot.x.tmp"),
        path(".routes.snapshot.+4294967295.tmp"),
        path(".other.4294967295.tmp"),
        path("routes.snapshot.4294967295.tmp"),
    ];
    for file in others.iter().chain([&alive, &own, &dead]) {
        fs::write(file, "half a snap").unwrap();
    }
    remove_leftovers(&snapshot).unwrap();
    assert!(!dead.exists());
    assert!(alive.exists() && own.exists() && others.iter().all(|file| file.exists()));
    assert_eq!(read(&snapshot).unwrap().unwrap().len(), 3);
    write_table(&snapshot, &[]).unwrap();
    assert!(
        !own.exists(),
        "a write replaces what its own number has left"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A small file system of its own, unmounted on drop.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`: this process may not mount.
    fn mount(path: PathBuf) -> Option<Tmpfs> {
        fs::create_dir(&path).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "none"]);
        let done = mount.arg(&path).stderr(std::process::Stdio::null());
        let mounted = done.status().is_ok_and(|status| status.success());
        mounted.then(|| Tmpfs(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(directory.path().join("disk")) else {
        eprintln!("may not mount a tmpfs: a full disk is not tested");
        return;
    };
    let path = disk.0.join("routes.snapshot");
    write_table(&path, &three()).unwrap();
    let route = [(".*", "http://192.0.2.1:8000")];
    let many: Vec<_> = (0..3000)
        .map(|n| saved(&format!("t{n}"), false, &route))
        .collect();
    let error = write_table(&path, &many).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(read(&path).unwrap().unwrap().len(), 3);
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 1, "no litter");
    // The kernel may take a moment to give the room back.
    let end = Instant::now() + Duration::from_secs(10);
    while write_table(&path, &many[..100]).is_err() && Instant::now() < end {}
    assert_eq!(read(&path).unwrap().unwrap().len(), 100);
}

#[test]
fn a_file_system_that_became_read_only_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(directory.path().join("disk")) else {
        eprintln!("may not mount a tmpfs: a read-only file system is not tested");
        return;
    };
    let path = disk.0.join("routes.snapshot");
    write_table(&path, &three()).unwrap();
    let mut mount = std::process::Command::new("mount");
    let remount = mount.args(["-o", "remount,ro"]).arg(&disk.0).status();
    assert!(remount.unwrap().success());
    let error = write_table(&path, &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(read(&path).unwrap().unwrap().len(), 3);
    remove_leftovers(&path).unwrap();
}

#[test]
fn bad_entries_are_left_out() {
    let table = Table::new();
    let bad: [(&[u8], &[u8]); 1] = [(b"(", b"http://192.0.2.1:80")];
    table.set("bad", Entry::build(bad, false, &admit_all));
    let mut out = Vec::new();
    assert_eq!(
        encode(&table, &nothing_kept, UNIX_EPOCH, &mut out).unwrap(),
        0
    );
    assert_eq!(decode(out).unwrap().len(), 0);
}

#[track_caller]
fn check_refused(bytes: &[u8], reason: &str) {
    let error = decode(bytes.to_vec()).unwrap_err().to_string();
    assert!(error.contains(reason), "{error:?} lacks {reason:?}");
}

#[test]
fn torn_foreign_and_other_versions_are_refused_with_the_reason() {
    let good = bytes(&three(), 1);
    check_refused(b"", "empty");
    check_refused(b"# a text file\n", "not a snapshot");
    check_refused(MAGIC, "ends early");
    check_refused(good.get(..good.len() - 1).unwrap(), "checksum");
    let mut older = good.clone();
    older[16] = 1;
    check_refused(&older, "version 1, of an older portico");
    let mut newer = good.clone();
    newer[16] = 3;
    check_refused(&newer, "version 3, of a newer portico");
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    check_refused(&flipped, "checksum");
    // A right checksum over nonsense.
    let mut nonsense = good.get(..good.len() - 5).unwrap().to_vec();
    nonsense.push(7);
    nonsense.extend(crc32fast::hash(&nonsense).to_le_bytes());
    check_refused(&nonsense, "unknown kind");
    let mut marked = bytes(&[saved("t", true, &[])], 5);
    marked.truncate(marked.len() - 4);
    let flags = marked.len() - 6;
    marked[flags] = 4;
    marked.extend(crc32fast::hash(&marked).to_le_bytes());
    check_refused(&marked, "unknown mark");
    // What shows the time cannot show a later one.
    check_refused(&bytes(&three(), MAX_SECONDS + 1), "out of range");
}

/// A right header and a right checksum around `body`.
#[track_caller]
fn check_body(body: &[u8], reason: &str) {
    let mut bytes = bytes(&[], 1);
    bytes.truncate(bytes.len() - 5);
    bytes.extend(body);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    check_refused(&bytes, reason);
}

#[test]
fn a_right_checksum_makes_nothing_believed_that_portico_never_writes() {
    check_body(b"", "ends early");
    check_body(b"\x01", "ends early");
    check_body(b"\0\0", "more follows");
    check_body(b"\x01\x01\0\0\0T\0\0\0\0\0\0", "impossible tool name");
    check_body(b"\x01\0\0\0\0\0\0\0\0\0\0", "impossible tool name");
    check_body(b"\x01\x01\0\0\0\xff\0\0\0\0\0\0", "not UTF-8");
    check_body(b"\x01\x01\0\0\0t\0\x01\x01\0\0", "too many routes");
    // More is not even looked for.
    check_body(b"\x01\x01\0\x01\0", "too long");
}

#[test]
fn as_many_routes_as_a_tool_may_have_survive() {
    let paths: Vec<String> = (0..MAX_ROUTES).map(|n| format!("^/{n}/.*")).collect();
    let routes: Vec<_> = paths
        .iter()
        .map(|p| (&**p, "http://192.0.2.1:80"))
        .collect();
    let tools = [saved("many", false, &routes)];
    let snapshot = decode(bytes(&tools, 1)).unwrap();
    assert_eq!(sorted(tools_of(&snapshot)), sorted(tools.to_vec()));
}

#[test]
fn the_layout_is_the_one_written_down() {
    let mut expected = b"portico routes\r\n\x02\0\0\0\x05\0\0\0\0\0\0\0".to_vec();
    expected.extend(b"\x01\x01\0\0\0t\x03\x01\0\0\0\x02\0\0\0.*");
    expected.extend(b"\x13\0\0\0http://192.0.2.1:80\0");
    expected.extend(crc32fast::hash(&expected).to_le_bytes());
    let mut tool = saved("t", true, &[(".*", "http://192.0.2.1:80")]);
    tool.kept = true;
    assert_eq!(bytes(&[tool], 5), expected);
}

prop_compose! {
    fn any_tool()(
        name in "[a-z0-9_-]{1,20}",
        redirect: bool,
        kept: bool,
        patterns in proptest::collection::btree_set("(/[a-z]{1,8}){1,3}", 0..5),
        port in 1u16..,
    ) -> Tool {
        // Entries that hold nothing are not saved.
        let redirect = redirect || patterns.is_empty();
        let routes = patterns.into_iter().map(|p| (p, format!("http://192.0.2.1:{port}"))).collect();
        Tool { name, redirect, kept, routes }
    }
}

proptest! {
    #[test]
    fn any_table_survives(tools in proptest::collection::btree_map("[a-z]{1,12}", any_tool(), 0..20), seconds in 0..=MAX_SECONDS) {
        let tools: Vec<_> = tools.into_iter().map(|(name, tool)| Tool { name, ..tool }).collect();
        let snapshot = decode(bytes(&tools, seconds)).unwrap();
        prop_assert_eq!(snapshot.written, UNIX_EPOCH + Duration::from_secs(seconds));
        prop_assert_eq!(sorted(tools_of(&snapshot)), sorted(tools));
    }

    #[test]
    fn no_damage_passes(at in 0usize.., bit in 0u8..8, cut in 0usize..) {
        let good = bytes(&three(), 1);
        let mut flipped = good.clone();
        flipped[at % good.len()] ^= 1 << bit;
        prop_assert!(decode(flipped).is_err());
        prop_assert!(decode(good[..cut % good.len()].to_vec()).is_err());
    }

    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(&body);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let _ = decode(bytes);
    }
}
