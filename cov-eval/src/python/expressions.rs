//! Expressions.

use std::rc::Rc;

use ruff_python_ast::{self as ast, Expr};

use super::generators::Element;
use super::interpreter::Interpreter;
use super::iterators::Iter;
use super::modules::constant;
use super::operators::checked;
use super::text::{display, format, repr};
use super::value::{Body, Keywords, Run, Stop, Value, raise};

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
            Expr::NoneLiteral(_) => Value::None,
            Expr::BooleanLiteral(b) => Value::Bool(b.value),
            Expr::StringLiteral(s) => Value::str(s.value.to_str()),
            Expr::NumberLiteral(n) => match &n.value {
                // Numbers of more than 18 digits are none.
                ast::Number::Int(i) => Value::Int(i.as_i64().ok_or(Stop::Unsupported)?.into()),
                ast::Number::Float(f) => Value::Float(*f),
                ast::Number::Complex { .. } => return Err(Stop::Unsupported),
            },
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
                for item in &d.items {
                    let Some(key) = &item.key else {
                        let other = self.eval(&item.value)?;
                        if !matches!(other, Value::Dict(_)) {
                            return Value::mistake(&[&other]);
                        }
                        self.take_in(&dict, &other)?;
                        continue;
                    };
                    let (key, value) = (self.eval(key)?, self.eval(&item.value)?);
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
            Expr::Named(n) => {
                let value = self.eval(&n.value)?;
                let Expr::Name(target) = &*n.target else { return Err(Stop::Unsupported) };
                self.bind_outside(target.id.as_str(), value.clone());
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
                        Some(i) => checked(i.checked_neg())?,
                        None => return raise("TypeError"),
                    },
                    (ast::UnaryOp::UAdd, v) if v.float().is_some() => v.clone(),
                    (ast::UnaryOp::Invert, v) if v.int().is_some() => Value::Int(!v.int().unwrap_or(0)),
                    _ => return raise("TypeError"),
                }
            }
            Expr::Lambda(l) => self.function(l.parameters.as_deref(), Body::Expression(&l.body))?,
            Expr::If(i) => {
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
                let args = self.all(&c.arguments.args)?;
                let mut keywords = Keywords::new();
                for keyword in &c.arguments.keywords {
                    let value = self.eval(&keyword.value)?;
                    match (&keyword.arg, &value) {
                        (Some(name), _) => keywords.push((name.as_str().into(), value)),
                        (None, Value::Dict(table)) => {
                            self.size(keywords.len() + table.borrow().len())?;
                            for (key, value) in table.borrow().iter() {
                                let Value::Str(name) = key else { return raise("TypeError") };
                                keywords.push((name.clone(), value.clone()));
                            }
                        }
                        (None, other) => return Value::mistake(&[other]),
                    }
                }
                self.call(&function, args, keywords)?
            }
            Expr::Attribute(a) => Self::attribute(self.eval(&a.value)?, a.attr.as_str()),
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
            Expr::ListComp(c) => Value::list(self.comprehend(&c.generators, Element::One(&c.elt))?),
            Expr::SetComp(c) => {
                let items = self.comprehend(&c.generators, Element::One(&c.elt))?;
                if !items.iter().all(Value::hashable) {
                    return raise("TypeError");
                }
                Value::set(items)
            }
            Expr::Generator(c) => {
                let comprehension = self.comprehension(&c.generators, Element::One(&c.elt))?;
                Iter::Comprehension(Box::new(comprehension)).into()
            }
            Expr::DictComp(c) => {
                let Some(key) = &c.key else { return Err(Stop::Unsupported) };
                let pairs = self.comprehend(&c.generators, Element::Pair(key, &c.value))?;
                let dict = Value::Dict(Rc::default());
                for pair in pairs {
                    let Value::Tuple(pair) = pair else { continue };
                    self.put(&dict, pair[0].clone(), pair[1].clone())?;
                }
                dict
            }
            Expr::FString(f) => {
                let mut text = String::new();
                for part in &f.value {
                    match part {
                        ast::FStringPart::Literal(literal) => text.push_str(&literal.value),
                        ast::FStringPart::FString(f) => self.interpolated(&f.elements, &mut text)?,
                    }
                    self.size(text.len())?;
                }
                Value::str(text)
            }
            _ => return Err(Stop::Unsupported),
        })
    }

    /// Appends the parts of an f-string, or of the form in which one of its values is to be shown.
    fn interpolated(
        &mut self,
        elements: &'a [ast::InterpolatedStringElement],
        text: &mut String,
    ) -> Run<'a, ()> {
        for element in elements {
            match element {
                ast::InterpolatedStringElement::Literal(literal) => text.push_str(&literal.value),
                ast::InterpolatedStringElement::Interpolation(i) => {
                    let value = self.eval(&i.expression)?;
                    if let Some(shown) = &i.debug_text {
                        text.push_str(shown.as_str());
                    }
                    let value = match i.conversion {
                        ast::ConversionFlag::None if i.debug_text.is_some() && i.format_spec.is_none() => {
                            Value::str(repr(&value, 0)?)
                        }
                        ast::ConversionFlag::None => value,
                        ast::ConversionFlag::Repr => Value::str(repr(&value, 0)?),
                        ast::ConversionFlag::Str => Value::str(display(&value)?),
                        ast::ConversionFlag::Ascii => return Err(Stop::Unsupported),
                    };
                    let mut spec = String::new();
                    if let Some(parts) = &i.format_spec {
                        self.interpolated(&parts.elements, &mut spec)?;
                    }
                    let shown = if spec.is_empty() { display(&value)? } else { format(&value, &spec)? };
                    text.push_str(&shown);
                }
            }
            self.size(text.len())?;
        }
        Ok(())
    }

    /// An attribute: a method, or something in a module.
    pub(super) fn attribute(object: Value<'a>, name: &'a str) -> Value<'a> {
        let constant = if let Value::Module(module) = &object { constant(module, name) } else { None };
        constant.unwrap_or_else(|| Value::Method(Rc::new(object), name))
    }
}
