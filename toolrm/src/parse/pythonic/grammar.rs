//! Tokens to an expression, by recursive descent.

use unicode_normalization::UnicodeNormalization;

use super::super::ParseFail;
use super::ast::{Expr, UnOp};
use super::lex::{Kind, Token, lex, syntax};
use super::text::{Text, literal};
use crate::json::MAX_DEPTH;
use crate::value::{Str, Val};

fn keyword(name: &str) -> bool {
    matches!(
        name,
        "False"
            | "None"
            | "True"
            | "and"
            | "as"
            | "assert"
            | "async"
            | "await"
            | "break"
            | "class"
            | "continue"
            | "def"
            | "del"
            | "elif"
            | "else"
            | "except"
            | "finally"
            | "for"
            | "from"
            | "global"
            | "if"
            | "import"
            | "in"
            | "is"
            | "lambda"
            | "nonlocal"
            | "not"
            | "or"
            | "pass"
            | "raise"
            | "return"
            | "try"
            | "while"
            | "with"
            | "yield"
    )
}

/// Whether a name can be a keyword argument.
pub(crate) fn identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || unicode_ident::is_xid_start(c))
        && chars.all(unicode_ident::is_xid_continue)
        && !keyword(name)
        && unicode_normalization::is_nfkc(name)
}

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

    fn primary(&mut self) -> Parse {
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
    fn rest_of_tuple(&mut self, first: Expr, close: &[&str]) -> Result<Vec<Expr>, ParseFail> {
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

    fn atom(&mut self) -> Parse {
        let t = self.token();
        match (t.kind, self.text()) {
            (Kind::Name, "True") => self.constant(Val::Bool(true)),
            (Kind::Name, "False") => self.constant(Val::Bool(false)),
            (Kind::Name, "None") => self.constant(Val::Null),
            (Kind::Name, _) => self.name().map(Expr::Name),
            (Kind::Number, text) => {
                let value = super::text::number(text).map_err(|what| syntax(t.start as usize, what))?;
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
