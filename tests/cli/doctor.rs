//! `sidekick doctor` refuses what the jobs refuse, before it asks anybody.

use super::usage::Usage;

#[test]
fn an_option_of_either_job_is_checked_as_that_job_does() {
    for (words, culprit) in [
        (&["doctor", "nobody"][..], "nobody"),
        (&["doctor", "announce", "--ttl=1s"], "--ttl"),
        (&["doctor", "announce", "--key=redis"], "--key"),
        (&["doctor", "announce", "--drain=soon"], "--drain"),
        (&["doctor", "announce", "red is"], "CONTAINER"),
        (&["doctor", "announce", "redis1", "--all"], "--all"),
        (&["doctor", "agent", "--bind=redis"], "--bind"),
        (&["doctor", "--prefix=services"], "--prefix"),
        (&["doctor", "--etcd-user=root:secret"], "--etcd-user"),
        (&["doctor", "--haproxy="], "--haproxy"),
        (&["doctor", "-o", "yaml"], "--output"),
    ] {
        Usage::of(words).complains_of(culprit);
    }
    Usage::of(&["doctor"])
        .with("--haproxy-base", "/nowhere/base.cfg")
        .cannot_use_the_file_of("--haproxy-base");
}
