use proptest::prelude::*;

use super::*;
use crate::ids::Epoch;

fn standing(incarnation: u64, epoch: u64, since: u64) -> Standing {
    Standing { token: Token::new(incarnation, Epoch(epoch)), since: Moment(since) }
}

#[test]
fn a_name_only_goes_forward() {
    for (known, offered, expected) in [
        (standing(1, 2, 10), standing(1, 3, 20), Verdict::Take),
        (standing(1, 2, 10), standing(1, 2, 10), Verdict::Take),
        (standing(1, 3, 20), standing(1, 2, 10), Verdict::Refuse),
        // Another region's clock may be behind: the token decides.
        (standing(1, 2, 20), standing(1, 3, 10), Verdict::Take),
        // Deleted, and made again under the same name.
        (standing(1, 7, 20), standing(1, 1, 30), Verdict::Take),
        // A restored store has a higher incarnation, whatever its epochs are.
        (standing(1, 7, 20), standing(2, 5, 10), Verdict::Take),
        (standing(2, 5, 10), standing(1, 7, 20), Verdict::Refuse),
    ] {
        assert_eq!(verdict(known, offered), expected, "{known:?} {offered:?}");
    }
}

#[test]
fn uris_lead_to_places() {
    let name = |text: &str| Host::Name(text.to_owned());
    let address = |text: &str| Host::Address(text.parse().unwrap());
    for (uri, scheme, host, port) in [
        ("nbd://127.0.0.1:10810/web-1/root", "nbd", address("127.0.0.1"), Some(10810)),
        ("nbd://192.0.2.7/web-1/root", "nbd", address("192.0.2.7"), Some(10809)),
        ("NBDS://[2001:db8::1]:1/x", "nbds", address("2001:db8::1"), Some(1)),
        ("https://Shop.Example.COM./a?b#c", "https", name("shop.example.com"), Some(443)),
        ("https://user:secret@shop.example.com:8443", "https", name("shop.example.com"), Some(8443)),
        ("amqp+ws://q", "amqp-ws", name("q"), None),
    ] {
        let expected = Place { scheme: scheme.to_owned(), host, port };
        assert_eq!(Place::of(uri), Some(expected), "{uri}");
    }
    for uri in
        ["", "nbd+unix:///x?socket=/run/s", "nbd://:1/x", "nbd://a..b/", "nbd://a:99999/", "a:b", "://h"]
    {
        assert_eq!(Place::of(uri), None, "{uri}");
    }
}

#[test]
fn a_window_gives_clients_time_on_both_of_its_ends() {
    let begin = Moment(WINDOW_SECONDS * 1_000_000 * 7);
    let last = Moment(begin.0 + WINDOW_SECONDS * 1_000_000 - 1);
    assert_eq!(Window::at(begin), Window::at(last));
    assert!(Window::at(begin).not_after().since(last).as_secs() >= GRACE_SECONDS);
}

proptest! {
    #[test]
    fn every_ttl_is_within_the_bounds(wished: u32) {
        let ttl = answer_ttl(wished);
        prop_assert!((TTL_SECONDS_MIN..=TTL_SECONDS_MAX).contains(&ttl));
        let fits = (TTL_SECONDS_MIN..=TTL_SECONDS_MAX).contains(&wished);
        prop_assert_eq!(fits, ttl == wished);
    }

    #[test]
    fn a_serial_rises_with_the_revision_over_the_end_of_its_range(
        incarnation in 0_u64..1 << 40, revision: u64, by in 1_u64..1 << 31
    ) {
        let (before, after) =
            (Serial::of(incarnation, revision), Serial::of(incarnation, revision.wrapping_add(by)));
        prop_assert!(after.is_after(before));
        prop_assert!(!before.is_after(after));
    }

    #[test]
    fn a_serial_rises_over_a_restore(
        incarnation in 0_u64..1 << 40, revision in 0_u64..1 << 30, restored in 0_u64..1 << 30
    ) {
        prop_assert!(Serial::of(incarnation + 1, restored).is_after(Serial::of(incarnation, revision)));
    }

    #[test]
    fn of_two_serials_at_most_one_is_after_the_other(left: u32, right: u32) {
        let (left, right) = (Serial(left), Serial(right));
        prop_assert!(!(left.is_after(right) && right.is_after(left)));
        prop_assert!(!left.is_after(left));
    }

    #[test]
    fn no_text_can_do_harm(text in ".{0,300}") {
        if let Some(Place { host: Host::Name(name), .. }) = Place::of(&text) {
            prop_assert!(name.split('.').all(is_label));
        }
    }

    #[test]
    fn a_refused_record_is_never_the_newer(a in 0_u64..4, b in 0_u64..4, c in 0_u64..4, d in 0_u64..4, t: u64, u: u64) {
        let (known, offered) = (standing(a, b, t), standing(c, d, u));
        if verdict(known, offered) == Verdict::Refuse {
            prop_assert!(offered.token < known.token);
        }
    }
}
