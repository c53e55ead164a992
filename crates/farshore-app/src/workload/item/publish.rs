//! What the gateway does with an app's requests, by what the region is to the app now.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::{ReplicationMode, Role};

use super::{Item, Matter, lock};
use crate::charter::Charter;
use crate::gateway::{KeyRule, Pass, Site, SiteState};
use crate::spec::git_host;

/// When a client is to come again while an app is on its way: it is back in less than two seconds as a rule.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Item {
    /// Tells the gateway who serves the app now.
    pub(super) fn publish(&self) {
        // Looked at and told in one: what is told last is what was looked at last.
        let _telling = lock(&self.telling);
        self.site().set(self.state());
    }

    /// Answers for its names, as the charter has them.
    pub(super) fn put_site(&self) -> Result<(), String> {
        let _telling = lock(&self.telling);
        let charter = self.stock.charter().clone();
        let hosts = charter.spec.hosts_of(&self.id, &self.around.options.domain);
        let git_hosts = vec![git_host(&self.id, &self.around.options.domain)];
        let site = Site::new(self.id.name.as_str(), hosts, git_hosts, self.scripts());
        site.set_keys(rule(&charter));
        site.set(self.state());
        self.around.gateway.put(Arc::clone(&site))?;
        *lock(&self.site) = site;
        Ok(())
    }

    fn state(&self) -> SiteState {
        match self.role() {
            Role::Active => self.here(),
            Role::Unconfirmed => {
                recovering("the region was restarted: it waits to be told that it still serves the app")
            }
            Role::Fenced | Role::Target => self.elsewhere(),
        }
    }

    fn here(&self) -> SiteState {
        let lent_to = self.stock.charter().lent_to.clone();
        if let Some(to) = lent_to.filter(|_| self.is_used_up()) {
            return recovering(&format!("the capacity of this app is used by {to}"));
        }
        if self.card().restore.is_some() {
            return recovering("its database is being brought back");
        }
        if self.wanted_release().is_none() {
            return SiteState::Empty;
        }
        let addresses = self.parts().running.as_ref().map(|running| running.host.addresses());
        let instances = addresses.map(|addresses| Arc::clone(&addresses.borrow()));
        // Also when none answers: what mends it can be pushed.
        SiteState::Here { instances: instances.unwrap_or_else(|| Arc::from([])), pass: self.pass() }
    }

    /// Asked before an answer goes out, when there is anything to ask.
    fn pass(&self) -> Option<Arc<dyn Pass>> {
        let card = self.card();
        let asks = card.lease.is_some() || (card.mode == ReplicationMode::Sync && card.partner.is_some());
        asks.then(|| Arc::clone(&self.gate) as Arc<dyn Pass>)
    }

    fn elsewhere(&self) -> SiteState {
        let partner = self.card().partner.clone();
        let status = self.link().map(|link| link.status()).unwrap_or_default();
        match (partner, status.role) {
            (Some(region), Some(Role::Active)) => {
                SiteState::There { region, http: status.gateway.http, https: status.gateway.https }
            }
            (Some(region), _) => recovering(&format!("{region} serves the app, or is about to")),
            (None, _) => recovering("the app was stopped here"),
        }
    }

    pub(super) fn publish_recovering(&self, why: &str) {
        let _telling = lock(&self.telling);
        self.site().set(recovering(why));
    }

    /// Whether answers should wait for the other region.
    pub(in crate::workload) fn is_synchronous(&self) -> bool {
        let card = self.card();
        card.mode == ReplicationMode::Sync && card.partner.is_some() && card.role == Role::Active
    }

    /// Whether answers wait for the other region.
    pub(super) fn look_at_gate(&self) {
        let is_sync = self.is_synchronous();
        let status = self.link().map(|link| link.status()).unwrap_or_default();
        let is_there = status.is_up && status.has.is_some_and(|has| has.is_whole);
        self.gate.look(is_sync, is_there);
    }

    /// The charter is another one: keys, certificates and names as it says.
    pub(in crate::workload) fn apply_charter(&self) {
        let tag = self.stock.charter().tag;
        if lock(&self.applied).as_ref().is_some_and(|applied| applied.tag == tag) {
            return;
        }
        let charter = self.stock.charter().clone();
        self.site().set_keys(rule(&charter));
        let known = lock(&self.applied).replace(charter.clone());
        let names = known.as_ref().map(|known| &known.spec.hosts);
        if names.is_some_and(|names| *names != charter.spec.hosts) {
            self.note(Matter::Names, self.put_site().err());
        }
        let gateway = &self.around.gateway;
        for (host, certificate) in &charter.certificates {
            let was = known.as_ref().and_then(|known| known.certificates.get(host));
            if was != Some(certificate)
                && let Err(error) = gateway.set_certificate(host, &certificate.chain, &certificate.key)
            {
                self.note(Matter::Names, Some(format!("the certificate of {host}: {error}")));
            }
        }
        let gone = known.iter().flat_map(|known| known.certificates.keys());
        for host in gone.filter(|host| !charter.certificates.contains_key(*host)) {
            gateway.remove_certificate(host);
        }
    }
}

/// Who may come in.
pub(in crate::workload) fn rule(charter: &Charter) -> KeyRule {
    KeyRule {
        required: charter.spec.require_key,
        application: charter.keys.application.clone(),
        master: charter.keys.master.clone(),
    }
}

fn recovering(why: &str) -> SiteState {
    SiteState::Recovering { why: why.to_owned(), retry_after: RETRY_AFTER }
}
