//! Functions that yield, and comprehensions: what is run a step at a time.
//!
//! A generator keeps the blocks and loops that it is in, and goes on in the innermost. It may yield as a statement of its own, in
//! `if`, `for` and `while`; in `try` and `with`, or where the value of a `yield` is used, it is not supported.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{self as ast, Expr, Stmt};

use super::interpreter::{Frame, Interpreter};
use super::iterators::{Iter, Source};
use super::value::{Run, Scope, Stop, Value, raise};

pub(super) struct Generator<'a> {
    frame: Frame<'a>,
    /// What is still to be done, the next last.
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Block(&'a [Stmt]),
    For(Source<'a>, &'a ast::StmtFor),
    While(&'a ast::StmtWhile),
    From(Source<'a>),
}

/// What a comprehension makes of each of its items.
#[derive(Clone, Copy)]
pub(super) enum Element<'a> {
    One(&'a Expr),
    Pair(&'a Expr, &'a Expr),
}

pub(super) struct Comprehension<'a> {
    generators: &'a [ast::Comprehension],
    element: Element<'a>,
    frame: Frame<'a>,
    /// Where each of its loops is that has begun.
    loops: Vec<Source<'a>>,
}

struct Yields(bool);

impl<'a> Visitor<'a> for Yields {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        if !self.0 && !matches!(statement, Stmt::FunctionDef(_) | Stmt::ClassDef(_)) {
            walk_stmt(self, statement);
        }
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        match expression {
            Expr::Yield(_) | Expr::YieldFrom(_) => self.0 = true,
            Expr::Lambda(_) => {}
            _ if self.0 => {}
            _ => walk_expr(self, expression),
        }
    }
}

impl<'a> Interpreter<'a> {
    /// Whether statements yield, functions in them left out.
    pub(super) fn yields(&mut self, statements: &'a [Stmt]) -> bool {
        let place = (statements.as_ptr() as usize, statements.len());
        *self.yields.entry(place).or_insert_with(|| {
            let mut yields = Yields(false);
            yields.visit_body(statements);
            yields.0
        })
    }

    pub(super) fn generator(frame: Frame<'a>, body: &'a [Stmt]) -> Value<'a> {
        Iter::Generator(Box::new(Generator { frame, steps: vec![Step::Block(body)] })).into()
    }

    /// Runs a generator to its next `yield`.
    pub(super) fn resume(&mut self, generator: &mut Generator<'a>) -> Run<'a, Option<Value<'a>>> {
        let outer = std::mem::replace(&mut self.frame, std::mem::take(&mut generator.frame));
        let result = self.go_on(&mut generator.steps);
        generator.frame = std::mem::replace(&mut self.frame, outer);
        match result {
            Err(Stop::Raise(kind)) if &*kind == "StopIteration" => raise("RuntimeError"),
            other => other,
        }
    }

    fn go_on(&mut self, steps: &mut Vec<Step<'a>>) -> Run<'a, Option<Value<'a>>> {
        while let Some(step) = steps.pop() {
            self.burn(0)?;
            match step {
                Step::Block(statements) => {
                    let Some((first, rest)) = statements.split_first() else { continue };
                    steps.push(Step::Block(rest));
                    if self.yields(std::slice::from_ref(first)) {
                        if let Some(value) = self.enter(first, steps)? {
                            return Ok(Some(value));
                        }
                        continue;
                    }
                    let is_loop = |step: &Step<'a>| matches!(step, Step::For(..) | Step::While(_));
                    match self.exec(first) {
                        Ok(()) => {}
                        Err(Stop::Return(_)) => steps.clear(),
                        Err(stop @ (Stop::Break | Stop::Continue)) => {
                            let Some(at) = steps.iter().rposition(is_loop) else { return Err(stop) };
                            steps.truncate(at + usize::from(matches!(stop, Stop::Continue)));
                        }
                        Err(stop) => return Err(stop),
                    }
                }
                Step::From(source) => {
                    if let Some(value) = self.advance(&source)? {
                        steps.push(Step::From(source));
                        return Ok(Some(value));
                    }
                }
                Step::For(source, f) => match self.advance(&source)? {
                    Some(item) => {
                        self.assign(&f.target, item)?;
                        steps.extend([Step::For(source, f), Step::Block(&f.body)]);
                    }
                    None => steps.push(Step::Block(&f.orelse)),
                },
                Step::While(w) => {
                    if self.eval(&w.test)?.truth() {
                        steps.extend([Step::While(w), Step::Block(&w.body)]);
                    } else {
                        steps.push(Step::Block(&w.orelse));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Begins a statement that yields; what it yields at once.
    fn enter(&mut self, statement: &'a Stmt, steps: &mut Vec<Step<'a>>) -> Run<'a, Option<Value<'a>>> {
        match statement {
            Stmt::Expr(e) => match &*e.value {
                Expr::Yield(y) => {
                    return y.value.as_ref().map_or(Ok(Value::None), |v| self.eval(v)).map(Some);
                }
                Expr::YieldFrom(y) => {
                    let items = self.eval(&y.value)?;
                    steps.push(Step::From(self.iter(&items)?));
                }
                _ => return Err(Stop::Unsupported),
            },
            Stmt::If(i) => steps.push(Step::Block(self.branch(i)?)),
            Stmt::For(f) if !f.is_async => {
                let items = self.eval(&f.iter)?;
                steps.push(Step::For(self.iter(&items)?, f));
            }
            Stmt::While(w) => steps.push(Step::While(w)),
            _ => return Err(Stop::Unsupported),
        }
        Ok(None)
    }

    /// A comprehension whose first loop has begun.
    pub(super) fn comprehension(
        &mut self,
        generators: &'a [ast::Comprehension],
        element: Element<'a>,
    ) -> Run<'a, Comprehension<'a>> {
        let Some(first) = generators.first().filter(|_| generators.iter().all(|g| !g.is_async)) else {
            return Err(Stop::Unsupported);
        };
        let items = self.eval(&first.iter)?;
        let loops = vec![self.iter(&items)?];
        let mut frame = self.frame.clone();
        frame.scopes.push(Scope::default());
        frame.comprehensions += 1;
        Ok(Comprehension { generators, element, frame, loops })
    }

    /// All items of a comprehension.
    pub(super) fn comprehend(
        &mut self,
        generators: &'a [ast::Comprehension],
        element: Element<'a>,
    ) -> Run<'a, Vec<Value<'a>>> {
        let mut comprehension = self.comprehension(generators, element)?;
        let mut found = Vec::new();
        while let Some(value) = self.comprehended(&mut comprehension)? {
            self.room(found.len() + 1)?;
            found.push(value);
        }
        Ok(found)
    }

    /// The next item of a comprehension.
    pub(super) fn comprehended(&mut self, c: &mut Comprehension<'a>) -> Run<'a, Option<Value<'a>>> {
        let outer = std::mem::replace(&mut self.frame, std::mem::take(&mut c.frame));
        let result = self.next_of(c);
        c.frame = std::mem::replace(&mut self.frame, outer);
        result
    }

    fn next_of(&mut self, c: &mut Comprehension<'a>) -> Run<'a, Option<Value<'a>>> {
        while let Some(source) = c.loops.last().cloned() {
            let Some(item) = self.advance(&source)? else {
                c.loops.pop();
                continue;
            };
            self.burn(0)?;
            let generator = &c.generators[c.loops.len() - 1];
            self.assign(&generator.target, item)?;
            let mut wanted = true;
            for test in &generator.ifs {
                wanted = wanted && self.eval(test)?.truth();
            }
            match c.generators.get(c.loops.len()) {
                _ if !wanted => {}
                Some(next) => {
                    let items = self.eval(&next.iter)?;
                    c.loops.push(self.iter(&items)?);
                }
                None => {
                    return Ok(Some(match c.element {
                        Element::One(element) => self.eval(element)?,
                        Element::Pair(key, value) => Value::tuple(vec![self.eval(key)?, self.eval(value)?]),
                    }));
                }
            }
        }
        Ok(None)
    }
}
