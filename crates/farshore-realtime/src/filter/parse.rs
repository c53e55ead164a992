//! From text to a [`Tree`], by recursive descent. Weakest first: `or`, `and`, comparisons, `in`, `not`.

use super::lexer::{Kind, Lexer, Token};
use super::tree::{Operator, Tree};
use super::{CALLS_MAX, CLAUSES_MAX, DEPTH_MAX, FilterError};

/// The tree of all of `text`.
pub(super) fn parse(text: &str) -> Result<Tree, FilterError> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser =
        Parser { lexer, token, depth: 0, counts: Counts { clauses: 1, comparisons: 0, ins: 0, calls: 0 } };
    let tree = parser.expression(Strength::Or)?;
    match parser.token.kind {
        Kind::End => Ok(tree),
        _ => {
            Err(parser
                .error(parser.token.end, |at, text| format!("Syntax error at position {at} in '{text}'.")))
        }
    }
}

/// How tightly an operator binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    Or,
    And,
    Comparison,
    In,
    /// Stronger than every operator.
    Operand,
}

impl Strength {
    fn of(operator: Operator) -> Self {
        match operator {
            Operator::Or => Self::Or,
            Operator::And => Self::And,
            _ => Self::Comparison,
        }
    }
    fn stronger(self) -> Self {
        match self {
            Self::Or => Self::And,
            Self::And => Self::Comparison,
            Self::Comparison => Self::In,
            Self::In | Self::Operand => Self::Operand,
        }
    }
}

/// What the filter has had so far of each thing that is limited.
#[derive(Debug)]
struct Counts {
    /// One more than there were `and` and `or`.
    clauses: usize,
    comparisons: usize,
    ins: usize,
    calls: usize,
}

#[derive(Debug)]
struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The first token that was not used yet.
    token: Token<'a>,
    depth: usize,
    counts: Counts,
}

impl<'a> Parser<'a> {
    /// Operands joined by operators at least as strong as `weakest`; equals group from the left.
    fn expression(&mut self, weakest: Strength) -> Result<Tree, FilterError> {
        let mut left = self.unary()?;
        while let Kind::Word(word) = self.token.kind {
            if word == "in" && weakest <= Strength::In {
                self.count_operator(None)?;
                self.advance()?;
                left = Tree::In { left: Box::new(left), right: Box::new(self.collection()?) };
                continue;
            }
            let Some(operator) = Operator::of(word).filter(|found| Strength::of(*found) >= weakest) else {
                break;
            };
            self.count_operator(Some(operator))?;
            self.advance()?;
            let right = self.expression(Strength::of(operator).stronger())?;
            left = Tree::Binary { operator, left: Box::new(left), right: Box::new(right) };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Tree, FilterError> {
        if self.token.kind != Kind::Word("not") {
            return self.primary();
        }
        self.nested(|parser| {
            parser.advance()?;
            Ok(Tree::Not(Box::new(parser.unary()?)))
        })
    }

    fn primary(&mut self) -> Result<Tree, FilterError> {
        let token = self.token;
        match token.kind {
            Kind::Open => self.nested(Self::parenthesis),
            Kind::Text(text) => self.leaf(Tree::Text(text.replace("''", "'"))),
            Kind::Number(text) => self.leaf(number(text)),
            Kind::Word(word) => {
                self.advance()?;
                // A space before the parenthesis would make it a name.
                if self.token.kind == Kind::Open && self.token.start == token.end {
                    return self.nested(|parser| parser.call(word));
                }
                Ok(match word {
                    "null" => Tree::Null,
                    "true" => Tree::Bool(true),
                    "false" => Tree::Bool(false),
                    name => Tree::Name(name.to_owned()),
                })
            }
            Kind::End | Kind::Close | Kind::Comma | Kind::Sign => Err(self
                .error(token.start, |at, text| format!("Expression expected at position {at} in '{text}'."))),
        }
    }

    fn parenthesis(&mut self) -> Result<Tree, FilterError> {
        self.advance()?;
        let tree = self.expression(Strength::Or)?;
        if self.token.kind != Kind::Close {
            return Err(self.error(self.token.start, |at, text| {
                format!("')' or operator expected at position {at} in '{text}'.")
            }));
        }
        self.leaf(tree)
    }

    fn call(&mut self, name: &str) -> Result<Tree, FilterError> {
        self.counts.calls += 1;
        self.within(self.counts.calls, CALLS_MAX, "calls")?;
        let arguments = self.items()?;
        Ok(Tree::Call { name: name.to_owned(), arguments })
    }

    /// What may stand to the right of `in`.
    fn collection(&mut self) -> Result<Tree, FilterError> {
        if self.token.kind != Kind::Open {
            return self.primary();
        }
        let start = self.token.start;
        self.nested(|parser| {
            let (items, end) = parser.items_and_end()?;
            Ok(Tree::List { text: parser.lexer.text()[start..end].to_owned(), items })
        })
    }

    fn items(&mut self) -> Result<Vec<Tree>, FilterError> {
        Ok(self.items_and_end()?.0)
    }

    /// Expressions between commas, from the opening parenthesis to where the closing one ends.
    fn items_and_end(&mut self) -> Result<(Vec<Tree>, usize), FilterError> {
        self.advance()?;
        let mut items = Vec::new();
        if self.token.kind != Kind::Close {
            items.push(self.expression(Strength::Or)?);
            while self.token.kind == Kind::Comma {
                self.advance()?;
                items.push(self.expression(Strength::Or)?);
            }
        }
        if self.token.kind != Kind::Close {
            return Err(self.error(self.token.start, |at, text| {
                format!("')' or ',' expected at position {at} in '{text}'.")
            }));
        }
        let end = self.token.end;
        self.advance()?;
        Ok((items, end))
    }

    /// `tree` was all in the token that is current: goes past it.
    fn leaf(&mut self, tree: Tree) -> Result<Tree, FilterError> {
        self.advance()?;
        Ok(tree)
    }

    fn advance(&mut self) -> Result<(), FilterError> {
        self.token = self.lexer.next()?;
        Ok(())
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Tree, FilterError>,
    ) -> Result<Tree, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(FilterError::new(self.lexer.text(), "Recursion depth exceeded allowed limit."));
        }
        let tree = read(self)?;
        self.depth -= 1;
        Ok(tree)
    }

    /// Counts an operator; none is `in`.
    fn count_operator(&mut self, operator: Option<Operator>) -> Result<(), FilterError> {
        let (count, what) = match operator {
            None => (&mut self.counts.ins, "in operators"),
            Some(Operator::And | Operator::Or) => (&mut self.counts.clauses, "clauses"),
            Some(_) => (&mut self.counts.comparisons, "comparisons"),
        };
        *count += 1;
        let count = *count;
        self.within(count, CLAUSES_MAX, what)
    }

    fn within(&self, count: usize, max: usize, what: &str) -> Result<(), FilterError> {
        if count <= max {
            return Ok(());
        }
        Err(FilterError::new(self.lexer.text(), format!("The filter has more than {max} {what}.")))
    }

    fn error(&self, at: usize, detail: impl FnOnce(usize, &str) -> String) -> FilterError {
        self.lexer.error(at, detail)
    }
}

fn number(text: &str) -> Tree {
    text.parse().map_or_else(|_| Tree::Foreign(text.to_owned()), Tree::Int)
}
