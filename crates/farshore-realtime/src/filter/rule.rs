//! What is asked of a connection: a checked filter. Asking cannot fail; what has no answer is null.

use std::borrow::Cow;

use super::Subject;

#[derive(Debug)]
pub(super) enum Rule {
    Null,
    Bool(bool),
    Int(i32),
    Text(Box<str>),
    User,
    Connection,
    Protocol,
    Groups,
    Not(Box<Rule>),
    And(Box<[Rule; 2]>),
    Or(Box<[Rule; 2]>),
    Equal(Box<[Rule; 2]>),
    Compare(Order, Box<[Rule; 2]>),
    InGroups(Box<Rule>),
    /// Texts are sorted, so that a long list of users costs little; the others are asked one by one.
    InList {
        left: Box<Rule>,
        texts: Box<[Box<str>]>,
        others: Box<[Rule]>,
    },
    Call(Function, Box<[Rule]>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    Length,
    ToLower,
    ToUpper,
    Trim,
    Contains,
    StartsWith,
    EndsWith,
    IndexOf,
    Concat,
    Substring,
}

impl Function {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "length" => Self::Length,
            "tolower" => Self::ToLower,
            "toupper" => Self::ToUpper,
            "trim" => Self::Trim,
            "contains" => Self::Contains,
            "startswith" => Self::StartsWith,
            "endswith" => Self::EndsWith,
            "indexof" => Self::IndexOf,
            "concat" => Self::Concat,
            "substring" => Self::Substring,
            _ => return None,
        })
    }

    pub(super) fn takes(self, arguments: usize) -> bool {
        match self {
            Self::Length | Self::ToLower | Self::ToUpper | Self::Trim => arguments == 1,
            Self::Contains | Self::StartsWith | Self::EndsWith | Self::IndexOf | Self::Concat => {
                arguments == 2
            }
            Self::Substring => arguments == 2 || arguments == 3,
        }
    }
}

#[derive(Debug, PartialEq)]
enum Value<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Text(Cow<'a, str>),
    Groups,
}

impl<'a> Value<'a> {
    fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(Cow::Borrowed(text)))
    }
    fn owned(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
    fn count(count: usize) -> Self {
        Self::Int(i32::try_from(count).unwrap_or(i32::MAX))
    }
}

impl Rule {
    pub(super) fn in_list(left: Box<Self>, items: impl Iterator<Item = Self>) -> Self {
        let (mut texts, mut others) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Self::Text(text) => texts.push(text),
                other => others.push(other),
            }
        }
        texts.sort_unstable();
        Self::InList { left, texts: texts.into(), others: others.into() }
    }

    /// Whether the answer for `subject` is true.
    pub(super) fn lets_pass(&self, subject: &dyn Subject) -> bool {
        match self {
            Self::Not(operand) => !operand.lets_pass(subject),
            Self::And(sides) => sides.iter().all(|side| side.lets_pass(subject)),
            Self::Or(sides) => sides.iter().any(|side| side.lets_pass(subject)),
            Self::Equal(sides) => sides[0].value(subject) == sides[1].value(subject),
            Self::Compare(order, sides) => {
                compare(*order, &sides[0].value(subject), &sides[1].value(subject))
            }
            Self::InGroups(left) => {
                matches!(left.value(subject), Value::Text(group) if subject.in_group(&group))
            }
            Self::InList { left, texts, others } => {
                let value = left.value(subject);
                let listed = match &value {
                    Value::Text(text) => texts.binary_search_by(|one| (**one).cmp(text)).is_ok(),
                    _ => false,
                };
                listed || others.iter().any(|other| other.value(subject) == value)
            }
            other => other.value(subject) == Value::Bool(true),
        }
    }

    fn value<'a>(&'a self, subject: &'a dyn Subject) -> Value<'a> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Text(text) => Value::text(Some(text)),
            Self::User => Value::text(subject.user_id()),
            Self::Connection => Value::text(Some(subject.connection_id())),
            Self::Protocol => Value::text(subject.protocol()),
            Self::Groups => Value::Groups,
            Self::Call(function, arguments) => called(*function, arguments, subject),
            logical => Value::Bool(logical.lets_pass(subject)),
        }
    }
}

fn compare(order: Order, left: &Value<'_>, right: &Value<'_>) -> bool {
    let (Value::Int(left), Value::Int(right)) = (left, right) else { return false };
    match order {
        Order::Greater => left > right,
        Order::GreaterOrEqual => left >= right,
        Order::Less => left < right,
        Order::LessOrEqual => left <= right,
    }
}

fn called<'a>(function: Function, arguments: &'a [Rule], subject: &'a dyn Subject) -> Value<'a> {
    let value = |i: usize| arguments.get(i).map_or(Value::Null, |argument| argument.value(subject));
    let texts = || match (value(0), value(1)) {
        (Value::Text(first), Value::Text(second)) => Some((first, second)),
        _ => None,
    };
    match function {
        Function::Length => match value(0) {
            Value::Text(text) => Value::count(utf16_len(&text)),
            Value::Groups => Value::count(subject.group_count()),
            _ => Value::Null,
        },
        Function::ToLower => each_char(value(0), |c| single(c, c.to_lowercase())),
        Function::ToUpper => each_char(value(0), |c| single(c, c.to_uppercase())),
        Function::Trim => match value(0) {
            Value::Text(Cow::Borrowed(text)) => Value::text(Some(text.trim())),
            Value::Text(Cow::Owned(text)) => Value::owned(text.trim().to_owned()),
            _ => Value::Null,
        },
        Function::Contains => Value::Bool(texts().is_some_and(|(text, part)| text.contains(&*part))),
        Function::StartsWith => Value::Bool(texts().is_some_and(|(text, part)| text.starts_with(&*part))),
        Function::EndsWith => Value::Bool(texts().is_some_and(|(text, part)| text.ends_with(&*part))),
        Function::IndexOf => {
            let found = texts().and_then(|(text, part)| text.find(&*part).map(|at| utf16_len(&text[..at])));
            found.map_or(Value::Int(-1), Value::count)
        }
        Function::Concat => match (value(0), value(1)) {
            (Value::Text(first), Value::Text(second)) => Value::Text(first + second),
            (Value::Text(text), _) | (_, Value::Text(text)) => Value::Text(text),
            _ => Value::Null,
        },
        Function::Substring => {
            let length = arguments.get(2).map(|argument| argument.value(subject));
            substring(&value(0), &value(1), length.as_ref()).map_or(Value::Null, Value::owned)
        }
    }
}

/// Lengths and positions count UTF-16 units, as the official service does.
fn utf16_len(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}

/// None if any of it is null or lies outside the text. Half of a character outside the basic plane becomes U+FFFD.
fn substring(text: &Value<'_>, start: &Value<'_>, length: Option<&Value<'_>>) -> Option<String> {
    let (Value::Text(text), Value::Int(start)) = (text, start) else { return None };
    let units: Vec<u16> = text.encode_utf16().collect();
    let rest = units.get(usize::try_from(*start).ok()?..)?;
    let part = match length {
        None => rest,
        Some(Value::Int(length)) => rest.get(..usize::try_from(*length).ok()?)?,
        Some(_) => return None,
    };
    Some(String::from_utf16_lossy(part))
}

fn each_char<'a>(value: Value<'a>, change: impl Fn(char) -> char) -> Value<'a> {
    match value {
        Value::Text(text) => Value::owned(text.chars().map(change).collect()),
        _ => Value::Null,
    }
}

/// The other case where it is one character, as the official service maps it: ß stays ß.
fn single(c: char, mut other: impl Iterator<Item = char>) -> char {
    match (other.next(), other.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}
