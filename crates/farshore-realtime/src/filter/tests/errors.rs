//! What is said of filters that are none: clients show it to people, so it is compared to the letter.

use super::super::*;

/// The whole error, without its frame where it is about the whole filter.
fn check(filter: &str, expected: &str) {
    let error = match Filter::parse(filter) {
        Ok(_) => panic!("{filter} was read"),
        Err(error) => error,
    };
    let found = if error.about == filter { error.detail } else { error.to_string() };
    assert_eq!(found, expected, "{filter}");
}

#[test]
fn the_whole_error_is_that_of_the_official_service() {
    let whole = |filter: &str| Filter::parse(filter).map_err(|error| error.to_string()).map(|_| ());
    let check = |filter: &str, expected: &str| assert_eq!(whole(filter), Err(expected.to_owned()));
    check(
        "invalid filter",
        "Invalid syntax for 'invalid filter': Syntax error at position 14 in 'invalid filter'. (Parameter 'filter')",
    );
    check("( not 'a' )", "Invalid syntax for 'not 'a'': Type 'string', expect 'bool'. (Parameter 'filter')");
    check(
        "userId lt 1",
        "Invalid syntax for 'userId lt 1': Type 'string', expect 'int'. (Parameter 'filter')",
    );
    check(
        "invalid(ab,c)",
        "Invalid syntax for 'invalid(ab,c)': Token 'invalid(ab,c)' is not supported. (Parameter 'filter')",
    );
    check("ab eq 1", "Invalid syntax for 'ab eq 1': Token 'ab' is not supported. (Parameter 'filter')");
    check(
        "not length(userId) gt 5",
        "Invalid syntax for 'not length(userId)': Type 'null', expect 'bool'. (Parameter 'filter')",
    );
}

#[test]
fn positions_point_at_what_is_wrong() {
    check(" ", "Expression expected at position 1 in ' '.");
    check("userId eq", "Expression expected at position 9 in 'userId eq'.");
    check("userId eq ", "Expression expected at position 10 in 'userId eq '.");
    check("userId eq )", "Expression expected at position 10 in 'userId eq )'.");
    check("()", "Expression expected at position 1 in '()'.");
    check(")", "Expression expected at position 0 in ')'.");
    check(",", "Expression expected at position 0 in ','.");
    check("=", "Expression expected at position 0 in '='.");
    check("not", "Expression expected at position 3 in 'not'.");
    check("true and", "Expression expected at position 8 in 'true and'.");
}

#[test]
fn syntax_errors() {
    check("true true", "Syntax error at position 9 in 'true true'.");
    check("true)", "Syntax error at position 5 in 'true)'.");
    check("true )", "Syntax error at position 6 in 'true )'.");
    check("userId = 'a'", "Syntax error at position 8 in 'userId = 'a''.");
    check("userId EQ 'a'", "Syntax error at position 9 in 'userId EQ 'a''.");
    check("true AND true", "Syntax error at position 8 in 'true AND true'.");
    check("userId 'a'", "Syntax error at position 10 in 'userId 'a''.");
    check("guid'a'", "Syntax error at position 7 in 'guid'a''.");
    check("length (userId)", "Syntax error at position 8 in 'length (userId)'.");
    check("1 add 2", "Syntax error at position 5 in '1 add 2'.");
    check("userId/x", "Syntax error at position 7 in 'userId/x'.");
    check("'ä😀' x", "Syntax error at position 7 in ''ä😀' x'.");
    check("(true", "')' or operator expected at position 5 in '(true'.");
    check("(true true)", "')' or operator expected at position 6 in '(true true)'.");
    check("(true,true)", "')' or operator expected at position 5 in '(true,true)'.");
    check("length(userId", "')' or ',' expected at position 13 in 'length(userId'.");
    check("length('a' 'b')", "')' or ',' expected at position 11 in 'length('a' 'b')'.");
    check("userId in ('a'", "')' or ',' expected at position 14 in 'userId in ('a''.");
    check("userId in ('a',)", "Expression expected at position 15 in 'userId in ('a',)'.");
    check("userId in (,'a')", "Expression expected at position 11 in 'userId in (,'a')'.");
    check("userId in ('a',,'b')", "Expression expected at position 15 in 'userId in ('a',,'b')'.");
    check("userId in", "Expression expected at position 9 in 'userId in'.");
    check("'a", "There is an unterminated string literal at position 2 in ''a'.");
    check(
        "userId eq 'it''s",
        "There is an unterminated string literal at position 16 in 'userId eq 'it''s'.",
    );
    check("'''", "There is an unterminated string literal at position 3 in '''''.");
    check("#", "Syntax error: character '#' is not valid at position 0 in '#'.");
    check("true & true", "Syntax error: character '&' is not valid at position 5 in 'true & true'.");
    check("'😀' ~", "Syntax error: character '~' is not valid at position 5 in ''😀' ~'.");
    check(
        "userId eq \"a\"",
        "Syntax error: character '\"' is not valid at position 10 in 'userId eq \"a\"'.",
    );
    check("\0", "Syntax error: character '\0' is not valid at position 0 in '\0'.");
    check("- 1 eq 1", "Expression expected at position 0 in '- 1 eq 1'.");
    check("1 eq -", "Expression expected at position 5 in '1 eq -'.");
    check("true;true", "Syntax error: character ';' is not valid at position 4 in 'true;true'.");
}

#[test]
fn unknown_names_and_functions() {
    check("ab", "Token 'ab' is not supported.");
    check("user eq 'a'", "Token 'user' is not supported.");
    check("user.id eq 'a'", "Token 'user.id' is not supported.");
    check("True", "Token 'True' is not supported.");
    check("NULL eq userId", "Token 'NULL' is not supported.");
    check("$it eq 1", "Token '$it' is not supported.");
    check("and", "Token 'and' is not supported.");
    check("(not ab)", "Token 'ab' is not supported.");
    check("not ab", "Token 'ab' is not supported.");
    check(
        "true or ab eq 1",
        "Invalid syntax for 'ab eq 1': Token 'ab' is not supported. (Parameter 'filter')",
    );
    check("userId in (ab)", "Token 'ab' is not supported.");
    check(
        "length(ab) gt 1",
        "Invalid syntax for 'length(ab)': Token 'ab' is not supported. (Parameter 'filter')",
    );
    check(
        "Length(userId) gt 1",
        "Invalid syntax for 'Length(userId)': Token 'Length(userId)' is not supported. (Parameter 'filter')",
    );
    check("now()", "Token 'now()' is not supported.");
    check("userId eq 1.5", "Token '1.5' is not supported.");
    check("userId eq 7L", "Token '7L' is not supported.");
    check("userId eq 2147483648", "Token '2147483648' is not supported.");
    check("0x1F eq 1", "Token '0x1F' is not supported.");
    check("1.5 eq 1", "Token '1.5' is not supported.");
    // What can never be reached is checked all the same.
    check(
        "true or ab eq 1 or true",
        "Invalid syntax for 'ab eq 1': Token 'ab' is not supported. (Parameter 'filter')",
    );
    check(
        "false and userId lt 1",
        "Invalid syntax for 'userId lt 1': Type 'string', expect 'int'. (Parameter 'filter')",
    );
}

#[test]
fn operators_want_their_types() {
    check("userId", "Type 'string', expect 'bool'.");
    check("'a'", "Type 'string', expect 'bool'.");
    check("1", "Type 'int', expect 'bool'.");
    check("null", "Type 'null', expect 'bool'.");
    check("groups", "Type 'collection', expect 'bool'.");
    check("length(userId)", "Type 'null', expect 'bool'.");
    check("length(connectionId)", "Type 'int', expect 'bool'.");
    check("tolower(connectionId)", "Type 'string', expect 'bool'.");
    check("not userId", "Type 'string', expect 'bool'.");
    check("not 1", "Type 'int', expect 'bool'.");
    check("not null", "Type 'null', expect 'bool'.");
    check("not groups", "Type 'collection', expect 'bool'.");
    check("true and 1", "Invalid syntax for 'True and 1': Type 'int', expect 'bool'. (Parameter 'filter')");
    check(
        "false or 'a'",
        "Invalid syntax for 'False or 'a'': Type 'string', expect 'bool'. (Parameter 'filter')",
    );
    check(
        "userId and true",
        "Invalid syntax for 'userId and True': Type 'string', expect 'bool'. (Parameter 'filter')",
    );
    check(
        "userId eq 'a' and 1",
        "Invalid syntax for '(userId eq 'a') and 1': Type 'int', expect 'bool'. (Parameter 'filter')",
    );
    check(
        "not 'a' in groups",
        "Invalid syntax for 'not 'a'': Type 'string', expect 'bool'. (Parameter 'filter')",
    );
    check("userId gt 'a'", "Type 'string', expect 'int'.");
    check("1 lt 'a'", "Type 'string', expect 'int'.");
    check("groups gt 1", "Type 'collection', expect 'int'.");
    check("1 ge true", "Invalid syntax for '1 ge True': Type 'bool', expect 'int'. (Parameter 'filter')");
    check("tolower(userId) lt 1", "Type 'string', expect 'int'.");
    check(
        "1 eq 1 lt 2",
        "Invalid syntax for '(1 eq 1) lt 2': Type 'bool', expect 'int'. (Parameter 'filter')",
    );
}

#[test]
fn functions_want_their_types() {
    check(
        "tolower(1) eq 'a'",
        "Invalid syntax for 'tolower(1)': Type 'int', expect 'string'. (Parameter 'filter')",
    );
    check(
        "trim(groups) eq 'a'",
        "Invalid syntax for 'trim(groups)': Type 'collection', expect 'string'. (Parameter 'filter')",
    );
    check(
        "contains(userId, 1)",
        "Invalid syntax for 'contains(userId,1)': Type 'int', expect 'string'. (Parameter 'filter')",
    );
    check(
        "contains(groups, 'a')",
        "Invalid syntax for 'contains(groups,'a')': Type 'collection', expect 'string'. (Parameter 'filter')",
    );
    check(
        "concat('a', true) eq 'a'",
        "Invalid syntax for 'concat('a',True)': Type 'bool', expect 'string'. (Parameter 'filter')",
    );
    check(
        "substring(userId, 'a') eq 'b'",
        "Invalid syntax for 'substring(userId,'a')': Type 'string', expect 'int'. (Parameter 'filter')",
    );
    check(
        "substring(userId, null) eq 'b'",
        "Invalid syntax for 'substring(userId,null)': Type 'null', expect 'int'. (Parameter 'filter')",
    );
    check(
        "substring(1, 1) eq 'b'",
        "Invalid syntax for 'substring(1,1)': Type 'int', expect 'string'. (Parameter 'filter')",
    );
    check(
        "length(1) eq 1",
        "Invalid syntax for 'length(1)': Invalid token 'length(1)'. (Parameter 'filter')",
    );
    check(
        "length(true) eq 1",
        "Invalid syntax for 'length(True)': Invalid token 'length(True)'. (Parameter 'filter')",
    );
    check(
        "length(length(userId)) eq 1",
        "Invalid syntax for 'length(length(userId))': Invalid token 'length(length(userId))'. (Parameter 'filter')",
    );
    check("length() eq 1", "Invalid syntax for 'length()': Invalid token 'length()'. (Parameter 'filter')");
    check(
        "length('a','b') eq 1",
        "Invalid syntax for 'length('a','b')': Invalid token 'length('a','b')'. (Parameter 'filter')",
    );
    check("contains(userId)", "Invalid token 'contains(userId)'.");
    check(
        "substring(userId) eq 'a'",
        "Invalid syntax for 'substring(userId)': Invalid token 'substring(userId)'. (Parameter 'filter')",
    );
    check("'a' in userId", "Invalid token 'userId'.");
    check("'a' in 'a'", "Invalid token ''a''.");
    check("'a' in 1", "Invalid token '1'.");
    check(
        "'a' in ('b' in 'c')",
        "Invalid syntax for ''b' in 'c'': Invalid token ''c''. (Parameter 'filter')",
    );
}
