//! The three members, asked as a careful client would: one at a time, the next where one fails.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, ConnectOptions, Error,
    GetOptions, StatusResponse,
};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::SOON;
use sidekick_harness::Login;
use sidekick_harness::blocking::eventually;

/// For one answer of one member.
const PATIENCE: Duration = Duration::from_secs(1);

/// In etcd's words, while an alarm is up.
const NO_SPACE: &str = "database space exceeded";

/// The cluster's etcd, as this program sees it.
pub struct EtcdMembers {
    runtime: Runtime,
    endpoints: Vec<String>,
    /// Others while etcd is locked.
    clients: Mutex<Vec<Client>>,
}

impl EtcdMembers {
    /// One client for each member, none of which is dialled yet. The observers run in `runtime`.
    pub fn at(endpoints: &[String], runtime: Runtime) -> EtcdMembers {
        let clients = connect(&runtime, endpoints, None);
        EtcdMembers {
            runtime,
            endpoints: endpoints.to_vec(),
            clients: Mutex::new(clients),
        }
    }

    /// A client for each member.
    pub fn clients(&self) -> Vec<Client> {
        let clients = self.clients.lock();
        clients.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on etcd wants a login. There are root, which this program uses, and a user who may read and write below
    /// /services/ and nothing else. The observers see nothing until [`EtcdMembers::unlock`].
    pub fn lock(&self, user: &str, password: &str) {
        let client = &self.clients()[0];
        let locked = Login::lock(client, user, password);
        self.runtime.block_on(locked).expect("etcd can be locked");
        self.change_to(Some((Login::ROOT, Login::ROOT)));
    }

    /// As it was before [`EtcdMembers::lock`].
    pub fn unlock(&self, user: &str) {
        let unlocked = self.runtime.block_on(self.clients()[0].auth_disable());
        unlocked.expect("etcd can be unlocked");
        self.change_to(None);
        let mut auth = self.clients()[0].auth_client();
        let done = async {
            auth.user_delete(user).await?;
            auth.user_delete(Login::ROOT).await?;
            auth.role_delete(Login::ROLE).await?;
            auth.role_delete(Login::ROOT).await
        };
        let done = self.runtime.block_on(done);
        done.expect("users and roles can be deleted");
    }

    fn change_to(&self, login: Option<(&str, &str)>) {
        let clients = connect(&self.runtime, &self.endpoints, login);
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = clients;
    }

    /// Where the observers run.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What stands at a key.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        let got = self.ask("a key", async |mut client| client.get(key, None).await);
        got.kvs()
            .first()
            .map(|kv| String::from_utf8_lossy(kv.value()).into_owned())
    }

    /// Every key below a prefix.
    #[track_caller]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let got = self.ask("keys", async |mut client| {
            let options = GetOptions::new().with_prefix().with_keys_only();
            client.get(prefix, Some(options)).await
        });
        let keys = got.kvs().iter();
        keys.map(|kv| String::from_utf8_lossy(kv.key()).into_owned())
            .collect()
    }

    /// The revision that etcd is at.
    #[track_caller]
    pub fn revision(&self) -> i64 {
        let got = self.ask("the revision", async |mut client| {
            client.get("revision?", None).await
        });
        got.header().expect("an answer has a header").revision()
    }

    /// Whether any member answers a linearizable read.
    pub fn answers(&self) -> bool {
        self.runtime.block_on(async {
            for mut client in self.clients() {
                let answer = timeout(PATIENCE, client.get("answers?", None)).await;
                if matches!(answer, Ok(Ok(_))) {
                    return true;
                }
            }
            false
        })
    }

    /// Puts a value without a lease.
    ///
    /// # Errors
    /// No space left: the only no that is taken for an answer.
    #[track_caller]
    pub fn put(&self, key: &str, value: &[u8]) -> Result<i64, String> {
        self.ask("a put", async |mut client| {
            match client.put(key, value, None).await {
                Err(Error::GRpcStatus(status)) if status.message().contains(NO_SPACE) => {
                    Ok(Err(status.message().to_owned()))
                }
                other => {
                    other.map(|answer| Ok(answer.header().map_or(0, |header| header.revision())))
                }
            }
        })
    }

    /// Deletes a key.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.ask("a delete", async |mut client| {
            client.delete(key, None).await
        });
    }

    /// Forgets all revisions before this one.
    #[track_caller]
    pub fn compact(&self, revision: i64) {
        self.ask("a compaction", async |mut client| {
            let options = CompactionOptions::new().with_physical();
            client.compact(revision, Some(options)).await
        });
    }

    /// Gives a member's freed space back.
    #[track_caller]
    pub fn defragment(&self, member: usize) {
        let mut client = self.clients().swap_remove(member);
        let defragment = async { timeout(SOON, client.defragment()).await };
        let answer = self.runtime.block_on(defragment);
        answer.expect("defragment in time").expect("defragment");
    }

    /// The members that have raised the NOSPACE alarm, by their ids.
    #[track_caller]
    pub fn alarms(&self) -> Vec<u64> {
        let got = self.ask("the alarms", async |mut client| {
            client.alarm(AlarmAction::Get, AlarmType::None, None).await
        });
        got.alarms().iter().map(|alarm| alarm.member_id()).collect()
    }

    /// Lowers all alarms.
    #[track_caller]
    pub fn disarm(&self) {
        for member in self.alarms() {
            self.ask("to disarm", async |mut client| {
                let mut options = AlarmOptions::new();
                options.with_member(member);
                client
                    .alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options))
                    .await
            });
        }
    }

    /// What a member says of itself, if it answers.
    pub fn status(&self, member: usize) -> Option<StatusResponse> {
        let mut client = self.clients().swap_remove(member);
        let status = async { timeout(PATIENCE, client.status()).await };
        self.runtime.block_on(status).ok()?.ok()
    }

    /// Which of the members leads; asks those in `among`.
    #[track_caller]
    pub fn leader(&self, among: &[usize]) -> usize {
        eventually(SOON, "there is a leader", || {
            among.iter().copied().find(|&member| {
                self.status(member).is_some_and(|status| {
                    let own = status.header().map(|header| header.member_id());
                    own == Some(status.leader())
                })
            })
        })
    }

    /// Gives the lead to another member.
    #[track_caller]
    pub fn move_leader(&self, from: usize, to: usize) {
        let status = self.status(to);
        let id = status.and_then(|status| Some(status.header()?.member_id()));
        let mut client = self.clients().swap_remove(from);
        let moved = client.move_leader(id.expect("the member answers"));
        self.runtime.block_on(moved).expect("the lead moves");
    }

    #[track_caller]
    fn ask<T>(&self, what: &str, question: impl AsyncFn(Client) -> Result<T, Error>) -> T {
        let what = format!("etcd answers the question for {what}");
        eventually(SOON, &what, || {
            self.runtime.block_on(async {
                for client in self.clients() {
                    if let Ok(Ok(answer)) = timeout(PATIENCE, question(client)).await {
                        return Some(answer);
                    }
                }
                None
            })
        })
    }
}

fn connect(runtime: &Runtime, endpoints: &[String], login: Option<(&str, &str)>) -> Vec<Client> {
    let connect = async |endpoint: &String| {
        let options = ConnectOptions::new().with_connect_timeout(PATIENCE);
        let mut options = options.with_require_leader(true);
        if let Some((user, password)) = login {
            options = options.with_user(user, password);
        }
        let client = Client::connect([endpoint], Some(options)).await;
        client.expect("a client")
    };
    let endpoints = endpoints.iter();
    endpoints.map(|it| runtime.block_on(connect(it))).collect()
}
