//! Durations and URLs: what is out of range says so, and what the range is.

use crate::usage::Usage;

#[test]
fn an_interval_below_a_second_is_refused() {
    for interval in ["1ms", "999ms", "0", "0s"] {
        let usage = Usage::announce().with("--interval", interval);
        let complaint = usage.complains_of("--interval");
        assert!(complaint.contains("1 s"), "{complaint}");
    }
    let usage = Usage::announce().with("--interval", "1s");
    usage.goes_to_work();
}

#[test]
fn a_duration_that_is_too_long_is_called_so_with_the_longest() {
    for long in [
        "99999999999",
        "4294967296",
        "99999999999999999999s",
        "200y",
        "99999999999999999999",
    ] {
        for option in ["--ttl", "--interval", "--docker-grace"] {
            let complaint = Usage::announce().with(option, long).complains_of(option);
            let words = ["too long", "4294967295 s"];
            let told = words.iter().all(|word| complaint.contains(word));
            assert!(told, "{complaint}");
        }
        for option in ["--hold", "--forget"] {
            let complaint = Usage::agent().with(option, long).complains_of(option);
            assert!(complaint.contains("too long"), "{complaint}");
        }
    }
    let usage = Usage::announce().with("--ttl", "4294967295");
    usage.goes_to_work();
}

#[test]
fn a_path_in_a_url_is_called_a_path() {
    for (path, url) in [
        ("/v3", "http://127.0.0.1:2379/v3"),
        ("/v3", "127.0.0.1:2379/v3"),
        ("/v3/kv", "http://a.test/v3/kv"),
        ("//", "http://127.0.0.1:2379//"),
        ("?x=1", "http://127.0.0.1:2379?x=1"),
        ("#x", "http://127.0.0.1:2379/#x"),
    ] {
        let usage = Usage::announce().with("--etcd-endpoints", url);
        let complaint = usage.complains_of("--etcd-endpoints");
        let told = complaint.contains("path") && complaint.contains(path);
        assert!(told && !complaint.contains("65535"), "{complaint}");
    }
    let usage = Usage::announce().with("--docker-host", "tcp://127.0.0.1:2375/v1.41");
    let complaint = usage.complains_of("--docker-host");
    assert!(complaint.contains("/v1.41"), "{complaint}");
    // One slash at the end is the root, as everywhere.
    let usage = Usage::announce().with("--etcd-endpoints", "http://127.0.0.1:1/");
    usage.goes_to_work();
}
