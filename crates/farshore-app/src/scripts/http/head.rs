//! The head of what a CGI program answers: header lines, and among them its status.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Header lines of one answer. Git's have 200 bytes.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;

/// What came before the empty line.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

/// Where the head in `bytes` ends and what follows it begins, once it is all there.
pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let lf = bytes.windows(2).position(|two| two == b"\n\n").map(|at| at + 2);
    [crlf, lf].into_iter().flatten().min()
}

/// Reads a head; `None` when it is none.
pub(super) fn parse(bytes: &[u8]) -> Option<Head> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut head = Head { status: StatusCode::OK, headers: HeaderMap::new() };
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("status") {
            head.status = value.split_whitespace().next()?.parse().ok()?;
            continue;
        }
        let name: HeaderName = name.trim().parse().ok()?;
        head.headers.append(name, HeaderValue::from_str(value.trim()).ok()?);
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_with_either_line_end() {
        for end in ["\n", "\r\n"] {
            let text = format!("Status: 404 Not Found{end}Content-Type: text/plain{end}{end}rest");
            let at = end_of_head(text.as_bytes()).unwrap();
            assert_eq!(&text[at..], "rest");
            let head = parse(&text.as_bytes()[..at]).unwrap();
            assert_eq!(head.status, StatusCode::NOT_FOUND);
            assert_eq!(head.headers["content-type"], "text/plain");
        }
    }

    #[test]
    fn a_head_without_status_is_good_and_nonsense_is_none() {
        assert_eq!(parse(b"Expires: x\n\n").unwrap().status, StatusCode::OK);
        assert!(parse(b"no colon\n\n").is_none());
        assert!(parse(b"Status: many\n\n").is_none());
        assert_eq!(end_of_head(b"a: b\n"), None);
    }
}
