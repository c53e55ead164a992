//! What a filter says, before anything is known about names and types. Its `Display` is how errors show a part of it.

use std::fmt;

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number of 32 bits.
    Int(i32),
    /// A text in quotes, without them.
    Text(String),
    /// A literal that the language knows and filters do not: `1.5`, `7L`.
    Foreign(String),
    /// A name: `userId`, or one that nobody knows.
    Name(String),
    /// `name(arguments)`
    Call {
        /// The function's name.
        name: String,
        /// In their order.
        arguments: Vec<Tree>,
    },
    /// `not operand`
    Not(Box<Tree>),
    /// `left operator right`
    Binary {
        /// What joins them.
        operator: Operator,
        /// Before it.
        left: Box<Tree>,
        /// After it.
        right: Box<Tree>,
    },
    /// `left in right`
    In {
        /// What is looked for.
        left: Box<Tree>,
        /// Where.
        right: Box<Tree>,
    },
    /// `(item, item)`, only to the right of `in`.
    List {
        /// As it is written, parentheses included.
        text: String,
        /// What is between the commas.
        items: Vec<Tree>,
    },
}

/// Joins two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `or`
    Or,
    /// `and`
    And,
    /// `eq`
    Equal,
    /// `ne`
    NotEqual,
    /// `gt`
    Greater,
    /// `ge`
    GreaterOrEqual,
    /// `lt`
    Less,
    /// `le`
    LessOrEqual,
}

impl Operator {
    const ALL: [Self; 8] = [
        Self::Or,
        Self::And,
        Self::Equal,
        Self::NotEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::Less,
        Self::LessOrEqual,
    ];

    /// The operator that is written so, in this case.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| operator.word() == word)
    }

    /// How it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Equal => "eq",
            Self::NotEqual => "ne",
            Self::Greater => "gt",
            Self::GreaterOrEqual => "ge",
            Self::Less => "lt",
            Self::LessOrEqual => "le",
        }
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Foreign(text) | Self::Name(text) | Self::List { text, .. } => f.write_str(text),
            Self::Call { name, arguments } => {
                write!(f, "{name}(")?;
                for (i, argument) in arguments.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{argument}")?;
                }
                f.write_str(")")
            }
            Self::Not(operand) => write!(f, "not {}", Wrapped(operand)),
            Self::Binary { operator, left, right } => {
                write!(f, "{} {} {}", Wrapped(left), operator.word(), Wrapped(right))
            }
            Self::In { left, right } => write!(f, "{left} in {right}"),
        }
    }
}

/// In parentheses where it has an operator.
struct Wrapped<'a>(&'a Tree);

impl fmt::Display for Wrapped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Tree::Not(_) | Tree::Binary { .. } | Tree::In { .. } => write!(f, "({})", self.0),
            other => write!(f, "{other}"),
        }
    }
}
