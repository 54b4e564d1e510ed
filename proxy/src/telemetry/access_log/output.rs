//! Where lines go: a regular file, a named pipe, standard error. Opens and writes, decides nothing
//! about what a failure means.
//!
//! Files are opened such that opening never waits (a named pipe without a reader fails) and that
//! several writers do not overwrite each other. To anything but a regular file, whole lines go in
//! writes of at most [`ATOMIC`] bytes: a pipe takes those whole or not at all, and keeps them apart from
//! what others write.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, OFlags};
use rustix::io::Errno;

use super::OpenError;

/// What a pipe takes whole or not at all (PIPE_BUF of Linux).
const ATOMIC: usize = 4096;
/// The mode of a file that is made: for the group that reads logs, and nobody else.
const MODE: u32 = 0o640;

/// A target that is, or is to be, open.
#[derive(Debug)]
pub(super) struct Output {
    /// `None`: standard error.
    path: Option<PathBuf>,
    /// `None`: nobody reads the named pipe.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    is_regular: bool,
    /// Device and inode.
    id: (u64, u64),
}

impl Output {
    /// Standard error, by a descriptor of its own: waiting for it must not hold the lock that
    /// diagnostics take.
    pub(super) fn stderr() -> Result<Self, OpenError> {
        let file = io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .map_err(OpenError::Stderr)?;
        let open = Open::new(File::from(file)).map_err(OpenError::Stderr)?;
        Ok(Self {
            path: None,
            open: Some(open),
        })
    }

    /// A file, which is made if there is none.
    pub(super) fn file(path: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            path: Some(path.to_owned()),
            open: open(path)?,
        })
    }

    /// What it is, for people.
    pub(super) fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "standard error".to_owned(),
        }
    }

    /// Whether there is anything to write to.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Nobody reads any more.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Opens the path again; `false`: there is none. On failure the old file is kept.
    pub(super) fn reopen(&mut self) -> Result<bool, OpenError> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        self.open = open(path)?;
        Ok(true)
    }

    /// Whether the path leads elsewhere by now: the file was renamed or deleted, or nobody read the
    /// pipe so far.
    pub(super) fn is_stale(&self) -> bool {
        let (Some(path), Some(open)) = (&self.path, &self.open) else {
            return self.path.is_some();
        };
        match fs::metadata(path) {
            Ok(there) => id(&there) != open.id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The part of `bytes` to write next: not empty if they are not.
    pub(super) fn piece<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let whole = self.open.as_ref().is_none_or(|open| open.is_regular);
        if whole || bytes.len() <= ATOMIC {
            return bytes;
        }
        let end = match memchr::memrchr(b'\n', &bytes[..ATOMIC]) {
            Some(end) => end + 1,
            None => memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1),
        };
        &bytes[..end]
    }

    /// Writes some of `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.open {
            Some(open) => open.file.write(bytes),
            None => Err(Errno::NXIO.into()),
        }
    }

    /// Waits until it takes bytes again, for at most `limit`.
    pub(super) fn wait(&self, limit: &Timespec) {
        if let Some(open) = &self.open {
            let _ = poll(&mut [PollFd::new(&open.file, PollFlags::OUT)], Some(limit));
        }
    }
}

impl Open {
    fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            is_regular: metadata.is_file(),
            id: id(&metadata),
            file,
        })
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// `None`: a named pipe without a reader.
fn open(path: &Path) -> Result<Option<Open>, OpenError> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path)
        .and_then(Open::new);
    match file {
        Ok(open) => Ok(Some(open)),
        Err(error) if is_unread(path, &error) => Ok(None),
        Err(source) => Err(OpenError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_unread(path: &Path, error: &io::Error) -> bool {
    // A socket gives the same error, and never another one.
    Errno::from_io_error(error) == Some(Errno::NXIO)
        && fs::metadata(path).is_ok_and(|there| there.file_type().is_fifo())
}

/// Whether `path` can be opened, or made, by this user. Opens nothing: the reader of a named pipe
/// would take it for a writer that has come and gone.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    let allowed = |path, wanted| rustix::fs::access(path, wanted).map_err(io::Error::from);
    let done = match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => allowed(path, Access::WRITE_OK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            allowed(folder, Access::WRITE_OK | Access::EXEC_OK)
        }
        Err(error) => Err(error),
    };
    done.map_err(|source| OpenError::File {
        path: path.to_owned(),
        source,
    })
}
