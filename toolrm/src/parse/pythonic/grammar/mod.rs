//! Tokens to an expression, by recursive descent: operators here, what they stand between in `atoms.rs`.

mod atoms;

use unicode_normalization::UnicodeNormalization;

use super::ast::{Expr, UnOp};
use super::lex::{Kind, Token, lex, syntax};
use super::names::keyword;
use crate::json::MAX_DEPTH;
use crate::parse::ParseFail;
use crate::value::Str;

/// Binary operators by binding strength, weakest first.
const LEVELS: [&[&str]; 6] =
    [&["|"], &["^"], &["&"], &["<<", ">>"], &["+", "-"], &["*", "/", "//", "%", "@"]];

/// Parses a text that is one expression (`ast.parse` in mode `eval`).
pub(crate) fn expression(src: &str) -> Result<Expr, ParseFail> {
    if src.starts_with([' ', '\t']) {
        return Err(syntax(0, "unexpected indent"));
    }
    if src.contains('\0') {
        return Err(syntax(0, "a NUL byte"));
    }
    let mut parser = Parser { src, tokens: lex(src)?, pos: 0, depth: 0 };
    let start = parser.token().start;
    let mut value = parser.starred_or_expr(false)?;
    if parser.is(",") {
        value = Expr::Tuple(parser.rest_of_tuple(value, &[])?);
    } else if matches!(value, Expr::Starred(_)) {
        return Err(syntax(start as usize, "a starred expression alone"));
    }
    while parser.token().kind == Kind::Newline {
        parser.pos += 1;
    }
    if parser.token().kind == Kind::End { Ok(value) } else { Err(parser.fail("text after the expression")) }
}

struct Parser<'a> {
    src: &'a str,
    tokens: Vec<Token>,
    pos: usize,
    depth: usize,
}

type Parse = Result<Expr, ParseFail>;

impl<'a> Parser<'a> {
    fn token(&self) -> Token {
        self.tokens[self.pos]
    }

    /// Whether a token ends an expression before it.
    fn closes(&self, t: Token) -> bool {
        t.kind == Kind::Op && t.end == t.start + 1 && b",)]}".contains(&self.src.as_bytes()[t.start as usize])
    }

    fn text(&self) -> &'a str {
        let t = self.token();
        &self.src[t.start as usize..t.end as usize]
    }

    fn is(&self, op: &str) -> bool {
        let t = self.token();
        t.kind == Kind::Op && &self.src.as_bytes()[t.start as usize..t.end as usize] == op.as_bytes()
    }

    fn is_word(&self, word: &str) -> bool {
        self.token().kind == Kind::Name && self.text() == word
    }

    fn take(&mut self, op: &str) -> bool {
        let found = self.is(op);
        self.pos += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.pos += usize::from(found);
        found
    }

    fn expect(&mut self, op: &str) -> Result<(), ParseFail> {
        if self.take(op) { Ok(()) } else { Err(self.fail(&format!("expected '{op}'"))) }
    }

    fn fail(&self, what: &str) -> ParseFail {
        syntax(self.token().start as usize, what)
    }

    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Parse) -> Parse {
        // Brackets are counted by the lexer; this counts operators inside operators too.
        if self.depth == 2 * MAX_DEPTH {
            return Err(ParseFail::new(self.token().start as usize, "limit.depth", "nested too deep"));
        }
        self.depth += 1;
        let value = parse(self);
        self.depth -= 1;
        value
    }

    fn name(&mut self) -> Result<Str, ParseFail> {
        if self.token().kind != Kind::Name || keyword(self.text()) {
            return Err(self.fail("expected a name"));
        }
        let text = self.text();
        self.pos += 1;
        Ok(if text.is_ascii() { Str::new(text) } else { text.nfkc().collect() })
    }

    /// An element of a list, tuple or call; `walrus`: whether `name := value` may stand here.
    fn starred_or_expr(&mut self, walrus: bool) -> Parse {
        if self.take("*") {
            let value = self.binary(0)?;
            return Ok(Expr::Starred(Box::new(value)));
        }
        if walrus { self.named() } else { self.expr() }
    }

    fn named(&mut self) -> Parse {
        let next = self
            .tokens
            .get(self.pos + 1)
            .is_some_and(|t| &self.src[t.start as usize..t.end as usize] == ":=");
        if self.token().kind == Kind::Name && next {
            self.name()?;
            self.expect(":=")?;
            self.expr()?;
            return Ok(Expr::Other("an assignment"));
        }
        self.expr()
    }

    fn expr(&mut self) -> Parse {
        // Most values are constants: they need not go down through every operator.
        let constant = match self.token().kind {
            Kind::Number | Kind::Str => true,
            Kind::Name => matches!(self.text(), "True" | "False" | "None"),
            _ => false,
        };
        if constant && self.tokens.get(self.pos + 1).is_some_and(|t| self.closes(*t)) {
            return self.atom();
        }
        self.deeper(|p| {
            if p.take_word("lambda") {
                return p.lambda();
            }
            let value = p.or_test()?;
            if p.take_word("if") {
                p.or_test()?;
                if !p.take_word("else") {
                    return Err(p.fail("expected 'else'"));
                }
                p.expr()?;
                return Ok(Expr::Other("a conditional"));
            }
            Ok(value)
        })
    }

    fn lambda(&mut self) -> Parse {
        while !self.take(":") {
            let star = self.take("*") || self.take("**") || self.take("/");
            if !star || self.token().kind == Kind::Name {
                self.name()?;
                if self.take("=") {
                    self.expr()?;
                }
            }
            if !self.is(":") {
                self.expect(",")?;
            }
        }
        self.expr()?;
        Ok(Expr::Other("a lambda"))
    }

    fn or_test(&mut self) -> Parse {
        let mut value = self.and_test()?;
        while self.take_word("or") {
            self.and_test()?;
            value = Expr::Other("a boolean operator");
        }
        Ok(value)
    }

    fn and_test(&mut self) -> Parse {
        let mut value = self.not_test()?;
        while self.take_word("and") {
            self.not_test()?;
            value = Expr::Other("a boolean operator");
        }
        Ok(value)
    }

    fn not_test(&mut self) -> Parse {
        if self.take_word("not") {
            let value = self.deeper(Self::not_test)?;
            return Ok(Expr::Unary(UnOp::Not, Box::new(value)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parse {
        let mut value = self.binary(0)?;
        if self.closes(self.token()) {
            return Ok(value);
        }
        loop {
            let found = if ["<", ">", "==", ">=", "<=", "!="].iter().any(|op| self.take(op))
                || self.take_word("in")
            {
                true
            } else if self.is_word("not") {
                self.pos += 1;
                if !self.take_word("in") {
                    return Err(self.fail("expected 'in'"));
                }
                true
            } else if self.take_word("is") {
                self.take_word("not");
                true
            } else {
                false
            };
            if !found {
                return Ok(value);
            }
            self.binary(0)?;
            value = Expr::Other("a comparison");
        }
    }

    /// Binary operators of this strength or more.
    fn binary(&mut self, level: usize) -> Parse {
        let mut value = self.factor()?;
        let mut chain = 0;
        while !self.closes(self.token())
            && let Some((strength, op)) = self.operator()
            && strength >= level
        {
            self.pos += 1;
            chain += 1;
            if chain > MAX_DEPTH {
                return Err(ParseFail::new(
                    self.token().start as usize,
                    "limit.depth",
                    "a chain of too many operators",
                ));
            }
            let right = self.binary(strength + 1)?;
            value = Expr::Bin(op, Box::new(value), Box::new(right));
        }
        Ok(value)
    }

    /// The binary operator here, and how strongly it binds.
    fn operator(&self) -> Option<(usize, &'static str)> {
        if self.token().kind != Kind::Op {
            return None;
        }
        let text = self.text();
        let of = |ops: &'static [&'static str]| ops.iter().find(|op| **op == text).copied();
        LEVELS.iter().enumerate().find_map(|(level, ops)| of(ops).map(|op| (level, op)))
    }

    fn factor(&mut self) -> Parse {
        let op = match self.text() {
            "+" => UnOp::Plus,
            "-" => UnOp::Minus,
            "~" => UnOp::Invert,
            _ => return self.power(),
        };
        if self.token().kind != Kind::Op {
            return self.power();
        }
        self.pos += 1;
        let value = self.deeper(Self::factor)?;
        Ok(Expr::Unary(op, Box::new(value)))
    }

    fn power(&mut self) -> Parse {
        let awaited = self.take_word("await");
        let mut value = self.primary()?;
        if awaited {
            value = Expr::Other("an await");
        }
        if self.take("**") {
            let right = self.deeper(Self::factor)?;
            value = Expr::Bin("**", Box::new(value), Box::new(right));
        }
        Ok(value)
    }
}
