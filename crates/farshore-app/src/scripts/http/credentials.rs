//! What a client presents to be let in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// A user name and a password, coded. Tokens have 100 characters.
const HEADER_BYTES_MAX: usize = 4_096;
/// What is shown to people of a user name.
const USER_CHARS_MAX: usize = 64;

/// A name, which anybody may give, and a password, which counts.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Presented {
    pub(super) user: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Presented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presented").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Reads the `Authorization` header of the scheme `Basic`; `None` when there is none that can be read.
pub(super) fn presented(headers: &HeaderMap) -> Option<Presented> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, coded) = value.split_once(' ')?;
    if value.len() > HEADER_BYTES_MAX || !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // It stands in the journal of a branch, where a line end or a bracket would end it.
    let plain = user.chars().filter(|char| !char.is_control() && !matches!(char, '<' | '>'));
    let user: String = plain.take(USER_CHARS_MAX).collect();
    let user = if user.trim().is_empty() { "git".to_owned() } else { user };
    Some(Presented { user, password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        presented(&headers).map(|presented| (presented.user, presented.password))
    }

    #[test]
    fn any_user_name_is_taken_and_the_password_may_have_colons() {
        let basic = |text: &str| read(&format!("Basic {}", STANDARD.encode(text)));
        assert_eq!(basic("ann:a:b"), Some(("ann".into(), "a:b".into())));
        assert_eq!(basic(":token"), Some(("git".into(), "token".into())));
        assert_eq!(basic("a\n<b>:t"), Some(("ab".into(), "t".into())));
        assert_eq!(basic("nothing"), None);
    }

    #[test]
    fn what_is_not_basic_is_nothing() {
        for value in ["Bearer abc", "Basic", "Basic ???", "Basic /w=="] {
            assert_eq!(read(value), None, "{value}");
        }
        assert_eq!(read(&format!("Basic {}", "A".repeat(5_000))), None);
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", Presented { user: "ann".into(), password: "secret".into() });
        assert!(!shown.contains("secret"), "{shown}");
    }
}
