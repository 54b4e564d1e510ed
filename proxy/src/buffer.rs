//! Buffers of one worker: lent while bytes are on their way, given back while a connection waits.
//!
//! An idle connection holds no buffer at all: [`Buffer::poll_fill`] borrows one only for the
//! read itself and gives it back when nothing came. Ten thousand idle connections thus cost no
//! buffer memory, and a busy worker reuses the same few, which stay in the processor's cache.
//! There are two sizes: for heads and small bodies, and for large bodies, where the number of
//! system calls decides.
//!
//! Not done here: limits on heads and bodies (see `http1`), fairness between connections.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// Size of a buffer for heads and small bodies, bytes.
pub const SMALL: usize = 16 * 1024;
/// Size of a buffer for large bodies, bytes: as many as leave as one segment over loopback (65,483),
/// with the heads of their TLS records too. A few bytes more would be a segment of their own with
/// each write, and cost twice as much; many more no longer stay in a processor's cache between the
/// read and the write (decision 22).
pub const LARGE: usize = 62 * 1024;
/// Where bytes begin in their memory, which begins with a page itself. So does that of a TLS record,
/// behind whose header of 5 bytes they are copied, and a processor that first compares the low 12 bits
/// of addresses takes each read for one of what was just written (4K aliasing). Half a page apart none
/// is: a download over TLS costs 0.5 to 0.6 of before on AMD's Zen 4 (decision 22).
pub const SKEW: usize = 2048;
/// How many small buffers a worker keeps for reuse.
const SMALL_KEPT: usize = 128;
/// How many large buffers a worker keeps for reuse.
const LARGE_KEPT: usize = 64;
/// How many large buffers a worker lends at once. Clients that take a big answer slowly hold theirs
/// for as long as they like; beyond this number reads are small, so that thousands of them cannot
/// take all memory.
const LARGE_LENT: usize = 512;

/// The buffers of one worker that are free at the moment.
#[derive(Debug, Default)]
pub struct BufferPool {
    small: RefCell<Vec<Storage>>,
    large: RefCell<Vec<Storage>>,
    /// Each large buffer that is lent for a read holds a clone.
    lent: Rc<()>,
}

impl BufferPool {
    /// A buffer for a read of `size` bytes, or a small one when too many large ones are lent.
    fn lend(&self, size: usize) -> (Storage, Option<Rc<()>>) {
        if size < LARGE {
            return (self.take(size), None);
        }
        // The pool itself holds one.
        if Rc::strong_count(&self.lent) > LARGE_LENT {
            return (self.take(SMALL), None);
        }
        (self.take(size), Some(Rc::clone(&self.lent)))
    }

    fn take(&self, size: usize) -> Storage {
        let list = match size {
            SMALL => &self.small,
            LARGE => &self.large,
            _ => return Storage::new(size),
        };
        list.borrow_mut()
            .pop()
            .unwrap_or_else(|| Storage::new(size))
    }

    fn give_back(&self, storage: Storage) {
        let (list, kept) = match storage.len() {
            SMALL => (&self.small, SMALL_KEPT),
            LARGE => (&self.large, LARGE_KEPT),
            _ => return,
        };
        let mut list = list.borrow_mut();
        if list.len() < kept {
            list.push(storage);
        }
    }
}

/// Room for bytes, [`SKEW`] behind the begin of its memory.
#[derive(Debug, Default)]
struct Storage(Vec<u8>);

impl Storage {
    fn new(size: usize) -> Self {
        Self(vec![0; SKEW + size])
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.get(SKEW..).unwrap_or_default()
    }
}

impl DerefMut for Storage {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.get_mut(SKEW..).unwrap_or_default()
    }
}

/// Bytes that were read and not yet used, in storage that is borrowed from a [`BufferPool`] only
/// while there are any.
#[derive(Debug, Default)]
pub struct Buffer {
    storage: Storage,
    start: usize,
    end: usize,
    /// Counts the storage among the large ones that are lent; dropped with it.
    lent: Option<Rc<()>>,
}

impl Buffer {
    /// The bytes that were read and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        self.storage.get(self.start..self.end).unwrap_or_default()
    }

    /// The same, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.storage
            .get_mut(self.start..self.end)
            .unwrap_or_default()
    }

    /// Whether no bytes wait.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether a further read needs [`Buffer::grow`] first.
    pub fn is_full(&self) -> bool {
        !self.storage.is_empty() && self.len() == self.storage.len()
    }

    /// Marks the first `n` bytes as used.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Makes room for `size` bytes in total, keeping what waits. Never shrinks.
    pub fn grow(&mut self, pool: &BufferPool, size: usize) {
        if self.storage.len() >= size {
            return;
        }
        let mut storage = pool.take(size);
        let filled = self.filled();
        let n = filled.len();
        if let Some(front) = storage.get_mut(..n) {
            front.copy_from_slice(filled);
        }
        pool.give_back(std::mem::replace(&mut self.storage, storage));
        self.lent = None;
        self.start = 0;
        self.end = n;
    }

    /// Puts bytes behind what waits, as if they had been read.
    pub fn append(&mut self, pool: &BufferPool, bytes: &[u8]) {
        let end = self.len() + bytes.len();
        self.grow(pool, end.max(SMALL));
        self.storage.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if let Some(room) = self.storage.get_mut(self.end..end) {
            room.copy_from_slice(bytes);
            self.end = end;
        }
    }

    /// Gives the storage back if nothing waits in it.
    pub fn release(&mut self, pool: &BufferPool) {
        if self.is_empty() && !self.storage.is_empty() {
            pool.give_back(std::mem::take(&mut self.storage));
            self.lent = None;
            self.start = 0;
            self.end = 0;
        }
    }

    /// Forgets what waits and gives the storage back.
    pub fn discard(&mut self, pool: &BufferPool) {
        self.start = self.end;
        self.release(pool);
    }

    /// Reads once, behind what waits already. `Ready(Ok(0))` is the end of the input, or no room:
    /// see [`Buffer::is_full`]. Storage of `size` bytes (or less, when many large ones are lent) is
    /// borrowed if there is none; while nothing waits and nothing comes, it stays with the pool.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut R,
        pool: &BufferPool,
        size: usize,
    ) -> Poll<io::Result<usize>> {
        if self.storage.is_empty() {
            (self.storage, self.lent) = pool.lend(size);
        } else if self.end == self.storage.len() && self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut room = ReadBuf::new(self.storage.get_mut(self.end..).unwrap_or_default());
        let read = Pin::new(io).poll_read(cx, &mut room);
        let n = room.filled().len();
        self.end += n;
        self.release(pool);
        read.map_ok(|()| n)
    }

    /// [`Buffer::poll_fill`] as a future.
    ///
    /// # Errors
    /// What the read ended with.
    pub async fn fill<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        pool: &BufferPool,
        size: usize,
    ) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, io, pool, size)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    fn fill(buffer: &mut Buffer, pool: &BufferPool, mut bytes: &[u8]) -> Option<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        match buffer.poll_fill(&mut cx, &mut bytes, pool, SMALL) {
            Poll::Ready(n) => Some(n.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_wait_without_bytes_holds_no_storage() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::default();
        let (mut reader, _writer) = tokio::io::simplex(64);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            buffer
                .poll_fill(&mut cx, &mut reader, &pool, SMALL)
                .is_pending()
        );
        assert!(buffer.storage.is_empty());
        assert_eq!(pool.small.borrow().len(), 1);
    }

    #[test]
    fn an_end_holds_no_storage() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::default();
        assert_eq!(fill(&mut buffer, &pool, b""), Some(0));
        assert!(buffer.storage.is_empty());
        assert_eq!(pool.small.borrow().len(), 1);
    }

    #[test]
    fn a_full_buffer_says_so_and_can_grow() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::default();
        let bytes = vec![7; SMALL + 10];
        assert_eq!(fill(&mut buffer, &pool, &bytes), Some(SMALL));
        assert!(buffer.is_full());
        assert_eq!(fill(&mut buffer, &pool, &bytes), Some(0));
        buffer.grow(&pool, LARGE);
        assert_eq!(fill(&mut buffer, &pool, &bytes), Some(SMALL + 10));
        assert_eq!(buffer.len(), 2 * SMALL + 10);
        buffer.discard(&pool);
        assert_eq!(
            (pool.small.borrow().len(), pool.large.borrow().len()),
            (1, 1)
        );
    }

    #[test]
    fn large_buffers_are_lent_to_a_bounded_number() {
        let pool = BufferPool::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = || {
            let mut buffer = Buffer::default();
            let read = buffer.poll_fill(&mut cx, &mut &b"some"[..], &pool, LARGE);
            assert!(matches!(read, Poll::Ready(Ok(4))));
            buffer
        };
        let mut all: Vec<Buffer> = (0..LARGE_LENT).map(|_| read()).collect();
        assert!(all.iter().all(|buffer| buffer.storage.len() == LARGE));
        assert_eq!(read().storage.len(), SMALL);
        // One that is given back, and one that is dropped with its connection, make room again.
        all[0].discard(&pool);
        all.pop();
        all.extend([read(), read()]);
        assert!(all[1..].iter().all(|buffer| buffer.storage.len() == LARGE));
        assert_eq!(read().storage.len(), SMALL);
    }

    proptest! {
        /// The same bytes come out as from a plain queue, whatever the order of reads and uses.
        #[test]
        fn behaves_as_a_queue(steps in proptest::collection::vec((any::<bool>(), 0usize..30_000), 1..40)) {
            let pool = BufferPool::default();
            let mut buffer = Buffer::default();
            let mut twin: VecDeque<u8> = VecDeque::new();
            let mut next = 0u8;
            for (read, n) in steps {
                if read {
                    let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add(i as u8)).collect();
                    if buffer.is_full() {
                        buffer.grow(&pool, LARGE);
                    }
                    let got = fill(&mut buffer, &pool, &bytes).unwrap_or(0);
                    twin.extend(&bytes[..got]);
                    next = next.wrapping_add(got as u8);
                } else {
                    let n = n.min(twin.len());
                    twin.drain(..n);
                    buffer.consume(n);
                }
                prop_assert!(buffer.filled().iter().eq(twin.iter()));
            }
        }
    }
}
