//! Where most tests begin.

use super::container::Container;
use super::engine::Engine;
use super::etcd::Etcd;
use super::measured;
use super::sidekick::{Announce, Sidekick};
use super::value::Value;
use super::wait::{never_for, secs};

/// The key that tests announce; each test has an etcd of its own.
pub const KEY: &str = "/services/redis/redis@1";

/// The host that tests announce by `--host`.
pub const HOST: &str = "worker-1.test";

/// A container that sidekick announces, and etcd shows it.
pub struct AnnouncerScene<'e> {
    /// The announcer.
    pub sidekick: Sidekick,
    /// The container, with one published port.
    pub redis: Container<'e>,
    /// What stands at [`KEY`] in the beginning.
    pub value: Value,
    /// The engine.
    pub engine: &'e Engine,
    /// The store.
    pub etcd: Etcd,
}

impl AnnouncerScene<'static> {
    /// With times so long that nothing happens but by events.
    pub async fn announced() -> AnnouncerScene<'static> {
        AnnouncerScene::announced_with(|announce| announce).await
    }

    /// With a NOTIFY_SOCKET.
    pub async fn under_systemd() -> AnnouncerScene<'static> {
        AnnouncerScene::announced_with(Announce::under_systemd).await
    }

    /// With a TTL and an interval in seconds.
    pub async fn announced_every(ttl: u32, interval: u32) -> AnnouncerScene<'static> {
        AnnouncerScene::announced_with(|announce| announce.times(ttl, interval)).await
    }

    /// With more options, on the shared engine.
    pub async fn announced_with(
        more: impl FnOnce(Announce) -> Announce,
    ) -> AnnouncerScene<'static> {
        AnnouncerScene::announced_on(Engine::shared().await, more).await
    }

    /// In this etcd, which sidekick is told to find by `how`.
    pub async fn announced_in(
        etcd: Etcd,
        how: impl FnOnce(Announce, &Etcd) -> Announce,
    ) -> AnnouncerScene<'static> {
        AnnouncerScene::announced_by(Engine::shared().await, etcd, how).await
    }
}

impl<'e> AnnouncerScene<'e> {
    /// With more options, on this engine.
    pub async fn announced_on(
        engine: &'e Engine,
        more: impl FnOnce(Announce) -> Announce,
    ) -> AnnouncerScene<'e> {
        AnnouncerScene::announced_by(engine, Etcd::start().await, |announce, etcd| {
            more(announce.etcd(etcd))
        })
        .await
    }

    async fn announced_by(
        engine: &'e Engine,
        etcd: Etcd,
        more: impl FnOnce(Announce, &Etcd) -> Announce,
    ) -> AnnouncerScene<'e> {
        let redis = engine.redis().run().await;
        let value = redis.value().await;
        let announce = Sidekick::announce(redis.name(), KEY);
        let announce = announce.docker(engine).host(HOST);
        let sidekick = more(announce, &etcd).spawn();
        etcd.shows(KEY, &value).await;
        AnnouncerScene {
            sidekick,
            redis,
            value,
            engine,
            etcd,
        }
    }

    /// Waits until the key holds the container's value of now.
    pub async fn is_announced(&self) -> Value {
        let value = self.redis.value().await;
        self.etcd.shows(KEY, &value).await;
        value
    }

    /// The same of another life of the container than the first one.
    pub async fn is_announced_as_another_life(&self) {
        let since = self.is_announced().await.since;
        assert_ne!(since, self.value.since, "the new life has its own start");
    }

    /// Waits until the key is gone.
    #[track_caller]
    pub fn is_withdrawn(&self) -> impl Future<Output = ()> {
        self.etcd.loses(KEY)
    }

    /// Makes another container of the same name, after the first one was removed.
    pub async fn successor(&self) -> Container<'e> {
        let run = self.engine.container(self.redis.name()).publish("6379");
        run.run().await
    }

    /// Makes sure that sidekick keeps the key on its lease for longer than a TTL of 3 s, and that it withdraws the key
    /// within 5 s of SIGTERM, in spite of `what`.
    pub async fn renews_and_withdraws(mut self, what: &str) {
        let lease = async || self.etcd.get(KEY).await.map(|entry| entry.lease);
        let before = lease().await;
        let changed = async || lease().await != before;
        never_for(secs(5), "the key is gone or on another lease", changed).await;
        let took = self.sidekick.leaves().await;
        measured::took(6, format!("SIGTERM to exit with {what}"), took, secs(5));
        assert_eq!(self.etcd.get(KEY).await, None);
    }

    /// Starts another sidekick for the same container and key.
    pub fn announce_again(&self, more: impl FnOnce(Announce) -> Announce) -> Sidekick {
        more(self.redis.announce(&self.etcd)).spawn()
    }
}
