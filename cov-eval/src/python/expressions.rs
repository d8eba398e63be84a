//! Expressions.

use std::cell::RefCell;
use std::rc::Rc;

use rustpython_parser::ast::{self, Expr};

use super::interpreter::Interpreter;
use super::text::{display, format, repr};
use super::value::{Body, Keywords, Run, Scope, Stop, Value, raise};

impl<'a> Interpreter<'a> {
    fn all(&mut self, list: &'a [Expr]) -> Run<'a, Vec<Value<'a>>> {
        let mut values = Vec::with_capacity(list.len());
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

    pub(super) fn expression(&mut self, expression: &'a Expr) -> Run<'a, Value<'a>> {
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
                let mut keywords = Keywords::new();
                for keyword in &c.keywords {
                    let Some(name) = &keyword.arg else { return Err(Stop::Unsupported) };
                    keywords.push((name.as_str(), self.eval(&keyword.value)?));
                }
                self.call(&function, args, keywords)?
            }
            Expr::Attribute(a) => match self.eval(&a.value)? {
                Value::Module(m) if &*m == "math" && a.attr.as_str() == "pi" => {
                    Value::Float(std::f64::consts::PI)
                }
                object => Value::Method(Rc::new(object), a.attr.as_str()),
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
