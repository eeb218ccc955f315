//! The agent's id among the control keys: the same for one configuration file on one machine.

use crate::endpoint::check_part;
use std::path::Path;

/// machine-id(5): a number of the installation, which containers may lack.
const MACHINE_ID: &str = "/etc/machine-id";

/// The longest beginning of the machine's name.
const LONGEST_NAME: usize = 64;

/// The machine's name, and a number of the machine and the file: `worker-1-9a3b5c7d01e2f346`. Two machines of one image
/// may have one machine-id, so their names count too.
pub(crate) fn agent_id(file: &Path) -> String {
    let name = hostname::get().unwrap_or_default();
    let machine = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    id_of(
        &name.to_string_lossy(),
        machine.trim(),
        &file.to_string_lossy(),
    )
}

fn id_of(name: &str, machine: &str, file: &str) -> String {
    let number = fnv([name, machine, file].join("\0").as_bytes());
    let short: String = name.chars().take(LONGEST_NAME).collect();
    let id = format!("{short}-{number:016x}");
    if check_part(&id).is_ok() {
        id
    } else {
        format!("agent-{number:016x}")
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo): the standard library's hash may differ between versions.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_one_file_on_one_machine() {
        // Of draft-eastlake-fnv-17, appendix C.
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
        let id = id_of("worker-1", "0af3", "/var/lib/sidekick/haproxy.cfg");
        assert_eq!(
            id,
            id_of("worker-1", "0af3", "/var/lib/sidekick/haproxy.cfg")
        );
        assert!(id.starts_with("worker-1-"), "{id}");
        for other in [
            id_of("worker-2", "0af3", "/var/lib/sidekick/haproxy.cfg"),
            id_of("worker-1", "0af4", "/var/lib/sidekick/haproxy.cfg"),
            id_of("worker-1", "0af3", "/etc/haproxy/haproxy.cfg"),
        ] {
            assert_ne!(id, other);
        }
        for name in ["", "a/b", "..", "ü", &"x".repeat(400)] {
            let id = id_of(name, "", "/f");
            assert_eq!(check_part(&id), Ok(()), "{id}");
        }
    }
}
