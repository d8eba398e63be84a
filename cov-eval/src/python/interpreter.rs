//! Programs, their calls, and what runs them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rustpython_parser::ast::{self, Expr, Stmt};

use super::text::repr;
use super::value::{Body, Function, Run, Scope, Stop, Value, exhausted, raise, refill};

/// Steps that one call may take.
const FUEL: usize = 50_000;
/// Nested evaluations: calls in calls, and expressions in expressions.
const DEPTH: usize = 2_000;
const CALLS: usize = 200;
/// The largest string or collection.
const SIZE: usize = 100_000;

/// What a call comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The `repr` of the result.
    Value(String),
    /// The kind of an exception.
    Raised(String),
    Unsupported,
    /// Fuel, depth or size ran out.
    Limit,
}

/// The statements of a module.
pub(crate) struct Program<'a>(pub(crate) &'a [Stmt]);

impl<'a> Program<'a> {
    /// Calls a function of a fresh module.
    pub(crate) fn call(&self, name: &str, args: &'a [Expr]) -> Outcome {
        let (_, result) = self.run(name, args);
        match result.and_then(|value| repr(&value, 0)) {
            Ok(text) => Outcome::Value(text),
            Err(stop) => outcome(stop),
        }
    }

    /// Whether a call comes to what an expression says, floats to 1e-9.
    pub(crate) fn gives(&self, name: &str, args: &'a [Expr], expected: &'a Expr) -> Result<bool, Outcome> {
        let (mut interpreter, result) = self.run(name, args);
        let value = result.map_err(outcome)?;
        refill();
        let expected = interpreter.eval(expected).map_err(outcome)?;
        Ok(expected.same(&value, 1e-9) && same_kind(&expected, &value))
    }

    fn run(&self, name: &str, args: &'a [Expr]) -> (Interpreter<'a>, Run<'a, Value<'a>>) {
        refill();
        let mut interpreter = Interpreter::new();
        let result = interpreter.module(self.0).and_then(|()| {
            let function = interpreter.name(name)?;
            let args = args.iter().map(|a| interpreter.eval(a)).collect::<Run<'_, Vec<_>>>()?;
            interpreter.call(&function, args, Vec::new())
        });
        (interpreter, result)
    }
}

/// `True` is no answer where 1 is expected.
fn same_kind(a: &Value<'_>, b: &Value<'_>) -> bool {
    matches!(a, Value::Bool(_)) == matches!(b, Value::Bool(_))
}

fn outcome(stop: Stop<'_>) -> Outcome {
    match stop {
        Stop::Raise(kind) => Outcome::Raised(kind.to_string()),
        Stop::Limit => Outcome::Limit,
        _ => Outcome::Unsupported,
    }
}

pub(super) struct Interpreter<'a> {
    pub(super) globals: Scope<'a>,
    /// Scopes of the running function, its own last.
    pub(super) locals: Vec<Scope<'a>>,
    pub(super) declared_global: Vec<Vec<String>>,
    pub(super) fuel: usize,
    pub(super) depth: usize,
    pub(super) calls: usize,
}

impl<'a> Interpreter<'a> {
    fn new() -> Self {
        Self {
            globals: Scope::default(),
            locals: Vec::new(),
            declared_global: Vec::new(),
            fuel: FUEL,
            depth: 0,
            calls: 0,
        }
    }

    pub(super) fn burn(&mut self, steps: usize) -> Run<'a, ()> {
        self.fuel = self.fuel.saturating_sub(steps + 1);
        if self.fuel == 0 || exhausted() { Err(Stop::Limit) } else { Ok(()) }
    }

    pub(super) fn size(&mut self, n: usize) -> Run<'a, ()> {
        if n > SIZE { Err(Stop::Limit) } else { self.burn(n / 64) }
    }

    /// The module's statements, without what runs only as a script.
    fn module(&mut self, statements: &'a [Stmt]) -> Run<'a, ()> {
        for statement in statements {
            let main = matches!(statement, Stmt::If(i) if matches!(&*i.test, Expr::Compare(c)
                if matches!(&*c.left, Expr::Name(n) if n.id.as_str() == "__name__")));
            if !main {
                self.exec(statement)?;
            }
        }
        self.fuel = FUEL;
        Ok(())
    }

    pub(super) fn block(&mut self, statements: &'a [Stmt]) -> Run<'a, ()> {
        statements.iter().try_for_each(|s| self.exec(s))
    }

    pub(super) fn exec(&mut self, statement: &'a Stmt) -> Run<'a, ()> {
        self.burn(1)?;
        self.depth += 1;
        let result = if self.depth > DEPTH { Err(Stop::Limit) } else { self.statement(statement) };
        self.depth -= 1;
        result
    }

    pub(super) fn function(&mut self, args: &'a ast::Arguments, body: Body<'a>) -> Run<'a, Value<'a>> {
        if args.kwarg.is_some() {
            return Err(Stop::Unsupported);
        }
        let mut params = Vec::new();
        for arg in args.posonlyargs.iter().chain(&args.args).chain(&args.kwonlyargs) {
            let default = arg.default.as_ref().map(|d| self.eval(d)).transpose()?;
            params.push((arg.def.arg.to_string(), default));
        }
        let rest = args.vararg.as_ref().map(|a| a.arg.to_string());
        Ok(Value::Function(Rc::new(Function { params, rest, body, around: self.locals.clone() })))
    }

    pub(super) fn call(
        &mut self,
        function: &Value<'a>,
        args: Vec<Value<'a>>,
        keywords: Vec<(String, Value<'a>)>,
    ) -> Run<'a, Value<'a>> {
        self.burn(1)?;
        match function {
            Value::Function(f) => self.apply(f, args, keywords),
            Value::Builtin(name) => self.builtin(name, args, keywords),
            Value::Method(object, name) => match &**object {
                Value::Module(module) => self.module_call(module, name, &args),
                object => self.method(object, name, &args, &keywords),
            },
            // The text of an exception is not kept.
            Value::Exception(kind) => Ok(Value::Exception(kind.clone())),
            _ => raise("TypeError"),
        }
    }

    fn apply(
        &mut self,
        f: &Function<'a>,
        args: Vec<Value<'a>>,
        keywords: Vec<(String, Value<'a>)>,
    ) -> Run<'a, Value<'a>> {
        if self.calls >= CALLS {
            return raise("RecursionError");
        }
        let mut names = HashMap::new();
        let mut args = args.into_iter();
        for (name, _) in &f.params {
            if let Some(value) = args.next() {
                names.insert(name.clone(), value);
            }
        }
        let rest: Vec<Value<'a>> = args.collect();
        match &f.rest {
            Some(name) => drop(names.insert(name.clone(), Value::tuple(rest))),
            None if !rest.is_empty() => return raise("TypeError"),
            None => {}
        }
        for (name, value) in keywords {
            if !f.params.iter().any(|p| p.0 == name) || names.insert(name, value).is_some() {
                return raise("TypeError");
            }
        }
        for (name, default) in &f.params {
            if !names.contains_key(name) {
                let Some(default) = default else { return raise("TypeError") };
                names.insert(name.clone(), default.clone());
            }
        }
        let mut scopes = f.around.clone();
        scopes.push(Rc::new(RefCell::new(names)));
        let outer = std::mem::replace(&mut self.locals, scopes);
        self.declared_global.push(Vec::new());
        self.calls += 1;
        let result = match f.body {
            Body::Statements(statements) => self.block(statements).map(|()| Value::None),
            Body::Expression(expression) => self.eval(expression),
        };
        self.calls -= 1;
        self.declared_global.pop();
        self.locals = outer;
        match result {
            Err(Stop::Return(value)) => Ok(value),
            other => other,
        }
    }

    pub(super) fn eval(&mut self, expression: &'a Expr) -> Run<'a, Value<'a>> {
        self.burn(0)?;
        self.depth += 1;
        let result = if self.depth > DEPTH { Err(Stop::Limit) } else { self.expression(expression) };
        self.depth -= 1;
        result
    }
}
