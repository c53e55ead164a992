//! Links under TLS: who may speak for whom.

use super::*;
use crate::authority::Authority;
use crate::link::{ClientConfigs, LinkListener, ListenerOptions, ListenerTls};

/// What becomes of a link to paris whose dialer says that it is oslo, and has a certificate of this region.
async fn dial_as(shown: Option<&str>) -> (Side, Side, LinkListener) {
    let authority = Authority::new();
    let (paris, oslo) = (authority.vouch_for("paris"), authority.vouch_for("oslo"));
    let shown = shown.map(region);
    let listener = LinkListener::bind(ListenerOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        secret: Secret::new("secret"),
        tls: Some(ListenerTls {
            config: authority.server(&paris),
            region_of: Arc::new(move |_| shown.clone()),
        }),
    });
    let listener = listener.await.unwrap();
    let client = authority.client(&oslo);
    let dials = Some(ClientConfigs(Arc::new(move |_| Arc::clone(&client))));
    let own = Side::sealed("paris", "oslo", None, Some(&listener));
    let theirs = Side::sealed("oslo", "paris", dials, None);
    theirs.link.dial(Some(listener.local_addr().to_string())).await;
    (own, theirs, listener)
}

#[tokio::test]
async fn a_node_speaks_for_the_region_of_its_certificate() {
    let (paris, oslo, _listener) = dial_as(Some("oslo")).await;
    level(&paris, &oslo).await;
}

#[tokio::test]
async fn a_node_of_another_region_is_refused_whatever_it_says() {
    for (shown, why) in
        [(Some("bergen"), "a node of bergen cannot speak for oslo"), (None, "names no region")]
    {
        let (paris, oslo, _listener) = dial_as(shown).await;
        let says = |side: &Side| side.shared.progress().note.as_ref().is_some_and(|note| note.contains(why));
        eventually(why, || says(&oslo)).await;
        assert_eq!(paris.shared.applied(), None);
        assert!(!paris.hub.is_partner_here());
    }
}
