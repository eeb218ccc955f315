//! How etcd is reached: endpoints, TLS, user and password.

use super::credentials::{BadFile, FileKind, Files, read_ca, read_identity, read_password};
use super::{EtcdConfig, Secret, Tls};
use crate::config::{Checked, ConfigError, check_url, unusable_file, wrong};
use clap::Args;
use std::path::{Path, PathBuf};

/// The default endpoint, which is etcdctl's own.
pub const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:2379";
/// The port that etcd listens on for clients, where an endpoint names none.
const ETCD_PORT: u16 = 2379;

/// How etcd is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "etcd")]
pub struct EtcdArgs {
    /// The members, comma-separated, in the order in which they are tried
    #[arg(
        long,
        env = "ETCDCTL_ENDPOINTS",
        hide_env_values = true,
        default_value = DEFAULT_ENDPOINTS,
        value_name = "URL,…"
    )]
    pub etcd_endpoints: String,

    /// PEM file with the CAs to trust for https [default: the system's]
    #[arg(long, env = "ETCDCTL_CACERT", value_name = "FILE")]
    pub etcd_cacert: Option<String>,

    /// PEM file with our client certificate
    #[arg(long, env = "ETCDCTL_CERT", value_name = "FILE")]
    pub etcd_cert: Option<String>,

    /// PEM file with the client certificate's key
    #[arg(long, env = "ETCDCTL_KEY", value_name = "FILE")]
    pub etcd_key: Option<String>,

    /// etcdctl's own variable: `false` means https for endpoints without a scheme, and rejects http
    #[arg(
        long,
        env = "ETCDCTL_INSECURE_TRANSPORT",
        hide = true,
        value_name = "BOOL"
    )]
    pub etcd_insecure_transport: Option<String>,

    /// User name; in the environment a password may follow after a colon, on the command line it
    /// may not
    #[arg(
        long,
        env = "ETCDCTL_USER",
        hide_env_values = true,
        value_name = "USER"
    )]
    pub etcd_user: Option<Secret>,

    /// File whose first line is the user's password; with systemd's LoadCredential=
    /// $CREDENTIALS_DIRECTORY/NAME, in a unit %d/NAME
    #[arg(long, env = "SIDEKICK_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<String>,

    /// Taken from the environment only
    #[arg(
        long = "etcd-password-from-environment",
        env = "ETCDCTL_PASSWORD",
        hide = true,
        hide_env_values = true
    )]
    pub etcd_password: Option<Secret>,
}

/// Checks everything.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn etcd(args: &EtcdArgs) -> Checked<EtcdConfig> {
    const OPTION: &str = "--etcd-endpoints";
    let files = files(
        args.etcd_cacert.clone(),
        args.etcd_cert.clone(),
        args.etcd_key.clone(),
        args.etcd_password_file.clone(),
    )?;
    let tls = tls(&files)?;
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
        user: user(args, files.password.as_deref())?,
        files,
    })
}

/// Whether etcdctl's variable requires TLS also where no certificate is named.
fn secure_transport(args: &EtcdArgs) -> Checked<bool> {
    let text = args.etcd_insecure_transport.as_deref();
    let insecure = text.map_or(Some(true), truth).ok_or_else(|| {
        let problem = "is neither true nor false";
        wrong("ETCDCTL_INSECURE_TRANSPORT", problem)
    })?;
    Ok(!insecure)
}

/// The words that Go's `strconv.ParseBool` takes, and so etcdctl.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn user(args: &EtcdArgs, file: Option<&Path>) -> Checked<Option<(String, Secret)>> {
    let text = args
        .etcd_user
        .as_ref()
        .map(Secret::text)
        .unwrap_or_default();
    let (name, inline) = match text.split_once(':') {
        Some((name, password)) => (name, Some(password.to_owned().into())),
        None => (&*text, None),
    };
    let from_file = file.map(read_password).transpose().map_err(bad)?;
    let given = inline.or_else(|| args.etcd_password.clone());
    let password = from_file.or(given);
    match (name, password) {
        ("", None) => Ok(None),
        ("", Some(_)) if file.is_some() => Err(wrong(
            "--etcd-user",
            "is missing, though there is a password file",
        )),
        // ETCDCTL_PASSWORD without a user is ignored, as etcdctl does.
        ("", Some(_)) => Ok(None),
        (name, None) => Err(wrong(
            "--etcd-user",
            format!("no password for {name}; give --etcd-password-file or ETCDCTL_PASSWORD"),
        )),
        (name, Some(password)) => Ok(Some((name.to_owned(), password))),
    }
}

/// The error names the option that names the file.
fn bad(file: BadFile) -> ConfigError {
    let option = match file.kind {
        FileKind::Ca => "--etcd-cacert",
        FileKind::Certificate => "--etcd-cert",
        FileKind::Key => "--etcd-key",
        FileKind::Password => "--etcd-password-file",
    };
    unusable_file(option, file)
}

fn files(
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    password: Option<String>,
) -> Checked<Files> {
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
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
    Ok(Files {
        ca: ca.map(PathBuf::from),
        identity,
        password: password.map(PathBuf::from),
    })
}

fn tls(files: &Files) -> Checked<Option<Tls>> {
    let ca = files.ca.as_deref().map(read_ca).transpose().map_err(bad)?;
    let identity = files.identity.as_ref();
    let identity = identity
        .map(|(cert, key)| read_identity(cert, key))
        .transpose()
        .map_err(bad)?;
    Ok((ca.is_some() || identity.is_some()).then_some(Tls { ca, identity }))
}
