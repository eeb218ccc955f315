//! Which containers are announced, and which services each asks for: the command line's one, or those of its labels.
//! Pure.

use super::check_settings::CheckOptions;
use super::container::{ContainerSnapshot, ContainerView, ContainerViews};
use super::eligibility::{AddressOptions, EndpointOverrides, HOST_LABEL, PORT_LABEL, read_label};
use super::first_look::FirstLook;
use super::labels::{RequestedService, services};
use super::reason::Reason;
use super::refusal::MetadataRefusal;
use crate::clock::Moment;
use crate::endpoint::Key;

/// Which containers are announced, and at which keys. Whatever comes after it is the same for one and for many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One container at one key.
    One {
        /// The container's name, or 12 or more digits of its id.
        container: String,
        /// The key to keep.
        key: Key,
    },
    /// Every container with sidekick labels.
    All {
        /// The prefix of the keys; no slash at its end.
        prefix: String,
        /// Registrator's labels and environment variables count as well.
        registrator: bool,
    },
}

impl Target {
    /// What is known before the engine's first answer: the single container has its place already, for its key has.
    #[must_use]
    pub fn unasked(&self, now: Moment) -> ContainerViews {
        let containers = match self {
            Self::One { container, .. } => Some((container.clone(), ContainerView::unasked(now))),
            Self::All { .. } => None,
        };
        let first_look = match self {
            Self::One { container, .. } => FirstLook::at(container),
            Self::All { .. } => FirstLook::default(),
        };
        ContainerViews {
            first_look,
            containers: containers.into_iter().collect(),
            lost_since: Some(now),
            ..ContainerViews::default()
        }
    }

    /// The services that the container asks for.
    ///
    /// # Errors
    /// [`Reason::BadLabel`] for the first label that is wrong, [`Reason::BadMetadata`] or [`Reason::NoService`].
    pub fn services(
        &self,
        container: &ContainerSnapshot,
        options: &AddressOptions,
    ) -> Result<Vec<RequestedService>, Reason> {
        let labels = &container.labels;
        let Self::One { key, .. } = self else {
            if let Some(MetadataRefusal::Refused { metadata, problem }) = &container.refusal {
                let (metadata, problem) = (metadata.clone(), problem.clone());
                return Err(Reason::BadMetadata { metadata, problem });
            }
            return services(labels);
        };
        // A label that an option overrides may hold anything.
        let host = match options.host {
            Some(_) => None,
            None => read_label(labels, HOST_LABEL)?,
        };
        let port = match options.port {
            Some(port) => Some(port),
            None => read_label(labels, PORT_LABEL)?,
        };
        Ok(vec![RequestedService {
            name: key.service().to_owned(),
            instance: Some(key.instance().to_owned()),
            suffix: None,
            wanted: EndpointOverrides {
                host,
                port,
                ..EndpointOverrides::default()
            },
            // One container's checks are the command line's, as its key is.
            checks: CheckOptions::default(),
        }])
    }

    /// The key of a service's instance.
    ///
    /// # Errors
    /// [`Reason::BadKey`].
    pub fn key(&self, service: &RequestedService, instance: &str) -> Result<Key, Reason> {
        let prefix = match self {
            Self::One { key, .. } => key.prefix(),
            Self::All { prefix, .. } => prefix,
        };
        let suffix = service.suffix.as_deref().unwrap_or_default();
        let key = format!("{prefix}/{}/{instance}{suffix}", service.name);
        key.parse()
            .map_err(|problem| Reason::BadKey { key, problem })
    }
}
