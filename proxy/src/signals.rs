//! The signals that portico listens to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT: drain.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What an administrator asks for by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGHUP: load the changed configuration.
    Reload,
    /// SIGUSR1: open the access log anew.
    Reopen,
    /// SIGUSR2: means something to other proxies, and nothing to portico. It would end the process
    /// if it were not caught.
    Nothing,
}

/// SIGHUP, SIGUSR1 and SIGUSR2.
#[derive(Debug)]
pub struct Wishes {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// SIGXFSZ, which ends a process that does not catch it: a file that may grow no more is to
    /// fail to be written, like one on a full disk.
    _file_size: Signal,
}

impl Wishes {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.user1.recv() => Wish::Reopen,
            _ = self.user2.recv() => Wish::Nothing,
        }
    }
}
