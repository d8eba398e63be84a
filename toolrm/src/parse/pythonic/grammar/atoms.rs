//! Operands: names, literals, brackets, calls.

use super::{Parse, Parser};
use crate::json::MAX_DEPTH;
use crate::parse::ParseFail;
use crate::parse::pythonic::ast::Expr;
use crate::parse::pythonic::lex::{Kind, syntax};
use crate::parse::pythonic::text::{Text, literal, number};
use crate::value::{Str, Val};

impl Parser<'_> {
    pub(super) fn primary(&mut self) -> Parse {
        let start = self.token().start;
        let mut value = self.atom()?;
        let mut chain = 0;
        loop {
            if self.take(".") {
                value = Expr::Attr(Box::new(value), self.name()?);
            } else if self.take("(") {
                let (args, keywords) = self.arguments()?;
                let end = self.tokens[self.pos - 1].end;
                value = Expr::Call { func: Box::new(value), args, keywords, span: (start, end) };
            } else if self.take("[") {
                value = Expr::Subscript(Box::new(value), Box::new(self.subscript()?));
            } else {
                return Ok(value);
            }
            chain += 1;
            if chain > MAX_DEPTH {
                return Err(ParseFail::new(
                    start as usize,
                    "limit.depth",
                    "a chain of too many calls or attributes",
                ));
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn arguments(&mut self) -> Result<(Vec<Expr>, Vec<(Option<Str>, Expr)>), ParseFail> {
        let mut args = Vec::new();
        let mut keywords: Vec<(Option<Str>, Expr)> = Vec::new();
        let mut unpacked = false;
        while !self.take(")") {
            let at = self.token();
            let next = self.tokens[self.pos + 1];
            let assigned = next.kind == Kind::Op && &self.src[next.start as usize..next.end as usize] == "=";
            if self.take("**") {
                keywords.push((None, self.expr()?));
                unpacked = true;
            } else if at.kind == Kind::Name && assigned {
                let name = self.name()?;
                self.pos += 1;
                keywords.push((Some(name), self.expr()?));
            } else {
                let starred = self.is("*");
                if (!starred && !keywords.is_empty()) || (starred && unpacked) {
                    return Err(self.fail("a positional argument after keyword arguments"));
                }
                let value =
                    if self.take("*") { Expr::Starred(Box::new(self.expr()?)) } else { self.named()? };
                if self.is_word("for") || self.is_word("async") {
                    self.comprehension()?;
                    if !args.is_empty() || !self.is(")") {
                        return Err(self.fail("a generator among other arguments"));
                    }
                    args.push(Expr::Other("a generator"));
                } else {
                    args.push(value);
                }
            }
            if !self.is(")") {
                self.expect(",")?;
            }
        }
        Ok((args, keywords))
    }

    fn subscript(&mut self) -> Parse {
        let first = self.slice()?;
        let value = if self.is(",") {
            let mut items = vec![first];
            while self.take(",") && !self.is("]") {
                items.push(self.slice()?);
            }
            Expr::Tuple(items)
        } else if matches!(first, Expr::Starred(_)) {
            Expr::Tuple(vec![first])
        } else {
            first
        };
        self.expect("]")?;
        Ok(value)
    }

    fn slice(&mut self) -> Parse {
        let mut parts = [None, None, None];
        if !self.is(":") {
            let value = self.starred_or_expr(true)?;
            if !self.is(":") {
                return Ok(value);
            }
            parts[0] = Some(value);
        }
        for part in &mut parts[1..] {
            if !self.take(":") {
                break;
            }
            if !self.is(":") && !self.is("]") && !self.is(",") {
                *part = Some(self.expr()?);
            }
        }
        Ok(Expr::Slice(Box::new(parts)))
    }

    /// The elements after the first of a tuple, up to one of the closing tokens or the end.
    pub(super) fn rest_of_tuple(&mut self, first: Expr, close: &[&str]) -> Result<Vec<Expr>, ParseFail> {
        let mut items = vec![first];
        while self.take(",") {
            if close.iter().any(|c| self.is(c)) || matches!(self.token().kind, Kind::End | Kind::Newline) {
                break;
            }
            items.push(self.starred_or_expr(!close.is_empty())?);
        }
        Ok(items)
    }

    fn comprehension(&mut self) -> Result<(), ParseFail> {
        loop {
            self.take_word("async");
            if !self.take_word("for") {
                return Err(self.fail("expected 'for'"));
            }
            self.starred_target()?;
            if !self.take_word("in") {
                return Err(self.fail("expected 'in'"));
            }
            self.or_test()?;
            while self.take_word("if") {
                self.or_test()?;
            }
            if !self.is_word("for") && !self.is_word("async") {
                return Ok(());
            }
        }
    }

    fn starred_target(&mut self) -> Result<(), ParseFail> {
        loop {
            self.take("*");
            let target = self.binary(0)?;
            if !matches!(
                target,
                Expr::Name(_) | Expr::Attr(..) | Expr::Subscript(..) | Expr::Tuple(_) | Expr::List(_)
            ) {
                return Err(self.fail("not a target of a loop"));
            }
            if !self.take(",") || self.is_word("in") {
                return Ok(());
            }
        }
    }

    pub(super) fn atom(&mut self) -> Parse {
        let t = self.token();
        match (t.kind, self.text()) {
            (Kind::Name, "True") => self.constant(Val::Bool(true)),
            (Kind::Name, "False") => self.constant(Val::Bool(false)),
            (Kind::Name, "None") => self.constant(Val::Null),
            (Kind::Name, _) => self.name().map(Expr::Name),
            (Kind::Number, text) => {
                let value = number(text).map_err(|what| syntax(t.start as usize, what))?;
                self.constant(value)
            }
            (Kind::Str, _) => self.string(),
            (Kind::Op, "...") => {
                self.pos += 1;
                Ok(Expr::Ellipsis)
            }
            (Kind::Op, "(") => self.deeper(Self::parenthesis),
            (Kind::Op, "[") => self.deeper(Self::list),
            (Kind::Op, "{") => self.deeper(Self::braces),
            _ => Err(self.fail("expected an expression")),
        }
    }

    fn constant(&mut self, value: Val) -> Parse {
        self.pos += 1;
        Ok(Expr::Const(value))
    }

    fn string(&mut self) -> Parse {
        let start = self.token().start as usize;
        let mut all: Option<Text> = None;
        while self.token().kind == Kind::Str {
            let next = literal(self.text()).map_err(|what| syntax(self.token().start as usize, what))?;
            self.pos += 1;
            all = Some(match all {
                None => next,
                Some(all) => all.join(next).ok_or_else(|| syntax(start, "bytes and text side by side"))?,
            });
        }
        Ok(match all {
            Some(Text::Str(s)) => Expr::Const(Val::Str(s)),
            Some(Text::Bytes(repr)) => Expr::Const(Val::Opaque { ty: "bytes", repr }),
            _ => Expr::JoinedStr,
        })
    }

    fn parenthesis(&mut self) -> Parse {
        self.pos += 1;
        if self.take(")") {
            return Ok(Expr::Tuple(Vec::new()));
        }
        if self.take_word("yield") {
            if self.take_word("from") {
                self.expr()?;
            } else if !self.is(")") {
                let first = self.starred_or_expr(false)?;
                self.rest_of_tuple(first, &[")"])?;
            }
            self.expect(")")?;
            return Ok(Expr::Other("a yield"));
        }
        let first = self.starred_or_expr(true)?;
        let value = if self.is_word("for") || self.is_word("async") {
            self.comprehension()?;
            Expr::Other("a generator")
        } else if self.is(",") {
            Expr::Tuple(self.rest_of_tuple(first, &[")"])?)
        } else if matches!(first, Expr::Starred(_)) {
            return Err(self.fail("a starred expression alone"));
        } else {
            first
        };
        self.expect(")")?;
        Ok(value)
    }

    fn list(&mut self) -> Parse {
        self.pos += 1;
        if self.take("]") {
            return Ok(Expr::List(Vec::new()));
        }
        let first = self.starred_or_expr(true)?;
        let value = if self.is_word("for") || self.is_word("async") {
            self.comprehension()?;
            Expr::Other("a comprehension")
        } else {
            Expr::List(self.rest_of_tuple(first, &["]"])?)
        };
        self.expect("]")?;
        Ok(value)
    }

    fn braces(&mut self) -> Parse {
        self.pos += 1;
        let mut entries = Vec::new();
        let mut set = false;
        let mut first = true;
        while !self.take("}") {
            if self.take("**") {
                entries.push((None, self.binary(0)?));
                if set {
                    return Err(self.fail("a dict inside a set"));
                }
            } else {
                let key = self.starred_or_expr(true)?;
                if first {
                    set = !self.is(":");
                }
                if !set {
                    if matches!(key, Expr::Starred(_)) {
                        return Err(self.fail("a starred key"));
                    }
                    self.expect(":")?;
                    let value = self.expr()?;
                    entries.push((Some(key), value));
                }
            }
            if first && (self.is_word("for") || self.is_word("async")) {
                self.comprehension()?;
                self.expect("}")?;
                return Ok(Expr::Other("a comprehension"));
            }
            first = false;
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        Ok(if set { Expr::Set } else { Expr::Dict(entries) })
    }
}
