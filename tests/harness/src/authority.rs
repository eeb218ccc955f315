//! Certificates for TLS.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// A certificate authority, with one client certificate issued.
pub struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority, which no other test trusts.
    pub fn generate() -> Authority {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("an authority needs no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key();
        let certificate = params
            .self_signed(&key)
            .expect("the authority cannot sign itself");
        write(&directory.path().join("ca.crt"), &certificate.pem());
        let authority = Authority {
            directory,
            issuer: Issuer::new(params, key),
        };
        authority.issue("client", Vec::new(), authority.directory.path());
        authority
    }

    /// Becomes another authority, which trusts and issues nothing of the old one: new files at the same paths.
    pub fn rotate(&mut self) {
        let fresh = Authority::generate();
        for name in FILES {
            write(
                &self.directory.path().join(name),
                &read(&fresh.directory.path().join(name)),
            );
        }
        self.issuer = fresh.issuer;
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// The client's certificate.
    pub fn client_certificate(&self) -> PathBuf {
        self.directory.path().join("client.crt")
    }

    /// The client's key.
    pub fn client_key(&self) -> PathBuf {
        self.directory.path().join("client.key")
    }

    /// The authority's own certificate, as a text.
    pub fn pem(&self) -> String {
        read(&self.certificate())
    }

    /// The client's certificate and key, as texts.
    pub fn client_pem(&self) -> (String, String) {
        (read(&self.client_certificate()), read(&self.client_key()))
    }

    /// Writes a certificate and a key for a server on 127.0.0.1, or by the name etcd.test, into a directory; returns both paths.
    pub fn issue_for_server(&self, directory: &Path) -> (PathBuf, PathBuf) {
        self.issue(
            "server",
            ["127.0.0.1", "localhost", "etcd.test"]
                .map(str::to_owned)
                .into(),
            directory,
        )
    }

    fn issue(&self, name: &str, addresses: Vec<String>, directory: &Path) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(addresses).expect("the server's names are valid");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        // etcd's gateway dials its own member with the server's certificate, so that must do for a client too.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = new_key();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the authority cannot sign");
        let paths = (
            directory.join(format!("{name}.crt")),
            directory.join(format!("{name}.key")),
        );
        write(&paths.0, &certificate.pem());
        write(&paths.1, &key.serialize_pem());
        paths
    }
}

/// What a client is given.
const FILES: [&str; 3] = ["ca.crt", "client.crt", "client.key"];

/// A client's files as Kubernetes mounts a secret: links into `..data`, itself a link, which is renamed over
/// the old one when the secret changes.
pub struct Mounted(TempDir);

impl Mounted {
    /// With what the authority has issued.
    pub fn of(authority: &Authority) -> Mounted {
        let mounted = Mounted(tempfile::tempdir().expect("no temporary directory can be made"));
        mounted.update(authority);
        for name in FILES {
            link(&Path::new("..data").join(name), &mounted.file(name));
        }
        mounted
    }

    /// All files at once are what the authority has issued since.
    pub fn update(&self, authority: &Authority) {
        let version = tempfile::Builder::new()
            .prefix("..v")
            .tempdir_in(self.0.path());
        let version = version.expect("no directory can be made").keep();
        for name in FILES {
            write(
                &version.join(name),
                &read(&authority.directory.path().join(name)),
            );
        }
        link(&version, &self.file("..data_tmp"));
        let renamed = fs::rename(self.file("..data_tmp"), self.file("..data"));
        renamed.expect("a link can be renamed");
    }

    /// One of `ca.crt`, `client.crt`, `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn link(to: &Path, at: &Path) {
    std::os::unix::fs::symlink(to, at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("no key pair can be made")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
