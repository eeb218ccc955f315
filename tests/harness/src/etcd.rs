//! One etcd member of a test's own.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

use etcd_client::{Client, Error, Permission, PermissionType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::authority::Authority;
use super::ports;
use super::store::Store;
use super::wait::{eventually, secs};
use super::warden::{Charge, Warden, program};

/// An etcd process on free ports with a data directory of its own; what stands in it is its [`Store`].
pub struct Etcd {
    warden: Warden,
    store: Store,
    url: String,
}

/// The etcd of these tests: this machine's own, or the path in `SIDEKICK_TEST_ETCD`.
pub(super) fn etcd() -> &'static str {
    program("SIDEKICK_TEST_ETCD", "etcd")
}

/// A user who may write below `/services/` and nowhere else.
pub struct Login;

impl Login {
    /// The user's name.
    pub const NAME: &str = "sidekick";
    /// The user's password.
    pub const PASSWORD: &str = "correct:horse";
    /// The user's role.
    pub const ROLE: &str = "announcer";
    /// The name and the password of who may everything.
    pub const ROOT: &str = "root";
    /// What the role is about.
    pub const PREFIX: &str = "/services/";

    /// What the role allows.
    pub fn rights() -> Permission {
        Permission::new(PermissionType::Readwrite, Login::PREFIX).with_prefix()
    }

    /// Creates root and a user with [`Login::rights`], then turns authentication on.
    ///
    /// # Errors
    /// etcd's.
    pub async fn lock(client: &Client, user: &str, password: &str) -> Result<(), Error> {
        let mut auth = client.auth_client();
        auth.user_add(Login::ROOT, Login::ROOT, None).await?;
        auth.role_add(Login::ROOT).await?;
        auth.user_grant_role(Login::ROOT, Login::ROOT).await?;
        auth.user_add(user, password, None).await?;
        auth.role_add(Login::ROLE).await?;
        auth.role_grant_permission(Login::ROLE, Login::rights())
            .await?;
        auth.user_grant_role(user, Login::ROLE).await?;
        auth.auth_enable().await?;
        Ok(())
    }
}

/// One member among several.
pub(super) struct Member {
    /// Its name.
    pub name: String,
    /// The port that the others dial.
    pub dialled: u16,
    /// The port that it listens on for them.
    pub behind: u16,
    /// The program: `etcd`, or the path of another.
    pub program: String,
    /// The list of names and peer addresses by which they find each other.
    pub cluster: String,
    /// Further options.
    pub options: Vec<String>,
}

impl Etcd {
    /// A running etcd that answers.
    pub async fn start() -> Etcd {
        let etcd = Etcd::not_yet().await;
        etcd.restart().await;
        etcd
    }

    /// An etcd with an address, not started yet.
    pub async fn not_yet() -> Etcd {
        let plan = Plan::plain();
        let store = Store::at(&plan.url).await;
        plan.into_etcd(store)
    }

    /// An etcd that talks TLS only, and only to who shows a certificate of the authority.
    pub async fn start_with_tls(authority: &Authority) -> Etcd {
        let mut plan = Plan::new("https");
        let (certificate, key) = authority.issue_for_server(&plan.directory);
        let option = |name: &str, value: PathBuf| format!("--{name}={}", value.display());
        plan.options.extend([
            option("cert-file", certificate),
            option("key-file", key),
            option("trusted-ca-file", authority.certificate()),
            "--client-cert-auth".to_owned(),
        ]);
        let store = Store::with_tls(&plan.url, authority).await;
        let etcd = plan.into_etcd(store);
        etcd.restart().await;
        etcd
    }

    /// With certificates of this authority from its next start on; its trusted CA is the file that it was started with.
    pub async fn takes_certificates_of(&mut self, authority: &Authority) {
        authority.issue_for_server(self.warden.directory());
        self.store = Store::with_tls(&self.url, authority).await;
    }

    /// Gives the user of [`Login`] another password; etcd forgets the user's tokens.
    pub async fn change_password(&self, password: &str) {
        let mut auth = self.store.client().auth_client();
        let changed = auth.user_change_password(Login::NAME, password).await;
        changed.expect("root may change a password");
    }

    /// An etcd that wants a [`Login`], and whose tokens die after this many seconds without use.
    pub async fn start_with_login(token_seconds: u32) -> Etcd {
        let mut plan = Plan::plain();
        plan.options
            .push(format!("--auth-token-ttl={token_seconds}"));
        let store = Store::at(&plan.url).await;
        let mut etcd = plan.into_etcd(store);
        etcd.restart().await;
        etcd.lock_down().await;
        etcd
    }

    /// One of several members.
    pub(super) async fn member(member: Member) -> Etcd {
        let plan = Plan::with_peers("http", member);
        let store = Store::at(&plan.url).await;
        plan.into_etcd(store)
    }

    /// The URL that clients dial.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many calls it has refused for want of a permission, by its own count.
    pub async fn denials(&self) -> f64 {
        let metrics = self.metrics().await;
        let denied = metrics.lines().filter(|line| {
            line.starts_with("grpc_server_handled_total") && line.contains("PermissionDenied")
        });
        let counts = denied.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()));
        counts
            .map(|count| count.expect("a metric is a number"))
            .sum()
    }

    async fn metrics(&self) -> String {
        let address = self.url.trim_start_matches("http://");
        let ask = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = ask.await.expect("etcd tells its metrics");
        assert!(answer.contains("grpc_server_handled_total"), "{answer}");
        answer
    }

    /// How many messages of a gRPC method it has received so far, by its own count: `Txn`,
    /// `LeaseKeepAlive`.
    pub async fn asked(&self, method: &str) -> u64 {
        let text = self.metrics().await;
        let method = format!("grpc_method=\"{method}\"");
        let counts = text.lines().filter(|line| {
            line.starts_with("grpc_server_msg_received_total{") && line.contains(&method)
        });
        counts
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// How many reads it has answered, by its own count.
    pub async fn reads(&self) -> f64 {
        let metrics = self.metrics().await;
        let mut lines = metrics.lines().filter(|line| {
            line.starts_with("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\"")
        });
        let count = lines.next().and_then(|line| line.split(' ').next_back());
        count.map_or(0.0, |count| count.parse().expect("a metric is a number"))
    }

    /// Starts it, for the first time or again with the same data on the same ports, and waits until it answers.
    pub async fn restart(&self) {
        self.launch();
        self.until_it_answers().await;
    }

    /// Starts it without waiting.
    pub fn launch(&self) {
        self.warden.start();
    }

    /// Waits until it answers.
    pub async fn until_it_answers(&self) {
        eventually(secs(20), "etcd answers", async || {
            if self.warden.is_up() {
                self.store.answers().await
            } else {
                self.complain()
            }
        })
        .await;
    }

    /// Starts it again with nothing in it.
    pub async fn wipe_and_restart(&self) {
        fs::remove_dir_all(self.warden.directory().join("data"))
            .expect("etcd's data cannot be removed");
        self.restart().await;
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill9(&self) {
        self.warden.end_with("KILL").await;
    }

    /// Stops its clock: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.warden.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.warden.signal("CONT");
    }

    /// Creates root and the user of [`Login`], then turns authentication on.
    pub(super) async fn lock_down(&mut self) {
        let locked = Login::lock(self.store.client(), Login::NAME, Login::PASSWORD);
        locked.await.expect("authentication cannot be set up");
        self.as_root().await;
    }

    /// Looks at it as root from now on.
    pub(super) async fn as_root(&mut self) {
        self.store = Store::with_login(&self.url, Login::ROOT, Login::ROOT).await;
    }

    fn complain(&self) -> ! {
        panic!("etcd has ended; its log:\n{}", self.warden.log_tail())
    }
}

/// An etcd *is* what stands in it, in a test's language: `etcd.get(KEY)`.
impl Deref for Etcd {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// An etcd's command line, before its process.
struct Plan {
    program: String,
    directory: PathBuf,
    url: String,
    options: Vec<String>,
}

impl Plan {
    /// On its own, without TLS.
    fn plain() -> Plan {
        Plan::new("http")
    }

    fn new(scheme: &str) -> Plan {
        let port = ports::free();
        let mut plan = Plan::with_peers(
            scheme,
            Member {
                name: "alone".to_owned(),
                dialled: port,
                behind: port,
                program: etcd().to_owned(),
                cluster: format!("alone=http://127.0.0.1:{port}"),
                options: Vec::new(),
            },
        );
        // A member on its own elects itself; it need not be patient about it.
        plan.options.extend([
            "--heartbeat-interval=20".to_owned(),
            "--election-timeout=200".to_owned(),
        ]);
        plan
    }

    fn with_peers(scheme: &str, member: Member) -> Plan {
        let url = format!("{scheme}://127.0.0.1:{}", ports::free());
        let directory = Warden::directory_for("etcd", &[&member.program, "setpriv"]);
        let mut options = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", directory.join("data").display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{}", member.behind),
            format!(
                "--initial-advertise-peer-urls=http://127.0.0.1:{}",
                member.dialled
            ),
            format!("--initial-cluster={}", member.cluster),
        ];
        options.extend(member.options);
        Plan {
            program: member.program,
            directory,
            url,
            options,
        }
    }

    fn into_etcd(self, store: Store) -> Etcd {
        let server = std::iter::once(self.program).chain(self.options).collect();
        let charge = Charge {
            directory: self.directory,
            surroundings: Vec::new(),
            server,
        };
        Etcd {
            warden: Warden::of(charge),
            store,
            url: self.url,
        }
    }
}
