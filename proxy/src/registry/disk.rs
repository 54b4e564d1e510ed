//! The last known good table on disk, for a start while redis cannot be reached.
//!
//! Holds the text of patterns and backends of each tool, its redirect mark and whether it is kept by
//! hand, nothing compiled, and no bad entries: they route nothing. The bytes are in `layout.rs`. Does
//! not decide when to write or whether to use what it reads.
//!
//! Invariant: the file at the path is whole or absent. It is written beside it, synced and
//! renamed, so that a crash leaves the old one; whatever else stands there is refused with its
//! reason, never half used.

pub(super) mod layout;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use portico_routing::table::Table;
use rustix::fs::OFlags;

pub(super) use layout::{LayoutError, Snapshot, ToolRecord};

/// A larger file is not read: a million tools take 50 to 70 MB.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 30;

/// Why a snapshot file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    #[error("it is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Reads the snapshot at `path`; `None` when there is no such file. Never waits for a writer of a
/// named pipe, and follows no link: the next write would replace it.
pub(super) fn read(path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => only_a_file(metadata.file_type())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    only_a_file(metadata.file_type())?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(SnapshotError::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(layout::decode(bytes).map(Some)?)
}

fn only_a_file(kind: FileType) -> Result<(), SnapshotError> {
    if kind.is_file() {
        return Ok(());
    }
    Err(SnapshotError::NotAFile(if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device or a socket"
    }))
}

/// Writes `table` to `path`, whole or not at all; returns the number of tools. `kept` and `in_step`:
/// see [`layout::encode`]. Blocks on the disk.
pub(super) fn write(
    path: &Path,
    table: &Table,
    kept: &dyn Fn(&str) -> bool,
    in_step: SystemTime,
) -> io::Result<u64> {
    let temporary = temporary_path(path, std::process::id())?;
    let result = write_and_rename(path, &temporary, table, kept, in_step);
    if result.is_err() {
        // Best effort: the error that counts is the one above.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Removes what processes have left that ended in the middle of a write to `path`.
pub(super) fn remove_leftovers(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory(path))? {
        let entry = entry?;
        let Some(process) = writer(path, &entry.file_name()) else {
            continue;
        };
        let ended =
            process != std::process::id() && !Path::new(&format!("/proc/{process}")).exists();
        if ended && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_and_rename(
    path: &Path,
    temporary: &Path,
    table: &Table,
    kept: &dyn Fn(&str) -> bool,
    in_step: SystemTime,
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
    let count = layout::encode(table, kept, in_step, &mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    File::open(directory(path))?.sync_all()?;
    Ok(count)
}

/// Beside the file, because a rename is atomic only within a file system; with the process id,
/// because at an upgrade two processes write for a while.
fn temporary_path(path: &Path, process: u32) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{process}.tmp"));
    Ok(directory(path).join(temporary))
}

/// The process that [`temporary_path`] was called for, if it was.
fn writer(path: &Path, name: &OsStr) -> Option<u32> {
    let process = name.to_str()?.rsplit('.').nth(1)?.parse().ok()?;
    let temporary = temporary_path(path, process).ok()?;
    (temporary.file_name() == Some(name)).then_some(process)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
