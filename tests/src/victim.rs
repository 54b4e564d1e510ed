//! A web server in a process of its own, which can be killed, stopped and started again where it was.
//!
//! The process is the test itself once more, asked for one test: a test file that uses this has
//! `#[test] fn node_process() { victim::serve_if_asked(); }`.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::origin::Origin;
use crate::{SOON, eventually, signal};

/// What tells the process that it is a server: its name and its address.
const NAME: &str = "PORTICO_TEST_NODE_NAME";
const ADDRESS: &str = "PORTICO_TEST_NODE_ADDRESS";

/// An echo in a process of its own, killed on drop.
#[derive(Debug)]
pub struct Victim {
    /// As the echo calls itself.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    process: Option<Child>,
}

/// Serves for ever, if this process is to be a server.
pub fn serve_if_asked() {
    let (Ok(name), Ok(address)) = (std::env::var(NAME), std::env::var(ADDRESS)) else {
        return;
    };
    let _echo = Origin::echo_on(&name, address.parse().expect("an address"));
    loop {
        std::thread::park();
    }
}

impl Victim {
    /// Starts it, and waits until it listens.
    #[track_caller]
    pub fn start(name: &str, address: SocketAddr) -> Victim {
        let mut node = Victim {
            name: name.to_owned(),
            address,
            process: None,
        };
        node.restart();
        node
    }

    /// Starts it again where it was.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let program = std::env::current_exe().expect("this test");
        let process = Command::new(program)
            .args(["--exact", "node_process", "--nocapture"])
            .env(NAME, &self.name)
            .env(ADDRESS, self.address.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect("the test starts once more"));
        eventually("the node listens", SOON, || {
            TcpStream::connect(self.address).ok()
        });
    }

    /// Kills it: its connections break, and nobody listens any more.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops it: its connections stay, and nobody answers.
    #[track_caller]
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    #[track_caller]
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    #[track_caller]
    fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("it runs");
        signal(process.id(), name);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}
