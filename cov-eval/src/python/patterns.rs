//! `match`.

use std::rc::Rc;

use ruff_python_ast::{self as ast, Pattern};

use super::builtins::is_instance;
use super::interpreter::Interpreter;
use super::value::{Run, Stop, Value};

impl<'a> Interpreter<'a> {
    pub(super) fn select(&mut self, m: &'a ast::StmtMatch) -> Run<'a, ()> {
        let subject = self.eval(&m.subject)?;
        for case in &m.cases {
            self.burn(1)?;
            if !self.fits(&case.pattern, &subject)? {
                continue;
            }
            let taken = case.guard.as_ref().map_or(Ok(true), |guard| Ok(self.eval(guard)?.truth()))?;
            if taken {
                return self.block(&case.body);
            }
        }
        Ok(())
    }

    /// Whether a value has a form; its names are bound as far as it has.
    fn fits(&mut self, pattern: &'a Pattern, value: &Value<'a>) -> Run<'a, bool> {
        self.burn(0)?;
        match pattern {
            Pattern::MatchValue(p) => {
                let wanted = self.eval(&p.value)?;
                Ok(wanted.equals(value))
            }
            Pattern::MatchSingleton(p) => Ok(match p.value {
                ast::Singleton::None => matches!(value, Value::None),
                ast::Singleton::True => matches!(value, Value::Bool(true)),
                ast::Singleton::False => matches!(value, Value::Bool(false)),
            }),
            Pattern::MatchSequence(p) => self.fits_sequence(&p.patterns, value),
            Pattern::MatchMapping(p) => self.fits_mapping(p, value),
            Pattern::MatchClass(p) => {
                let kind = self.eval(&p.cls)?;
                match (&p.arguments.patterns[..], &p.arguments.keywords[..]) {
                    _ if !is_instance(value, &kind)? => Ok(false),
                    ([], []) => Ok(true),
                    ([inner], []) => self.fits(inner, value),
                    _ => Err(Stop::Unsupported),
                }
            }
            Pattern::MatchStar(_) => Err(Stop::Unsupported),
            Pattern::MatchAs(p) => {
                let fits = p.pattern.as_ref().map_or(Ok(true), |inner| self.fits(inner, value))?;
                if let Some(name) = p.name.as_ref().filter(|_| fits) {
                    self.bind(name.as_str(), value.clone());
                }
                Ok(fits)
            }
            Pattern::MatchOr(p) => {
                for pattern in &p.patterns {
                    if self.fits(pattern, value)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn fits_sequence(&mut self, patterns: &'a [Pattern], value: &Value<'a>) -> Run<'a, bool> {
        if !matches!(value, Value::List(_) | Value::Tuple(_) | Value::Range(_) | Value::Queue(_)) {
            return Ok(false);
        }
        let items = self.items(value)?;
        let star = patterns.iter().position(|p| matches!(p, Pattern::MatchStar(_)));
        let Some(more) = items.len().checked_sub(patterns.len() - usize::from(star.is_some())) else {
            return Ok(false);
        };
        if star.is_none() && more > 0 {
            return Ok(false);
        }
        let mut items = items.into_iter();
        for pattern in patterns {
            if let Pattern::MatchStar(p) = pattern {
                let middle = items.by_ref().take(more).collect();
                if let Some(name) = &p.name {
                    self.bind(name.as_str(), Value::list(middle));
                }
            } else if let Some(item) = items.next()
                && !self.fits(pattern, &item)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fits_mapping(&mut self, p: &'a ast::PatternMatchMapping, value: &Value<'a>) -> Run<'a, bool> {
        let Value::Dict(table) = value else { return Ok(false) };
        self.size(table.borrow().len())?;
        let mut rest = table.borrow().to_vec();
        for (key, pattern) in p.keys.iter().zip(&p.patterns) {
            let key = self.eval(key)?;
            self.burn(rest.len() / 16)?;
            let Some(at) = rest.iter().position(|(k, _)| k.equals(&key)) else { return Ok(false) };
            let (_, found) = rest.remove(at);
            if !self.fits(pattern, &found)? {
                return Ok(false);
            }
        }
        if let Some(name) = &p.rest {
            let rest = super::collections::Table::from(rest);
            self.bind(name.as_str(), Value::Dict(Rc::new(rest.into())));
        }
        Ok(true)
    }
}
