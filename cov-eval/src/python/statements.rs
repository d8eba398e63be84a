//! Statements.

use ruff_python_ast::{self as ast, Expr, Stmt};

use super::builtins::BUILTINS;
use super::interpreter::Interpreter;
use super::value::{Body, Run, Stop, Value, raise};

impl<'a> Interpreter<'a> {
    pub(super) fn statement(&mut self, statement: &'a Stmt) -> Run<'a, ()> {
        match statement {
            Stmt::FunctionDef(f) if f.decorator_list.is_empty() && !f.is_async => {
                let function = self.function(Some(&f.parameters), Body::Statements(&f.body))?;
                self.bind(f.name.as_str(), function);
            }
            Stmt::ClassDef(c) if c.decorator_list.is_empty() => self.bind(c.name.as_str(), Value::Class),
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
                if self.eval(&i.test)?.truth() {
                    return self.block(&i.body);
                }
                for clause in &i.elif_else_clauses {
                    self.burn(1)?;
                    let taken = clause.test.as_ref().map_or(Ok(true), |test| Ok(self.eval(test)?.truth()))?;
                    if taken {
                        return self.block(&clause.body);
                    }
                }
            }
            Stmt::For(f) if !f.is_async => {
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
            Stmt::Try(t) if !t.is_star => return self.attempt(t),
            Stmt::Assert(a) => {
                if !self.eval(&a.test)?.truth() {
                    return raise("AssertionError");
                }
            }
            Stmt::Global(g) => {
                let names = g.names.iter().map(ast::Identifier::as_str);
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

    pub(super) fn bind(&mut self, name: &'a str, value: Value<'a>) {
        let global = self.declared_global.last().is_some_and(|names| names.contains(&name));
        let local = self.locals.last().filter(|_| !global);
        self.bound_global |= local.is_none();
        let scope = local.unwrap_or(&self.globals);
        scope.borrow_mut().insert(name, value);
    }

    pub(super) fn name(&self, name: &str) -> Run<'a, Value<'a>> {
        let scopes = self.locals.iter().rev().chain([&self.globals]);
        for scope in scopes {
            if let Some(value) = scope.borrow().get(name) {
                return if matches!(value, Value::Class) {
                    Err(Stop::Unsupported)
                } else {
                    Ok(value.clone())
                };
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

    pub(super) fn assign(&mut self, target: &'a Expr, value: Value<'a>) -> Run<'a, ()> {
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
