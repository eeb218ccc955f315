//! Good and bad files.

use std::fs;

use tempfile::TempDir;

/// Files to be given for certificates.
pub struct Files {
    /// Not there.
    pub missing: String,
    /// No file.
    pub directory: String,
    /// No PEM.
    pub junk: String,
    /// A certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    _directory: TempDir,
}

impl Files {
    /// Writes them.
    pub fn new() -> Files {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let write = |name: &str, content: &str| {
            fs::write(directory.path().join(name), content).expect("a file can be written");
            path(name)
        };
        let key = rcgen::KeyPair::generate().expect("no key pair can be made");
        let params =
            rcgen::CertificateParams::new(vec!["client".to_owned()]).expect("a valid name");
        let certificate = params
            .self_signed(&key)
            .expect("no certificate can be made");
        Files {
            missing: path("missing"),
            directory: directory.path().display().to_string(),
            junk: write("junk.pem", "-----BEGIN NOTHING-----\nx\n"),
            certificate: write("client.crt", &certificate.pem()),
            key: write("client.key", &key.serialize_pem()),
            _directory: directory,
        }
    }
}
