//! The reconciler against a fake HAProxy that fails in every way, seeded, in virtual time. Once it stops
//! failing, a few passes restore everything, and no connection was cut that had a server.

mod scene;

use crate::agent::haproxy::render::render;
use crate::agent::model::bind_backoff::FAILED_BIND_RETRY;
use crate::agent::reconcile::{LONGEST_RELOAD_PAUSE, reload_pause};
use crate::testing::config_grammar::fixed_config;
use crate::testing::seeds::seeds;
use scene::ReconcileScene;
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn instances_cost_no_reload_and_a_service_costs_one() {
    let mut scene = ReconcileScene::new(1);
    scene.put("redis", 6379, "redis@1", "");
    scene.settle();
    assert_eq!(scene.world().reloads, 1);
    for status in ["", "draining", ""] {
        scene.put("redis", 6379, "redis@2", status);
        scene.settle();
    }
    scene.empty("redis");
    scene.settle();
    assert_eq!(scene.world().reloads, 1);
    scene.put("web", 80, "web@1", "");
    scene.settle();
    assert_eq!(scene.world().reloads, 2);
    scene.must_agree();
}

#[test]
fn at_most_one_reload_a_second() {
    let mut scene = ReconcileScene::new(1);
    for port in 1..=50 {
        scene.put(&format!("s{port}"), port, "i", "");
        scene.now += Duration::from_millis(100);
        scene.pass_now().unwrap();
    }
    assert_eq!(scene.world().reloads, 5);
    scene.settle();
    scene.must_agree();
}

/// With old workers that live on, the pauses grow: after 0, 1, 3, 7, 15 and 31 s.
#[test]
fn a_run_of_reloads_leaves_ever_longer_pauses() {
    let mut scene = ReconcileScene::new(1);
    scene.world().held = true;
    scene.put("s0", 1, "i", "");
    scene.settle();
    scene.now += LONGEST_RELOAD_PAUSE;
    for port in 2..=47 {
        scene.put(&format!("s{port}"), port, "i", "");
        scene.pass_now().unwrap();
        scene.now += Duration::from_secs(1);
    }
    let reloads = scene.world().reloads;
    assert_eq!((reloads, scene.world().older.len()), (7, 6));
    scene.settle();
    scene.must_agree();
    let pauses = [0, 1, 2, 3, 4, 5, 6, 1000].map(|older| reload_pause(older).as_secs());
    assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 16, 16]);
}

/// A reload that couldn't succeed used to freeze all instances.
#[test]
fn while_no_reload_can_succeed_instances_come_and_go_at_once() {
    for (full, stuck) in [(true, false), (false, true)] {
        let mut scene = ReconcileScene::new(1);
        scene.put("redis", 80, "a", "");
        scene.put("gone", 81, "a", "");
        scene.settle();
        (scene.world().full, scene.world().stuck) = (full, stuck);
        scene.put("web", 82, "i", "");
        scene.pass_now().unwrap();
        for round in 0..50 {
            let (comes, goes) = if round % 2 == 0 {
                ("b", "a")
            } else {
                ("a", "b")
            };
            scene.put("redis", 80, comes, "");
            scene.remove("redis", goes);
            scene.desired.remove("gone");
            scene.now += Duration::from_millis(100);
            let report = scene.pass_now().unwrap();
            assert!(report.behind && report.again.is_some(), "{report:?}");
            let servers = &scene.world().servers.0;
            assert_eq!(servers["redis"].keys().collect::<Vec<_>>(), [comes]);
            assert!(servers["gone"].is_empty());
        }
        let tries = scene.world().failed_reloads;
        assert!(tries <= 5, "{tries} tries in 5 s");
        (scene.world().full, scene.world().stuck) = (false, false);
        scene.settle();
        scene.must_agree();
    }
}

/// The file from which HAProxy would start exists, and can't be written again.
#[test]
fn on_a_full_disk_haproxy_starts_from_the_file_that_is_there() {
    let mut scene = ReconcileScene::new(1);
    scene.put("redis", 80, "a", "");
    scene.settle();
    (scene.world().full, scene.world().worker) = (true, None);
    scene.put("redis", 80, "b", "");
    scene.put("web", 81, "i", "");
    let _ = scene.pass();
    scene.pass().unwrap();
    assert_eq!(scene.world().servers.0["redis"].len(), 2);
    scene.world().full = false;
    scene.settle();
    scene.must_agree();
}

/// A connection in a worker of before the last reload used to survive its instance.
#[test]
fn an_instance_that_ends_loses_its_connections_in_old_workers_too() {
    let mut scene = ReconcileScene::new(1);
    scene.world().held = true;
    scene.put("redis", 80, "a", "");
    scene.put("redis", 80, "b", "");
    scene.settle();
    scene.put("web", 81, "i", "");
    scene.settle();
    assert_eq!(scene.world().older.len(), 1);
    scene.remove("redis", "a");
    scene.settle();
    let left: Vec<_> = scene.world().older.values().flatten().cloned().collect();
    assert_eq!(left, ["redis/b"]);
}

/// The list of a large backend takes HAProxy longer than the change itself. A change that HAProxy did not make
/// is found all the same, and made.
#[test]
fn a_large_backend_is_read_back_after_a_pause() {
    let mut scene = ReconcileScene::new(1);
    for n in 0..1_000 {
        scene.put("redis", 80, &format!("i{n:04}"), "");
    }
    scene.settle();
    for deaf in [false, true] {
        let name = format!("deaf-{deaf}");
        (scene.world().deaf, scene.world().lists) = (deaf, 0);
        scene.put("redis", 80, &name, "");
        let report = scene.pass_now().unwrap();
        scene.world().deaf = false;
        assert_eq!((report.changes, scene.world().lists), (1, 0), "{name}");
        assert_eq!(scene.world().servers.0["redis"].contains_key(&name), !deaf);
        // Another change in between puts nothing off.
        scene.now += Duration::from_millis(4);
        scene.put("redis", 80, "next", if deaf { "" } else { "draining" });
        assert_eq!(scene.pass_now().unwrap().again, report.again);
        scene.now = report.again.unwrap();
        assert_eq!(scene.pass_now().is_err(), deaf);
        assert_eq!(scene.world().lists, 1);
        scene.pass_now().unwrap();
        scene.settle();
        assert_eq!(scene.missing(), vec![]);
    }
}

/// By then another service has its port.
#[test]
fn an_instance_that_was_leaving_when_its_service_lost_its_port_loses_its_connections_too() {
    let mut scene = ReconcileScene::new(1);
    scene.world().held = true;
    scene.put("a", 80, "i", "");
    scene.put("b", 80, "j", "");
    scene.settle();
    let instances = &mut scene.desired.get_mut("a").unwrap().instances;
    instances.get_mut("i").unwrap().leaving = true;
    scene.settle();
    assert!(scene.world().servers.0.keys().eq(["b"]), "a serves none");
    assert_eq!(scene.world().older.len(), 1);
    scene.remove("a", "i");
    scene.settle();
    assert!(scene.world().older.is_empty());
}

#[test]
fn a_port_that_is_seen_to_be_in_use_costs_no_reload() {
    let mut scene = ReconcileScene::new(1);
    (scene.world().sees, scene.world().busy) = (true, BTreeSet::from([81]));
    scene.put("a", 80, "i", "");
    scene.put("b", 81, "i", "");
    let report = scene.pass().unwrap();
    assert_eq!((report.listeners, report.refusals.len()), (1, 1));
    assert_eq!(scene.world().failed_reloads, 0);
    scene.world().busy.clear();
    scene.settle();
    scene.must_agree();
}

#[test]
fn a_port_that_cannot_be_bound_takes_no_other_service_down() {
    for (talks, most) in [(true, 1), (false, 8)] {
        let mut scene = ReconcileScene::new(1);
        scene.put("old", 80, "i", "");
        scene.settle();
        (scene.world().talks, scene.world().busy) = (talks, BTreeSet::from([137]));
        for port in 101..=164 {
            scene.put(&format!("s{port}"), port, "i", "");
        }
        for _ in 0..12 {
            let _ = scene.pass();
            assert!(
                scene.file_boots(),
                "after a failed reload the file doesn't boot"
            );
        }
        let report = scene.settle();
        assert_eq!(
            (report.listeners, report.refusals.len()),
            (64, 1),
            "{talks}"
        );
        let failed = scene.world().failed_reloads;
        assert!(failed <= most, "{failed} failed reloads");
        assert!(scene.world().boot().is_ok(), "the file doesn't boot");
        // Tried again later, and then it works.
        scene.world().busy.clear();
        scene.now += FAILED_BIND_RETRY;
        scene.settle();
        scene.must_agree();
    }
}

#[test]
fn another_haproxy_is_put_right_too() {
    let mut scene = ReconcileScene::new(1);
    scene.put("a", 80, "i", "");
    scene.settle();
    // HAProxy died and was started from the file; meanwhile an instance left.
    scene.empty("a");
    scene.world().boot().unwrap();
    scene.settle();
    scene.must_agree();
    assert_eq!(scene.world().reloads, 1);
}

#[test]
fn whatever_fails_it_converges_and_cuts_no_instance_that_stays() {
    for seed in seeds(3_000) {
        let mut scene = ReconcileScene::new(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..rng.usize(1..25) {
            scene.world().failing = if rng.bool() { rng.u8(0..40) } else { 0 };
            scene.world().full = rng.u8(0..8) == 0;
            scene.world().stuck = rng.u8(0..8) == 0;
            scene.world().held = rng.bool();
            let service = format!("s{}", rng.u8(0..4));
            let instance = format!("i@{}", rng.u8(0..4));
            let status = if rng.bool() { "draining" } else { "" };
            let port = 80 + u16::from(rng.u8(0..6));
            match rng.u8(0..13) {
                0..=4 => scene.put(&service, port, &instance, status),
                5..=6 => scene.remove(&service, &instance),
                7 => drop(scene.desired.remove(&service)),
                8 => drop(scene.world().boot()),
                9 => scene.world().worker = None,
                10 => scene.reconciler.forget(),
                11 => scene.put_at("db", &service, port, &instance, status),
                _ => {
                    let address = [10, 0, 1, rng.u8(1..3)].into();
                    scene.addresses.insert("db".to_owned(), address);
                }
            }
            let stay: BTreeSet<String> = scene
                .desired
                .iter()
                .flat_map(|(s, w)| {
                    w.instances
                        .keys()
                        .map(move |i| format!("{s}/{}", i.replace('@', "::")))
                })
                .collect();
            scene.world().removed.clear();
            let result = scene.pass();
            let done = result.as_ref().is_ok_and(|report| report.again.is_none());
            // A pass that reports no further work has none: no other pass would look.
            if done && scene.distinct_ports() {
                assert_eq!(scene.missing(), vec![], "seed {seed}");
                let text = render(&fixed_config(), &scene.model());
                assert_eq!(scene.latest_text(), Some(text), "seed {seed}");
            }
            let cut: Vec<_> = scene
                .world()
                .removed
                .iter()
                .filter(|target| stay.contains(*target))
                .cloned()
                .collect();
            assert_eq!(cut, Vec::<String>::new(), "seed {seed}");
        }
        scene.world().failing = 0;
        (scene.world().full, scene.world().stuck) = (false, false);
        scene.settle();
        // Two services on one port are not the subject of this test.
        if scene.distinct_ports() {
            scene.must_agree();
        }
    }
}
