//! From a [`Tree`] to a [`Rule`]: every name, function and type is checked on every branch, reached or not, so that a
//! wrong filter is refused before the first connection is asked.

use super::FilterError;
use super::rule::{Function, Order, Rule};
use super::tree::{Operator, Tree};

/// The rule that `tree`, read from `text`, stands for.
pub(super) fn check(tree: &Tree, text: &str) -> Result<Rule, FilterError> {
    let checked = expression(tree).map_err(|wrong| wrong.about(text))?;
    checked.expect(Type::Bool, tree)?;
    Ok(checked.rule)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Null,
    Bool,
    Int,
    Text,
    Collection,
}

impl Type {
    fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Text => "string",
            Self::Collection => "collection",
        }
    }
}

/// A rule and what is known about its values.
struct Checked {
    rule: Rule,
    /// The type of its values that are not null; [`Type::Null`] if all are.
    of: Type,
    /// Null for an anonymous connection without a subprotocol.
    absent: bool,
    /// Its type for such a connection: what the official service shows in errors, and the only one that it checks.
    shown: Type,
}

/// Something wrong, before it is known which part of the filter the error should show.
enum Wrong {
    /// To be shown with the nearest operator or function around it.
    Token(String),
    Known(FilterError),
}

impl From<FilterError> for Wrong {
    fn from(error: FilterError) -> Self {
        Self::Known(error)
    }
}

impl Wrong {
    fn not_supported(tree: &Tree) -> Self {
        Self::Token(format!("Token '{tree}' is not supported."))
    }
    fn invalid(tree: &Tree) -> Self {
        Self::Token(format!("Invalid token '{tree}'."))
    }
    fn about(self, part: impl ToString) -> FilterError {
        match self {
            Self::Token(detail) => FilterError::new(part.to_string(), detail),
            Self::Known(error) => error,
        }
    }
}

impl Checked {
    fn new(rule: Rule, of: Type) -> Self {
        Self { rule, of, absent: false, shown: of }
    }

    /// The result of a function that is null where `absent`.
    fn computed(rule: Rule, of: Type, absent: bool) -> Self {
        Self { rule, of, absent, shown: if absent { Type::Null } else { of } }
    }

    /// Refuses any other type, and null.
    fn expect(&self, expected: Type, part: &Tree) -> Result<(), FilterError> {
        if self.of == expected && self.shown == expected {
            return Ok(());
        }
        Err(mismatch(part, self.shown, expected))
    }

    /// Refuses any other type, but lets null through.
    fn expect_or_null(&self, expected: Type, part: &Tree) -> Result<(), FilterError> {
        if self.of == expected || self.of == Type::Null {
            return Ok(());
        }
        Err(mismatch(part, self.of, expected))
    }
}

fn mismatch(part: &Tree, found: Type, expected: Type) -> FilterError {
    FilterError::new(part.to_string(), format!("Type '{}', expect '{}'.", found.word(), expected.word()))
}

fn expression(tree: &Tree) -> Result<Checked, Wrong> {
    match tree {
        Tree::Null => Ok(Checked::computed(Rule::Null, Type::Null, true)),
        Tree::Bool(value) => Ok(Checked::new(Rule::Bool(*value), Type::Bool)),
        Tree::Int(value) => Ok(Checked::new(Rule::Int(*value), Type::Int)),
        Tree::Text(text) => Ok(Checked::new(Rule::Text(text.as_str().into()), Type::Text)),
        Tree::Name(name) => named(name).ok_or_else(|| Wrong::not_supported(tree)),
        Tree::Foreign(_) => Err(Wrong::not_supported(tree)),
        Tree::List { .. } => Err(Wrong::invalid(tree)),
        Tree::Not(operand) => {
            let operand = expression(operand)?;
            operand.expect(Type::Bool, tree)?;
            Ok(Checked::new(Rule::Not(Box::new(operand.rule)), Type::Bool))
        }
        // These three are shown around what is wrong inside them.
        Tree::Binary { operator, left, right } => {
            binary(tree, *operator, left, right).map_err(|wrong| wrong.about(tree).into())
        }
        Tree::In { left, right } => within(left, right).map_err(|wrong| wrong.about(tree).into()),
        Tree::Call { name, arguments } => {
            call(tree, name, arguments).map_err(|wrong| wrong.about(tree).into())
        }
    }
}

fn named(name: &str) -> Option<Checked> {
    let sometimes = |rule| Checked { rule, of: Type::Text, absent: true, shown: Type::Text };
    Some(match name.to_ascii_lowercase().as_str() {
        "userid" => sometimes(Rule::User),
        "protocol" => sometimes(Rule::Protocol),
        "connectionid" => Checked::new(Rule::Connection, Type::Text),
        "groups" => Checked::new(Rule::Groups, Type::Collection),
        _ => return None,
    })
}

fn binary(tree: &Tree, operator: Operator, left: &Tree, right: &Tree) -> Result<Checked, Wrong> {
    let (left, right) = (expression(left)?, expression(right)?);
    match operator {
        Operator::And | Operator::Or => {
            left.expect(Type::Bool, tree)?;
            right.expect(Type::Bool, tree)?;
        }
        Operator::Equal | Operator::NotEqual => {}
        _ if left.of == Type::Null || right.of == Type::Null => {}
        _ => {
            left.expect_or_null(Type::Int, tree)?;
            right.expect_or_null(Type::Int, tree)?;
        }
    }
    let sides = Box::new([left.rule, right.rule]);
    let rule = match operator {
        Operator::And => Rule::And(sides),
        Operator::Or => Rule::Or(sides),
        Operator::Equal => Rule::Equal(sides),
        Operator::NotEqual => Rule::Not(Box::new(Rule::Equal(sides))),
        Operator::Greater => Rule::Compare(Order::Greater, sides),
        Operator::GreaterOrEqual => Rule::Compare(Order::GreaterOrEqual, sides),
        Operator::Less => Rule::Compare(Order::Less, sides),
        Operator::LessOrEqual => Rule::Compare(Order::LessOrEqual, sides),
    };
    Ok(Checked::new(rule, Type::Bool))
}

/// `left in right`: a list, or the connection's groups, in parentheses or not.
fn within(left: &Tree, right: &Tree) -> Result<Checked, Wrong> {
    let left = Box::new(expression(left)?.rule);
    let items = match right {
        Tree::List { items, .. } => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let checked = items.iter().map(expression).collect::<Result<Vec<_>, _>>()?;
    if let [Checked { of: Type::Collection, .. }] = checked.as_slice() {
        return Ok(Checked::new(Rule::InGroups(left), Type::Bool));
    }
    if !matches!(right, Tree::List { .. }) {
        return Err(Wrong::invalid(right));
    }
    Ok(Checked::new(Rule::in_list(left, checked.into_iter().map(|item| item.rule)), Type::Bool))
}

fn call(tree: &Tree, name: &str, arguments: &[Tree]) -> Result<Checked, Wrong> {
    let function = Function::of(name).ok_or_else(|| Wrong::not_supported(tree))?;
    if !function.takes(arguments.len()) {
        return Err(Wrong::invalid(tree));
    }
    let arguments = arguments.iter().map(expression).collect::<Result<Vec<_>, _>>()?;
    let absent = |i: usize| arguments.get(i).is_some_and(|argument| argument.absent);
    let (of, absent) = match function {
        Function::Length => {
            if !matches!(arguments[0].of, Type::Text | Type::Collection | Type::Null) {
                return Err(Wrong::invalid(tree));
            }
            (Type::Int, absent(0))
        }
        Function::ToLower | Function::ToUpper | Function::Trim => {
            expect_texts(tree, &arguments)?;
            (Type::Text, absent(0))
        }
        Function::Contains | Function::StartsWith | Function::EndsWith => {
            expect_texts(tree, &arguments)?;
            (Type::Bool, false)
        }
        Function::IndexOf => {
            expect_texts(tree, &arguments)?;
            (Type::Int, false)
        }
        Function::Concat => {
            expect_texts(tree, &arguments)?;
            (Type::Text, absent(0) && absent(1))
        }
        Function::Substring => {
            for number in &arguments[1..] {
                number.expect(Type::Int, tree)?;
            }
            expect_texts(tree, &arguments[..1])?;
            (Type::Text, absent(0))
        }
    };
    let rules = arguments.into_iter().map(|argument| argument.rule).collect();
    Ok(Checked::computed(Rule::Call(function, rules), of, absent))
}

fn expect_texts(tree: &Tree, arguments: &[Checked]) -> Result<(), FilterError> {
    arguments.iter().try_for_each(|argument| argument.expect_or_null(Type::Text, tree))
}
