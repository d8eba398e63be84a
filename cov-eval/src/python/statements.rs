//! Statements.

use ruff_python_ast::{self as ast, Expr, Stmt};

use super::collections::Missing;
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
                if let Expr::Subscript(s) = &*a.target
                    && !s.slice.is_slice_expr()
                {
                    let (object, key) = (self.eval(&s.value)?, self.eval(&s.slice)?);
                    let (old, add) = (self.item(&object, &key)?, self.eval(&a.value)?);
                    let value = self.augmented(&old, a.op, &add)?;
                    return self.set_item(&object, key, value);
                }
                let (old, add) = (self.eval(&a.target)?, self.eval(&a.value)?);
                let value = self.augmented(&old, a.op, &add)?;
                self.assign(&a.target, value)?;
            }
            Stmt::If(i) => {
                let taken = self.branch(i)?;
                return self.block(taken);
            }
            Stmt::For(f) if !f.is_async => {
                let items = self.eval(&f.iter)?;
                let items = self.iter(&items)?;
                while let Some(item) = self.advance(&items)? {
                    self.burn(0)?;
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
                for name in g.names.iter().map(ast::Identifier::as_str) {
                    if !self.frame.global.contains(&name) {
                        self.frame.global.push(name);
                    }
                }
            }
            Stmt::Nonlocal(n) => {
                for name in n.names.iter().map(ast::Identifier::as_str) {
                    let around = self.frame.scopes.iter().rev().skip(1);
                    let Some(scope) = around.into_iter().find(|s| s.borrow().contains_key(name)).cloned()
                    else {
                        return Err(Stop::Unsupported);
                    };
                    self.frame.nonlocal.retain(|n| n.0 != name);
                    self.frame.nonlocal.push((name, scope));
                }
            }
            Stmt::Match(m) => return self.select(m),
            Stmt::With(w) if !w.is_async => return self.suppress(w),
            Stmt::ImportFrom(i) if i.level == 0 => {
                let Some(module) = &i.module else { return Err(Stop::Unsupported) };
                for alias in &i.names {
                    if alias.name.as_str() == "*" {
                        return Err(Stop::Unsupported);
                    }
                    let name = alias.asname.as_ref().unwrap_or(&alias.name);
                    let value = Self::attribute(Value::Module(module.as_str().into()), alias.name.as_str());
                    self.bind(name.as_str(), value);
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
                    let object = self.eval(&s.value)?;
                    if let Expr::Slice(slice) = &*s.slice {
                        self.replace(&object, slice, Vec::new())?;
                        continue;
                    }
                    let key = self.eval(&s.slice)?;
                    match &object {
                        // A count that there is not may be deleted.
                        Value::Dict(d) if matches!(d.borrow().missing, Missing::Zero) => {
                            self.method(&object, "pop", &[key, Value::None], &[])?
                        }
                        _ => self.method(&object, "pop", &[key], &[])?,
                    };
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

    /// The part of an `if` that is to be run.
    pub(super) fn branch(&mut self, i: &'a ast::StmtIf) -> Run<'a, &'a [Stmt]> {
        if self.eval(&i.test)?.truth() {
            return Ok(&i.body);
        }
        for clause in &i.elif_else_clauses {
            self.burn(1)?;
            let taken = clause.test.as_ref().map_or(Ok(true), |test| Ok(self.eval(test)?.truth()))?;
            if taken {
                return Ok(&clause.body);
            }
        }
        Ok(&[])
    }

    /// `with suppress(…)`; no other managers are known.
    fn suppress(&mut self, w: &'a ast::StmtWith) -> Run<'a, ()> {
        let [ast::WithItem { context_expr: Expr::Call(c), optional_vars: None, .. }] = &w.items[..] else {
            return Err(Stop::Unsupported);
        };
        match self.eval(&c.func)? {
            Value::Method(module, "suppress") if matches!(&*module, Value::Module(m) if &**m == "contextlib") =>
                {}
            _ => return Err(Stop::Unsupported),
        }
        let kinds = c.arguments.args.iter().map(|kind| self.eval(kind)).collect::<Run<'a, Vec<_>>>()?;
        match self.block(&w.body) {
            Err(Stop::Raise(kind))
                if kinds.iter().any(|v| matches!(v, Value::Exception(k) if catches(k, &kind))) =>
            {
                Ok(())
            }
            other => other,
        }
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
