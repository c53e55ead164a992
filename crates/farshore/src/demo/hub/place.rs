//! What the concierge's answer tells a device: which region has the hub, and where it speaks MQTT.

use std::net::SocketAddr;

use crate::names::AnswerView;

/// Where the hub is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) mqtt: SocketAddr,
}

impl Place {
    pub(super) fn read(answer: &AnswerView) -> Option<Self> {
        let endpoint = answer.endpoints.iter().find(|endpoint| endpoint.name == "mqtt")?;
        let mqtt = endpoint.uri.strip_prefix("mqtts://")?.parse().ok()?;
        Some(Self { region: answer.active.clone(), mqtt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_region_and_where_it_speaks_mqtt() {
        let text = r#"{"name": "fleet.hub", "item": "hub/fleet", "incarnation": 1, "epoch": 2, "active": "oslo",
            "endpoints": [{"name": "https", "uri": "https://127.0.0.1:1"}, {"name": "mqtt", "uri": "mqtts://127.0.0.1:2"}],
            "ttl": 5, "since": "", "not_after": "", "poll_after": 1.0}"#;
        let answer: AnswerView = serde_json::from_str(text).unwrap();
        let expected = Place { region: "oslo".to_owned(), mqtt: "127.0.0.1:2".parse().unwrap() };
        assert_eq!(Place::read(&answer), Some(expected));
    }
}
