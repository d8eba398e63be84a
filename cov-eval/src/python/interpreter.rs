//! Programs, their calls, and what runs them.
//!
//! A call burns fuel with each step, and nothing that it makes may be large or deep; it comes to the same each time. What is not
//! known ends it as unsupported, never with a guess:
//!
//! * classes, functions with decorators, `async`, `with` but for `suppress`, `yield` in `try` or as a value;
//! * integers beyond 128 bits, complex numbers, bytes, `slice` objects, and text that is read, evaluated or looked up by name;
//! * modules but for parts of those in `modules.rs`, so `re`, `textwrap` and `datetime`;
//! * the text of exceptions, of functions and of iterators, and that of `Counter`, `defaultdict`, `deque` and `frozenset`;
//! * forms of `format` but for `[[fill]align][0][width][,][.digits][s|d|f|%]`.
//!
//! At the level of the module such a definition leaves a name whose use is not supported; the rest of the module runs. Keys, values
//! and items of a dictionary are lists here, and a name that is unbound in a function is looked up around it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::FixedState;
use ruff_python_ast::{self as ast, Expr, Stmt};

use super::builtins::is_instance;
use super::text::repr;
use super::value::{
    Body, Function, Keywords, MOST_WORK, Names, Run, Scope, Stop, Value, exhausted, raise, refill, work_left,
};

/// Steps that one call may take.
const FUEL: usize = 50_000;
/// Nested evaluations: calls in calls, and expressions in expressions.
pub(super) const DEPTH: usize = 2_000;
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

/// A module, and what calls of its functions come to. Each call finds the module as it is after its statements have run.
pub(crate) struct Program<'a> {
    statements: &'a [Stmt],
    /// The names of the module once it has run, where nothing that they stand for can change in place.
    kept: RefCell<Option<Kept<'a>>>,
}

struct Kept<'a> {
    globals: Scope<'a>,
    /// What is left of the work that values may make.
    work: u32,
}

impl<'a> Program<'a> {
    pub(crate) fn new(statements: &'a [Stmt]) -> Self {
        Self { statements, kept: RefCell::default() }
    }

    /// Calls a function of a fresh module.
    pub(crate) fn call(&self, name: &str, args: &'a [Expr]) -> Outcome {
        let called = |interpreter: &mut Interpreter<'a>| {
            let value = interpreter.called(name, args)?;
            repr(&value, 0)
        };
        match self.with_module(called) {
            Ok(text) => Outcome::Value(text),
            Err(stop) => outcome(stop),
        }
    }

    /// Whether a call comes to what an expression says, floats to 1e-9.
    pub(crate) fn gives(&self, name: &str, args: &'a [Expr], expected: &'a Expr) -> Result<bool, Outcome> {
        let called = |interpreter: &mut Interpreter<'a>| {
            let value = interpreter.called(name, args)?;
            refill(MOST_WORK);
            let expected = interpreter.eval(expected)?;
            Ok(expected.same(&value, 1e-9) && same_kind(&expected, &value))
        };
        self.with_module(called).map_err(outcome)
    }

    /// Does something in a fresh module. Running its statements again is spared where they would come to the same names with
    /// the same values, since neither can have changed.
    fn with_module<T>(&self, run: impl FnOnce(&mut Interpreter<'a>) -> Run<'a, T>) -> Run<'a, T> {
        let mut interpreter = Interpreter::new();
        let mut kept = self.kept.borrow_mut();
        match &*kept {
            Some(Kept { globals, work }) => {
                interpreter.globals = globals.clone();
                refill(*work);
            }
            None => {
                refill(MOST_WORK);
                interpreter.module(self.statements)?;
                if interpreter.globals.borrow().values().all(Value::is_fixed) {
                    *kept = Some(Kept { globals: interpreter.globals.clone(), work: work_left() });
                }
            }
        }
        interpreter.bound_global = false;
        let result = run(&mut interpreter);
        if interpreter.bound_global {
            *kept = None;
        }
        result
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

/// Where the names of what runs are.
#[derive(Clone, Default)]
pub(super) struct Frame<'a> {
    /// Scopes of the running function, its own last, and behind it those of comprehensions.
    pub(super) scopes: Vec<Scope<'a>>,
    pub(super) comprehensions: usize,
    pub(super) global: Vec<&'a str>,
    pub(super) nonlocal: Vec<(&'a str, Scope<'a>)>,
}

pub(super) struct Interpreter<'a> {
    pub(super) globals: Scope<'a>,
    pub(super) frame: Frame<'a>,
    /// Which statements yield, by their places.
    pub(super) yields: HashMap<(usize, usize), bool, FixedState>,
    /// Whether a name of the module was bound.
    pub(super) bound_global: bool,
    pub(super) fuel: usize,
    pub(super) depth: usize,
    pub(super) calls: usize,
}

impl<'a> Interpreter<'a> {
    fn new() -> Self {
        Self {
            globals: Scope::default(),
            frame: Frame::default(),
            yields: HashMap::default(),
            bound_global: false,
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
        self.room(n)?;
        self.burn(n / 64)
    }

    /// Whether so many items may be.
    pub(super) fn room(&self, n: usize) -> Run<'a, ()> {
        if n > SIZE { Err(Stop::Limit) } else { Ok(()) }
    }

    /// The module's statements, without what runs only as a script.
    fn module(&mut self, statements: &'a [Stmt]) -> Run<'a, ()> {
        for statement in statements {
            let main = matches!(statement, Stmt::If(i) if matches!(&*i.test, Expr::Compare(c)
                if matches!(&*c.left, Expr::Name(n) if n.id.as_str() == "__name__")));
            if main {
                continue;
            }
            match (self.exec(statement), statement) {
                // What is not known matters where it is used.
                (Err(Stop::Unsupported), Stmt::FunctionDef(f)) => self.bind(f.name.as_str(), Value::Class),
                (Err(Stop::Unsupported), Stmt::ClassDef(c)) => self.bind(c.name.as_str(), Value::Class),
                (Err(Stop::Unsupported), Stmt::Assign(ast::StmtAssign { targets, .. }))
                    if let [Expr::Name(n)] = &targets[..] =>
                {
                    self.bind(n.id.as_str(), Value::Class);
                }
                (Err(Stop::Unsupported), Stmt::AnnAssign(ast::StmtAnnAssign { target, .. }))
                    if let Expr::Name(n) = &**target =>
                {
                    self.bind(n.id.as_str(), Value::Class);
                }
                (result, _) => result?,
            }
        }
        self.fuel = FUEL;
        Ok(())
    }

    /// The result of a function of the module.
    fn called(&mut self, name: &str, args: &'a [Expr]) -> Run<'a, Value<'a>> {
        let function = self.name(name)?;
        let args = args.iter().map(|a| self.eval(a)).collect::<Run<'_, Vec<_>>>()?;
        self.call(&function, args, Vec::new())
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

    pub(super) fn function(
        &mut self,
        parameters: Option<&'a ast::Parameters>,
        body: Body<'a>,
    ) -> Run<'a, Value<'a>> {
        let mut params = Vec::new();
        for arg in parameters.iter().flat_map(|p| p.iter_non_variadic_params()) {
            let default = arg.default.as_ref().map(|d| self.eval(d)).transpose()?;
            params.push((arg.name().as_str(), default));
        }
        let rest = parameters.and_then(|p| p.vararg.as_ref()).map(|a| a.name.as_str());
        let named_rest = parameters.and_then(|p| p.kwarg.as_ref()).map(|a| a.name.as_str());
        let places = parameters.map_or(0, |p| p.posonlyargs.len() + p.args.len());
        let around = self.frame.scopes.clone();
        Ok(Value::Function(Rc::new(Function { params, places, rest, named_rest, body, around })))
    }

    pub(super) fn call(
        &mut self,
        function: &Value<'a>,
        args: Vec<Value<'a>>,
        keywords: Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        self.burn(1)?;
        match function {
            Value::Function(f) => self.apply(f, args, keywords),
            Value::Builtin(name) => self.builtin(name, args, keywords),
            Value::Method(object, name) => match &**object {
                Value::Module(module) => self.module_call(module, name, args, keywords),
                Value::Method(module, chain) => match (&**module, *chain, *name) {
                    (Value::Module(module), "chain", "from_iterable") => {
                        self.module_call(module, "chain.from_iterable", args, keywords)
                    }
                    _ => Err(Stop::Unsupported),
                },
                Value::Builtin("dict") if *name == "fromkeys" => self.with_keys(&args),
                kind @ Value::Builtin(_) => match args.split_first() {
                    Some((object, args)) if is_instance(object, kind)? => {
                        self.method(object, name, args, &keywords)
                    }
                    _ => Err(Stop::Unsupported),
                },
                object => self.method(object, name, &args, &keywords),
            },
            Value::Partial(partial) => {
                let args = partial.args.iter().cloned().chain(args).collect::<Vec<_>>();
                let given = |k: &&(Rc<str>, Value<'a>)| !keywords.iter().any(|other| other.0 == k.0);
                let kept = partial.keywords.iter().filter(given).cloned().collect::<Vec<_>>();
                self.size(args.len())?;
                self.depth += 1;
                let result = if self.depth > DEPTH {
                    Err(Stop::Limit)
                } else {
                    self.call(&partial.function, args, kept.into_iter().chain(keywords).collect())
                };
                self.depth -= 1;
                result
            }
            // The text of an exception is not kept.
            Value::Exception(kind) => Ok(Value::Exception(kind.clone())),
            other => Value::mistake(&[other]),
        }
    }

    fn apply(
        &mut self,
        f: &Function<'a>,
        args: Vec<Value<'a>>,
        keywords: Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        if self.calls >= CALLS {
            return raise("RecursionError");
        }
        let mut names = Names::default();
        let mut args = args.into_iter();
        for (name, _) in &f.params[..f.places] {
            if let Some(value) = args.next() {
                names.insert(name, value);
            }
        }
        let rest: Vec<Value<'a>> = args.collect();
        match &f.rest {
            Some(name) => drop(names.insert(name, Value::tuple(rest))),
            None if !rest.is_empty() => return raise("TypeError"),
            None => {}
        }
        let others = Value::Dict(Rc::default());
        for (name, value) in keywords {
            match (f.params.iter().find(|p| p.0 == &*name), f.named_rest) {
                (Some((name, _)), _) if !names.contains_key(name) => drop(names.insert(name, value)),
                (None, Some(_)) => self.put(&others, Value::Str(name), value)?,
                _ => return raise("TypeError"),
            }
        }
        if let Some(name) = f.named_rest {
            names.insert(name, others);
        }
        for (name, default) in &f.params {
            if !names.contains_key(name) {
                let Some(default) = default else { return raise("TypeError") };
                names.insert(name, default.clone());
            }
        }
        let mut scopes = f.around.clone();
        scopes.push(Rc::new(RefCell::new(names)));
        let frame = Frame { scopes, ..Frame::default() };
        if let Body::Statements(statements) = f.body
            && self.yields(statements)
        {
            return Ok(Self::generator(frame, statements));
        }
        let outer = std::mem::replace(&mut self.frame, frame);
        self.calls += 1;
        let result = match f.body {
            Body::Statements(statements) => self.block(statements).map(|()| Value::None),
            Body::Expression(expression) => self.eval(expression),
        };
        self.calls -= 1;
        self.frame = outer;
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
