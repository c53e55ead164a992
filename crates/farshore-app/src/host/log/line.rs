//! Lines out of bytes. Pure.

/// A longer line is cut: what follows until its end is left out.
pub(super) const LINE_MAX: usize = 8 * 1024;
/// At the end of a line that was cut.
const CUT: &str = " … (cut)";

/// Takes bytes as they come and gives back whole lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    line: Vec<u8>,
    is_cut: bool,
}

impl Splitter {
    /// Calls `each` with every line that ends in `bytes`.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = LINE_MAX - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.is_cut |= part.len() > room;
            if parts.peek().is_some() {
                self.give(&mut each);
            }
        }
    }

    /// What was not ended by a line's end.
    pub(crate) fn rest(&mut self, mut each: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.give(&mut each);
        }
    }

    fn give(&mut self, each: &mut impl FnMut(&str)) {
        let mut line = readable(&self.line);
        if self.is_cut {
            line.push_str(CUT);
        }
        each(&line);
        self.line.clear();
        self.is_cut = false;
    }
}

/// What a terminal may be shown: text, without colours and other things that terminals obey.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(each) = chars.next() {
        if each == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            // `ESC [ parameters letter`
            while chars.next_if(|next| !('@'..='~').contains(next)).is_some() {}
            chars.next();
        } else if each == '\t' || !each.is_control() {
            out.push(each);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for piece in pieces {
            splitter.feed(piece, |line| lines.push(line.to_owned()));
        }
        splitter.rest(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_come_out_however_the_bytes_come_in() {
        assert_eq!(lines(&[b"one\ntwo\n"]), ["one", "two"]);
        assert_eq!(lines(&[b"o", b"ne", b"\n\ntw", b"o"]), ["one", "", "two"]);
        assert_eq!(lines(&[b"one\r\ntwo"]), ["one", "two"]);
        assert!(lines(&[b"", b""]).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_way_of_cutting_the_bytes_changes_the_lines(
            text in "[a-z\\n\\r\\t\\x1b\\[ü]{0,200}",
            cuts in proptest::collection::vec(0_usize..300, 0..10),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            proptest::prop_assert_eq!(lines(&pieces), lines(&[bytes]));
            let obeyed = |line: &String| line.contains(['\u{1b}', '\r']);
            proptest::prop_assert!(!lines(&[bytes]).iter().any(obeyed));
        }
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_its_limit() {
        let mut splitter = Splitter::default();
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 4096], |_| panic!("no line ended"));
        }
        assert_eq!(splitter.line.len(), LINE_MAX);
        let mut given = Vec::new();
        splitter.feed(b"y\nnext\n", |line| given.push(line.to_owned()));
        assert_eq!(given.len(), 2);
        assert!(given[0].starts_with("xxx") && given[0].ends_with("x … (cut)"));
        assert_eq!(given[1], "next");
        assert_eq!(lines(&[&[b'z'; LINE_MAX], b"\n"]), ["z".repeat(LINE_MAX)]);
    }

    #[test]
    fn a_terminal_is_shown_nothing_that_it_obeys() {
        assert_eq!(
            lines(&[b"\x1b[1;31mred\x1b[0m\tand\x07 bell\x1b]0;title\x07"]),
            ["red\tand bell]0;title"]
        );
        assert_eq!(lines(&[b"\xff\xfe\n"]), ["\u{fffd}\u{fffd}"]);
        assert_eq!(lines(&[b"\x1b["]), [""]);
    }
}
