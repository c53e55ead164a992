//! How a device comes in: it waits its turn, proves who it is, takes the place of its older connection.
//!
//! Only an open hub whose registry is current refuses for good: the official SDKs do not come again after such an answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Fleet;
use super::connection::Connection;
use super::gate::{Phase, Standing};
use super::identity::{self, Known, Proof, Rejected};
use super::live::Live;
use crate::mqtt::behind::{Behind, Hello, Verdict};
use crate::names::{Key, Subs};
use crate::registry::{Auth, Device, Edit};

/// How often a device that is held because the registry may lack it is looked up again.
const LOOKED_UP_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How an opening was found when a device was checked.
enum Checked {
    /// It may come in.
    Good(Proved),
    /// Not for now, and nothing that it could do better.
    Wait,
    /// For good.
    Rejected(Rejected),
}

struct Proved {
    device: Arc<Device>,
    opening: u64,
    proof: Proof,
}

#[async_trait]
impl Behind for Fleet {
    async fn admit(&self, hello: Hello) -> Verdict {
        let admission = self.admission();
        let Some(_place) = admission.place() else {
            admission.count_refused();
            return Verdict::Unavailable;
        };
        let hold = self.options().admission.hold(hello.keep_alive);
        let verdict = tokio::select! {
            verdict = timeout(hold, self.let_in(&hello)) => verdict.unwrap_or(Verdict::Unavailable),
            () = self.is_elsewhere() => Verdict::Unavailable,
        };
        if matches!(verdict, Verdict::Unavailable) {
            admission.count_refused();
        }
        verdict
    }
}

impl Fleet {
    async fn let_in(&self, hello: &Hello) -> Verdict {
        let mut phase = self.gate().watch();
        loop {
            match self.check(hello) {
                Checked::Rejected(why) => return rejected(hello, &why),
                Checked::Wait if matches!(self.gate().phase(), Phase::Open { .. }) => {
                    changed_or(&mut phase, LOOKED_UP_AGAIN_AFTER).await;
                    continue;
                }
                Checked::Good(_) | Checked::Wait => {}
            }
            if !self.admission().turn(&mut phase).await {
                return Verdict::Unavailable;
            }
            // Much may have happened while it waited.
            let entered = match self.check(hello) {
                Checked::Good(proved) => self.enter(hello, proved).await,
                Checked::Wait | Checked::Rejected(_) => None,
            };
            match entered {
                Some(connection) => return Verdict::Open(Arc::new(connection)),
                None => self.admission().give_back(),
            }
        }
    }

    /// Holds what a device shows against the registry, as it is now.
    fn check(&self, hello: &Hello) -> Checked {
        let Phase::Open { standing, .. } = self.gate().phase() else { return Checked::Wait };
        let Some(opening) = self.gate().opening() else { return Checked::Wait };
        let parent = hello.key.module.as_ref().map(|_| Key::device(hello.key.device.clone()));
        let read = |key: &Key| self.registry().get(key);
        let (Ok(device), Ok(parent)) = (read(&hello.key), parent.as_ref().map_or(Ok(None), read)) else {
            return Checked::Wait;
        };
        let trusted = self.trusted();
        let known = Known {
            hosts: &self.options().hosts,
            device: device.as_deref(),
            parent: parent.as_deref(),
            policies: &|| self.registry().policies().unwrap_or_default(),
            authorities: &trusted.authorities,
            now: super::now(),
        };
        match (identity::check(hello, &known), device, standing) {
            (Ok(proof), Some(device), _) => Checked::Good(Proved { device, opening, proof }),
            (Ok(_), None, _) => Checked::Wait,
            (Err(_), _, Standing::Behind) => Checked::Wait,
            (Err(why), _, Standing::Current) => Checked::Rejected(why),
        }
    }

    /// Puts the connection in its place. `None`: something has changed meanwhile.
    async fn enter(&self, hello: &Hello, proved: Proved) -> Option<Connection> {
        let Proved { device, opening, proof } = proved;
        let stored = device.subs;
        if hello.clean && stored != Subs::default() {
            let entered = self.gate().enter(opening)?;
            self.change(entered, &hello.key, vec![Edit::Subs(Subs::default())]).await.ok()?;
        }
        let subs = if hello.clean { Subs::default() } else { stored };
        let number = self.sessions().number();
        let live = Arc::new(Live::new(&device, number, opening, super::now(), subs).let_in_by(proof.policy));
        self.sessions().enter(&live);
        let connection =
            Connection::new(self.clone(), live, hello.clean, subs != Subs::default(), proof.expires);
        // From here on changes reach the connection by themselves; what changed before is seen now.
        let now = self.registry().get(&hello.key).ok().flatten()?;
        let is_let_in = connection.live().is_let_in(&now) && self.stands(proof.policy);
        if !is_let_in || !self.gate().is_open_as(opening) {
            return None;
        }
        // So is an authority that was taken away meanwhile.
        if now.auth == Auth::Authority && !matches!(self.check(hello), Checked::Good(_)) {
            return None;
        }
        connection.live().knows_desired(now.desired.version);
        Some(connection)
    }

    /// Returns when somebody who came here is to look elsewhere: the hub has been fenced, or has followed another, for as long as
    /// somebody is held for that; or it was fenced and now it is known that another region serves.
    async fn is_elsewhere(&self) {
        let mut phase = self.gate().watch();
        loop {
            let shut = match phase.wait_for(|phase| matches!(phase, Phase::Fenced | Phase::Following)).await {
                Ok(shut) => *shut,
                Err(_) => return,
            };
            let changed = async { phase.wait_for(|phase| *phase != shut).await.map(|phase| *phase) };
            match timeout(self.options().admission.fenced_hold_max, changed).await {
                Err(_) | Ok(Ok(Phase::Following) | Err(_)) => return,
                Ok(Ok(_)) => {}
            }
        }
    }
}

fn rejected(hello: &Hello, why: &Rejected) -> Verdict {
    tracing::info!(device = %hello.key, peer = %hello.peer, %why, "a device was not let in");
    match why {
        Rejected::Host(_) | Rejected::Unknown | Rejected::Disabled | Rejected::Proof(_) => {
            Verdict::Unauthorized
        }
    }
}

async fn changed_or(phase: &mut watch::Receiver<Phase>, at_most: Duration) {
    tokio::select! {
        // An error means that the hub is gone: the caller's next step finds that.
        _ = phase.changed() => {}
        () = sleep(at_most) => {}
    }
}
