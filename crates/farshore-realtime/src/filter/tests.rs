//! Which connections pass which filter, and what is said of filters that are none.

use proptest::prelude::*;

use super::*;

mod errors;

/// A connection: `user connection protocol group group …`, `-` for what it has not.
struct Connection(Vec<String>);

impl Connection {
    fn field(&self, at: usize) -> Option<&str> {
        self.0.get(at).map(String::as_str).filter(|text| *text != "-")
    }
}

impl Subject for Connection {
    fn user_id(&self) -> Option<&str> {
        self.field(0)
    }
    fn connection_id(&self) -> &str {
        self.field(1).unwrap_or("")
    }
    fn protocol(&self) -> Option<&str> {
        self.field(2)
    }
    fn in_group(&self, group: &str) -> bool {
        self.0.iter().skip(3).any(|one| one == group)
    }
    fn group_count(&self) -> usize {
        self.0.len().saturating_sub(3)
    }
}

fn ann() -> Connection {
    Connection(["Ann-1", "conn-7", "json.webpubsub.azure.v1", "room", "a b"].map(str::to_owned).to_vec())
}

fn nobody() -> Connection {
    Connection(["-", "conn-8", "-"].map(str::to_owned).to_vec())
}

fn user(name: &str) -> Connection {
    Connection(vec![name.to_owned(), "conn-9".to_owned(), "-".to_owned()])
}

/// Whether Ann and an anonymous connection without groups pass: "ann", "nobody", "both", "none".
fn check(filter: &str, expected: &str) {
    let read = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
    let found = match (read.matches(&ann()), read.matches(&nobody())) {
        (true, true) => "both",
        (true, false) => "ann",
        (false, true) => "nobody",
        (false, false) => "none",
    };
    assert_eq!(found, expected, "{filter}");
}

#[test]
fn names_and_literals() {
    check("", "both");
    check("true", "both");
    check("false", "none");
    check(" true ", "both");
    check("(true)", "both");
    check("((true))", "both");
    check("userId eq 'Ann-1'", "ann");
    check("USERID eq 'Ann-1'", "ann");
    check("userid eq 'Ann-1'", "ann");
    check("userId eq 'ann-1'", "none");
    check("'Ann-1' eq userId", "ann");
    check("connectionId eq 'conn-7'", "ann");
    check("ConnectionID eq 'conn-8'", "nobody");
    check("protocol eq 'json.webpubsub.azure.v1'", "ann");
    check("PROTOCOL eq null", "nobody");
    check("userId eq null", "nobody");
    check("userId ne null", "ann");
    check("null eq null", "both");
    check("null ne null", "none");
    check("null eq userId", "nobody");
    check("connectionId eq null", "none");
    check("groups eq null", "none");
    check("groups eq groups", "both");
    check("1 eq 1", "both");
    check("1 eq 2", "none");
    check("1 ne 2", "both");
    check("1 eq '1'", "none");
    check("1 ne '1'", "both");
    check("true eq true", "both");
    check("true eq 'true'", "none");
    check("-5 eq -5", "both");
    check("+5 eq 5", "both");
    check("-2147483648 lt 2147483647", "both");
    check("007 eq 7", "both");
    check("'' eq ''", "both");
    check("userId eq ''", "none");
    check("'It''s' eq 'It''s'", "both");
    check("'''' eq ''''", "both");
    check("'a''' eq 'a''''b'", "none");
    check("'(' eq '('", "both");
    check("\tuserId\neq\r'Ann-1'", "ann");
    check("userId eq'Ann-1'", "ann");
    check("(userId)eq('Ann-1')", "ann");
}

#[test]
fn logic_binds_as_it_should() {
    check("true and true", "both");
    check("true and false", "none");
    check("false or true", "both");
    check("false or false", "none");
    check("not true", "none");
    check("not false", "both");
    check("not not true", "both");
    check("not (true and false)", "both");
    check("not false and false", "none");
    check("not true or true", "both");
    check("true or true and false", "both");
    check("(true or true) and false", "none");
    check("false and true or true", "both");
    check("false and (true or true)", "none");
    check("true or false and false or false", "both");
    check("userId eq 'Ann-1' and connectionId eq 'conn-7'", "ann");
    check("userId eq 'Ann-1' or connectionId eq 'conn-8'", "both");
    check("not (userId eq 'Ann-1')", "nobody");
    check("not(userId eq 'Ann-1')", "nobody");
    check("userId eq 'Ann-1' eq true", "ann");
    check("1 lt 2 eq true", "both");
    check("1 eq 1 eq (2 eq 2)", "both");
    check("true eq (1 lt 2)", "both");
    check("true eq 'a' in ('a')", "both");
    check("'a' in ('b') eq false", "both");
    check("not ('room' in groups)", "nobody");
    check("not startswith(userId,'A') and connectionId ne 'conn-8'", "none");
    check(
        "length(userId) gt 0 and length(userId) lt 3 or length(userId) gt 4 and length(userId) lt 10",
        "ann",
    );
    check("userId eq 'user1' or (not (startswith(userId,'Ann')))", "nobody");
}

#[test]
fn numbers_compare_and_null_does_not() {
    check("1 gt 0", "both");
    check("1 gt 1", "none");
    check("1 ge 1", "both");
    check("0 ge 1", "none");
    check("0 lt 1", "both");
    check("1 lt 1", "none");
    check("1 le 1", "both");
    check("2 le 1", "none");
    check("-1 lt 0", "both");
    check("null gt 1", "none");
    check("null ge null", "none");
    check("null lt 1", "none");
    check("1 le null", "none");
    check("userId gt null", "none");
    check("not (null gt 1)", "both");
    check("length(userId) gt 4", "ann");
    check("length(userId) gt 5", "none");
    check("length(userId) le 5", "ann");
    check("length(userId) ge 0", "ann");
    check("length(userId) lt 99", "ann");
    check("not (length(userId) gt 5)", "both");
    check("length(userId) eq null", "nobody");
    check("length(userId) ne 5", "nobody");
    check("length(groups) eq 2", "ann");
    check("length(groups) gt 1", "ann");
    check("length(groups) eq 0", "nobody");
    check("length(null) eq null", "both");
    check("length(null) gt 0", "none");
    check("length('') eq 0", "both");
    check("length('äöü') eq 3", "both");
    check("length('😀') eq 2", "both");
}

#[test]
fn membership_in_lists_and_groups() {
    check("'room' in groups", "ann");
    check("'Room' in groups", "none");
    check("'a b' in GROUPS", "ann");
    check("'room' in (groups)", "ann");
    check("userId in groups", "none");
    check("null in groups", "none");
    check("1 in groups", "none");
    check("groups in ('a')", "none");
    check("tolower('ROOM') in groups", "ann");
    check("userId in ('Ann-1', 'bob')", "ann");
    check("userId in ('bob','Ann-1')", "ann");
    check("userId in ('bob')", "none");
    check("userId in('Ann-1')", "ann");
    check("userId in ('ann-1')", "none");
    check("userId in (null)", "nobody");
    check("userId in ('Ann-1', null)", "both");
    check("userId in ()", "none");
    check("null in ()", "none");
    check("null in (null)", "both");
    check("1 in (1, 2)", "both");
    check("3 in (1, 2)", "none");
    check("1 in ('1')", "none");
    check("true in (false, true)", "both");
    check("'Doe, John' in ('Doe, John', 'Alice')", "both");
    check("'O''Brien, Jane' in ('O''Brien, Jane', 'Alice')", "both");
    check("'a)' in ('a)')", "both");
    check("userId in (concat('Ann', '-1'))", "ann");
    check("connectionId in (userId, 'conn-8')", "nobody");
    check("'conn-7' in (connectionId)", "ann");
    check("length(userId) in (4, 5)", "ann");
    check("userId in ('Ann-1') and 'room' in groups", "ann");
    check("'room' in groups or 'x' in groups or 'y' in groups", "ann");
    check("userId eq 'Ann-1' and (not ('quiet' in groups))", "ann");
    check("'a' in ('a') in (true)", "both");
    check("(1 lt 2) in (true)", "both");
    check("1 in ((1))", "both");
}

#[test]
fn functions_of_texts() {
    check("tolower(userId) eq 'ann-1'", "ann");
    check("toupper(userId) eq 'ANN-1'", "ann");
    check("tolower('ÄÖÜ') eq 'äöü'", "both");
    check("toupper('ß') eq 'ß'", "both");
    check("tolower(userId) eq null", "nobody");
    check("tolower(null) eq null", "both");
    check("trim('  a ') eq 'a'", "both");
    check("trim(userId) eq 'Ann-1'", "ann");
    check("trim(null) eq null", "both");
    check("trim(concat(' ', concat(userId, ' '))) eq 'Ann-1'", "ann");
    check("contains(userId, 'nn')", "ann");
    check("contains(userId, 'xx')", "none");
    check("contains(userId, '')", "ann");
    check("contains('', '')", "both");
    check("contains(null, 'a')", "none");
    check("contains('a', null)", "none");
    check("contains(userId, userId)", "ann");
    check("startswith(userId, 'Ann')", "ann");
    check("startswith(userId, 'ann')", "none");
    check("startswith(tolower(userId), 'ann')", "ann");
    check("startswith(protocol, 'json.')", "ann");
    check("endswith(userId, '-1')", "ann");
    check("endswith(userId, '-2')", "none");
    check("not endswith(userId, '-1')", "nobody");
    check("not endswith(userId, 'milk')", "both");
    check("contains(userId, 'nn') eq true", "ann");
    check("indexof(userId, '-') eq 3", "ann");
    check("indexof(userId, 'x') eq -1", "both");
    check("indexof(userId, '-') ge 0", "ann");
    check("indexof(null, 'x') eq -1", "both");
    check("indexof('x', null) eq -1", "both");
    check("indexof('abc', '') eq 0", "both");
    check("indexof('😀x', 'x') eq 2", "both");
    check("concat(userId, '!') eq 'Ann-1!'", "ann");
    check("concat(userId, '!') eq '!'", "nobody");
    check("concat('!', userId) eq '!'", "nobody");
    check("concat(null, null) eq null", "both");
    check("concat(userId, protocol) eq null", "nobody");
    check("concat('a', 'b') eq 'ab'", "both");
    check("length(concat(userId, userId)) eq 10", "ann");
}

#[test]
fn parts_of_texts() {
    check("substring(userId, 0) eq 'Ann-1'", "ann");
    check("substring(userId, 4) eq '1'", "ann");
    check("substring(userId, 5) eq ''", "ann");
    check("substring(userId, 6) eq null", "both");
    check("substring(userId, -1) eq null", "both");
    check("substring(userId, 1, 2) eq 'nn'", "ann");
    check("substring(userId, 1, 0) eq ''", "ann");
    check("substring(userId, 1, 4) eq 'nn-1'", "ann");
    check("substring(userId, 1, 5) eq null", "both");
    check("substring(userId, 1, -1) eq null", "both");
    check("substring(userId, 2147483647) eq null", "both");
    check("substring(userId, 0, 2147483647) eq null", "both");
    check("substring(null, 0) eq null", "both");
    check("substring(connectionId, 5) eq '7'", "ann");
    check("substring(connectionId, length('conn-')) eq '8'", "nobody");
    check("substring(connectionId, indexof(connectionId, '-')) eq '-7'", "ann");
    check("substring('a😀b', 3) eq 'b'", "both");
    check("substring('a😀b', 1, 2) eq '😀'", "both");
    check("length(substring('a😀b', 2)) eq 2", "both");
    check("substring('äöü', 1, 1) eq 'ö'", "both");
}

#[test]
fn users_pass_as_they_do_at_the_official_service() {
    let check = |filter: &str, name: &str, expected: bool| {
        let found = Filter::parse(filter).map(|filter| filter.matches(&user(name)));
        assert_eq!(found, Ok(expected), "{filter} for {name}");
    };
    check("userId eq 'a'", "a", true);
    check("userId eq 'a'", "A", false);
    check("userId eq null", "-", true);
    check("userId in ('user1', 'user2')", "user2", true);
    check("substring(userId, 1, 1) eq 'b'", "abc", true);
    check("substring(userId, 1) eq 'b'", "", false);
    check("substring(userId, 1, 2) eq 'bc'", "a", false);
    check("contains(userId, 'b')", "aaa", false);
    check("substring(userId,5,2) eq 'ab'", "user-ab-de", true);
    check("indexof(userId,'-ab-') ge 0", "user-ab-de", true);
    check("endswith(userId,'de')", "user-ab-de", true);
    check("trim(userId) eq 'user1'", " user1 ", true);
    check("userId eq 'user''1'", "user'1", true);
}

#[test]
fn a_filter_is_stored_as_its_text() {
    let filter = Filter::parse("userId eq 'a'").expect("good");
    assert_eq!(serde_json::to_string(&filter).expect("text"), "\"userId eq 'a'\"");
    let bytes = postcard::to_allocvec(&filter).expect("text");
    assert_eq!(postcard::from_bytes::<Filter>(&bytes).expect("good"), filter);
    assert!(serde_json::from_str::<Filter>("\"userId eq\"").is_err());
    assert_eq!(format!("{:?} {}", filter, filter.text()), "Filter(\"userId eq 'a'\") userId eq 'a'");
}

#[test]
fn as_much_as_is_allowed_is_read_and_no_more() {
    let times = |part: &str, joint: &str, n: usize| vec![part; n].join(joint);
    let nested = |open: &str, middle: &str, close: &str, n: usize| {
        format!("{}{middle}{}", open.repeat(n), close.repeat(n))
    };
    let good = |text: String| Filter::parse(&text).map(|filter| filter.matches(&ann()));
    let refused = |text: String, part: &str| {
        let error = Filter::parse(&text).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    assert_eq!(good(times("'x' in groups", " or ", 100)), Ok(false));
    refused(times("'x' in groups", " or ", 101), "The filter has more than 100 clauses.");
    assert_eq!(good(times("userId eq 'Ann-1'", " and ", 100)), Ok(true));
    refused(times("true", " and ", 101), "The filter has more than 100 clauses.");
    refused(times("1", " eq ", 102), "The filter has more than 100 comparisons.");
    refused(times("'a'", " in ", 102), "The filter has more than 100 in operators.");
    assert_eq!(good(nested("(", "true", ")", 100)), Ok(true));
    refused(nested("(", "true", ")", 101), "Recursion depth exceeded allowed limit.");
    assert_eq!(good(format!("{}true", "not ".repeat(100))), Ok(true));
    refused(format!("{}true", "not ".repeat(101)), "Recursion depth exceeded allowed limit.");
    assert_eq!(good(nested("trim(", "userId", ")", 99) + " eq 'Ann-1'"), Ok(true));
    refused(nested("trim(", "userId", ")", 101) + " eq 'Ann-1'", "Recursion depth exceeded allowed limit.");
    assert_eq!(good(nested("true in (", "true", ")", 100)), Ok(true));
    refused(nested("true in (", "true", ")", 101), "The filter has more than 100 in operators.");
    refused(times("contains('a','b')", ",", 401) + ")", "Syntax error");
    refused(format!("1 in ({})", times("length('a')", ",", 401)), "The filter has more than 400 calls.");
    let users = format!("userId in ({},'Ann-1')", times("'somebody'", ",", 5000));
    assert_eq!(good(users), Ok(true));
    refused(" ".repeat(FILTER_LEN_MAX + 1), "It is longer than 65536 bytes.");
    refused("(".repeat(FILTER_LEN_MAX), "Recursion depth exceeded allowed limit.");
    refused("'".repeat(FILTER_LEN_MAX - 1), "There is an unterminated string literal");
}

/// Everything at its limit at once, in a stack that is half of what a worker thread has.
#[test]
fn the_deepest_filter_needs_little_stack() {
    let comparisons = vec!["1"; 70].join(" eq ");
    let level = "false or true and true eq (";
    let filter = format!("{}{comparisons} eq true{}", level.repeat(24), ")".repeat(24));
    let filter = format!("{}{filter}{}", "not (".repeat(38), ")".repeat(38));
    let run = move || Filter::parse(&filter).map(|filter| filter.matches(&ann()));
    let thread = std::thread::Builder::new().stack_size(1024 * 1024).spawn(run).expect("a thread");
    assert_eq!(thread.join().expect("the stack was enough"), Ok(false));
}

/// Words of the language in any order, many of them nearly filters.
fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "userId",
        "groups",
        "connectionId",
        "protocol",
        "null",
        "true",
        "'a'",
        "'",
        "1",
        "-1",
        "9999999999",
        "(",
        ")",
        ",",
        " and ",
        " or ",
        "not ",
        " eq ",
        " ne ",
        " gt ",
        " in ",
        " in (",
        "length(",
        "tolower(",
        "concat(",
        "substring(",
        "contains(",
        "indexof(",
        "x(",
        "😀",
        "''",
        ".",
        "-",
        " ",
    ]);
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

/// Filters that are right by construction.
fn expression() -> impl Strategy<Value = String> {
    let text =
        prop::sample::select(vec!["userId", "connectionId", "protocol", "'Ann-1'", "'ä😀'", "''", "null"])
            .prop_map(str::to_owned)
            .prop_recursive(3, 8, 2, |inner| {
                prop_oneof![
                    inner.clone().prop_map(|a| format!("tolower({a})")),
                    (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("concat({a}, {b})")),
                    (inner, -2..9, -2..9).prop_map(|(a, i, j)| format!("substring({a}, {i}, {j})")),
                ]
            });
    let leaf = prop_oneof![
        (text.clone(), text.clone()).prop_map(|(a, b)| format!("{a} eq {b}")),
        (text.clone(), text.clone()).prop_map(|(a, b)| format!("contains({a}, {b})")),
        (text.clone(), text.clone()).prop_map(|(a, b)| format!("indexof({a}, {b}) gt 0")),
        (text.clone(), text.clone()).prop_map(|(a, b)| format!("{a} in ({b}, 'x')")),
        text.prop_map(|a| format!("length({a}) gt 3")),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} or ({b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_a_filter_panic(text in any::<String>(), words in words()) {
        for text in [text, words] {
            if let Ok(filter) = Filter::parse(&text) {
                let _ = filter.matches(&ann()) || filter.matches(&nobody());
            }
        }
    }

    #[test]
    fn what_is_right_is_read(text in expression()) {
        let filter = Filter::parse(&text);
        prop_assert!(filter.is_ok(), "{text}: {filter:?}");
    }

    #[test]
    fn the_rules_of_logic_hold(a in expression(), b in expression()) {
        let pairs = [
            (format!("not (({a}) and ({b}))"), format!("not ({a}) or not ({b})")),
            (format!("({a}) ne ({b})"), format!("not (({a}) eq ({b}))")),
            (format!("({a}) in (({b}), true)"), format!("({a}) eq ({b}) or ({a}) eq true")),
        ];
        for (one, other) in pairs {
            if let (Ok(one), Ok(other)) = (Filter::parse(&one), Filter::parse(&other)) {
                for connection in [ann(), nobody()] {
                    prop_assert_eq!(one.matches(&connection), other.matches(&connection), "{:?} {:?}", one, other);
                }
            }
        }
    }
}
