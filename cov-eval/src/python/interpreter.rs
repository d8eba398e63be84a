//! Statements and expressions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rustpython_parser::ast::{self, Expr, Stmt};

use super::builtins::BUILTINS;
use super::text::{display, format, repr};
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
    globals: Scope<'a>,
    /// Scopes of the running function, its own last.
    locals: Vec<Scope<'a>>,
    declared_global: Vec<Vec<String>>,
    fuel: usize,
    depth: usize,
    calls: usize,
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

    fn block(&mut self, statements: &'a [Stmt]) -> Run<'a, ()> {
        statements.iter().try_for_each(|s| self.exec(s))
    }

    fn exec(&mut self, statement: &'a Stmt) -> Run<'a, ()> {
        self.burn(1)?;
        self.depth += 1;
        let result = if self.depth > DEPTH { Err(Stop::Limit) } else { self.statement(statement) };
        self.depth -= 1;
        result
    }

    fn statement(&mut self, statement: &'a Stmt) -> Run<'a, ()> {
        match statement {
            Stmt::FunctionDef(f) if f.decorator_list.is_empty() => {
                let function = self.function(&f.args, Body::Statements(&f.body))?;
                self.bind(f.name.as_str(), function);
            }
            Stmt::Return(r) => {
                let value = r.value.as_ref().map_or(Ok(Value::None), |v| self.eval(v))?;
                return Err(Stop::Return(value));
            }
            Stmt::Assign(a) => {
                let value = self.eval(&a.value)?;
                for target in &a.targets {
                    self.assign(target, value.clone())?;
                }
            }
            Stmt::AnnAssign(a) => {
                if let Some(value) = &a.value {
                    let value = self.eval(value)?;
                    self.assign(&a.target, value)?;
                }
            }
            Stmt::AugAssign(a) => {
                let (old, add) = (self.eval(&a.target)?, self.eval(&a.value)?);
                if let (Value::List(list), ast::Operator::Add) = (&old, a.op) {
                    let items = self.items(&add)?;
                    self.size(list.borrow().len() + items.len())?;
                    list.borrow_mut().extend(items);
                    return Ok(());
                }
                let value = self.binary(&old, a.op, &add)?;
                self.assign(&a.target, value)?;
            }
            Stmt::If(i) => {
                let branch = if self.eval(&i.test)?.truth() { &i.body } else { &i.orelse };
                self.block(branch)?;
            }
            Stmt::For(f) => {
                let items = self.eval(&f.iter)?;
                let live = if let Value::List(list) = &items { Some(list.clone()) } else { None };
                let fixed = if live.is_some() { Vec::new() } else { self.items(&items)? };
                let mut fixed = fixed.into_iter();
                let mut at = 0;
                loop {
                    // A list may change while it is gone through.
                    let next = match &live {
                        Some(list) => list.borrow().get(at).cloned(),
                        None => fixed.next(),
                    };
                    at += 1;
                    let Some(item) = next else { break };
                    self.burn(1)?;
                    self.assign(&f.target, item)?;
                    match self.block(&f.body) {
                        Err(Stop::Break) => return Ok(()),
                        Ok(()) | Err(Stop::Continue) => {}
                        other => return other,
                    }
                }
                self.block(&f.orelse)?;
            }
            Stmt::While(w) => {
                while self.eval(&w.test)?.truth() {
                    self.burn(1)?;
                    match self.block(&w.body) {
                        Err(Stop::Break) => return Ok(()),
                        Ok(()) | Err(Stop::Continue) => {}
                        other => return other,
                    }
                }
                self.block(&w.orelse)?;
            }
            Stmt::Raise(r) => {
                let Some(exception) = &r.exc else { return Err(Stop::Unsupported) };
                match self.eval(exception)? {
                    Value::Exception(kind) => return Err(Stop::Raise(kind)),
                    _ => return raise("TypeError"),
                }
            }
            Stmt::Try(t) => return self.attempt(t),
            Stmt::Assert(a) => {
                if !self.eval(&a.test)?.truth() {
                    return raise("AssertionError");
                }
            }
            Stmt::Global(g) => {
                let names = g.names.iter().map(ToString::to_string);
                if let Some(declared) = self.declared_global.last_mut() {
                    declared.extend(names);
                }
            }
            Stmt::Import(i) => {
                for alias in &i.names {
                    let name = alias.asname.as_ref().unwrap_or(&alias.name);
                    self.bind(name.as_str(), Value::Module(alias.name.as_str().into()));
                }
            }
            Stmt::Delete(d) => {
                for target in &d.targets {
                    let Expr::Subscript(s) = target else { return Err(Stop::Unsupported) };
                    let (object, key) = (self.eval(&s.value)?, self.eval(&s.slice)?);
                    self.method(&object, "pop", &[key], &[])?;
                }
            }
            Stmt::Expr(e) => drop(self.eval(&e.value)?),
            Stmt::Pass(_) => {}
            Stmt::Break(_) => return Err(Stop::Break),
            Stmt::Continue(_) => return Err(Stop::Continue),
            _ => return Err(Stop::Unsupported),
        }
        Ok(())
    }

    fn attempt(&mut self, t: &'a ast::StmtTry) -> Run<'a, ()> {
        let mut result = self.block(&t.body);
        if let Err(Stop::Raise(kind)) = &result {
            let kind = kind.clone();
            for handler in &t.handlers {
                let ast::ExceptHandler::ExceptHandler(h) = handler;
                let catches = match &h.type_ {
                    None => true,
                    Some(e) => match self.eval(e)? {
                        Value::Exception(k) => catches(&k, &kind),
                        Value::Tuple(all) => {
                            all.iter().any(|v| matches!(v, Value::Exception(k) if catches(k, &kind)))
                        }
                        _ => return raise("TypeError"),
                    },
                };
                if catches {
                    if let Some(name) = &h.name {
                        self.bind(name.as_str(), Value::Exception(kind));
                    }
                    result = self.block(&h.body);
                    break;
                }
            }
        } else if result.is_ok() {
            result = self.block(&t.orelse);
        }
        match self.block(&t.finalbody) {
            Ok(()) => result,
            other => other,
        }
    }

    fn bind(&mut self, name: &str, value: Value<'a>) {
        let global = self.declared_global.last().is_some_and(|names| names.iter().any(|n| n == name));
        let scope = self.locals.last().filter(|_| !global).unwrap_or(&self.globals);
        scope.borrow_mut().insert(name.to_owned(), value);
    }

    fn name(&self, name: &str) -> Run<'a, Value<'a>> {
        let scopes = self.locals.iter().rev().chain([&self.globals]);
        for scope in scopes {
            if let Some(value) = scope.borrow().get(name) {
                return Ok(value.clone());
            }
        }
        if let Some(builtin) = BUILTINS.iter().find(|b| **b == name) {
            return Ok(Value::Builtin(builtin));
        }
        if name.ends_with("Error") || matches!(name, "Exception" | "StopIteration") {
            return Ok(Value::Exception(name.into()));
        }
        raise("NameError")
    }

    fn assign(&mut self, target: &'a Expr, value: Value<'a>) -> Run<'a, ()> {
        match target {
            Expr::Name(n) => self.bind(n.id.as_str(), value),
            Expr::Tuple(ast::ExprTuple { elts, .. }) | Expr::List(ast::ExprList { elts, .. }) => {
                if elts.iter().any(|e| matches!(e, Expr::Starred(_))) {
                    return Err(Stop::Unsupported);
                }
                let items = self.items(&value)?;
                if items.len() != elts.len() {
                    return raise("ValueError");
                }
                for (target, item) in elts.iter().zip(items) {
                    self.assign(target, item)?;
                }
            }
            Expr::Subscript(s) => {
                let (object, key) = (self.eval(&s.value)?, self.eval(&s.slice)?);
                match &object {
                    Value::List(list) => {
                        let at = self.place(&key, list.borrow().len())?;
                        list.borrow_mut()[at] = value;
                    }
                    Value::Dict(_) => self.put(&object, key, value)?,
                    _ => return raise("TypeError"),
                }
            }
            _ => return Err(Stop::Unsupported),
        }
        Ok(())
    }

    /// Sets a key of a dictionary.
    pub(super) fn put(&mut self, dict: &Value<'a>, key: Value<'a>, value: Value<'a>) -> Run<'a, ()> {
        let Value::Dict(dict) = dict else { return raise("TypeError") };
        if !key.hashable() {
            return raise("TypeError");
        }
        let found = dict.borrow().iter().position(|(k, _)| k.equals(&key));
        match found {
            Some(i) => dict.borrow_mut()[i].1 = value,
            None => {
                self.size(dict.borrow().len() + 1)?;
                dict.borrow_mut().push((key, value));
            }
        }
        Ok(())
    }

    fn place(&self, key: &Value<'a>, len: usize) -> Run<'a, usize> {
        let Some(i) = key.int() else { return raise("TypeError") };
        let i = if i < 0 { i + len as i128 } else { i };
        usize::try_from(i).ok().filter(|&i| i < len).map_or_else(|| raise("IndexError"), Ok)
    }

    fn function(&mut self, args: &'a ast::Arguments, body: Body<'a>) -> Run<'a, Value<'a>> {
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

    fn all(&mut self, list: &'a [Expr]) -> Run<'a, Vec<Value<'a>>> {
        let mut values = Vec::new();
        for item in list {
            match item {
                Expr::Starred(s) => {
                    let items = self.eval(&s.value)?;
                    values.extend(self.items(&items)?);
                }
                item => values.push(self.eval(item)?),
            }
        }
        Ok(values)
    }

    fn expression(&mut self, expression: &'a Expr) -> Run<'a, Value<'a>> {
        Ok(match expression {
            Expr::Constant(c) => constant(&c.value)?,
            Expr::Name(n) => self.name(n.id.as_str())?,
            Expr::List(l) => Value::list(self.all(&l.elts)?),
            Expr::Tuple(t) => Value::tuple(self.all(&t.elts)?),
            Expr::Set(s) => {
                let items = self.all(&s.elts)?;
                if !items.iter().all(Value::hashable) {
                    return raise("TypeError");
                }
                Value::set(items)
            }
            Expr::Dict(d) => {
                let dict = Value::Dict(Rc::default());
                for (key, value) in d.keys.iter().zip(&d.values) {
                    let Some(key) = key else { return Err(Stop::Unsupported) };
                    let (key, value) = (self.eval(key)?, self.eval(value)?);
                    self.put(&dict, key, value)?;
                }
                dict
            }
            Expr::BoolOp(b) => {
                let mut value = Value::None;
                for item in &b.values {
                    value = self.eval(item)?;
                    if value.truth() == (b.op == ast::BoolOp::Or) {
                        break;
                    }
                }
                value
            }
            Expr::NamedExpr(n) => {
                let value = self.eval(&n.value)?;
                self.assign(&n.target, value.clone())?;
                value
            }
            Expr::BinOp(b) => {
                let (left, right) = (self.eval(&b.left)?, self.eval(&b.right)?);
                self.binary(&left, b.op, &right)?
            }
            Expr::UnaryOp(u) => {
                let value = self.eval(&u.operand)?;
                match (u.op, &value) {
                    (ast::UnaryOp::Not, v) => Value::Bool(!v.truth()),
                    (ast::UnaryOp::USub, Value::Float(f)) => Value::Float(-f),
                    (ast::UnaryOp::USub, v) => match v.int() {
                        Some(i) => Value::Int(i.saturating_neg()),
                        None => return raise("TypeError"),
                    },
                    (ast::UnaryOp::UAdd, v) if v.float().is_some() => v.clone(),
                    (ast::UnaryOp::Invert, v) if v.int().is_some() => Value::Int(!v.int().unwrap_or(0)),
                    _ => return raise("TypeError"),
                }
            }
            Expr::Lambda(l) => self.function(&l.args, Body::Expression(&l.body))?,
            Expr::IfExp(i) => {
                let branch = if self.eval(&i.test)?.truth() { &i.body } else { &i.orelse };
                self.eval(branch)?
            }
            Expr::Compare(c) => {
                let mut left = self.eval(&c.left)?;
                for (op, right) in c.ops.iter().zip(&c.comparators) {
                    let right = self.eval(right)?;
                    if !self.compare(&left, *op, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expr::Call(c) => {
                let function = self.eval(&c.func)?;
                let args = self.all(&c.args)?;
                let mut keywords = Vec::new();
                for keyword in &c.keywords {
                    let Some(name) = &keyword.arg else { return Err(Stop::Unsupported) };
                    keywords.push((name.to_string(), self.eval(&keyword.value)?));
                }
                self.call(&function, args, keywords)?
            }
            Expr::Attribute(a) => match self.eval(&a.value)? {
                Value::Module(m) if &*m == "math" && a.attr.as_str() == "pi" => {
                    Value::Float(std::f64::consts::PI)
                }
                object => Value::Method(Rc::new(object), a.attr.as_str().into()),
            },
            Expr::Subscript(s) => {
                let object = self.eval(&s.value)?;
                match &*s.slice {
                    Expr::Slice(slice) => self.slice(&object, slice)?,
                    key => {
                        let key = self.eval(key)?;
                        self.item(&object, &key)?
                    }
                }
            }
            Expr::ListComp(c) => Value::list(self.comprehend(&c.generators, &mut |me| me.eval(&c.elt))?),
            Expr::SetComp(c) => Value::set(self.comprehend(&c.generators, &mut |me| me.eval(&c.elt))?),
            Expr::GeneratorExp(c) => {
                let items = self.comprehend(&c.generators, &mut |me| me.eval(&c.elt))?;
                Value::Iterator(Rc::new(RefCell::new(items.into_iter())))
            }
            Expr::DictComp(c) => {
                let pairs = self.comprehend(&c.generators, &mut |me| {
                    Ok(Value::tuple(vec![me.eval(&c.key)?, me.eval(&c.value)?]))
                })?;
                let dict = Value::Dict(Rc::default());
                for pair in pairs {
                    let Value::Tuple(pair) = pair else { continue };
                    self.put(&dict, pair[0].clone(), pair[1].clone())?;
                }
                dict
            }
            Expr::JoinedStr(j) => {
                let mut text = String::new();
                for part in &j.values {
                    let value = self.eval(part)?;
                    text.push_str(&display(&value)?);
                    self.size(text.len())?;
                }
                Value::str(text)
            }
            Expr::FormattedValue(f) => {
                let value = self.eval(&f.value)?;
                let value = match f.conversion {
                    ast::ConversionFlag::None => value,
                    ast::ConversionFlag::Repr => Value::str(repr(&value, 0)?),
                    ast::ConversionFlag::Str => Value::str(display(&value)?),
                    ast::ConversionFlag::Ascii => return Err(Stop::Unsupported),
                };
                let spec = match &f.format_spec {
                    None => String::new(),
                    Some(spec) => display(&self.eval(spec)?)?,
                };
                Value::str(if spec.is_empty() { display(&value)? } else { format(&value, &spec)? })
            }
            _ => return Err(Stop::Unsupported),
        })
    }

    /// Values of a comprehension, in a scope of its own.
    fn comprehend(
        &mut self,
        generators: &'a [ast::Comprehension],
        element: &mut dyn FnMut(&mut Self) -> Run<'a, Value<'a>>,
    ) -> Run<'a, Vec<Value<'a>>> {
        self.locals.push(Scope::default());
        let mut found = Vec::new();
        let result = self.generate(generators, element, &mut found);
        self.locals.pop();
        result.map(|()| found)
    }

    fn generate(
        &mut self,
        generators: &'a [ast::Comprehension],
        element: &mut dyn FnMut(&mut Self) -> Run<'a, Value<'a>>,
        found: &mut Vec<Value<'a>>,
    ) -> Run<'a, ()> {
        let Some((first, others)) = generators.split_first() else {
            self.size(found.len() + 1)?;
            let value = element(self)?;
            found.push(value);
            return Ok(());
        };
        let items = self.eval(&first.iter)?;
        for item in self.items(&items)? {
            self.burn(1)?;
            self.assign(&first.target, item)?;
            let mut wanted = true;
            for test in &first.ifs {
                wanted = wanted && self.eval(test)?.truth();
            }
            if wanted {
                self.generate(others, element, found)?;
            }
        }
        Ok(())
    }
}

/// Whether a handler for one kind catches another.
fn catches(handler: &str, kind: &str) -> bool {
    let parent = match kind {
        "KeyError" | "IndexError" => "LookupError",
        "ZeroDivisionError" | "OverflowError" => "ArithmeticError",
        _ => "Exception",
    };
    handler == kind || handler == "Exception" || handler == parent
}

fn constant<'a>(value: &ast::Constant) -> Run<'a, Value<'a>> {
    Ok(match value {
        ast::Constant::None => Value::None,
        ast::Constant::Bool(b) => Value::Bool(*b),
        ast::Constant::Str(s) => Value::str(s.as_str()),
        // Numbers of more than 18 digits are none.
        ast::Constant::Int(i) => {
            i64::try_from(i).map_or(Err(Stop::Unsupported), |i| Ok(Value::Int(i.into())))?
        }
        ast::Constant::Float(f) => Value::Float(*f),
        ast::Constant::Tuple(t) => Value::tuple(t.iter().map(constant).collect::<Run<'a, Vec<_>>>()?),
        _ => return Err(Stop::Unsupported),
    })
}
