use super::*;

#[test]
fn protocols_are_known_by_their_names() {
    for (protocol, name) in Protocol::NAMED {
        assert_eq!(Protocol::of(name), Some(protocol));
        assert_eq!(protocol.subprotocol(), Some(name));
        assert_eq!(protocol.is_reliable(), name.contains(".reliable."));
    }
    assert_eq!(Protocol::of("JSON.webpubsub.azure.v1"), Some(Protocol::Json));
    assert_eq!(Protocol::of("mine"), None);
    assert_eq!(Protocol::Simple.subprotocol(), None);
}
