//! Each of `properties` on a corpus (`tests/corpus/`) and on random changes to it. cargo-fuzz takes the
//! same properties and the same corpus (`fuzz/`).

// A scene that can't be set is a failed test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

mod mutation;
mod properties;

use mutation::fuzz;

#[test]
fn a_value_that_is_read_is_written_so_that_it_is_read_the_same() {
    fuzz("value", properties::value);
}

#[test]
fn a_key_that_is_read_is_harmless() {
    fuzz("key", properties::key);
}

#[test]
fn labels_that_are_read_make_good_keys_each_once() {
    fuzz("labels", properties::labels);
}

#[test]
fn whatever_stands_in_etcd_the_file_and_the_commands_hold_nothing_but_words_of_ours() {
    fuzz("etcd", properties::etcd);
}

#[test]
fn a_file_that_is_taken_for_ours_is_written_the_same() {
    fuzz("haproxy_cfg", properties::haproxy_cfg);
}

#[test]
fn whatever_haproxy_says_of_its_servers_the_commands_are_lines() {
    fuzz("haproxy_servers", properties::haproxy_servers);
}

#[test]
fn whatever_the_master_says_of_its_processes_is_read_or_not() {
    fuzz("haproxy_processes", properties::haproxy_processes);
}
