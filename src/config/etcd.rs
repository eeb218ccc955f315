//! How etcd is reached: endpoints, TLS, user and password.

use super::{Checked, check_url, wrong};
use crate::cli::EtcdArgs;
use crate::etcd::{EtcdConfig, Secret, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The port that etcd listens on for clients, where an endpoint names none.
const ETCD_PORT: u16 = 2379;

pub(super) fn etcd(args: &EtcdArgs) -> Checked<EtcdConfig> {
    const OPTION: &str = "--etcd-endpoints";
    let tls = tls(
        args.etcd_cacert.clone(),
        args.etcd_cert.clone(),
        args.etcd_key.clone(),
    )?;
    let secure = tls.is_some() || secure_transport(args)?;
    let mut endpoints = Vec::new();
    let all = args.etcd_endpoints.as_str();
    if all.contains('@') {
        return Err(wrong(
            OPTION,
            "no user and no password in a URL; give --etcd-user and --etcd-password-file",
        ));
    }
    for text in all.split(',').map(str::trim) {
        let url = match text.split_once("://") {
            Some(_) => text.to_owned(),
            None if secure => format!("https://{text}"),
            None => format!("http://{text}"),
        };
        let url = check_url(OPTION, &url, Some(ETCD_PORT))?;
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(wrong(
                OPTION,
                format!("{text:?} is neither http:// nor https://"),
            ));
        }
        if url.starts_with("http://") && secure {
            let why = match tls {
                Some(_) => "--etcd-cacert or --etcd-cert is given",
                None => "ETCDCTL_INSECURE_TRANSPORT is false",
            };
            return Err(wrong(
                OPTION,
                format!("{text:?} is plain http, but {why}; write https://"),
            ));
        }
        endpoints.push(url);
    }
    let https = endpoints
        .iter()
        .filter(|url| url.starts_with("https://"))
        .count();
    if https > 0 && https < endpoints.len() {
        return Err(wrong(
            OPTION,
            "http:// and https:// are mixed; a password would go in the clear",
        ));
    }
    let tls = tls.or_else(|| (https > 0).then(Tls::default));
    Ok(EtcdConfig {
        endpoints,
        tls,
        user: user(args)?,
    })
}

/// Whether etcdctl's variable asks for TLS also where no certificate is named.
fn secure_transport(args: &EtcdArgs) -> Checked<bool> {
    let text = args.etcd_insecure_transport.as_deref();
    let insecure = text.map_or(Some(true), truth).ok_or_else(|| {
        let problem = "is neither true nor false";
        wrong("ETCDCTL_INSECURE_TRANSPORT", problem)
    })?;
    Ok(!insecure)
}

/// The words that Go's `strconv.ParseBool` takes, and so etcdctl.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn user(args: &EtcdArgs) -> Checked<Option<(String, Secret)>> {
    let text = args.etcd_user.as_ref().map_or("", |user| &user.0);
    let file = args.etcd_password_file.as_deref();
    let (name, inline) = match text.split_once(':') {
        Some((name, password)) => (name, Some(password.to_owned())),
        None => (text, None),
    };
    let from_file = match file {
        Some(path) => {
            let all = std::fs::read_to_string(path)
                .map_err(|e| wrong("--etcd-password-file", format!("can't read {path}: {e}")))?;
            Some(all.lines().next().unwrap_or_default().to_owned())
        }
        None => None,
    };
    let password = from_file
        .or(inline)
        .or_else(|| args.etcd_password.as_ref().map(|p| p.0.clone()));
    match (name, password) {
        ("", None) => Ok(None),
        ("", Some(_)) if file.is_some() => Err(wrong(
            "--etcd-user",
            "is missing, though there is a password file",
        )),
        // A stray ETCDCTL_PASSWORD alone is nothing, as etcdctl has it.
        ("", Some(_)) => Ok(None),
        (name, None) => Err(wrong(
            "--etcd-user",
            format!("no password for {name}; give --etcd-password-file or ETCDCTL_PASSWORD"),
        )),
        (name, Some(password)) => Ok(Some((name.to_owned(), Secret(password.into_bytes())))),
    }
}

fn tls(ca: Option<String>, cert: Option<String>, key: Option<String>) -> Checked<Option<Tls>> {
    let read = |option, path: &str| {
        std::fs::read(path).map_err(|e| wrong(option, format!("can't read {path}: {e}")))
    };
    let certificates = |option, path: String| {
        let pem = read(option, &path)?;
        let mut all = CertificateDer::pem_slice_iter(&pem);
        match all.next() {
            Some(Ok(_)) if all.all(|c| c.is_ok()) => Ok(pem),
            _ => Err(wrong(option, format!("{path} holds no PEM certificate"))),
        }
    };
    let ca = ca
        .map(|path| certificates("--etcd-cacert", path))
        .transpose()?;
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            let cert = certificates("--etcd-cert", cert)?;
            let pem = read("--etcd-key", &key)?;
            if PrivateKeyDer::from_pem_slice(&pem).is_err() {
                return Err(wrong(
                    "--etcd-key",
                    format!("{key} holds no PEM private key"),
                ));
            }
            Some((cert, Secret(pem)))
        }
        (Some(_), None) => {
            return Err(wrong(
                "--etcd-key",
                "is missing, though there is --etcd-cert",
            ));
        }
        (None, Some(_)) => {
            return Err(wrong(
                "--etcd-cert",
                "is missing, though there is --etcd-key",
            ));
        }
    };
    Ok((ca.is_some() || identity.is_some()).then_some(Tls { ca, identity }))
}
