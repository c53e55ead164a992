//! Sessions that are asked for over the link.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::connection::Claims;
use crate::link::{Link, LinkState};
use crate::names::ConnectionId;

/// The regions of a hub find each other within this after a start; until then a session that is not known may still come.
const MEETING_MAX: Duration = Duration::from_secs(5);

/// The way to the partner's sessions.
#[derive(Debug)]
pub(super) struct LinkClaims {
    link: Link,
    began: Instant,
}

impl LinkClaims {
    pub(super) fn new(link: Link) -> Self {
        Self { link, began: Instant::now() }
    }
}

#[async_trait]
impl Claims for LinkClaims {
    async fn claim(&self, connection: &ConnectionId) {
        self.link.claim(connection).await;
    }

    fn may_come(&self) -> bool {
        let status = self.link.status();
        match status.state {
            LinkState::Disconnected { .. } => self.began.elapsed() < MEETING_MAX,
            // However long it takes: what the other region has is on its way.
            LinkState::Connected | LinkState::Seeding => status.applied.is_none(),
        }
    }
}
