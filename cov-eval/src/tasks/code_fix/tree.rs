//! Violations for which the tree of a function must be known.

use std::ops::Range;

use ruff_python_ast::{CmpOp, Expr, ExprCall, ExprCompare, Keyword, Number, Stmt, StmtFunctionDef, StmtIf};
use ruff_text_size::Ranged;

use super::dirty::Edit;
use crate::key::DetRng;
use crate::prose::capital;
use crate::python::{Node, each, parse};

fn range(node: &impl Ranged) -> Range<usize> {
    node.range().start().into()..node.range().end().into()
}

fn is_call<'a>(e: &'a Expr, names: &[&str]) -> Option<&'a ExprCall> {
    match e {
        Expr::Call(c) if matches!(&*c.func, Expr::Name(n) if names.contains(&n.id.as_str())) => Some(c),
        _ => None,
    }
}

/// The operands of a comparison of two.
fn compared<'a>(e: &'a Expr, wanted: &[CmpOp]) -> Option<(&'a ExprCompare, &'a Expr)> {
    match e {
        Expr::Compare(c) if c.ops.len() == 1 && wanted.contains(&c.ops[0]) => Some((c, &c.comparators[0])),
        _ => None,
    }
}

struct Spoiler<'a> {
    source: &'a str,
    statements: Vec<&'a Stmt>,
    expressions: Vec<&'a Expr>,
}

impl<'a> Spoiler<'a> {
    fn text(&self, node: &impl Ranged) -> &'a str {
        &self.source[range(node)]
    }

    /// Spaces before the line that something starts; `None` where something else stands before it.
    fn indent(&self, node: &impl Ranged) -> Option<&'a str> {
        let start = range(node).start;
        let line = self.source[..start].rfind('\n').map_or(0, |at| at + 1);
        let before = &self.source[line..start];
        before.bytes().all(|b| b == b' ').then_some(before)
    }

    /// Each expression that is of a kind, written otherwise.
    fn rewritten(&self, write: impl Fn(&'a Expr) -> Option<String>) -> Vec<Vec<Edit>> {
        self.expressions.iter().filter_map(|e| Some(vec![(range(*e), write(e)?)])).collect()
    }

    /// Each statement that is of a kind, written otherwise.
    fn restated(&self, write: impl Fn(&'a Stmt, &str) -> Option<String>) -> Vec<Vec<Edit>> {
        let edit = |s: &'a Stmt| Some(vec![(range(s), write(s, self.indent(s)?)?)]);
        self.statements.iter().filter_map(|s| edit(s)).collect()
    }

    /// What conditions and comparisons that are returned are replaced by.
    fn conditions(&self, write: impl Fn(&str) -> String) -> Vec<Vec<Edit>> {
        let tests = self.statements.iter().flat_map(|s| match s {
            Stmt::If(i) => {
                let others = i.elif_else_clauses.iter().filter_map(|c| c.test.as_ref());
                std::iter::once(&*i.test).chain(others).collect()
            }
            Stmt::While(w) => vec![&*w.test],
            Stmt::Return(r) => r.value.as_deref().into_iter().collect(),
            _ => Vec::new(),
        });
        tests.filter(|t| t.is_compare_expr()).map(|t| vec![(range(t), write(self.text(t)))]).collect()
    }

    /// A name written otherwise wherever it is used.
    fn renamed(&self, old: &str, new: &str) -> Vec<Edit> {
        let uses = self.expressions.iter().filter(|e| matches!(e, Expr::Name(n) if n.id.as_str() == old));
        uses.map(|e| (range(*e), new.to_owned())).collect()
    }

    fn functions(&self) -> impl Iterator<Item = &'a StmtFunctionDef> {
        self.statements.iter().filter_map(|s| if let Stmt::FunctionDef(f) = s { Some(f) } else { None })
    }

    /// `if a and b:` as two.
    fn nested(&self, i: &'a StmtIf) -> Option<Vec<Edit>> {
        let Expr::BoolOp(b) = &*i.test else { return None };
        let (first, last) = (b.values.first()?, b.values.last()?);
        if b.op != ruff_python_ast::BoolOp::And || !i.elif_else_clauses.is_empty() {
            return None;
        }
        let indent = self.indent(i)?;
        let rest = range(b.values.get(1)?).start..range(last).end;
        let mut edits =
            vec![(range(first).end..rest.end, format!(":\n{indent}    if {}", &self.source[rest]))];
        let end = range(i).end;
        let lines = self.source[range(last).end..end].match_indices('\n');
        edits.extend(lines.map(|(at, _)| {
            let at = range(last).end + at + 1;
            (at..at, "    ".to_owned())
        }));
        Some(edits)
    }

    /// Two statements on one line.
    fn joined(&self) -> Vec<Vec<Edit>> {
        let simple = |s: &Stmt| {
            matches!(s, Stmt::Assign(_) | Stmt::AugAssign(_) | Stmt::Return(_) | Stmt::Continue(_))
                || matches!(s, Stmt::Expr(e) if e.value.is_call_expr())
        };
        let mut found = Vec::new();
        for pair in self.statements.windows(2) {
            let gap = range(pair[0]).end..range(pair[1]).start;
            let close = gap.start <= gap.end && self.source[gap.clone()].trim_matches(' ') == "\n";
            if close && pair.iter().all(|s| simple(s)) && self.indent(pair[0]) == self.indent(pair[1]) {
                found.push(vec![(gap, "; ".to_owned())]);
            }
        }
        found
    }

    /// The function that a keyword is given, under a name of its own.
    fn named_lambdas(&self) -> Vec<Vec<Edit>> {
        let mut found = Vec::new();
        for statement in self.statements.iter().filter(|s| !matches!(s, Stmt::FunctionDef(_))) {
            let Some(indent) = self.indent(*statement) else { continue };
            let inside = |e: &&&Expr| {
                range(*statement).start <= range(**e).start && range(**e).end <= range(*statement).end
            };
            let calls = self.expressions.iter().filter(inside);
            let keywords =
                calls.filter_map(|e| if let Expr::Call(c) = e { Some(&c.arguments.keywords) } else { None });
            for Keyword { value, .. } in keywords.flatten().filter(|k| k.value.is_lambda_expr()) {
                let start = range(*statement).start - indent.len();
                let line = format!("{indent}order = {}\n", self.text(value));
                found.push(vec![(start..start, line), (range(value), "order".to_owned())]);
            }
        }
        found
    }

    fn comprehensions(&self, code: &str) -> Vec<Vec<Edit>> {
        let inner = |e: &Expr| {
            let text = self.text(e);
            text.get(1..text.len().saturating_sub(1)).unwrap_or_default().to_owned()
        };
        let pairs = |e: &Expr| match e {
            Expr::DictComp(d) => {
                let (key, rest) = (d.key.as_ref()?, range(&*d.value).end..range(d).end - 1);
                Some(format!("({}, {}){}", self.text(&**key), self.text(&*d.value), &self.source[rest]))
            }
            _ => None,
        };
        match code {
            "C400" => self.rewritten(|e| e.is_list_comp_expr().then(|| format!("list({})", inner(e)))),
            "C401" => self.rewritten(|e| e.is_set_comp_expr().then(|| format!("set({})", inner(e)))),
            "C402" => self.rewritten(|e| pairs(e).map(|pairs| format!("dict({pairs})"))),
            "C403" => self.rewritten(|e| e.is_set_comp_expr().then(|| format!("set([{}])", inner(e)))),
            "C404" => self.rewritten(|e| pairs(e).map(|pairs| format!("dict([{pairs}])"))),
            "C405" => self.rewritten(|e| e.is_set_expr().then(|| format!("set([{}])", inner(e)))),
            "C411" => self.rewritten(|e| e.is_list_comp_expr().then(|| format!("list({})", self.text(e)))),
            "C416" => self.rewritten(|e| {
                let call = is_call(e, &["list", "set"])?;
                let [arg] = &*call.arguments.args else { return None };
                let copied = format!("entry for entry in {}", self.text(arg));
                let list = self.text(&*call.func) == "list";
                (!arg.is_generator_expr())
                    .then(|| if list { format!("[{copied}]") } else { format!("{{{copied}}}") })
            }),
            "C417" => self.rewritten(|e| match e {
                Expr::ListComp(l) if l.generators.len() == 1 => {
                    let g = &l.generators[0];
                    (g.ifs.is_empty() && g.target.is_name_expr()).then(|| {
                        let (name, value) = (self.text(&g.target), self.text(&*l.elt));
                        format!("list(map(lambda {name}: {value}, {}))", self.text(&g.iter))
                    })
                }
                _ => None,
            }),
            _ => self.rewritten(|e| {
                let call = is_call(e, &["any", "all"])?;
                let [Expr::Generator(_)] = &*call.arguments.args else { return None };
                // Its brackets are those of the call.
                let arguments = self.text(&call.arguments);
                let generator = arguments.get(1..arguments.len() - 1)?;
                Some(format!("{}([{generator}])", self.text(&*call.func)))
            }),
        }
    }
}

/// Ways to bring one violation of a rule into a function.
pub(super) fn edits(source: &str, code: &str, rng: &mut DetRng) -> Vec<Vec<Edit>> {
    let parsed = parse(source).unwrap_or_default();
    let mut me = Spoiler { source, statements: Vec::new(), expressions: Vec::new() };
    each(&parsed, |node| match node {
        Node::Statement(s) => me.statements.push(s),
        Node::Expression(e) => me.expressions.push(e),
    });
    let number = rng.below(90);
    match code {
        "B007" => {
            let loops =
                me.statements.iter().filter_map(|s| if let Stmt::For(f) = s { Some(f) } else { None });
            let named = loops.filter(|f| f.target.is_name_expr());
            let edit = |f: &ruff_python_ast::StmtFor| {
                let (target, iter) = (range(&*f.target), range(&*f.iter));
                let wrapped = format!("enumerate({})", me.text(&*f.iter));
                vec![(target.start..target.start, format!("step_{number}, ")), (iter, wrapped)]
            };
            named.map(edit).collect()
        }
        "B008" => {
            let defaults = me.functions().flat_map(|f| f.parameters.iter_non_variadic_params());
            let wrapped = |e: &Expr| match e {
                Expr::StringLiteral(_) => Some("str"),
                Expr::NumberLiteral(n) if matches!(n.value, Number::Int(_)) => Some("int"),
                _ => None,
            };
            let defaults = defaults.filter_map(|p| p.default.as_deref());
            defaults
                .filter_map(|d| Some(vec![(range(d), format!("{}({})", wrapped(d)?, me.text(d)))]))
                .collect()
        }
        "C400" | "C401" | "C402" | "C403" | "C404" | "C405" | "C411" | "C416" | "C417" | "C419" => {
            me.comprehensions(code)
        }
        "E702" => me.joined(),
        "E712" => me.conditions(|test| format!("({test}) == True")),
        "E714" => me.rewritten(|e| {
            let (c, right) = compared(e, &[CmpOp::IsNot])?;
            Some(format!("not {} is {}", me.text(&*c.left), me.text(right)))
        }),
        "E721" => me.rewritten(|e| {
            let call = is_call(e, &["isinstance"])?;
            let [value, kind] = &*call.arguments.args else { return None };
            Some(format!("type({}) == {}", me.text(value), me.text(kind)))
        }),
        "E731" => me.named_lambdas(),
        "E741" => locals(&me).into_iter().map(|name| me.renamed(name, "l")).collect(),
        "F541" => {
            let plain = |e: &&&Expr| {
                matches!(e, Expr::StringLiteral(s) if !s.value.is_implicit_concatenated())
                    && me.text(**e).starts_with(['\'', '"'])
                    && !me.text(**e).starts_with("\"\"\"")
                    && !me.text(**e).contains(['{', '}'])
            };
            let starts = me.expressions.iter().filter(plain).map(|e| range(*e).start);
            starts.map(|at| vec![(at..at, "f".to_owned())]).collect()
        }
        "F821" => {
            let last = me.functions().next().and_then(|f| f.body.last());
            let after = |s: &Stmt| {
                let end = range(s).end;
                Some(vec![(end..end, format!("\n{}print(unknown_{number})", me.indent(s)?))])
            };
            last.filter(|s| s.is_return_stmt()).and_then(after).into_iter().collect()
        }
        "N801" => {
            let classes =
                me.statements.iter().filter_map(|s| if let Stmt::ClassDef(c) = s { Some(c) } else { None });
            classes.map(|c| vec![(range(&c.name), c.name.to_lowercase())]).collect()
        }
        "N803" => {
            let first =
                me.functions().next().into_iter().flat_map(|f| f.parameters.iter_non_variadic_params());
            let rename = |p: &ruff_python_ast::ParameterWithDefault| {
                let (name, new) = (&p.parameter.name, capital(p.parameter.name.as_str()));
                let mut edits = me.renamed(name.as_str(), &new);
                edits.push((range(name), new));
                edits
            };
            first.filter(|p| p.name().as_str() != "self").map(rename).collect()
        }
        "SIM102" => me
            .statements
            .iter()
            .filter_map(|s| if let Stmt::If(i) = s { me.nested(i) } else { None })
            .collect(),
        "SIM103" => me.restated(|s, indent| match s {
            Stmt::Return(r) => {
                let value = r.value.as_deref().filter(|v| v.is_compare_expr())?;
                let test = me.text(value);
                Some(format!("if {test}:\n{indent}    return True\n{indent}else:\n{indent}    return False"))
            }
            _ => None,
        }),
        "SIM108" => me.restated(|s, indent| match s {
            Stmt::Assign(a) => {
                let (Expr::If(e), [Expr::Name(name)]) = (&*a.value, &*a.targets) else { return None };
                let [test, body, orelse] = [&*e.test, &*e.body, &*e.orelse].map(|e| me.text(e));
                let name = name.id.as_str();
                Some(format!(
                    "if {test}:\n{indent}    {name} = {body}\n{indent}else:\n{indent}    {name} = {orelse}"
                ))
            }
            _ => None,
        }),
        "SIM201" => me.rewritten(|e| {
            let (c, right) = compared(e, &[CmpOp::NotEq])?;
            Some(format!("not {} == {}", me.text(&*c.left), me.text(right)))
        }),
        "SIM202" => me.rewritten(|e| {
            let (c, right) = compared(e, &[CmpOp::Eq])?;
            Some(format!("not {} != {}", me.text(&*c.left), me.text(right)))
        }),
        "SIM210" => me.conditions(|test| format!("True if {test} else False")),
        "SIM300" => me.rewritten(|e| {
            let (c, right) = compared(e, &[CmpOp::Eq])?;
            (right.is_literal_expr() && !c.left.is_literal_expr())
                .then(|| format!("{} == {}", me.text(right), me.text(&*c.left)))
        }),
        _ => Vec::new(),
    }
}

/// Names that assignments and loops bind.
fn locals<'a>(me: &Spoiler<'a>) -> Vec<&'a str> {
    let stored = |e: &&'a Expr| match e {
        Expr::Name(n) if n.ctx.is_store() => Some(n.id.as_str()),
        _ => None,
    };
    let mut names: Vec<&str> = me.expressions.iter().filter_map(stored).collect();
    names.sort_unstable();
    names.dedup();
    names
}
