//! A test in a network and with an /etc/hosts of its own.

use std::future::Future;
use std::process::Command;

/// Set where the test is apart already.
const APART: &str = "SIDEKICK_TEST_APART";

/// Runs `body` where every port is free, where the machine has the addresses 10.5.0.7, 10.5.0.8 and
/// fd00:5::7 besides loopback, and where what is written to /etc/hosts stays within the test.
///
/// `test` is the calling test's path, for what it does is to run that test again in namespaces
/// (unshare(1)), which the kernel takes down with all that is in them.
pub fn apart(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(APART).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(body);
    }
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy("/etc/hosts", hosts.path()).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "sh", "-ec", include_str!("apart.sh")])
        .arg(hosts.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(APART, "yes")
        .output()
        .expect("unshare can't be run; is util-linux installed?");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test}, apart:\n{said}"
    );
}
