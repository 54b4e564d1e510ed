//! The certificates in use: chosen by SNI, exchanged when their files change.
//!
//! Workers read one immutable set through an [`ArcSwap`]; the control thread builds the next one
//! aside and swaps it. A handshake sees either set whole, and open connections are not touched.
//!
//! A change is taken up at the second call that finds the files the same, so that a file that
//! is being written, or a chain whose key follows a moment later, is not judged half-way.
//! What is broken then is reported once; the certificate that worked stays in use until the
//! files are good again.
//!
//! Not here: what makes a pair of files good (`certificate`), timers and threads.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portico_config::CertificateFiles;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use tracing::{error, info, warn};

use super::certificate::{Certificate, CertificateError};

/// How often to call [`CertificateStore::reload_changed`]: a change is in use after two calls,
/// which keeps it under the promised 5 seconds with room for a busy machine.
pub const RELOAD_INTERVAL: Duration = Duration::from_millis(1500);

/// All certificates of the process. Never empty.
pub struct CertificateStore {
    serving: ArcSwap<Serving>,
    watched: Mutex<Vec<Watched>>,
    failures: AtomicU64,
    /// See [`CertificateStore::broken`].
    broken: ArcSwap<Vec<Option<String>>>,
}

/// What one call of [`CertificateStore::reload_changed`] did, in numbers of certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReloadOutcome {
    /// Another certificate than before is in use.
    pub replaced: usize,
    /// The files changed and are broken: logged and counted by this call.
    pub failed: usize,
    /// The files were broken and are good again (also counted in `replaced` if they differ).
    pub recovered: usize,
    /// The files are broken, since this call or an earlier one: the last good
    /// certificate is in use.
    pub failing: usize,
}

/// Until when a certificate in use is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The chain file.
    pub chain: PathBuf,
    /// The certificate's first DNS name; empty when it has none.
    pub name: String,
    /// notAfter.
    pub not_after: SystemTime,
}

impl CertificateStore {
    /// Loads every pair; the first one is shown to clients that name no host or an unknown one.
    ///
    /// # Errors
    /// All mistakes of all pairs, each a sentence with its path.
    pub fn load(
        files: &[CertificateFiles],
    ) -> Result<Arc<CertificateStore>, Vec<CertificateError>> {
        let now = SystemTime::now();
        let mut watched = Vec::new();
        let mut errors = Vec::new();
        for pair in files {
            match Watched::start(pair, now) {
                Ok(pair) => watched.push(pair),
                Err(found) => errors.extend(found),
            }
        }
        if files.is_empty() {
            errors.push(CertificateError::NoneConfigured);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Arc::new(CertificateStore {
            serving: ArcSwap::from_pointee(Serving::of(&watched)),
            broken: ArcSwap::from_pointee(vec![None; watched.len()]),
            watched: Mutex::new(watched),
            failures: AtomicU64::new(0),
        }))
    }

    /// Looks whether files changed and takes good ones up; call it every [`RELOAD_INTERVAL`]. Reads
    /// the disk, so it belongs on the control thread. Logs what it does, each change once.
    pub fn reload_changed(&self) -> ReloadOutcome {
        self.reload_changed_at(SystemTime::now())
    }

    pub(super) fn reload_changed_at(&self, now: SystemTime) -> ReloadOutcome {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = ReloadOutcome::default();
        let mut exchanged = false;
        for pair in watched.iter_mut() {
            match pair.check(now) {
                Check::Same => {}
                Check::Good { new, recovered } => {
                    exchanged = true;
                    outcome.replaced += usize::from(new);
                    outcome.recovered += usize::from(recovered);
                }
                Check::Broken => {
                    outcome.failed += 1;
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
            }
            outcome.failing += usize::from(pair.failure.is_some());
        }
        if exchanged {
            self.serving.store(Arc::new(Serving::of(&watched)));
        }
        if exchanged || outcome.failed > 0 {
            let failures = watched.iter().map(|pair| pair.failure.clone());
            self.broken.store(Arc::new(failures.collect()));
        }
        outcome
    }

    /// Goes on counting where `previous` is, whose place it takes: a counter never goes back.
    pub fn succeed(&self, previous: &Self) {
        self.failures.store(previous.failures(), Ordering::Relaxed);
    }

    /// How many changes on disk were broken and not taken up, since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// For each pair, in the order of the configuration, why its files on disk are not in use;
    /// `None`: they are.
    pub fn broken(&self) -> Arc<Vec<Option<String>>> {
        self.broken.load_full()
    }

    /// Whether a certificate names `host`, itself or by a wildcard; other hosts get
    /// the first certificate.
    pub fn covers(&self, host: &str) -> bool {
        !self.serving.load().named(host).is_empty()
    }

    /// What works but should be mended, one sentence each, for the certificates in use. Nothing has
    /// logged them for the first load: that is the caller's, who may be `check` rather than `run`.
    pub fn warnings(&self) -> Vec<String> {
        let serving = self.serving.load();
        serving
            .certificates
            .iter()
            .flat_map(|certificate| certificate.warnings.iter().cloned())
            .collect()
    }

    /// Until when each certificate in use is valid, in the order of the configuration.
    pub fn expiries(&self) -> Vec<CertificateExpiry> {
        // Not from `watched`, which is locked while files are read: a slow disk is when somebody
        // wants to know how things stand.
        self.serving.load().expiries.clone()
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has already struck the schemes that do not fit the client's TLS 1.2 suites.
        self.serving
            .load()
            .choose(hello.server_name(), hello.signature_schemes())
    }
}

/// Says which names are served; keys are nobody's business.
impl fmt::Debug for CertificateStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CertificateStore")
            .field("names", &self.serving.load().by_name.keys())
            .finish_non_exhaustive()
    }
}

/// One immutable set of certificates.
struct Serving {
    /// In the order of the configuration.
    certificates: Vec<Arc<Certificate>>,
    /// In the same order.
    expiries: Vec<CertificateExpiry>,
    /// Name (`host` or `*.parent`, lower case) to places in `certificates`,
    /// ECDSA before the others.
    by_name: HashMap<Box<str>, Vec<usize>>,
}

impl Serving {
    fn of(watched: &[Watched]) -> Serving {
        let certificates: Vec<_> = watched.iter().map(|pair| pair.current.clone()).collect();
        let mut by_name: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (place, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_default().push(place);
            }
        }
        for places in by_name.values_mut() {
            // Signing with ECDSA costs the server a small part of what RSA
            // costs. The sort is stable.
            places.sort_by_key(|place| {
                certificates
                    .get(*place)
                    .is_none_or(|found| found.key.key.algorithm() != SignatureAlgorithm::ECDSA)
            });
        }
        let expiries = watched.iter().map(|pair| CertificateExpiry {
            chain: pair.files.chain.clone(),
            name: pair
                .current
                .names
                .first()
                .map(|name| name.to_string())
                .unwrap_or_default(),
            not_after: pair.current.not_after,
        });
        Serving {
            expiries: expiries.collect(),
            certificates,
            by_name,
        }
    }

    /// The certificate for a host: by its name, else by the wildcard over it, else the first one;
    /// among several the first whose key the client can verify. When it can verify none, the best
    /// by name: rustls then ends the handshake with the right alert.
    fn choose(&self, host: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let named = host.map(|host| self.named(host)).unwrap_or_default();
        let candidates = || {
            let others = if named.is_empty() {
                self.certificates.as_slice()
            } else {
                &[]
            };
            named.iter().copied().chain(others)
        };
        candidates()
            .find(|found| found.key.key.choose_scheme(schemes).is_some())
            .or_else(|| candidates().next())
            .map(|found| Arc::clone(&found.key))
    }

    /// Certificates for exactly this name, then those for `*.parent`. A wildcard stands for one
    /// label (RFC 9525, 6.3).
    fn named(&self, host: &str) -> Vec<&Arc<Certificate>> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = host
            .split_once('.')
            .map(|(_, parent)| format!("*.{parent}"));
        [Some(host), wildcard]
            .iter()
            .flatten()
            .filter_map(|name| self.by_name.get(name.as_str()))
            .flatten()
            .filter_map(|place| self.certificates.get(*place))
            .collect()
    }
}

/// A pair of files and what became of it.
struct Watched {
    files: CertificateFiles,
    /// The last good certificate.
    current: Arc<Certificate>,
    /// How the files looked when they were last judged.
    judged: Signature,
    /// They had rested when they were judged: a later write cannot bear the same time.
    settled: bool,
    /// How they looked at the last call, if that is not how they were judged.
    changing: Option<Signature>,
    /// Why the files as judged are not in use.
    failure: Option<String>,
}

/// What looking at a pair of files led to.
enum Check {
    /// Nothing to do, or not yet.
    Same,
    /// `current` was exchanged; `new` if the chain is another one.
    Good { new: bool, recovered: bool },
    /// Broken in a way not reported before.
    Broken,
}

impl Watched {
    fn start(files: &CertificateFiles, now: SystemTime) -> Result<Watched, Vec<CertificateError>> {
        // Taken before reading: a change during reading then shows at the next call.
        let judged = Signature::of(files);
        let current = Arc::new(Certificate::load(files, now)?);
        Ok(Watched {
            files: files.clone(),
            current,
            settled: judged.settled(now),
            judged,
            changing: None,
            failure: None,
        })
    }

    fn check(&mut self, now: SystemTime) -> Check {
        let found = Signature::of(&self.files);
        let changed = found != self.judged;
        if !changed {
            self.changing = None;
            // Broken files are read again even when they look the same: some failures pass by
            // themselves (no descriptor left, a certificate that becomes valid).
            if self.failure.is_none() && self.settled {
                return Check::Same;
            }
        } else if self.changing.as_ref() != Some(&found) {
            self.changing = Some(found);
            return Check::Same;
        }
        let loaded = Certificate::load(&self.files, now);
        let after = Signature::of(&self.files);
        if after != found {
            self.changing = Some(after);
            return Check::Same;
        }
        self.settled = found.settled(now);
        self.judged = found;
        self.changing = None;
        match loaded {
            Ok(certificate) => self.take_up(certificate),
            Err(errors) => self.report(&errors, changed),
        }
    }

    fn take_up(&mut self, certificate: Certificate) -> Check {
        let chain = self.files.chain.display();
        for warning in &certificate.warnings {
            if !self.current.warnings.contains(warning) {
                warn!("{warning}");
            }
        }
        // Touched, copied over or put back: the same certificate again is no news.
        let new = certificate.key.cert != self.current.key.cert;
        let recovered = self.failure.take().is_some();
        if !new && !recovered && certificate.warnings == self.current.warnings {
            return Check::Same;
        }
        let expires = &certificate.expires;
        match (new, recovered) {
            (true, false) => info!("{chain}: new certificate in use, valid until {expires}"),
            (true, true) => {
                info!("{chain}: good again, new certificate in use, valid until {expires}")
            }
            (false, true) => info!("{chain}: good again, unchanged, valid until {expires}"),
            (false, false) => {}
        }
        self.current = Arc::new(certificate);
        Check::Good { new, recovered }
    }

    fn report(&mut self, errors: &[CertificateError], changed: bool) -> Check {
        let sentences: Vec<String> = errors.iter().map(CertificateError::to_string).collect();
        let failure = sentences.join("; ");
        if !changed && self.failure.as_ref() == Some(&failure) {
            return Check::Same;
        }
        error!(
            "a changed certificate is not taken up, the old one (valid until {}) stays in use: {failure}",
            self.current.expires
        );
        self.failure = Some(failure);
        Check::Broken
    }
}

/// How a pair of files looks from outside: enough to see any change without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    chain: FileSignature,
    key: FileSignature,
}

impl Signature {
    fn of(files: &CertificateFiles) -> Signature {
        Signature {
            chain: FileSignature::of(&files.chain),
            key: FileSignature::of(&files.key),
        }
    }

    /// Whether a write from now on must change the signature. File systems note times in steps, of
    /// 4 ms or as much as 2 s, and two writes within a step can look the same.
    fn settled(&self, now: SystemTime) -> bool {
        let step = Duration::from_secs(2);
        [&self.chain, &self.key].iter().all(|file| match file {
            FileSignature::Present { status_changed, .. } => {
                let changed = Duration::from_secs(u64::try_from(status_changed.0).unwrap_or(0));
                now.duration_since(SystemTime::UNIX_EPOCH + changed)
                    .is_ok_and(|age| age > step)
            }
            FileSignature::Absent(_) => true,
        })
    }
}

/// Of the file that symbolic links lead to: a changed link shows as another inode.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileSignature {
    Present {
        device: u64,
        inode: u64,
        length: u64,
        modified: (i64, i64),
        /// Moves when owner or mode change, and when a copy keeps the old modification time.
        status_changed: (i64, i64),
    },
    Absent(ErrorKind),
}

impl FileSignature {
    fn of(path: &Path) -> FileSignature {
        match std::fs::metadata(path) {
            Ok(about) => FileSignature::Present {
                device: about.dev(),
                inode: about.ino(),
                length: about.len(),
                modified: (about.mtime(), about.mtime_nsec()),
                status_changed: (about.ctime(), about.ctime_nsec()),
            },
            Err(error) => FileSignature::Absent(error.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::testing::{Directory, EXPIRED, FUTURE, Kind, Pem, VALID, now, pem};
    use super::*;

    /// A store over the pair `a` in a directory, with what it logs.
    struct Scene {
        directory: Directory,
        store: Arc<CertificateStore>,
        log: Log,
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Scene {
        fn new(pem: &Pem) -> Scene {
            let directory = Directory::new();
            let files = directory.put("a", pem);
            Scene::over(directory, &[files])
        }

        fn over(directory: Directory, files: &[CertificateFiles]) -> Scene {
            let store = CertificateStore::load(files).unwrap_or_else(|errors| panic!("{errors:?}"));
            let log = Log::default();
            Scene {
                directory,
                store,
                log,
            }
        }

        fn shown(&self) -> Vec<u8> {
            let serving = self.store.serving.load();
            serving.certificates[0].key.cert[0].to_vec()
        }

        /// Calls `reload_changed` several times; together they must do `outcome` (`failing`: after
        /// the last one), leave `shown` in use, and log as many lines of each level.
        #[track_caller]
        fn check_at(
            &self,
            now: SystemTime,
            calls: usize,
            outcome: ReloadOutcome,
            shown: &Pem,
            (errors, infos): (usize, usize),
        ) {
            let failures = self.store.failures();
            let log = self.log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || log.clone())
                .finish();
            let mut total = ReloadOutcome::default();
            tracing::subscriber::with_default(subscriber, || {
                for _ in 0..calls {
                    let one = self.store.reload_changed_at(now);
                    total.replaced += one.replaced;
                    total.failed += one.failed;
                    total.recovered += one.recovered;
                    total.failing = one.failing;
                }
            });
            let log = String::from_utf8(std::mem::take(&mut *self.log.0.lock().unwrap())).unwrap();
            assert_eq!(total, outcome, "{log}");
            assert_eq!(self.store.failures() - failures, outcome.failed as u64);
            let broken = self.store.broken();
            assert_eq!(broken.iter().flatten().count(), outcome.failing);
            assert!(
                self.shown() == shown.leaf.as_ref(),
                "another certificate is shown"
            );
            assert_eq!(log.matches(" ERROR ").count(), errors, "{log}");
            assert_eq!(log.matches(" INFO ").count(), infos, "{log}");
            assert!(!log.contains("PRIVATE"), "{log}");
        }

        #[track_caller]
        fn check(&self, calls: usize, outcome: ReloadOutcome, shown: &Pem) {
            let lines = (outcome.failed, outcome.replaced.max(outcome.recovered));
            self.check_at(now(), calls, outcome, shown, lines);
        }
    }

    const NOTHING: ReloadOutcome = ReloadOutcome {
        replaced: 0,
        failed: 0,
        recovered: 0,
        failing: 0,
    };
    const REPLACED: ReloadOutcome = ReloadOutcome {
        replaced: 1,
        ..NOTHING
    };
    const BROKE: ReloadOutcome = ReloadOutcome {
        failed: 1,
        failing: 1,
        ..NOTHING
    };
    const STILL_BROKEN: ReloadOutcome = ReloadOutcome {
        failing: 1,
        ..NOTHING
    };
    const RECOVERED: ReloadOutcome = ReloadOutcome {
        recovered: 1,
        ..NOTHING
    };
    const RENEWED: ReloadOutcome = ReloadOutcome {
        replaced: 1,
        recovered: 1,
        ..NOTHING
    };

    /// Two pairs for the same name whose files have the same lengths.
    fn two() -> (Pem, Pem) {
        let one = pem(&["a.org"], Kind::Ecdsa, VALID);
        loop {
            let other = pem(&["a.org"], Kind::Ecdsa, VALID);
            if one.chain.len() == other.chain.len() {
                return (one, other);
            }
        }
    }

    #[test]
    fn a_new_pair_is_taken_up_at_the_second_look() {
        let (old, new) = two();
        let scene = Scene::new(&old);
        scene.check(3, NOTHING, &old);
        scene.directory.put("a", &new);
        scene.check(1, NOTHING, &old);
        scene.check(1, REPLACED, &new);
        scene.check(3, NOTHING, &new);
        assert!(2 * RELOAD_INTERVAL < Duration::from_secs(5));
    }

    #[test]
    fn a_write_within_one_step_of_the_file_systems_clock_is_found() {
        let (old, new) = two();
        let scene = Scene::new(&old);
        scene.directory.put("a", &new);
        // As a coarse clock has it: the new files look exactly as the old ones did.
        let alike = Signature::of(&scene.directory.files("a"));
        let key = std::fs::metadata(&scene.directory.files("a").key).unwrap();
        let written = key.modified().unwrap();
        assert!(!alike.settled(written));
        assert!(alike.settled(written + Duration::from_secs(4)));
        {
            let pair = &mut scene.store.watched.lock().unwrap()[0];
            pair.judged = alike;
            pair.settled = false;
        }
        scene.check(1, REPLACED, &new);
    }

    #[test]
    fn the_same_content_again_is_no_news() {
        let (old, _) = two();
        let scene = Scene::new(&old);
        for _ in 0..3 {
            scene.directory.put("a", &old);
            scene.check(3, NOTHING, &old);
        }
        scene.directory.link("a.key", &{
            scene.directory.write("other.key", &old.key);
            scene.directory.path("other.key")
        });
        scene.check(3, NOTHING, &old);
    }

    #[test]
    fn chain_replaced_before_its_key() {
        let (old, new) = two();
        // A moment before: nobody notices.
        let scene = Scene::new(&old);
        scene.directory.write("a.crt", &new.chain);
        scene.check(1, NOTHING, &old);
        scene.directory.write("a.key", &new.key);
        scene.check(1, NOTHING, &old);
        scene.check(2, REPLACED, &new);
        // Long before: an error meanwhile, one.
        let scene = Scene::new(&old);
        scene.directory.write("a.crt", &new.chain);
        scene.check(5, BROKE, &old);
        scene.check(5, STILL_BROKEN, &old);
        scene.directory.write("a.key", &new.key);
        scene.check(
            2,
            ReloadOutcome {
                failing: 0,
                ..RENEWED
            },
            &new,
        );
    }

    #[test]
    fn half_written_then_completed() {
        let (old, new) = two();
        let scene = Scene::new(&old);
        scene.directory.write("a.key", &new.key);
        scene.directory.write("a.crt", &new.chain[..300]);
        scene.check(4, BROKE, &old);
        // Another broken state is another change.
        scene.directory.write("a.crt", &new.chain[..310]);
        scene.check(4, BROKE, &old);
        scene.directory.write("a.crt", &new.chain);
        scene.check(4, RENEWED, &new);
        // While it grows at every look it is left alone.
        for length in [100, 200, 300, 400] {
            scene.directory.write("a.crt", &old.chain[..length]);
            scene.check(1, NOTHING, &new);
        }
    }

    #[test]
    fn deleted_and_put_back() {
        let (old, new) = two();
        let scene = Scene::new(&old);
        std::fs::remove_file(scene.directory.path("a.key")).unwrap();
        std::fs::remove_file(scene.directory.path("a.crt")).unwrap();
        scene.check(5, BROKE, &old);
        scene.directory.put("a", &old);
        scene.check(3, RECOVERED, &old);
        std::fs::remove_file(scene.directory.path("a.key")).unwrap();
        scene.check(3, BROKE, &old);
        scene.directory.put("a", &new);
        scene.check(3, RENEWED, &new);
        // Gone for less than two looks, as when a tool deletes before it writes.
        std::fs::remove_file(scene.directory.path("a.crt")).unwrap();
        scene.check(1, NOTHING, &new);
        scene.directory.put("a", &old);
        scene.check(3, REPLACED, &old);
    }

    #[test]
    fn other_broken_states() {
        let (old, new) = two();
        let expired = pem(&["a.org"], Kind::Ecdsa, EXPIRED);
        let (_, key_of_another) = two();
        let states: [&dyn Fn(&Directory); 5] = [
            &|directory| drop(directory.put("a", &expired)),
            &|directory| directory.write("a.key", &key_of_another.key),
            &|directory| directory.write("a.crt", ""),
            &|directory| directory.write("a.key", &new.chain),
            &|directory| directory.link("a.crt", Path::new("nowhere")),
        ];
        for state in states {
            let scene = Scene::new(&old);
            state(&scene.directory);
            scene.check(4, BROKE, &old);
            std::fs::remove_file(scene.directory.path("a.crt")).unwrap();
            scene.directory.put("a", &new);
            scene.check(4, RENEWED, &new);
        }
    }

    #[test]
    fn a_certificate_from_the_future_is_taken_up_when_its_time_comes() {
        let (old, _) = two();
        let future = pem(&["a.org"], Kind::Ecdsa, FUTURE);
        let scene = Scene::new(&old);
        scene.directory.put("a", &future);
        scene.check(4, BROKE, &old);
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(221 * 365 * 24 * 3600);
        scene.check_at(later, 1, RENEWED, &future, (0, 1));
    }

    #[test]
    fn symbolic_links_swapped() {
        // As certbot has it: each file is a link into an archive.
        let (old, new) = two();
        let directory = Directory::new();
        let archive = [directory.put("1", &old), directory.put("2", &new)];
        directory.link("a.crt", &archive[0].chain);
        directory.link("a.key", &archive[0].key);
        let files = directory.files("a");
        let scene = Scene::over(directory, std::slice::from_ref(&files));
        scene.directory.link("a.crt", &archive[1].chain);
        scene.check(1, NOTHING, &old);
        scene.directory.link("a.key", &archive[1].key);
        scene.check(2, REPLACED, &new);
        // As acme-chief has it: the directory is the link.
        let directory = Directory::new();
        for (name, pem) in [("v1", &old), ("v2", &new)] {
            std::fs::create_dir(directory.path(name)).unwrap();
            directory.put(&format!("{name}/a"), pem);
        }
        directory.link("live", Path::new("v1"));
        let files = directory.files("live/a");
        let scene = Scene::over(directory, &[files]);
        scene.directory.link("live", Path::new("v2"));
        scene.check(2, REPLACED, &new);
        scene.directory.link("live", Path::new("v1"));
        scene.check(2, REPLACED, &old);
        scene.directory.link("live", Path::new("v3"));
        scene.check(2, BROKE, &old);
    }

    #[test]
    fn a_key_opened_to_everybody_is_warned_of_once() {
        use std::os::unix::fs::PermissionsExt;
        let (old, _) = two();
        let scene = Scene::new(&old);
        assert_eq!(scene.store.warnings(), Vec::<String>::new());
        let key = scene.directory.path("a.key");
        std::fs::set_permissions(key, PermissionsExt::from_mode(0o644)).unwrap();
        scene.check(4, NOTHING, &old);
        assert_eq!(scene.store.warnings().len(), 1);
    }

    #[test]
    fn pairs_are_independent() {
        let (old, new) = two();
        let directory = Directory::new();
        let files = [directory.put("a", &old), directory.put("b", &old)];
        let scene = Scene::over(directory, &files);
        scene.directory.put("a", &new);
        scene.directory.write("b.crt", "");
        let both = ReloadOutcome {
            replaced: 1,
            failed: 1,
            recovered: 0,
            failing: 1,
        };
        scene.check_at(now(), 3, both, &new, (1, 1));
        let expiries = scene.store.expiries();
        assert_eq!(expiries.len(), 2);
        assert_eq!(expiries[0].name, "a.org");
        assert_eq!(expiries[0].chain, files[0].chain);
        assert!(expiries[1].not_after > now());
    }

    #[test]
    fn all_mistakes_of_all_pairs_at_once() {
        let (old, _) = two();
        let directory = Directory::new();
        let good = directory.put("a", &old);
        let missing = [directory.files("b"), good, directory.files("c")];
        let errors = CertificateStore::load(&missing).unwrap_err();
        assert_eq!(errors.len(), 4, "{errors:?}");
        let errors = CertificateStore::load(&[]).unwrap_err();
        assert_eq!(errors, [CertificateError::NoneConfigured]);
    }

    /// The names of [`choice`]'s certificates; ECDSA where it says so.
    const CERTIFICATES: &[(&[&str], Kind)] = &[
        (&["a.org", "*.a.org"], Kind::Rsa),
        (&["a.org", "*.a.org"], Kind::Ecdsa),
        (&["x.a.org", "b.org"], Kind::Ecdsa),
        (&["*.x.a.org"], Kind::Rsa),
    ];

    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const BOTH: &[SignatureScheme] = &[
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ];

    #[test]
    fn a_store_in_the_place_of_another_goes_on_counting() {
        let directory = Directory::new();
        let (names, kind) = CERTIFICATES[0];
        let files = [directory.put("0", &pem(names, kind, VALID))];
        let [old, new] = [0, 1].map(|_| CertificateStore::load(&files).unwrap());
        old.failures.store(3, Ordering::Relaxed);
        new.succeed(&old);
        assert_eq!(new.failures(), 3);
    }

    /// The place in [`CERTIFICATES`] of what a client gets.
    fn choice(host: Option<&str>, schemes: &[SignatureScheme]) -> usize {
        static STORE: std::sync::OnceLock<Arc<CertificateStore>> = std::sync::OnceLock::new();
        let store = STORE.get_or_init(|| {
            let directory = Directory::new();
            let files: Vec<_> = CERTIFICATES
                .iter()
                .enumerate()
                .map(|(place, (names, kind))| {
                    directory.put(&place.to_string(), &pem(names, *kind, VALID))
                })
                .collect();
            CertificateStore::load(&files).unwrap()
        });
        let serving = store.serving.load();
        let chosen = serving.choose(host, schemes).unwrap();
        serving
            .certificates
            .iter()
            .position(|certificate| Arc::ptr_eq(&certificate.key, &chosen))
            .unwrap()
    }

    #[test]
    fn chosen_by_name_and_scheme() {
        for (host, schemes, expected) in [
            (Some("a.org"), BOTH, 1),
            (Some("a.org"), RSA, 0),
            (Some("A.oRg."), ECDSA, 1),
            (Some("t.a.org"), BOTH, 1),
            (Some("T.A.ORG"), RSA, 0),
            // The exact name goes before the wildcard, unless only the wildcard's key fits.
            (Some("x.a.org"), BOTH, 2),
            (Some("x.a.org"), RSA, 0),
            // A wildcard is one label.
            (Some("y.x.a.org"), BOTH, 3),
            (Some("z.y.x.a.org"), BOTH, 0),
            (Some("t.b.org"), BOTH, 0),
            // The first one, whatever its kind; another one only where the client cannot use it.
            (None, BOTH, 0),
            (None, ECDSA, 1),
            (Some("evil.com"), BOTH, 0),
            (Some("org"), BOTH, 0),
            (Some(""), BOTH, 0),
            // Nothing fits: still one by name, so that rustls can send its alert.
            (Some("b.org"), RSA, 2),
            (Some("b.org"), &[], 2),
            (None, &[], 0),
        ] {
            assert_eq!(choice(host, schemes), expected, "{host:?} {schemes:?}");
        }
    }

    /// The rules again, slowly.
    fn naive(host: &str, schemes: &[SignatureScheme]) -> usize {
        let host = host.to_lowercase();
        let host: Vec<&str> = host.trim_end_matches('.').split('.').collect();
        let fits = |kind: Kind| match kind {
            Kind::Rsa => schemes.contains(&RSA[0]),
            Kind::Ecdsa => schemes.contains(&ECDSA[0]),
        };
        let rank = |place: usize| {
            let (names, kind) = CERTIFICATES[place];
            let best = names.iter().filter_map(|name| {
                let name: Vec<&str> = name.split('.').collect();
                if name == host {
                    Some(0)
                } else if name[0] == "*" && host.len() > 1 && name[1..] == host[1..] {
                    Some(1)
                } else {
                    None
                }
            });
            best.min()
                .map(|exact| (!fits(kind), exact, kind == Kind::Rsa, place))
        };
        let by_name = (0..CERTIFICATES.len()).filter_map(rank).min();
        let by_order = (0..CERTIFICATES.len()).map(|place| {
            let (_, kind) = CERTIFICATES[place];
            (!fits(kind), 0, false, place)
        });
        by_name.or(by_order.min()).unwrap().3
    }

    proptest! {
        #[test]
        fn choosing_agrees_with_the_naive_twin(
            host in "(([tTxy]|a|b)\\.){0,3}(a\\.org|b\\.org|org|A\\.ORG)\\.?",
            schemes in proptest::sample::select(vec![RSA, ECDSA, BOTH, &[]]),
        ) {
            prop_assert_eq!(choice(Some(&host), schemes), naive(&host, schemes), "{}", host);
        }
    }
}
