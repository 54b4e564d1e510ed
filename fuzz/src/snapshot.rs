//! Checks of the routes snapshot on disk: no bytes panic, and what is read is what is written again.

#[path = "../../proxy/src/registry/disk/layout.rs"]
mod layout;

use std::collections::HashSet;

use layout::{MAGIC, VERSION, decode, encode};
use portico_routing::table::Table;

/// Any bytes as a file, and as the body of one whose head and checksum are right.
pub fn snapshot(data: &[u8]) {
    check(data);
    let mut file = MAGIC.to_vec();
    file.extend(VERSION.to_le_bytes());
    file.extend(data);
    file.extend(crc32fast::hash(&file).to_le_bytes());
    check(&file);
}

fn check(bytes: &[u8]) {
    let Ok(snapshot) = decode(bytes.to_vec()) else {
        return;
    };
    // A name that stands twice: the last one counts.
    let (table, mut kept) = (Table::new(), HashSet::new());
    for tool in snapshot.tools() {
        table.set(tool.name, tool.entry(&|_| Ok(())));
        if tool.kept {
            kept.insert(tool.name);
        }
    }
    assert_eq!(snapshot.tools().count(), snapshot.len());
    let mut written = Vec::new();
    let count = encode(
        &table,
        &|tool| kept.contains(tool),
        snapshot.written,
        &mut written,
    );
    let again = decode(written).expect("what was written can be read");
    assert_eq!(count.ok(), Some(again.len() as u64));
    assert_eq!(again.written, snapshot.written);
    for tool in again.tools() {
        let entry = tool.entry(&|_| Ok(()));
        let same = |old: &std::sync::Arc<portico_routing::table::Entry>| {
            old.routes == entry.routes && old.redirect == entry.redirect
        };
        assert_eq!(table.with(tool.name, same), Some(true), "{}", tool.name);
        assert!(entry.bad.is_empty(), "{}: {:?}", tool.name, entry.bad);
        assert_eq!(tool.kept, kept.contains(tool.name));
    }
}

#[cfg(test)]
mod tests {
    use crate::run;

    #[test]
    fn snapshot() {
        let time = b"\x05\0\0\0\0\0\0\0";
        let tool = b"\x01\x01\0\0\0t\x03\x01\0\0\0\x02\0\0\0.*\x13\0\0\0http://192.0.2.1:80";
        let moved = b"\x01\x05\0\0\0moved\x01\0\0\0\0";
        let bad = b"\x01\x01\0\0\0b\0\x01\0\0\0\x01\0\0\0(\0\0\0\0";
        let whole = [&time[..], tool, moved, bad, b"\0"].concat();
        let file = [super::MAGIC, &super::VERSION.to_le_bytes()[..], &whole].concat();
        let file = [&file[..], &crc32fast::hash(&file).to_le_bytes()].concat();
        assert_eq!(super::decode(file.clone()).unwrap().len(), 3);
        let seeds: &[&[u8]] = &[&whole, &file, time, tool, moved, b"\0", b"\xff\xff\xff\xff"];
        run(super::snapshot, seeds, 100_000);
    }
}
