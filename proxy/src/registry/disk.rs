//! The last known good table on disk, for a start while redis cannot be reached.
//!
//! Holds the text of patterns and backends of each tool and its redirect mark, nothing
//! compiled, and no bad entries: they route nothing. Does not decide when to write or whether
//! to use what it reads.
//!
//! Layout, all numbers little-endian: `MAGIC`, version `u32`, seconds since 1970 `u64`, then for
//! each tool the byte 1, its name, a byte of flags (1: redirect), the number of routes `u32` and
//! for each route pattern and backend; then the byte 0, and the CRC-32 of all before it. A text is
//! its length `u32` and its bytes.
//!
//! Invariant: the file at the path is whole or absent. It is written beside it, synced and
//! renamed, so that a crash leaves the old one; whatever else stands there is refused with its
//! reason, never half used.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portico_routing::backend::Backend;
use portico_routing::table::{Entry, Table, valid_tool};

const MAGIC: &[u8; 16] = b"portico routes\r\n";

/// Raised when the layout changes. Other versions are refused, older ones too: redis has the truth,
/// and guessing routes is worse than starting without them.
const VERSION: u32 = 1;

/// A larger file is not read: a million tools take about 80 MB.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Longest text (pattern, backend, name) that is believed.
const MAX_TEXT_BYTES: usize = 1 << 16;

const TOOL: u8 = 1;
const END: u8 = 0;
const FLAG_REDIRECT: u8 = 1;

/// What a snapshot file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// When it was written, in whole seconds.
    pub(super) written: SystemTime,
    pub(super) tools: Vec<SavedTool>,
}

/// One tool of a snapshot: what [`Entry::build`] needs to make it anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SavedTool {
    pub(super) name: Box<str>,
    pub(super) redirect: bool,
    /// Redis did not hold it, and somebody asked to keep it.
    pub(super) kept: bool,
    /// Pattern and backend.
    pub(super) routes: Vec<(Box<str>, Box<str>)>,
}

impl SavedTool {
    /// The table's entry for it.
    pub(super) fn entry(&self, admit: &dyn Fn(&Backend) -> Result<(), String>) -> Entry {
        let fields = self
            .routes
            .iter()
            .map(|(pattern, backend)| (pattern.as_bytes(), backend.as_bytes()));
        Entry::build(fields, self.redirect, admit)
    }
}

/// Why a snapshot file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is not a snapshot of portico")]
    Foreign,
    #[error("it has version {0} and this portico reads only version {VERSION}")]
    Version(u32),
    #[error("it is torn or damaged: {0}")]
    Damaged(&'static str),
    #[error("it is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
}

/// Reads the snapshot at `path`; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(SnapshotError::TooLarge);
    }
    decode(&bytes).map(Some)
}

/// Writes `table` to `path`, whole or not at all; returns the number of tools. Blocks on the disk.
pub(super) fn write(path: &Path, table: &Table, now: SystemTime) -> io::Result<u64> {
    let temporary = temporary_path(path)?;
    let result = write_and_rename(path, &temporary, table, now);
    if result.is_err() {
        // Best effort: the error that counts is the one above.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename(
    path: &Path,
    temporary: &Path,
    table: &Table,
    now: SystemTime,
) -> io::Result<u64> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // create_new: never through a link that somebody left there.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(temporary)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let count = encode(table, now, &mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    File::open(directory(path))?.sync_all()?;
    Ok(count)
}

/// Beside the file, because a rename is atomic only within a file system; with the process id,
/// because at an upgrade two processes write for a while.
fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(directory(path).join(temporary))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes the whole snapshot to `out`; returns the number of tools. The table may change meanwhile:
/// each entry is whole, and a change that was missed marks the table as changed again.
pub(super) fn encode(table: &Table, now: SystemTime, out: &mut impl Write) -> io::Result<u64> {
    let mut out = Checked {
        inner: out,
        crc: crc32fast::Hasher::new(),
    };
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    out.write_all(&seconds.to_le_bytes())?;
    let mut count = 0;
    let mut result = Ok(());
    table.for_each(|tool, entry| {
        if result.is_ok() && (entry.redirect || !entry.routes.is_empty()) {
            result = encode_tool(tool, entry, &mut out);
            count += 1;
        }
    });
    result?;
    out.write_all(&[END])?;
    let crc = out.crc.clone().finalize();
    out.write_all(&crc.to_le_bytes())?;
    Ok(count)
}

fn encode_tool(tool: &str, entry: &Entry, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[TOOL])?;
    encode_text(tool, out)?;
    out.write_all(&[if entry.redirect { FLAG_REDIRECT } else { 0 }])?;
    out.write_all(&length(entry.routes.len())?)?;
    for route in &entry.routes {
        encode_text(route.pattern.source(), out)?;
        encode_text(&route.backend.to_string(), out)?;
    }
    Ok(())
}

fn encode_text(text: &str, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&length(text.len())?)?;
    out.write_all(text.as_bytes())
}

fn length(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length)
        .map(u32::to_le_bytes)
        .map_err(|_| io::Error::other("an entry is too large for a snapshot"))
}

/// Counts the CRC of all that passes through it.
struct Checked<W> {
    inner: W,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    if !bytes.starts_with(MAGIC) {
        return Err(if bytes.is_empty() {
            SnapshotError::Damaged("it is empty")
        } else {
            SnapshotError::Foreign
        });
    }
    let mut reader = Reader { rest: bytes };
    reader.take(MAGIC.len())?;
    // Before the checksum: another version may have none, or elsewhere.
    let version = reader.u32()?;
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let (body, crc) = reader
        .rest
        .split_last_chunk::<4>()
        .ok_or(SnapshotError::Damaged("it ends early"))?;
    let summed = bytes.len() - crc.len();
    if crc32fast::hash(bytes.get(..summed).unwrap_or(bytes)) != u32::from_le_bytes(*crc) {
        return Err(SnapshotError::Damaged("its checksum is wrong"));
    }
    decode_body(Reader { rest: body })
}

fn decode_body(mut reader: Reader<'_>) -> Result<Snapshot, SnapshotError> {
    let written = UNIX_EPOCH
        .checked_add(Duration::from_secs(reader.u64()?))
        .ok_or(SnapshotError::Damaged("its time is out of range"))?;
    let mut tools = Vec::new();
    loop {
        match reader.u8()? {
            TOOL => tools.push(decode_tool(&mut reader)?),
            END if reader.rest.is_empty() => return Ok(Snapshot { written, tools }),
            END => return Err(SnapshotError::Damaged("more follows its end")),
            _ => return Err(SnapshotError::Damaged("an unknown kind of entry")),
        }
    }
}

fn decode_tool(reader: &mut Reader<'_>) -> Result<SavedTool, SnapshotError> {
    let name = reader.text()?;
    if !valid_tool(&name) {
        return Err(SnapshotError::Damaged("an impossible tool name"));
    }
    let redirect = reader.u8()? & FLAG_REDIRECT != 0;
    let count = reader.u32()?;
    // No capacity from the file: it grows with what is really there.
    let mut routes = Vec::new();
    for _ in 0..count {
        routes.push((reader.text()?, reader.text()?));
    }
    Ok(SavedTool {
        name,
        redirect,
        kept: false,
        routes,
    })
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], SnapshotError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(SnapshotError::Damaged("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(SnapshotError::Damaged("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, SnapshotError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, SnapshotError> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<Box<str>, SnapshotError> {
        let length = self.u32()? as usize;
        if length > MAX_TEXT_BYTES {
            return Err(SnapshotError::Damaged("a text is too long"));
        }
        str::from_utf8(self.take(length)?)
            .map(Box::from)
            .map_err(|_| SnapshotError::Damaged("a text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn admit_all(_: &Backend) -> Result<(), String> {
        Ok(())
    }

    fn table(tools: &[SavedTool]) -> Table {
        let table = Table::new();
        for tool in tools {
            table.set(&tool.name, tool.entry(&admit_all));
        }
        table
    }

    fn bytes(tools: &[SavedTool], seconds: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let written = UNIX_EPOCH + Duration::from_secs(seconds);
        encode(&table(tools), written, &mut out).unwrap();
        out
    }

    fn saved(name: &str, redirect: bool, routes: &[(&str, &str)]) -> SavedTool {
        SavedTool {
            name: name.into(),
            redirect,
            kept: false,
            routes: routes
                .iter()
                .map(|(p, b)| ((*p).into(), (*b).into()))
                .collect(),
        }
    }

    fn three() -> Vec<SavedTool> {
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
    fn sorted(mut tools: Vec<SavedTool>) -> Vec<SavedTool> {
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
            let count = write(&path, &table(&tools), written).unwrap();
            assert_eq!(count as usize, tools.len());
            let snapshot = read(&path).unwrap().unwrap();
            assert_eq!(snapshot.written, written);
            assert_eq!(sorted(snapshot.tools), sorted(tools));
        }
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary file is left behind");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/routes.snapshot");
        assert!(write(&missing, &table(&[]), SystemTime::now()).is_err());
        // A directory in the file's place cannot be replaced by a file.
        let occupied = directory.path().join("occupied");
        fs::create_dir(&occupied).unwrap();
        assert!(write(&occupied, &table(&three()), SystemTime::now()).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn bad_entries_are_left_out() {
        let table = Table::new();
        let bad: [(&[u8], &[u8]); 1] = [(b"(", b"http://192.0.2.1:80")];
        table.set("bad", Entry::build(bad, false, &admit_all));
        let mut out = Vec::new();
        assert_eq!(encode(&table, UNIX_EPOCH, &mut out).unwrap(), 0);
        assert_eq!(decode(&out).unwrap().tools, []);
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], reason: &str) {
        let error = decode(bytes).unwrap_err().to_string();
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
        older[16] = 0;
        check_refused(&older, "version 0");
        let mut newer = good.clone();
        newer[16] = 2;
        check_refused(&newer, "version 2");
        let mut flipped = good.clone();
        flipped[40] ^= 1;
        check_refused(&flipped, "checksum");
        // A right checksum over nonsense.
        let mut nonsense = good.get(..good.len() - 5).unwrap().to_vec();
        nonsense.push(7);
        nonsense.extend(crc32fast::hash(&nonsense).to_le_bytes());
        check_refused(&nonsense, "unknown kind");
    }

    #[test]
    fn the_layout_is_the_one_written_down() {
        let mut expected = b"portico routes\r\n\x01\0\0\0\x05\0\0\0\0\0\0\0".to_vec();
        expected.extend(b"\x01\x01\0\0\0t\x01\x01\0\0\0\x02\0\0\0.*");
        expected.extend(b"\x13\0\0\0http://192.0.2.1:80\0");
        expected.extend(crc32fast::hash(&expected).to_le_bytes());
        let got = bytes(&[saved("t", true, &[(".*", "http://192.0.2.1:80")])], 5);
        assert_eq!(got, expected);
    }

    prop_compose! {
        fn any_tool()(
            name in "[a-z0-9_-]{1,20}",
            redirect: bool,
            patterns in proptest::collection::btree_set("(/[a-z]{1,8}){1,3}", 0..5),
            port in 1u16..,
        ) -> SavedTool {
            // Entries that hold nothing are not saved.
            let redirect = redirect || patterns.is_empty();
            let routes = patterns.into_iter().map(|p| (p.into(), format!("http://192.0.2.1:{port}").into())).collect();
            SavedTool { name: name.into(), redirect, kept: false, routes }
        }
    }

    proptest! {
        #[test]
        fn any_table_survives(tools in proptest::collection::btree_map("[a-z]{1,12}", any_tool(), 0..20), seconds in 0u64..1 << 40) {
            let tools: Vec<_> = tools.into_iter().map(|(name, tool)| SavedTool { name: name.into(), ..tool }).collect();
            let snapshot = decode(&bytes(&tools, seconds)).unwrap();
            prop_assert_eq!(snapshot.written, UNIX_EPOCH + Duration::from_secs(seconds));
            prop_assert_eq!(sorted(snapshot.tools), sorted(tools));
        }

        #[test]
        fn no_damage_passes(at in 0usize.., bit in 0u8..8, cut in 0usize..) {
            let good = bytes(&three(), 1);
            let mut flipped = good.clone();
            flipped[at % good.len()] ^= 1 << bit;
            prop_assert!(decode(&flipped).is_err());
            prop_assert!(decode(&good[..cut % good.len()]).is_err());
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(VERSION.to_le_bytes());
            bytes.extend(&body);
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            let _ = decode(&bytes);
        }
    }
}
