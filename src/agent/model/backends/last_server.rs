//! Draining instances, and the one of them that goes on serving because no other instance is up. Pure.
//!
//! A draining instance takes no new connections, unless it is the last one of its service that is up: its clients would
//! be refused, and nothing gained. It drains once another instance is up.

use super::{Backend, Backends, InstanceNames, Server};
use crate::catalog::{Instance, Instances};
use imbl::ordmap::DiffItem;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// An instance whose value says that it drains.
#[derive(Debug, Clone, Copy)]
pub struct DrainingInstance<'a> {
    /// The name of its service.
    pub service: &'a str,
    /// Its own name.
    pub name: &'a str,
    /// What stands in etcd.
    pub instance: &'a Instance,
    /// Where HAProxy dials it; `None` if its host name has no address yet, or its address is refused.
    pub address: Option<SocketAddr>,
    /// It goes on serving, for no other instance is up.
    pub alone: bool,
}

impl Backends {
    /// Sets which instances HAProxy's health checks have down. Returns whether a draining instance may have to serve
    /// because of that, or may drain.
    pub fn set_down(&mut self, down: InstanceNames) -> bool {
        if self.down == down {
            return false;
        }
        self.down = down;
        self.services.values().any(Backend::has_draining)
    }

    /// The instances that HAProxy's health checks have down, by service.
    #[must_use]
    pub const fn down(&self) -> &InstanceNames {
        &self.down
    }

    /// The instances whose values say that they drain, in the order of their names.
    pub fn draining(&self) -> impl Iterator<Item = DrainingInstance<'_>> {
        let services = self.services.iter();
        services.flat_map(|(service, backend)| {
            let names = backend.draining.keys();
            names.filter_map(move |name| {
                Some(DrainingInstance {
                    service,
                    name,
                    instance: backend.instances.get(name)?,
                    address: backend.servers.get(name).map(|server| server.address),
                    alone: backend.last_up.as_ref() == Some(name),
                })
            })
        })
    }

    /// What stands in etcd of an instance, or stood there if it is held or leaving.
    #[must_use]
    pub fn instance(&self, service: &str, name: &str) -> Option<&Instance> {
        self.services.get(service)?.instances.get(name)
    }
}

#[cfg(test)]
impl Backends {
    /// Which of several instances that drain goes on serving depends on the past.
    pub(crate) fn adopt_last_up(&mut self, other: &Self) {
        self.down = other.down.clone();
        let none = BTreeSet::new();
        for (service, backend) in &mut self.services {
            let theirs = other.services.get(service);
            backend.last_up = theirs.and_then(|it| it.last_up.clone());
            for (name, server) in backend.servers.clone() {
                let draining = backend.instances[&name].draining;
                backend.servers.insert(name, Server { draining, ..server });
            }
            backend.keep_last_up(self.down.get(service).unwrap_or(&none));
        }
    }
}

impl Backend {
    /// The draining instance that goes on serving, for no other is up.
    #[must_use]
    pub fn last_up(&self) -> Option<&str> {
        self.last_up.as_deref()
    }

    /// Whether an instance of it drains.
    pub(super) fn has_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Notes which instances have begun to drain, and which have ended it.
    pub(super) fn note_draining(&mut self, before: &Instances, now: &Instances) {
        if before.is_empty() {
            self.draining.retain(|name, _| now.contains_key(name));
        }
        for change in before.diff(now) {
            let (name, drains) = match change {
                DiffItem::Add(name, it)
                | DiffItem::Update {
                    new: (name, it), ..
                } => (name, it.draining && !it.leaving),
                DiffItem::Remove(name, _) => (name, false),
            };
            if !drains {
                self.draining.remove(name);
            } else if !self.draining.contains_key(name) {
                self.drains += 1;
                self.draining.insert(name.clone(), self.drains);
            }
        }
    }

    /// Decides which draining instance goes on serving; `down` are those that HAProxy's checks have down. Returns
    /// whether a server changed.
    ///
    /// It is the one that served until now, else the one that began to drain last: the others drain already.
    pub(super) fn keep_last_up(&mut self, down: &BTreeSet<String>) -> bool {
        let (servers, draining) = (&self.servers, &self.draining);
        let serves = |(name, server): (&String, &Server)| {
            !server.draining && !draining.contains_key(name) && !down.contains(name)
        };
        let up = |name: &String| servers.contains_key(name) && !down.contains(name);
        let last_up = if draining.is_empty() || servers.iter().any(serves) {
            None
        } else {
            let kept = self.last_up.as_ref();
            let kept = kept.filter(|name| draining.contains_key(*name) && up(name));
            let candidates = draining.iter().filter(|(name, _)| up(name));
            let latest = candidates.max_by_key(|(_, number)| **number);
            kept.or(latest.map(|(name, _)| name)).cloned()
        };
        let before = std::mem::replace(&mut self.last_up, last_up);
        let ends = before.filter(|name| self.last_up.as_ref() != Some(name));
        let ends = ends.filter(|name| self.draining.contains_key(name));
        let mut changed = false;
        for (name, drains) in [(ends.as_ref(), true), (self.last_up.as_ref(), false)] {
            if let Some(name) = name
                && let Some(server) = self.servers.get(name)
                && server.draining != drains
            {
                let server = Server {
                    draining: drains,
                    ..server.clone()
                };
                self.servers.insert(name.clone(), server);
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::instance;
    use super::*;
    use crate::agent::model::host_addresses::HostAddresses;
    use crate::membership::DesiredService;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// One service, step by step.
    #[derive(Default)]
    struct Stage {
        backends: Backends,
        service: BTreeMap<String, DesiredService>,
    }

    impl Stage {
        /// `a bd c-`: b drains, c is leaving. `down`: what HAProxy's checks have down.
        fn step(&mut self, instances: &str, down: &str) {
            let instances = instances.split_whitespace().map(|word| {
                let name = word.trim_end_matches(['d', '-']);
                let port = 6000 + u16::from(name.as_bytes()[0]);
                let it = Instance {
                    draining: word.ends_with('d'),
                    leaving: word.ends_with('-'),
                    ..instance("10.0.0.1", port)
                };
                (name.to_owned(), it)
            });
            let desired = DesiredService {
                port: 80,
                instances: instances.collect(),
            };
            self.service = BTreeMap::from([("redis".to_owned(), desired)]);
            let down = down.split_whitespace().map(str::to_owned).collect();
            self.backends
                .set_down(InstanceNames::from([("redis".to_owned(), down)]));
            let desired = self.service.iter().map(|(name, it)| (name, it.clone()));
            self.backends.update(desired, &HostAddresses::default());
        }

        /// The servers that take new connections.
        fn serving(&self) -> String {
            let servers = self.backends.services()["redis"].servers.iter();
            let serving = servers.filter(|(_, server)| !server.draining);
            serving
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        }

        fn alone(&self) -> String {
            let alone = self.backends.draining().filter(|it| it.alone);
            alone.map(|it| it.name).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn the_last_instance_that_is_up_goes_on_serving_until_another_one_is_up() {
        let mut stage = Stage::default();
        for (instances, down, serving, alone) in [
            ("a b", "", "a b", ""),
            ("ad b", "", "b", ""),
            // b is the last one, and a drains already.
            ("ad bd", "", "b", "b"),
            ("ad bd c", "c", "b c", "b"),
            ("ad bd c", "", "c", ""),
            ("ad bd c", "c", "b c", "b"),
            ("ad bd", "b", "a", "a"),
            // The one that serves goes on with it.
            ("ad bd", "", "a", "a"),
            ("a- bd", "", "b", "b"),
            ("a- b-", "", "", ""),
            ("bd", "b", "", ""),
        ] {
            stage.step(instances, down);
            let shows = (stage.serving(), stage.alone());
            assert_eq!(
                shows,
                (serving.to_owned(), alone.to_owned()),
                "{instances}, down: {down}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_service_that_has_an_instance_that_is_up_always_has_a_server_that_is(
            steps in prop::collection::vec(prop::collection::vec((0..4u8, any::<bool>()), 4), 1..20)
        ) {
            let mut stage = Stage::default();
            for step in steps {
                let all = ["a", "b", "c", "e"].into_iter().zip(step);
                let (mut instances, mut down) = (String::new(), String::new());
                for (name, (what, is_down)) in all {
                    let word = ["", name, &format!("{name}d"), &format!("{name}-")][usize::from(what)].to_owned();
                    instances += &format!("{word} ");
                    down += &format!("{} ", if is_down { name } else { "" });
                }
                stage.step(&instances, &down);
                let here = |name: &str| instances.split_whitespace().any(|it| it == name || it == format!("{name}d"));
                let up = |name: &str| !down.split_whitespace().any(|it| it == name);
                let any_up = ["a", "b", "c", "e"].into_iter().any(|name| here(name) && up(name));
                let serving = stage.serving();
                prop_assert_eq!(any_up, serving.split_whitespace().any(up), "{}, down: {}", instances, down);
                prop_assert!(stage.alone().is_empty() || serving.split_whitespace().filter(|name| up(name)).count() == 1);
            }
        }
    }
}
