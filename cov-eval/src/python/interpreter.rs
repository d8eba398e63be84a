//! Programs, their calls, and what runs them.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::{self as ast, Expr, Stmt};

use super::text::repr;
use super::value::{
    Body, Function, Keywords, MOST_WORK, Names, Run, Scope, Stop, Value, exhausted, raise, refill, work_left,
};

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

pub(super) struct Interpreter<'a> {
    pub(super) globals: Scope<'a>,
    /// Scopes of the running function, its own last.
    pub(super) locals: Vec<Scope<'a>>,
    pub(super) declared_global: Vec<Vec<&'a str>>,
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
            locals: Vec::new(),
            declared_global: Vec::new(),
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
        if parameters.is_some_and(|p| p.kwarg.is_some()) {
            return Err(Stop::Unsupported);
        }
        let mut params = Vec::new();
        for arg in parameters.iter().flat_map(|p| p.iter_non_variadic_params()) {
            let default = arg.default.as_ref().map(|d| self.eval(d)).transpose()?;
            params.push((arg.name().as_str(), default));
        }
        let rest = parameters.and_then(|p| p.vararg.as_ref()).map(|a| a.name.as_str());
        Ok(Value::Function(Rc::new(Function { params, rest, body, around: self.locals.clone() })))
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
        keywords: Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        if self.calls >= CALLS {
            return raise("RecursionError");
        }
        let mut names = Names::default();
        let mut args = args.into_iter();
        for (name, _) in &f.params {
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
        for (name, value) in keywords {
            if !f.params.iter().any(|p| p.0 == name) || names.insert(name, value).is_some() {
                return raise("TypeError");
            }
        }
        for (name, default) in &f.params {
            if !names.contains_key(name) {
                let Some(default) = default else { return raise("TypeError") };
                names.insert(name, default.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::parse;

    /// Calls of one program, one after the other, come to what the first calls of as many programs come to.
    #[test]
    fn calls_leave_no_trace() {
        for (source, arguments, expected) in [
            ("K = 2\ndef f(x):\n    return x * K\n", ["1", "2", "1"], ["2", "4", "2"]),
            ("n = 0\ndef f(x):\n    global n\n    n += x\n    return n\n", ["1", "2", "3"], ["1", "2", "3"]),
            ("L = []\ndef f(x):\n    L.append(x)\n    return L\n", ["1", "2", "1"], ["[1]", "[2]", "[1]"]),
            ("D = ({},)\ndef f(x):\n    D[0][x] = 1\n    return len(D[0])\n", ["1", "2", "3"], ["1"; 3]),
            (
                "def f(x, seen=[]):\n    seen.append(x)\n    return seen\n",
                ["1", "2", "1"],
                ["[1]", "[2]", "[1]"],
            ),
            ("it = iter([7, 8, 9])\ndef f(x):\n    return next(it) + x\n", ["0", "1", "0"], ["7", "8", "7"]),
            ("put = [].append\ndef f(x):\n    put(x)\n    return x\n", ["1", "2", "1"], ["1", "2", "1"]),
            (
                "def f(x):\n    global g\n    def g(y):\n        return x\n    return g(0)\ndef g(y):\n    return -y\n",
                ["1", "2", "3"],
                ["1", "2", "3"],
            ),
            (
                "def g():\n    return 5\ndef f(x):\n    global g\n    before = g\n    g = x\n    return before()\n",
                ["1", "2", "3"],
                ["5"; 3],
            ),
        ] {
            let statements = parse(source).unwrap();
            let lines: String = arguments.iter().map(|a| format!("({a},)\n")).collect();
            let arguments = parse(&lines).unwrap();
            let program = Program::new(&statements);
            for (args, expected) in arguments.iter().zip(expected) {
                let Stmt::Expr(e) = args else { panic!("{args:?}") };
                let Expr::Tuple(args) = &*e.value else { panic!("{e:?}") };
                let value = |outcome| if let Outcome::Value(text) = outcome { text } else { String::new() };
                assert_eq!(value(Program::new(&statements).call("f", &args.elts)), expected, "{source}");
                assert_eq!(value(program.call("f", &args.elts)), expected, "{source}");
            }
        }
    }

    /// Fuel and work are those of a call, however many came before.
    #[test]
    fn limits_are_those_of_each_call() {
        let busy = "total = 0\nfor i in range(2000):\n    total += i\n";
        let statements = parse(&format!(
            "{busy}def f(n):\n    x = 0\n    for i in range(n):\n        x += i\n    return x\n"
        ));
        let statements = statements.unwrap();
        let lines: String = (0..40).map(|i| format!("({},)\n", i * 500)).collect();
        let arguments = parse(&lines).unwrap();
        let program = Program::new(&statements);
        let mut limited = 0;
        for args in &arguments {
            let Stmt::Expr(e) = args else { panic!("{args:?}") };
            let Expr::Tuple(args) = &*e.value else { panic!("{e:?}") };
            let is_limit = |outcome| matches!(outcome, Outcome::Limit);
            let alone = is_limit(Program::new(&statements).call("f", &args.elts));
            assert_eq!(is_limit(program.call("f", &args.elts)), alone);
            limited += usize::from(alone);
        }
        assert!(limited > 0 && limited < arguments.len(), "{limited}");
    }
}
