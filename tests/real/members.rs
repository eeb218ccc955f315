//! Several etcd members, one of them in trouble: the one that sidekick asks first.

use std::time::Instant;

use sidekick_harness::*;

/// Three members, with a proxy before the first one.
async fn proxied() -> (EtcdCluster, Option<Proxy>) {
    let cluster = EtcdCluster::start(3).await;
    let proxy = Proxy::before(cluster.members[0].url()).await;
    (cluster, Some(proxy))
}

#[tokio::test]
async fn a_first_member_that_is_frozen_at_the_start_is_passed_over() {
    let cluster = EtcdCluster::start(3).await;
    cluster.members[0].freeze();
    Announced::by(cluster, None).await;
}

#[tokio::test]
async fn a_first_member_that_is_black_holed_at_the_start_is_passed_over() {
    let (cluster, proxy) = proxied().await;
    proxy.iter().for_each(Proxy::black_hole);
    Announced::by(cluster, proxy).await;
}

#[tokio::test]
async fn a_first_member_that_refuses_at_the_start_is_passed_over() {
    let cluster = EtcdCluster::start(3).await;
    cluster.members[0].kill9().await;
    Announced::by(cluster, None).await;
}

#[tokio::test]
async fn a_member_that_freezes_leaves_no_gap() {
    let scene = Announced::by(EtcdCluster::start(3).await, None).await;
    let trouble = async || scene.cluster.members[0].freeze();
    scene.goes_on_after("freezes", trouble).await;
}

#[tokio::test]
async fn a_member_behind_a_black_hole_leaves_no_gap() {
    let (cluster, proxy) = proxied().await;
    let scene = Announced::by(cluster, proxy).await;
    scene
        .goes_on_after("is black-holed", async || scene.proxy().black_hole())
        .await;
}

#[tokio::test]
async fn a_black_hole_that_closes_again_leaves_no_gap() {
    let (cluster, proxy) = proxied().await;
    let scene = Announced::by(cluster, proxy).await;
    scene
        .goes_on_after("is black-holed and back", async || {
            scene.proxy().black_hole();
            scene.cluster.members[2].keeps(KEY, secs(3)).await;
            scene.proxy().pass();
        })
        .await;
}

#[tokio::test]
async fn a_member_whose_wire_breaks_leaves_no_gap() {
    let (cluster, proxy) = proxied().await;
    let scene = Announced::by(cluster, proxy).await;
    let trouble = async || scene.proxy().refuse();
    scene.goes_on_after("refuses", trouble).await;
}

#[tokio::test]
async fn a_member_that_is_killed_leaves_no_gap() {
    let scene = Announced::by(EtcdCluster::start(3).await, None).await;
    let trouble = async || scene.cluster.members[0].kill9().await;
    scene.goes_on_after("is killed", trouble).await;
}

/// Whatever code its version of etcd gives the answer: see `sidekick::etcd::Fault`.
#[tokio::test]
async fn a_first_member_that_is_a_learner_is_passed_over() {
    let scene = Announced::by(EtcdCluster::start_with_a_learner_first().await, None).await;
    let urls: Vec<&str> = scene.cluster.members.iter().map(Etcd::url).collect();
    let listed = Sidekick::list().endpoints(&urls).run().await;
    assert_eq!(listed.code, Some(0), "{}", listed.log);
    assert!(listed.text.contains("redis@1"), "{}", listed.text);
    let learner = "not supported for learner";
    scene.sidekick.logged_times(learner, 1);
    scene.stays_and_goes().await;
    scene.sidekick.logged_times(learner, 1);
}

#[tokio::test]
async fn a_quorum_that_was_lost_and_found_has_the_key_again() {
    let scene = Announced::by(EtcdCluster::start(3).await, None).await;
    scene.cluster.members[0].kill9().await;
    scene.cluster.members[1].kill9().await;
    let answers = async || scene.cluster.members[2].answers().await;
    never_for(secs(3), "one member of three answers", answers).await;

    scene.cluster.members[0].launch();
    scene.cluster.members[1].launch();
    let witness = &scene.cluster.members[2];
    witness.until_it_answers().await;
    let healed = Instant::now();
    eventually(secs(2), "the key is back", async || witness.get(KEY).await).await;
    let what = "key back after a majority was lost and found";
    measured::took(2, what, healed.elapsed(), secs(2));

    scene.stays_and_goes().await;
}

/// A container announced by way of three members; the test itself looks at the last of them.
struct Announced {
    sidekick: Sidekick,
    redis: Container<'static>,
    proxy: Option<Proxy>,
    cluster: EtcdCluster,
}

impl Announced {
    /// A proxy, if there is one, stands before the first member.
    async fn by(cluster: EtcdCluster, proxy: Option<Proxy>) -> Announced {
        let engine = Engine::shared().await;
        let redis = engine.redis().run().await;
        let mut urls: Vec<&str> = cluster.members.iter().map(Etcd::url).collect();
        let url = proxy.as_ref().map(Proxy::url);
        if let Some(url) = &url {
            urls[0] = url;
        }
        let announce = Sidekick::announce(redis.name(), KEY).endpoints(&urls);
        let announce = announce.docker(engine).host(HOST);
        let sidekick = announce.times(6, 2).spawn();
        let value = redis.value().await;
        let witness = &cluster.members[2];
        witness.until_it_answers().await;
        // A member that is silent may cost a deadline or two.
        eventually(2 * SOON, "the key appears", async || witness.get(KEY).await).await;
        witness.shows(KEY, &value).await;
        Announced {
            sidekick,
            redis,
            proxy,
            cluster,
        }
    }

    fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("there is a proxy")
    }

    /// After trouble with the first member the key never goes before the container does.
    async fn goes_on_after(&self, what: &str, trouble: impl AsyncFnOnce()) {
        let log = self.cluster.members[2].watch(KEY).await;
        trouble().await;
        self.stays_and_goes().await;
        let log = log.so_far().await;
        let deletes = log.iter().filter(|change| change.put.is_none()).count();
        let gaps = deletes.saturating_sub(1);
        measured::counted(2, format!("gaps of the key while a member {what}"), gaps, 0);
        assert_eq!(deletes, 1, "the only delete is the last one: {log:#?}");
        let deleted = log.last().is_some_and(|change| change.put.is_none());
        assert!(deleted, "the last change is the delete: {log:#?}");
    }

    async fn stays_and_goes(&self) {
        let witness = &self.cluster.members[2];
        // The member in trouble may have been the leader.
        witness.until_it_answers().await;
        // More than a TTL: a new leader grants each lease its full TTL again.
        witness.keeps(KEY, secs(9)).await;
        self.redis.kill().await;
        witness.loses(KEY).await;
    }
}
