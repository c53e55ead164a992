//! Conditions, and what they mean for one document.
//!
//! A place that a document does not have is neither true nor false: `tags.a != 1` does not find devices without `tags.a`,
//! and neither does its negation. That is how the hubs that SDKs were written for answer.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

/// A place in a document: `tags.place.floor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(pub Vec<String>);

impl Path {
    /// What stands there.
    #[must_use]
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, step| match value {
            Value::Object(map) => map.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    fn is_device_id(&self) -> bool {
        matches!(&self.0[..], [only] if only == "deviceId")
    }
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`, `<>`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

/// The functions that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `IS_DEFINED(place)`
    IsDefined,
    /// `IS_NULL(place)`
    IsNull,
    /// `IS_BOOL(place)`
    IsBool,
    /// `IS_NUMBER(place)`
    IsNumber,
    /// `IS_STRING(place)`
    IsString,
    /// `IS_OBJECT(place)`
    IsObject,
    /// `IS_ARRAY(place)`
    IsArray,
    /// `IS_PRIMITIVE(place)`: text, number, boolean or null
    IsPrimitive,
    /// `STARTSWITH(text, text)`
    StartsWith,
    /// `ENDSWITH(text, text)`
    EndsWith,
    /// `CONTAINS(text, text)`
    Contains,
}

impl Function {
    /// Name and number of arguments of each.
    pub(super) const ALL: [(&'static str, usize, Self); 11] = [
        ("IS_DEFINED", 1, Self::IsDefined),
        ("IS_NULL", 1, Self::IsNull),
        ("IS_BOOL", 1, Self::IsBool),
        ("IS_NUMBER", 1, Self::IsNumber),
        ("IS_STRING", 1, Self::IsString),
        ("IS_OBJECT", 1, Self::IsObject),
        ("IS_ARRAY", 1, Self::IsArray),
        ("IS_PRIMITIVE", 1, Self::IsPrimitive),
        ("STARTSWITH", 2, Self::StartsWith),
        ("ENDSWITH", 2, Self::EndsWith),
        ("CONTAINS", 2, Self::Contains),
    ];
}

/// A condition, or part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// All of these.
    All(Vec<Expression>),
    /// Any of these.
    Any(Vec<Expression>),
    /// Not this.
    Not(Box<Expression>),
    /// Two values compared.
    Compare(Comparison, Box<Expression>, Box<Expression>),
    /// One of a list; `IN`.
    Among(Box<Expression>, Vec<Value>),
    /// A function of values.
    Call(Function, Vec<Expression>),
    /// What stands at a place.
    Place(Path),
    /// A value as written.
    Literal(Value),
}

impl Expression {
    /// Whether this is true of a document; what is undefined is not.
    #[must_use]
    pub fn holds(&self, document: &Value) -> bool {
        self.truth(document) == Some(true)
    }

    /// True, false or undefined. Recursion is bounded by the parser.
    fn truth(&self, document: &Value) -> Option<bool> {
        self.value(document)?.as_bool()
    }

    fn value<'a>(&'a self, document: &'a Value) -> Option<Cow<'a, Value>> {
        let truth = match self {
            Self::Literal(value) => return Some(Cow::Borrowed(value)),
            Self::Place(path) => return path.find(document).map(Cow::Borrowed),
            Self::All(parts) => decided(parts, document, false),
            Self::Any(parts) => decided(parts, document, true),
            Self::Not(inner) => inner.truth(document).map(|truth| !truth),
            Self::Compare(how, left, right) => {
                compare(*how, &*left.value(document)?, &*right.value(document)?)
            }
            Self::Among(item, list) => {
                let item = item.value(document)?;
                Some(list.iter().any(|value| is_equal(&item, value)))
            }
            Self::Call(function, arguments) => call(*function, arguments, document),
        };
        truth.map(|truth| Cow::Owned(Value::Bool(truth)))
    }

    /// The only device ids of which this can be true, where it says so.
    pub(super) fn device_ids(&self) -> Option<Vec<&str>> {
        match self {
            Self::All(parts) => parts.iter().find_map(Self::device_ids),
            Self::Compare(Comparison::Equal, left, right) => match (&**left, &**right) {
                (Self::Place(path), Self::Literal(Value::String(id)))
                | (Self::Literal(Value::String(id)), Self::Place(path))
                    if path.is_device_id() =>
                {
                    Some(vec![id])
                }
                _ => None,
            },
            Self::Among(item, list) => match &**item {
                Self::Place(path) if path.is_device_id() => {
                    Some(list.iter().filter_map(Value::as_str).collect())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// `decisive` as soon as one part is; the opposite when all parts are; otherwise undefined.
fn decided(parts: &[Expression], document: &Value, decisive: bool) -> Option<bool> {
    let mut result = Some(!decisive);
    for part in parts {
        match part.truth(document) {
            Some(truth) if truth == decisive => return Some(decisive),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

fn compare(how: Comparison, left: &Value, right: &Value) -> Option<bool> {
    match how {
        Comparison::Equal => Some(is_equal(left, right)),
        Comparison::Unequal => Some(!is_equal(left, right)),
        Comparison::Less => order(left, right).map(Ordering::is_lt),
        Comparison::AtMost => order(left, right).map(Ordering::is_le),
        Comparison::More => order(left, right).map(Ordering::is_gt),
        Comparison::AtLeast => order(left, right).map(Ordering::is_ge),
    }
}

/// Numbers are equal by value, however they are written.
fn is_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => order(left, right) == Some(Ordering::Equal),
        _ => left == right,
    }
}

/// Only numbers, and only texts, have an order.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        _ => None,
    }
}

fn call(function: Function, arguments: &[Expression], document: &Value) -> Option<bool> {
    let value = |index: usize| arguments.get(index).and_then(|argument| argument.value(document));
    let Some(first) = value(0) else {
        return (function == Function::IsDefined).then_some(false);
    };
    let texts = |test: fn(&str, &str) -> bool| Some(test(first.as_str()?, value(1)?.as_str()?));
    match function {
        Function::IsDefined => Some(true),
        Function::IsNull => Some(first.is_null()),
        Function::IsBool => Some(first.is_boolean()),
        Function::IsNumber => Some(first.is_number()),
        Function::IsString => Some(first.is_string()),
        Function::IsObject => Some(first.is_object()),
        Function::IsArray => Some(first.is_array()),
        Function::IsPrimitive => Some(!first.is_object() && !first.is_array()),
        Function::StartsWith => texts(|text, part| text.starts_with(part)),
        Function::EndsWith => texts(|text, part| text.ends_with(part)),
        Function::Contains => texts(|text, part| text.contains(part)),
    }
}
