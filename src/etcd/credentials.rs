//! TLS material and the password: checked, and read from their files again for each new connection, since
//! certificates and passwords are rotated while sidekick runs.

use super::secret::{Secret, Tls};
use crate::clock::{Moment, now};
use crate::log_throttle::LogThrottle;
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

/// Reading a few small files takes less than a millisecond, unless their file system hangs. A connection then
/// doesn't wait for them; an eighth of a call's deadline.
const READ_DEADLINE: Duration = Duration::from_millis(250);

/// Where the credentials come from; what didn't come from a file is `None`.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The CAs to trust, in PEM.
    pub ca: Option<PathBuf>,
    /// Our certificate (with its chain) and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The user's password is the first line.
    pub password: Option<PathBuf>,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The CAs to trust.
    Ca,
    /// Our certificate.
    Certificate,
    /// Its key.
    Key,
    /// The password.
    Password,
}

/// Why a file can't be used. The text names the file, and holds nothing of its content.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct BadFile {
    /// The kind of the file.
    pub kind: FileKind,
    problem: String,
}

impl BadFile {
    const fn new(kind: FileKind, problem: String) -> Self {
        Self { kind, problem }
    }
}

/// The CAs to trust.
///
/// # Errors
/// The file can't be read, or holds no certificate, or half of one.
pub fn read_ca(path: &Path) -> Result<Vec<u8>, BadFile> {
    let (pem, certificates) = certificates(FileKind::Ca, path)?;
    let (valid, _) = RootCertStore::empty().add_parsable_certificates(certificates);
    if valid == 0 {
        let problem = format!("{} holds no certificate that can be read", path.display());
        return Err(BadFile::new(FileKind::Ca, problem));
    }
    Ok(pem)
}

/// Our certificate and its key.
///
/// # Errors
/// One of the files can't be read or parsed, or the two don't belong together.
pub fn read_identity(certificate: &Path, key: &Path) -> Result<(Vec<u8>, Secret), BadFile> {
    let (pem, chain) = certificates(FileKind::Certificate, certificate)?;
    let key_pem = read(FileKind::Key, key)?;
    let bad = |problem: String| BadFile::new(FileKind::Key, problem);
    let parsed = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|_| bad(format!("{} holds no PEM private key", key.display())))?;
    // rustls' errors hold nothing of a key.
    CertifiedKey::from_der(chain, parsed, &default_provider()).map_err(|error| {
        let (key, certificate) = (key.display(), certificate.display());
        bad(format!("{key} is not the key of {certificate}: {error}"))
    })?;
    Ok((pem, Secret(key_pem)))
}

/// The user's password: the file's first line.
///
/// # Errors
/// The file can't be read, is not in UTF-8, or is empty.
pub fn read_password(path: &Path) -> Result<Secret, BadFile> {
    let shown = path.display();
    let bad = |problem: String| BadFile::new(FileKind::Password, problem);
    let all = String::from_utf8(read(FileKind::Password, path)?)
        .map_err(|_| bad(format!("{shown} is not in UTF-8")))?;
    match all.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret(line.as_bytes().to_vec())),
        _ => Err(bad(format!("{shown} holds no password in its first line"))),
    }
}

fn read(kind: FileKind, path: &Path) -> Result<Vec<u8>, BadFile> {
    std::fs::read(path)
        .map_err(|e| BadFile::new(kind, format!("can't read {}: {e}", path.display())))
}

fn certificates(
    kind: FileKind,
    path: &Path,
) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), BadFile> {
    let pem = read(kind, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok((pem, all)),
        _ => Err(BadFile::new(
            kind,
            format!("{} holds no PEM certificate", path.display()),
        )),
    }
}

/// The content of the files at one time; `None` where there is no file.
#[derive(Default)]
struct Contents {
    ca: Option<Result<Vec<u8>, BadFile>>,
    identity: Option<Result<(Vec<u8>, Secret), BadFile>>,
    password: Option<Result<Secret, BadFile>>,
}

impl Files {
    const fn is_empty(&self) -> bool {
        self.ca.is_none() && self.identity.is_none() && self.password.is_none()
    }

    fn read(&self) -> Contents {
        let identity = self.identity.as_ref();
        Contents {
            ca: self.ca.as_deref().map(read_ca),
            identity: identity.map(|(certificate, key)| read_identity(certificate, key)),
            password: self.password.as_deref().map(read_password),
        }
    }
}

/// The credentials that the next connection is made with.
pub(super) struct Credentials {
    files: Files,
    tls: Option<Tls>,
    user: Option<(String, Secret)>,
    /// A read that is under way: there never is a second one.
    reading: Option<JoinHandle<Contents>>,
    hangs: LogThrottle,
    kept: [Kept; 3],
}

/// Since when the last good content of a file is in use.
struct Kept {
    read_at: Moment,
    bad: LogThrottle,
}

impl Kept {
    /// Replaces `good` by what was read, or logs that it is kept.
    fn take<T>(&mut self, what: &str, read: Option<Result<T, BadFile>>) -> Option<T> {
        let now = now();
        match read? {
            Ok(content) => {
                self.read_at = now;
                if self.bad.recovered(now).is_some() {
                    info!("etcd: the {what} can be read again, and is in use");
                }
                Some(content)
            }
            Err(error) => {
                if let Some(notice) = self.bad.failed(now) {
                    let age = now.saturating_sub(self.read_at).as_secs();
                    let n = notice.failures;
                    warn!(
                        "etcd: {error} ({n} times); keeping the {what} read {age} s ago, and reading \
                         the file again at the next connection"
                    );
                }
                None
            }
        }
    }
}

impl Credentials {
    /// `tls` and the password were read from `files` a moment ago.
    pub(super) fn new(files: Files, tls: Option<Tls>, user: Option<(String, Secret)>) -> Self {
        let read_at = now();
        let kept = || Kept {
            read_at,
            bad: LogThrottle::default(),
        };
        Self {
            files,
            tls,
            user,
            reading: None,
            hangs: LogThrottle::default(),
            kept: [kept(), kept(), kept()],
        }
    }

    /// Reads the files, and adds their content to `options`; for a bad file the last good content.
    pub(super) async fn add_to(&mut self, mut options: ConnectOptions) -> ConnectOptions {
        self.refresh().await;
        if let Some(tls) = &self.tls {
            let mut tls_options = match &tls.ca {
                Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(ca)),
                None => TlsOptions::new().with_native_roots(),
            };
            if let Some((cert, key)) = &tls.identity {
                tls_options = tls_options.identity(Identity::from_pem(cert, &key.0));
            }
            options = options.with_tls(tls_options);
        }
        if let Some((user, password)) = &self.user {
            options = options.with_user(user.as_str(), String::from_utf8_lossy(&password.0));
        }
        options
    }

    /// Cancel-safe: a read that isn't waited for to its end is waited for the next time.
    async fn refresh(&mut self) {
        if self.files.is_empty() {
            return;
        }
        let reading = self.reading.get_or_insert_with(|| {
            let files = self.files.clone();
            // A file system that hangs blocks this one thread and nothing else.
            tokio::task::spawn_blocking(move || files.read())
        });
        match timeout(READ_DEADLINE, reading).await {
            Ok(contents) => {
                self.reading = None;
                self.hangs.recovered(now());
                self.take(contents.unwrap_or_default());
            }
            Err(_) => {
                if let Some(notice) = self.hangs.failed(now()) {
                    warn!(
                        "etcd: the files of certificates and password can't be read within {} ms ({} times); \
                         keeping what was read before",
                        READ_DEADLINE.as_millis(),
                        notice.failures
                    );
                }
            }
        }
    }

    fn take(&mut self, contents: Contents) {
        let [ca, identity, password] = &mut self.kept;
        let ca = ca.take("CA certificate", contents.ca);
        let identity = identity.take("client certificate", contents.identity);
        if let Some(tls) = &mut self.tls {
            tls.ca = ca.or_else(|| tls.ca.take());
            tls.identity = identity.or_else(|| tls.identity.take());
        }
        let password = password.take("password", contents.password);
        if let (Some((_, kept)), Some(password)) = (&mut self.user, password) {
            *kept = password;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    struct CredentialFiles {
        directory: TempDir,
        credentials: Credentials,
    }

    /// A certificate and its key.
    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    impl CredentialFiles {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            let (certificate, key) = pair();
            for (name, text) in [("ca", &certificate), ("cert", &certificate), ("key", &key)] {
                fs::write(path(name), text).unwrap();
            }
            fs::write(path("password"), "first\n").unwrap();
            let files = Files {
                ca: Some(path("ca")),
                identity: Some((path("cert"), path("key"))),
                password: Some(path("password")),
            };
            let tls = Tls {
                ca: Some(read_ca(&path("ca")).unwrap()),
                identity: Some(read_identity(&path("cert"), &path("key")).unwrap()),
            };
            let password = read_password(&path("password")).unwrap();
            let user = ("sidekick".to_owned(), password);
            let credentials = Credentials::new(files, Some(tls), Some(user));
            Self {
                directory,
                credentials,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        /// CA, certificate, key and password, as they would be used now.
        async fn used(&mut self) -> [String; 4] {
            self.credentials.refresh().await;
            // This machine may be too busy for the deadline.
            while self.credentials.reading.is_some() {
                self.credentials.refresh().await;
            }
            self.in_use()
        }

        fn in_use(&self) -> [String; 4] {
            let tls = self.credentials.tls.clone().unwrap();
            let (certificate, key) = tls.identity.unwrap();
            let (_, password) = self.credentials.user.clone().unwrap();
            [tls.ca.unwrap(), certificate, key.0, password.0]
                .map(|bytes| String::from_utf8(bytes).unwrap())
        }
    }

    #[tokio::test]
    async fn each_connection_has_what_the_files_hold_then() {
        let mut scene = CredentialFiles::new();
        let (certificate, key) = pair();
        scene.write("ca", &certificate);
        scene.write("cert", &certificate);
        scene.write("key", &key);
        scene.write("password", "second");
        let second = "second".to_owned();
        let expected = [certificate.clone(), certificate, key, second];
        assert_eq!(scene.used().await, expected);
    }

    #[tokio::test]
    async fn a_bad_file_keeps_what_it_held_and_no_other_file_waits_for_it() {
        let (other, other_key) = pair();
        for (name, text) in [
            ("ca", ""),
            ("ca", "-----BEGIN CERTIFICATE-----\nMIIB"),
            ("cert", "-----BEGIN CERTIFICATE-----\nMIIB"),
            ("cert", &other),
            ("key", ""),
            ("key", &other_key),
            ("password", ""),
            ("password", "\n"),
        ] {
            let mut scene = CredentialFiles::new();
            let before = scene.used().await;
            scene.write(name, text);
            assert_eq!(scene.used().await, before, "{name}: {text}");
            fs::remove_file(scene.path(name)).unwrap();
            if name != "password" {
                scene.write("password", "second");
                assert_eq!(scene.used().await[3], "second", "{name}");
            }
            assert_eq!(scene.used().await[..3], before[..3], "{name} is gone");
        }
    }

    #[test]
    fn a_bad_file_is_named_and_never_quoted() {
        let scene = CredentialFiles::new();
        scene.write("key", "-----BEGIN PRIVATE KEY-----\nhunter2");
        let error = read_identity(&scene.path("cert"), &scene.path("key")).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            shown.contains("/key") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    /// A FIFO that no process writes to is a file whose file system hangs.
    #[tokio::test]
    async fn a_file_system_that_hangs_holds_up_no_connection() {
        let mut scene = CredentialFiles::new();
        let before = scene.used().await;
        let path = scene.path("password");
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        scene.credentials.refresh().await;
        let first = scene.credentials.reading.as_ref().map(JoinHandle::id);
        scene.credentials.refresh().await;
        let second = scene.credentials.reading.as_ref().map(JoinHandle::id);
        let meanwhile = scene.in_use();
        // The read that was begun ends now, and is the next connection's.
        fs::write(&path, "second").unwrap();
        assert_eq!(scene.used().await[3], "second");
        assert_eq!(meanwhile, before);
        assert!(first.is_some() && first == second, "one read at a time");
    }
}
