//! From text to a query, by recursive descent.

use std::fmt;

use serde_json::Value;

use super::expression::{Comparison, Expression, Function, Path};
use super::word::{Word, words};
use super::{Query, Select, Source};

/// Longest query, in bytes. With [`DEPTH_MAX`] it bounds what one question can cost.
pub const QUERY_LEN_MAX: usize = 16 * 1024;

/// Deepest nesting of brackets, `NOT`s and calls: far beyond what people write, far within the stack.
pub const DEPTH_MAX: usize = 32;

/// Most values in one list after `IN`.
pub const LIST_LEN_MAX: usize = 1000;

/// A query that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadQuery {
    /// Where, in bytes from the beginning.
    pub position: usize,
    /// What is wrong and what to write.
    pub why: String,
}

impl BadQuery {
    pub(super) fn at(position: usize, why: &str) -> Self {
        Self { position, why: why.to_owned() }
    }
}

impl fmt::Display for BadQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the query is wrong at position {}: {}", self.position, self.why)
    }
}

/// A whole query.
pub(super) fn query(text: &str) -> Result<Query, BadQuery> {
    let mut parser = Parser::new(text)?;
    parser.keyword("SELECT")?;
    let select = parser.select()?;
    parser.keyword("FROM")?;
    let source = parser.source()?;
    let condition = if parser.take_keyword("WHERE") { Some(parser.any(0)?) } else { None };
    parser.end()?;
    let mut query = Query { select, source, condition };
    if let Some(alias) = parser.alias {
        strip_alias(&mut query, &alias);
    }
    Ok(query)
}

/// Only a condition.
pub(super) fn condition(text: &str) -> Result<Expression, BadQuery> {
    let mut parser = Parser::new(text)?;
    let condition = parser.any(0)?;
    parser.end()?;
    Ok(condition)
}

struct Parser {
    words: Vec<(usize, Word)>,
    next: usize,
    end: usize,
    alias: Option<String>,
}

impl Parser {
    fn new(text: &str) -> Result<Self, BadQuery> {
        if text.len() > QUERY_LEN_MAX {
            return Err(BadQuery::at(QUERY_LEN_MAX, "it is longer than 16 KiB"));
        }
        Ok(Self { words: words(text)?, next: 0, end: text.len(), alias: None })
    }

    fn peek(&self) -> Option<&Word> {
        self.words.get(self.next).map(|(_, word)| word)
    }

    fn position(&self) -> usize {
        self.words.get(self.next).map_or(self.end, |(position, _)| *position)
    }

    fn fail<T>(&self, why: &str) -> Result<T, BadQuery> {
        Err(BadQuery::at(self.position(), why))
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Some(Word::Name(name)) if name.eq_ignore_ascii_case(keyword))
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.is_keyword(keyword);
        self.next += usize::from(found);
        found
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), BadQuery> {
        if self.take_keyword(keyword) { Ok(()) } else { self.fail(&format!("{keyword} is expected here")) }
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Word::Sign(found)) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &str) -> Result<(), BadQuery> {
        if self.take_sign(sign) { Ok(()) } else { self.fail(&format!("{sign:?} is expected here")) }
    }

    fn end(&mut self) -> Result<(), BadQuery> {
        while self.take_sign(";") {}
        if self.peek().is_none() {
            return Ok(());
        }
        for unsupported in ["GROUP", "ORDER", "HAVING", "JOIN", "LIMIT", "OFFSET"] {
            if self.is_keyword(unsupported) {
                return self.fail(&format!(
                    "{unsupported} is not supported: page through the result and do it there"
                ));
            }
        }
        self.fail("the query should end here, or go on with AND or OR")
    }

    fn select(&mut self) -> Result<Select, BadQuery> {
        if self.take_sign("*") {
            return Ok(Select::All);
        }
        for unsupported in ["TOP", "DISTINCT", "AVG", "SUM", "MIN", "MAX"] {
            if self.is_keyword(unsupported) {
                return self.fail(&format!("{unsupported} is not supported: ask for fields, * or COUNT()"));
            }
        }
        if self.is_keyword("COUNT") && matches!(self.words.get(self.next + 1), Some((_, Word::Sign("(")))) {
            return self.count();
        }
        let mut fields = Vec::new();
        loop {
            let path = self.path()?;
            let name = match self.alias_name()? {
                Some(name) => name,
                None => path.0.last().cloned().unwrap_or_default(),
            };
            fields.push((name, path));
            if !self.take_sign(",") {
                return Ok(Select::Fields(fields));
            }
        }
    }

    fn count(&mut self) -> Result<Select, BadQuery> {
        self.next += 2;
        if !self.take_sign("*") && matches!(self.peek(), Some(Word::Number(_))) {
            self.next += 1;
        }
        self.sign(")")?;
        // What the hubs that SDKs were written for call a value without a name.
        let name = self.alias_name()?.unwrap_or_else(|| "$1".to_owned());
        if self.take_sign(",") {
            return self.fail("COUNT() stands alone: grouping is not supported");
        }
        Ok(Select::Count(name))
    }

    fn alias_name(&mut self) -> Result<Option<String>, BadQuery> {
        if !self.take_keyword("AS") {
            return Ok(None);
        }
        self.name("a name is expected after AS").map(Some)
    }

    fn name(&mut self, why: &str) -> Result<String, BadQuery> {
        match self.peek() {
            Some(Word::Name(name)) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            _ => self.fail(why),
        }
    }

    fn source(&mut self) -> Result<Source, BadQuery> {
        let position = self.position();
        let path = self.path()?;
        let source = match path.0.join(".").to_ascii_lowercase().as_str() {
            "devices" => Source::Devices,
            "devices.modules" => Source::Modules,
            "devices.jobs" => Source::Jobs,
            _ => return Err(BadQuery::at(position, "choose from devices, devices.modules and devices.jobs")),
        };
        let is_alias = matches!(self.peek(), Some(Word::Name(name)) if !is_reserved(name));
        if self.is_keyword("AS") || is_alias {
            self.take_keyword("AS");
            self.alias = Some(self.name("a name is expected after AS")?);
        }
        Ok(source)
    }

    fn any(&mut self, depth: usize) -> Result<Expression, BadQuery> {
        let mut parts = vec![self.all(depth)?];
        while self.take_keyword("OR") {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Expression, BadQuery> {
        let mut parts = vec![self.not(depth)?];
        while self.take_keyword("AND") {
            parts.push(self.not(depth)?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn not(&mut self, depth: usize) -> Result<Expression, BadQuery> {
        if depth >= DEPTH_MAX {
            return self.fail("it is nested deeper than 32");
        }
        if self.take_keyword("NOT") {
            return Ok(Expression::Not(Box::new(self.not(depth + 1)?)));
        }
        self.comparison(depth)
    }

    fn comparison(&mut self, depth: usize) -> Result<Expression, BadQuery> {
        let left = self.operand(depth)?;
        let Some(how) = self.take_comparison() else {
            let is_negated = self.is_keyword("NOT");
            self.next += usize::from(is_negated);
            if self.take_keyword("IN") {
                let among = Expression::Among(Box::new(left), self.list()?);
                return Ok(if is_negated { Expression::Not(Box::new(among)) } else { among });
            }
            if !is_negated && self.take_keyword("NIN") {
                let among = Expression::Among(Box::new(left), self.list()?);
                return Ok(Expression::Not(Box::new(among)));
            }
            return if is_negated { self.fail("IN is expected after NOT") } else { Ok(left) };
        };
        let right = self.operand(depth)?;
        Ok(Expression::Compare(how, Box::new(left), Box::new(right)))
    }

    fn take_comparison(&mut self) -> Option<Comparison> {
        let Some(Word::Sign(sign)) = self.peek() else { return None };
        let how = match *sign {
            "=" => Comparison::Equal,
            "!=" | "<>" => Comparison::Unequal,
            "<" => Comparison::Less,
            "<=" => Comparison::AtMost,
            ">" => Comparison::More,
            ">=" => Comparison::AtLeast,
            _ => return None,
        };
        self.next += 1;
        Some(how)
    }

    fn list(&mut self) -> Result<Vec<Value>, BadQuery> {
        let close = if self.take_sign("[") {
            "]"
        } else if self.take_sign("(") {
            ")"
        } else {
            return self.fail("a list is expected after IN: ['a', 'b']");
        };
        let mut values = Vec::new();
        if self.take_sign(close) {
            return Ok(values);
        }
        loop {
            let Some(value) = self.literal() else {
                return self.fail("a text, a number, true, false or null is expected here");
            };
            values.push(value);
            if values.len() > LIST_LEN_MAX {
                return self.fail("a list has at most 1000 values");
            }
            if !self.take_sign(",") {
                self.sign(close)?;
                return Ok(values);
            }
        }
    }

    fn literal(&mut self) -> Option<Value> {
        let value = match self.peek()? {
            Word::Text(text) => Value::String(text.clone()),
            Word::Number(number) => Value::Number(number.clone()),
            Word::Name(name) if name.eq_ignore_ascii_case("true") => Value::Bool(true),
            Word::Name(name) if name.eq_ignore_ascii_case("false") => Value::Bool(false),
            Word::Name(name) if name.eq_ignore_ascii_case("null") => Value::Null,
            Word::Name(_) | Word::Sign(_) => return None,
        };
        self.next += 1;
        Some(value)
    }

    fn operand(&mut self, depth: usize) -> Result<Expression, BadQuery> {
        if let Some(value) = self.literal() {
            return Ok(Expression::Literal(value));
        }
        if self.take_sign("(") {
            let inner = self.any(depth + 1)?;
            self.sign(")")?;
            return Ok(inner);
        }
        if matches!(self.words.get(self.next + 1), Some((_, Word::Sign("(")))) {
            return self.call(depth);
        }
        self.path().map(Expression::Place)
    }

    fn call(&mut self, depth: usize) -> Result<Expression, BadQuery> {
        let position = self.position();
        let name = self.name("a function is expected here")?;
        let known = Function::ALL.iter().find(|(known, _, _)| known.eq_ignore_ascii_case(&name));
        let Some((_, count, function)) = known else {
            let names: Vec<&str> = Function::ALL.iter().map(|(name, _, _)| *name).collect();
            return Err(BadQuery::at(
                position,
                &format!("{name} is no function here: there are {}", names.join(", ")),
            ));
        };
        self.sign("(")?;
        let mut arguments = Vec::new();
        while arguments.len() < *count {
            if !arguments.is_empty() {
                self.sign(",")?;
            }
            arguments.push(self.any(depth + 1)?);
        }
        self.sign(")")?;
        Ok(Expression::Call(*function, arguments))
    }

    /// `tags.place`, `tags['odd name']`, `tags.[[odd name]]`, `list[0]`.
    fn path(&mut self) -> Result<Path, BadQuery> {
        let position = self.position();
        let first = self.name("the name of a field is expected here")?;
        if is_reserved(&first) {
            return Err(BadQuery::at(
                position,
                &format!("the name of a field is expected here, not {first}"),
            ));
        }
        let mut steps = vec![first];
        loop {
            if self.take_sign(".") {
                if !matches!(self.peek(), Some(Word::Sign("["))) {
                    steps.push(self.name("the name of a field is expected after '.'")?);
                }
            } else if self.take_sign("[") {
                steps.push(self.bracketed()?);
            } else {
                return Ok(Path(steps));
            }
        }
    }

    fn bracketed(&mut self) -> Result<String, BadQuery> {
        let is_double = self.take_sign("[");
        let step = match self.peek() {
            Some(Word::Text(text) | Word::Name(text)) => text.clone(),
            Some(Word::Number(number)) => number.to_string(),
            _ => return self.fail("a name in quotes is expected between [ and ]"),
        };
        self.next += 1;
        self.sign("]")?;
        if is_double {
            self.sign("]")?;
        }
        Ok(step)
    }
}

fn is_reserved(name: &str) -> bool {
    [
        "SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "IN", "NIN", "AS", "GROUP", "ORDER", "HAVING", "JOIN",
        "LIMIT", "OFFSET",
    ]
    .iter()
    .any(|word| word.eq_ignore_ascii_case(name))
}

fn one_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            many(parts)
        }
    }
}

/// Takes the name that the query gave its source away from the beginning of every path.
fn strip_alias(query: &mut Query, alias: &str) {
    if let Select::Fields(fields) = &mut query.select {
        fields.iter_mut().for_each(|(_, path)| strip_path(path, alias));
    }
    if let Some(condition) = &mut query.condition {
        strip_expression(condition, alias);
    }
}

fn strip_expression(expression: &mut Expression, alias: &str) {
    match expression {
        Expression::All(parts) | Expression::Any(parts) | Expression::Call(_, parts) => {
            parts.iter_mut().for_each(|part| strip_expression(part, alias));
        }
        Expression::Not(inner) | Expression::Among(inner, _) => strip_expression(inner, alias),
        Expression::Compare(_, left, right) => {
            strip_expression(left, alias);
            strip_expression(right, alias);
        }
        Expression::Place(path) => strip_path(path, alias),
        Expression::Literal(_) => {}
    }
}

fn strip_path(path: &mut Path, alias: &str) {
    if path.0.len() > 1 && path.0[0] == alias {
        path.0.remove(0);
    }
}
