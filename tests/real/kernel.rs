//! A death is known from the kernel, whatever the engine says or doesn't say. (The engines of the other tests are in a
//! pid namespace of their own, so that those go by events.)

use std::time::{Duration, Instant};

use sidekick_harness::{
    A_WHILE, Announce, Container, Engine, Etcd, HOST, Idle, KEY, PATIENCE, SOON, Sidekick,
    SocketProxy, StandIn, eventually, measured, never_for, secs,
};

/// From a death to a key that is gone, where nothing but the kernel tells of it.
const AT_ONCE: Duration = secs(1);

/// Until a thousand containers are announced and have a pidfd each, beside seven other tests. Nothing is said of how long that takes.
const SET_UP: Duration = secs(60);

/// What sidekick logs once a pidfd counts.
const COUNTS: &str = "its death is known by the kernel";

#[tokio::test]
async fn a_death_under_a_frozen_engine_is_known_within_a_second() {
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    let redis = engine.redis().run().await;
    let _sidekick = announced_beside(&engine, &redis, &etcd, |announce| announce).await;
    let pid = redis.pid().await;

    engine.freeze();
    engine.kill_process(pid);
    gone_at_once(&etcd, "a frozen engine").await;

    engine.thaw();
    let dead = async || redis.inspect().await["State"]["Running"] == false;
    eventually(2 * SOON, "the engine knows it, too", dead).await;
    redis.start().await;
    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_death_while_the_engine_is_down_is_known_within_a_second() {
    let (engine, etcd) = tokio::join!(Engine::start_with_live_restore(), Etcd::start());
    let redis = engine.redis().run().await;
    let forever = |announce: Announce| announce.option("--docker-grace", "forever");
    let _sidekick = announced_beside(&engine, &redis, &etcd, forever).await;
    let pid = redis.pid().await;

    engine.kill9().await;
    never_for(A_WHILE, "the key goes with the engine", async || {
        etcd.get(KEY).await.is_none()
    })
    .await;
    engine.kill_process(pid);
    gone_at_once(&etcd, "no engine").await;

    engine.start_again().await;
    redis.start().await;
    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn each_life_within_one_container_id_has_a_pidfd_of_its_own() {
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    let redis = engine.redis().run().await;
    let sidekick = announced_beside(&engine, &redis, &etcd, |announce| announce).await;
    redis.restart().await;
    let value = redis.value().await;
    etcd.shows(KEY, &value).await;
    counts(&sidekick, 2).await;
    never_for(A_WHILE, "the earlier life's death counts", async || {
        etcd.get(KEY).await.is_none()
    })
    .await;

    let pid = redis.pid().await;
    engine.freeze();
    engine.kill_process(pid);
    gone_at_once(&etcd, "a frozen engine, in the second life").await;
    engine.thaw();
}

#[tokio::test]
async fn a_container_in_the_hosts_pid_namespace_goes_by_events_and_explain_says_so() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().option("--pid=host").run().await;
    let announce = |announce: Announce| announce.within(&engine.beside());
    let _sidekick = announce(redis.announce(&etcd)).spawn();
    etcd.shows(KEY, &redis.value().await).await;

    let explained = announce(Sidekick::explain(redis.name()).etcd(&etcd).docker(engine)).run();
    let text = explained.await.text;
    let words = "is not the init of the container's own pid namespace (as with --pid=host)";
    assert!(
        text.contains("known by the engine's events: process"),
        "{text}"
    );
    assert!(text.contains(words), "{text}");
    redis.kill().await;
    etcd.loses(KEY).await;
}

#[tokio::test]
async fn explain_says_that_the_kernel_tells() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().label("sidekick.service=redis").run().await;
    let pid = redis.pid().await;
    let words = format!("known by the kernel (a pidfd on process {pid})");
    for explain in [Sidekick::explain(redis.name()), Sidekick::explain_all()] {
        let explain = explain.etcd(&etcd).docker(engine).within(&engine.beside());
        let text = explain.run().await.text;
        assert!(text.contains(&words), "{words:?} is not in {text}");
    }
}

/// `State.Pid` may be any process of this machine, and is not looked at.
#[tokio::test]
async fn an_engine_in_another_pid_namespace_goes_by_events_and_explain_says_so() {
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    let redis = engine.redis().run().await;
    let _sidekick = redis.announce(&etcd).spawn();
    etcd.shows(KEY, &redis.value().await).await;
    let explained = Sidekick::explain(redis.name()).etcd(&etcd).docker(&engine);
    let text = explained.run().await.text;
    let words =
        "its death is known by the engine's events: the engine runs in another pid namespace";
    assert!(text.contains(words), "{text}");

    let pid = redis.pid().await;
    engine.freeze();
    engine.kill_process(pid);
    never_for(A_WHILE, "a death is known that no event told", async || {
        etcd.get(KEY).await.is_none()
    })
    .await;
    engine.thaw();
    etcd.loses(KEY).await;
}

#[tokio::test]
async fn an_engine_over_tcp_goes_by_events_and_explain_says_so() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let proxy = SocketProxy::before(engine).await;
    let redis = engine.redis().run().await;
    let explain = Sidekick::explain(redis.name()).etcd(&etcd);
    let explain = explain.option("--docker-host", &proxy.host());
    let text = explain.within(&engine.beside()).run().await.text;
    let words = "known by the engine's events: the engine is reached over TCP";
    assert!(text.contains(words), "{text}");
}

/// The engine says Running for ever, as with a stuck shim, and sends no event.
#[tokio::test]
async fn what_an_engine_says_of_a_dead_life_is_not_believed_and_what_it_says_of_the_next_is() {
    let (first, second) = (Idle::init(), Idle::init());
    let docker = StandIn::start();
    docker.run_as(1, &first);
    let (etcd, sidekick) = announced_all(&docker, 1, |announce| announce).await;
    counts(&sidekick, 1).await;
    docker.keep_silent();
    let key = StandIn::key(1, HOST);

    let died = Instant::now();
    first.kill();
    etcd.loses(&key).await;
    measured::took(
        1,
        "key gone after a death that no engine tells",
        died.elapsed(),
        AT_ONCE,
    );

    let looked = docker.inspects();
    docker.speak_again();
    docker.hint(1);
    eventually(SOON, "it is inspected again", async || {
        docker.inspects() > looked
    })
    .await;
    never_for(A_WHILE, "a dead life is announced", async || {
        etcd.get(&key).await.is_some()
    })
    .await;

    docker.restart_as(1, &second);
    etcd.shows(&key, &docker.value(1, HOST)).await;
    counts(&sidekick, 2).await;
    second.kill();
    etcd.loses(&key).await;
}

/// The engine still says Running: what isn't there any more is no container's first process, and only an event can tell.
#[tokio::test]
async fn a_death_between_inspect_and_open_goes_by_its_event() {
    let (first, second) = (Idle::init(), Idle::init());
    first.kill();
    eventually(SOON, "its process is gone", async || first.is_gone()).await;
    let docker = StandIn::start();
    docker.run_as(1, &first);
    let (etcd, sidekick) = announced_all(&docker, 1, |announce| announce).await;
    let words = format!("no pidfd: there is no process {}", first.pid());
    sidekick.logs(&words).await;
    sidekick.never_logs(COUNTS);
    let key = StandIn::key(1, HOST);
    docker.die(1);
    etcd.loses(&key).await;

    docker.restart_as(1, &second);
    etcd.shows(&key, &docker.value(1, HOST)).await;
    counts(&sidekick, 1).await;
    docker.keep_silent();
    second.kill();
    etcd.loses(&key).await;
}

#[tokio::test]
async fn a_strangers_death_is_no_containers() {
    let (plain, stranger) = (Idle::plain(), Idle::init());
    let docker = StandIn::start();
    docker.run_as(1, &plain);
    docker.run_as(2, &stranger);
    let (etcd, sidekick) = announced_all(&docker, 2, |announce| announce).await;
    counts(&sidekick, 1).await;
    // The container's next life is another process, of which no event tells.
    let next = Idle::init();
    docker.keep_silent();
    docker.restart_as(2, &next);
    docker.speak_again();
    docker.hint(2);
    etcd.shows(&StandIn::key(2, HOST), &docker.value(2, HOST))
        .await;
    plain.kill();
    stranger.kill();
    never_for(A_WHILE, "a key goes", async || etcd.keys().await.len() < 2).await;
}

#[tokio::test]
async fn past_half_of_the_open_files_the_rest_goes_by_events_and_says_so() {
    const CONTAINERS: u16 = 60;
    // So that half of them are enough for etcd, the stand-in and the log.
    const OPEN_FILES: usize = 80;
    let processes: Vec<_> = (0..CONTAINERS).map(|_| Idle::init()).collect();
    let docker = StandIn::start();
    for (number, process) in (0..).zip(&processes) {
        docker.run_as(number, process);
    }
    let limit = format!("--nofile={OPEN_FILES}:{OPEN_FILES}");
    let limited = |announce: Announce| announce.within(&["prlimit".to_owned(), limit.clone()]);
    let (etcd, sidekick) = announced_all(&docker, CONTAINERS.into(), limited).await;
    counts(&sidekick, OPEN_FILES / 2).await;
    let words =
        "40 containers have a pidfd, which is half of the open files that sidekick may have";
    let warned = sidekick.times_logged("the deaths of further containers are known by");
    assert_eq!(warned, 1, "{:#?}", sidekick.log());

    let explain = Sidekick::explain_all().etcd(&etcd).host(HOST);
    let explained = limited(explain.option("--docker-host", &docker.host()))
        .run()
        .await;
    let told = |words: &str| explained.text.matches(words).count();
    assert_eq!(told("by the kernel"), OPEN_FILES / 2);
    assert_eq!(told(words), usize::from(CONTAINERS) - OPEN_FILES / 2);

    processes.iter().for_each(Idle::kill);
    let left = async || etcd.keys().await.len() == usize::from(CONTAINERS) - OPEN_FILES / 2;
    eventually(SOON, "the keys of those with a pidfd are gone", left).await;
    (0..CONTAINERS).for_each(|number| docker.die(number));
    eventually(SOON, "the others go by their events", async || {
        etcd.keys().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_thousand_containers_that_die_at_once_are_gone_at_once() {
    const CONTAINERS: u16 = 1000;
    let processes: Vec<_> = (0..CONTAINERS).map(|_| Idle::init()).collect();
    let docker = StandIn::start();
    for (number, process) in (0..).zip(&processes) {
        docker.run_as(number, process);
    }
    // What sidekick.service gives it.
    let limited = ["prlimit", "--nofile=16384:16384"].map(str::to_owned);
    let more = |announce: Announce| announce.within(&limited);
    let (etcd, sidekick) = announced_all(&docker, CONTAINERS.into(), more).await;
    counts(&sidekick, CONTAINERS.into()).await;
    docker.keep_silent();

    processes.iter().for_each(Idle::kill);
    // The kernel takes its time to end so many pid namespaces: more than a second, on two busy cores.
    let all_dead = async || processes.iter().all(Idle::is_dead);
    eventually(PATIENCE, "all processes are dead", all_dead).await;
    let died = Instant::now();
    eventually(SOON, "all keys are gone", async || {
        etcd.keys().await.is_empty()
    })
    .await;
    // That nothing but the kernel can have told of them; how fast it goes is for `make bench BENCH=all`.
    let what = format!("{CONTAINERS} keys gone after the last of deaths that no engine tells");
    measured::took(1, what, died.elapsed(), SOON);
}

/// A container that is announced by a sidekick in the engine's own pid namespace, and whose pidfd counts.
async fn announced_beside(
    engine: &Engine,
    redis: &Container<'_>,
    etcd: &Etcd,
    more: impl FnOnce(Announce) -> Announce,
) -> Sidekick {
    let announce = more(redis.announce(etcd)).within(&engine.beside());
    let sidekick = announce.option("--log-level", "debug").spawn();
    etcd.shows(KEY, &redis.value().await).await;
    counts(&sidekick, 1).await;
    sidekick
}

/// All containers of the stand-in, announced.
async fn announced_all(
    docker: &StandIn,
    count: usize,
    more: impl FnOnce(Announce) -> Announce,
) -> (Etcd, Sidekick) {
    let etcd = Etcd::start().await;
    let announce = Sidekick::announce_all().etcd(&etcd).host(HOST);
    let announce = announce.option("--docker-host", &docker.host());
    let sidekick = more(announce.option("--log-level", "debug")).spawn();
    let what = format!("{count} keys stand in etcd");
    eventually(SET_UP, what, async || etcd.keys().await.len() == count).await;
    (etcd, sidekick)
}

/// Waits until so many pidfds count, or have counted.
async fn counts(sidekick: &Sidekick, count: usize) {
    let what = format!("{count} pidfds count");
    let counted = async || match sidekick.times_logged(COUNTS) {
        n if n == count => Ok(()),
        n => Err(n.to_string()),
    };
    eventually(SET_UP, what, counted).await;
}

async fn gone_at_once(etcd: &Etcd, when: &str) {
    let died = Instant::now();
    etcd.loses(KEY).await;
    let what = format!("key gone after a death, with {when}");
    measured::took(1, what, died.elapsed(), AT_ONCE);
}
