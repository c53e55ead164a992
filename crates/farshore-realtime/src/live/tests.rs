//! Promises, whatever order the news of the other region come in.

use super::*;
use crate::frames::{Data, Message, Sender};
use crate::token::AccessKey;

fn hub() -> Arc<LiveHub> {
    let keys = AccessKeys { primary: AccessKey::of([1; 32]), secondary: AccessKey::of([2; 32]) };
    let settings = Settings {
        version: 1,
        hub: HubName::parse("chat").unwrap(),
        keys,
        audiences: Vec::new(),
        handlers: Vec::new(),
        sharing: Sharing::ActivePassive,
        members: Vec::new(),
    };
    let hub = LiveHub::new(settings, Handlers::new(), true);
    hub.serve(true);
    hub
}

/// A message that the other region must know of.
async fn ask(hub: &Arc<LiveHub>) -> Answer {
    let mut message = Message::new(Sender::Server, Data::text("hello"));
    message.id = Some(rand::random());
    let call = Call::Send { to: Scope::All, message: Arc::new(message), exclude: Vec::new(), filter: None };
    hub.ask(call).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_late_word_of_a_region_that_is_no_partner_any_more_holds_nobody_up() {
    let hub = hub();
    hub.partner_has(Position(0));
    assert!(hub.is_partner_here());
    hub.set_partner(false);
    hub.partner_has(Position(0));
    let asked = tokio::time::timeout(Duration::from_secs(1), ask(&hub)).await;
    assert_eq!(asked, Ok(Answer::Done), "it waits for nobody");
}
