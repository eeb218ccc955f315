//! The value that a key is to hold.

use serde_json::Value as Json;

/// What sidekick writes for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The name or address that readers dial.
    pub host: String,
    /// The port that readers dial.
    pub port: u16,
    /// Twelve hexadecimal digits.
    pub container: String,
    /// RFC 3339, in UTC.
    pub since: String,
    /// What no TCP port has.
    pub protocol: Option<String>,
}

impl Value {
    /// A value that a rival sidekick put, about a container that started at `since`.
    pub fn of_rival(container: &str, since: &str) -> Value {
        Value {
            host: "rival".into(),
            port: 1,
            container: container.into(),
            since: since.into(),
            protocol: None,
        }
    }

    /// The JSON text, to the letter as the contract has it.
    pub fn text(&self) -> String {
        let Value {
            host,
            port,
            container,
            since,
            protocol,
        } = self;
        let protocol = protocol.as_ref();
        let protocol = protocol.map(|it| format!(r#""protocol":"{it}","#));
        let protocol = protocol.unwrap_or_default();
        format!(
            r#"{{"host":"{host}","port":{port},{protocol}"container":"{container}","since":"{since}"}}"#
        )
    }

    /// Compares with a text that was found in etcd, to the letter; says what is different.
    pub fn is(&self, found: &str) -> Result<(), String> {
        if self.normal().text() == Self::read(found)?.normal().text()
            && found == Self::read(found)?.text()
        {
            Ok(())
        } else {
            Err(format!("{found} (wanted: {})", self.text()))
        }
    }

    /// Reads a value that must have exactly the four members, and `protocol` at most.
    pub fn read(found: &str) -> Result<Value, String> {
        let no = || format!("{found:?}, which is not a value of the contract");
        let json: Json = serde_json::from_str(found).map_err(|_| no())?;
        let text = |name: &str| json[name].as_str().map(str::to_owned).ok_or_else(no);
        let port = json["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(no)?;
        Ok(Value {
            host: text("host")?,
            port,
            container: text("container")?,
            since: text("since")?,
            protocol: json["protocol"].as_str().map(str::to_owned),
        })
    }

    /// Docker drops trailing zeros of a fraction of a second, others don't; the instant is the same.
    fn normal(&self) -> Value {
        let since = match self
            .since
            .strip_suffix('Z')
            .and_then(|instant| instant.split_once('.'))
        {
            Some((second, fraction)) => format!("{second}.{:0<9}Z", fraction.trim_end_matches('0')),
            None => self.since.clone(),
        };
        Value {
            since,
            ..self.clone()
        }
    }
}
