//! How the address of a client is written, in the access log and in diagnostics alike:
//! `log.client_address`.
//!
//! Only addresses of clients come here; those of backends and load balancers are no secret. The key
//! of hashed addresses lives in this module's memory and nowhere else, for one day of UTC at most:
//! the first address of a new day has a new one made, and a restart forgets it. Whatever it was
//! used for cannot be told from chance afterwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use portico_config::LogAddress;

/// Seconds of a day of UTC.
const DAY: u64 = 24 * 60 * 60;

/// A client's address as it may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// This address, whole or masked.
    Address(IpAddr),
    /// The keyed hash in its place, in hexadecimal digits.
    Hash([u8; 16]),
    /// The system gave no randomness for a key.
    Nothing,
}

/// The address of a client as `mode` wants it shown.
pub fn show(mode: LogAddress, address: IpAddr) -> Shown {
    let address = address.to_canonical();
    match mode {
        LogAddress::Full => Shown::Address(address),
        LogAddress::Masked => Shown::Address(masked(address)),
        LogAddress::Hashed => KEYS.hash(address, SystemTime::now()),
    }
}

fn masked(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)).into(),
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hash(digits) => f.write_str(str::from_utf8(digits).map_err(|_| fmt::Error)?),
            Self::Nothing => f.write_str("-"),
        }
    }
}

/// All workers hash with the same key: a client's connections are spread over them.
static KEYS: Keys = Keys::new();

/// The key of today.
struct Keys {
    current: ArcSwapOption<Key>,
    making: Mutex<()>,
}

struct Key {
    day: u64,
    key: hmac::Key,
}

impl Keys {
    const fn new() -> Self {
        Self {
            current: ArcSwapOption::const_empty(),
            making: Mutex::new(()),
        }
    }

    fn hash(&self, address: IpAddr, now: SystemTime) -> Shown {
        let day = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() / DAY);
        let current = self.current.load();
        match &*current {
            Some(key) if key.day == day => key.hash(address),
            _ => self
                .renewed(day)
                .map_or(Shown::Nothing, |key| key.hash(address)),
        }
    }

    /// Once a day: throws the key away and makes another.
    fn renewed(&self, day: u64) -> Option<Arc<Key>> {
        let _one_at_a_time = self.making.lock().ok()?;
        if let Some(key) = self.current.load_full().filter(|key| key.day == day) {
            return Some(key);
        }
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).ok()?;
        let key = Arc::new(Key {
            day,
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        });
        self.current.store(Some(Arc::clone(&key)));
        Some(key)
    }
}

impl Key {
    /// 64 bits of HMAC-SHA256 (RFC 2104): enough to tell the clients of a day apart.
    fn hash(&self, address: IpAddr) -> Shown {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let tag = match address {
            IpAddr::V4(address) => hmac::sign(&self.key, &address.octets()),
            IpAddr::V6(address) => hmac::sign(&self.key, &address.octets()),
        };
        let mut digits = [0; 16];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(tag.as_ref()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Shown::Hash(digits)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(mode: LogAddress, address: &str, shown: &str) {
        assert_eq!(show(mode, address.parse().unwrap()).to_string(), shown);
    }

    #[test]
    fn addresses_are_whole_or_masked() {
        use LogAddress::{Full, Masked};
        check(Full, "192.0.2.77", "192.0.2.77");
        check(Full, "::ffff:192.0.2.77", "192.0.2.77");
        check(Full, "2001:db8:1:2:3::4", "2001:db8:1:2:3::4");
        check(Masked, "192.0.2.77", "192.0.2.0");
        check(Masked, "::ffff:192.0.2.77", "192.0.2.0");
        check(Masked, "255.255.255.255", "255.255.255.0");
        check(Masked, "2001:db8:1:2:3::4", "2001:db8:1::");
        check(Masked, "ffff:ffff:ffff:ffff::1", "ffff:ffff:ffff::");
        check(Masked, "::1", "::");
    }

    #[test]
    fn a_hash_is_good_for_a_day_and_a_process() {
        let (keys, others) = (Keys::new(), Keys::new());
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let two: IpAddr = "2001:db8::1".parse().unwrap();
        let morning = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY);
        let night = morning + Duration::from_secs(DAY - 1);
        let tomorrow = morning + Duration::from_secs(DAY);
        let hash = keys.hash(one, morning);
        assert_eq!(hash.to_string().len(), 16);
        assert!(hash.to_string().bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(keys.hash(one, night), hash);
        assert_ne!(keys.hash(two, night), hash);
        assert_ne!(others.hash(one, morning), hash);
        assert_ne!(keys.hash(one, tomorrow), hash);
        assert_ne!(keys.hash(one, night), hash, "the key of that day is gone");
    }

    #[test]
    fn all_threads_hash_alike() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let hash = show(LogAddress::Hashed, address);
        let other = std::thread::spawn(move || show(LogAddress::Hashed, address));
        // But for the test that runs at midnight.
        assert_eq!(other.join().unwrap(), hash);
    }
}
