//! The bytes of a snapshot file.
//!
//! Layout, all numbers little-endian: `MAGIC`, version `u32`, seconds since 1970 `u64`, then for
//! each tool the byte 1, its name, a byte of flags (1: redirect, 2: kept by hand), the number of
//! routes `u32` and for each route pattern and backend; then the byte 0, and the CRC-32 of all
//! before it. A text is its length `u32` and its bytes.
//!
//! No files and no clock: the fuzzer runs this very code.

use std::io::{self, Write};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portico_routing::backend::Backend;
use portico_routing::table::{Entry, MAX_ROUTES, Table, valid_tool};

pub(super) const MAGIC: &[u8; 16] = b"portico routes\r\n";

/// Raised when the layout changes. Other versions are refused, older ones too: redis has the truth,
/// and guessing routes is worse than starting without them.
pub(super) const VERSION: u32 = 2;

/// Longest text (pattern, backend, name) that is believed.
const MAX_TEXT_BYTES: usize = 1 << 16;

/// The end of the year 9999, the last that dates of HTTP and of RFC 3339 can have.
pub(super) const MAX_SECONDS: u64 = 253_402_300_799;

const TOOL: u8 = 1;
const END: u8 = 0;
const FLAG_REDIRECT: u8 = 1;
const FLAG_KEPT: u8 = 2;

/// What a snapshot file holds: its bytes, checked. Tools are read from them as they are wanted: a
/// copy of each, beside the table that is made of them, would be larger than the table.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// When its routes were last known to be what redis held, in whole seconds. The file may be
    /// newer: one that is written while redis is away must not look fresh.
    pub(crate) written: SystemTime,
    len: usize,
    bytes: Vec<u8>,
    /// Where in `bytes` the tools are.
    tools: Range<usize>,
}

impl Snapshot {
    /// How many tools it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Its tools, as they stand in the file. A name that stands twice comes twice.
    pub(crate) fn tools(&self) -> impl Iterator<Item = ToolRecord<'_>> {
        let rest = self.bytes.get(self.tools.clone()).unwrap_or_default();
        let mut reader = Reader { rest };
        // `decode` has read all of them once: none is damaged.
        std::iter::from_fn(move || decode_next(&mut reader).ok()?)
    }
}

/// One tool of a snapshot: what [`Entry::build`] needs to make it anew.
#[derive(Debug)]
pub(crate) struct ToolRecord<'a> {
    pub(crate) name: &'a str,
    pub(crate) redirect: bool,
    /// Redis did not hold it, and somebody asked to keep it.
    pub(crate) kept: bool,
    /// Pattern and backend.
    pub(crate) routes: Vec<(&'a str, &'a str)>,
}

impl ToolRecord<'_> {
    /// The table's entry for it.
    pub(crate) fn entry(&self, admit: &dyn Fn(&Backend) -> Result<(), String>) -> Entry {
        let fields = self
            .routes
            .iter()
            .map(|(pattern, backend)| (pattern.as_bytes(), backend.as_bytes()));
        Entry::build(fields, self.redirect, admit)
    }
}

/// Why bytes are no snapshot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LayoutError {
    #[error("it is not a snapshot of portico")]
    Foreign,
    #[error("it has version {0}, of an older portico; this one reads only version {VERSION}")]
    Older(u32),
    #[error("it has version {0}, of a newer portico; this one reads only version {VERSION}")]
    Newer(u32),
    #[error("it is torn or damaged: {0}")]
    Damaged(&'static str),
}

/// Writes the whole snapshot to `out`; returns the number of tools. `kept` says of a tool whether
/// it is kept by hand; `in_step`: when the table was last what redis holds. The table may change
/// meanwhile: each entry is whole, and a change that was missed marks the table as changed again.
pub(crate) fn encode(
    table: &Table,
    kept: &dyn Fn(&str) -> bool,
    in_step: SystemTime,
    out: &mut impl Write,
) -> io::Result<u64> {
    let mut out = Checked {
        inner: out,
        crc: crc32fast::Hasher::new(),
    };
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    let seconds = in_step
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    out.write_all(&seconds.to_le_bytes())?;
    let mut count = 0;
    let mut result = Ok(());
    table.for_each(|tool, entry| {
        if result.is_ok() && (entry.redirect || !entry.routes.is_empty()) {
            result = encode_tool(tool, entry, kept(tool), &mut out);
            count += 1;
        }
    });
    result?;
    out.write_all(&[END])?;
    let crc = out.crc.clone().finalize();
    out.write_all(&crc.to_le_bytes())?;
    Ok(count)
}

fn encode_tool(tool: &str, entry: &Entry, kept: bool, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[TOOL])?;
    encode_text(tool, out)?;
    let redirect = if entry.redirect { FLAG_REDIRECT } else { 0 };
    let kept = if kept { FLAG_KEPT } else { 0 };
    out.write_all(&[redirect | kept])?;
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

/// What `bytes` hold, all of it or nothing.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<Snapshot, LayoutError> {
    if !bytes.starts_with(MAGIC) {
        return Err(if bytes.is_empty() {
            LayoutError::Damaged("it is empty")
        } else {
            LayoutError::Foreign
        });
    }
    let mut reader = Reader { rest: &bytes };
    reader.take(MAGIC.len())?;
    // Before the checksum: another version may have none, or elsewhere.
    let version = reader.u32()?;
    match version {
        VERSION => {}
        ..VERSION => return Err(LayoutError::Older(version)),
        _ => return Err(LayoutError::Newer(version)),
    }
    let (body, crc) = reader
        .rest
        .split_last_chunk::<4>()
        .ok_or(LayoutError::Damaged("it ends early"))?;
    let summed = bytes.len() - crc.len();
    if crc32fast::hash(bytes.get(..summed).unwrap_or(&bytes)) != u32::from_le_bytes(*crc) {
        return Err(LayoutError::Damaged("its checksum is wrong"));
    }
    let mut reader = Reader { rest: body };
    let seconds = reader.u64()?;
    if seconds > MAX_SECONDS {
        return Err(LayoutError::Damaged("its time is out of range"));
    }
    let tools = summed - reader.rest.len()..summed;
    let mut len = 0;
    while decode_next(&mut reader)?.is_some() {
        len += 1;
    }
    if !reader.rest.is_empty() {
        return Err(LayoutError::Damaged("more follows its end"));
    }
    Ok(Snapshot {
        written: UNIX_EPOCH + Duration::from_secs(seconds),
        len,
        bytes,
        tools,
    })
}

/// The next tool; `None` at the end.
fn decode_next<'a>(reader: &mut Reader<'a>) -> Result<Option<ToolRecord<'a>>, LayoutError> {
    match reader.u8()? {
        TOOL => {}
        END => return Ok(None),
        _ => return Err(LayoutError::Damaged("an unknown kind of entry")),
    }
    let name = reader.text()?;
    if !valid_tool(name) {
        return Err(LayoutError::Damaged("an impossible tool name"));
    }
    let flags = reader.u8()?;
    if flags & !(FLAG_REDIRECT | FLAG_KEPT) != 0 {
        return Err(LayoutError::Damaged("an unknown mark of a tool"));
    }
    let count = reader.u32()?;
    if count as usize > MAX_ROUTES {
        return Err(LayoutError::Damaged("too many routes of a tool"));
    }
    // No capacity from the file: it grows with what is really there.
    let mut routes = Vec::new();
    for _ in 0..count {
        routes.push((reader.text()?, reader.text()?));
    }
    Ok(Some(ToolRecord {
        name,
        redirect: flags & FLAG_REDIRECT != 0,
        kept: flags & FLAG_KEPT != 0,
        routes,
    }))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], LayoutError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(LayoutError::Damaged("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(LayoutError::Damaged("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, LayoutError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, LayoutError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, LayoutError> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, LayoutError> {
        let length = self.u32()? as usize;
        if length > MAX_TEXT_BYTES {
            return Err(LayoutError::Damaged("a text is too long"));
        }
        str::from_utf8(self.take(length)?).map_err(|_| LayoutError::Damaged("a text is not UTF-8"))
    }
}
