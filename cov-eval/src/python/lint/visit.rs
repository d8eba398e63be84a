//! The way through a program on which names are bound and used.

use ruff_python_ast::visitor::{
    Visitor, walk_except_handler, walk_expr, walk_parameter, walk_pattern, walk_stmt, walk_type_param,
};
use ruff_python_ast::{
    Comprehension, ExceptHandler, Expr, ExprCall, ExprContext, ExprFString, Parameters, Pattern, Stmt,
    StmtFunctionDef, StmtIf, StmtTry, TypeParams, WithItem,
};
use ruff_text_size::Ranged;

use super::names::{Body, Fork, Later, Names, Target};
use super::plugins::name_of;
use super::scopes::{Binding, Kind, ScopeKind};

impl<'a> Names<'a> {
    fn function(&mut self, parameters: Option<&'a Parameters>, body: Body<'a>) {
        for parameter in parameters.into_iter().flatten() {
            walk_parameter(self, parameter.as_parameter());
        }
        for parameter in
            parameters.into_iter().flat_map(ruff_python_ast::Parameters::iter_non_variadic_params)
        {
            parameter.default.iter().for_each(|default| self.visit_expr(default));
        }
        self.defer(Later::Function { parameters, body });
    }

    fn with_type_params(&mut self, params: Option<&'a TypeParams>, visit: impl FnOnce(&mut Self)) {
        let Some(params) = params else { return visit(self) };
        self.within(ScopeKind::Inner, |me| {
            for param in params {
                let name = param.name();
                me.bind(name.as_str(), name.range.start().into(), Kind::Other);
            }
            for param in params {
                walk_type_param(me, param);
            }
            visit(me);
        });
    }

    fn definition(&mut self, f: &'a StmtFunctionDef, in_loop: bool) {
        let overload =
            f.decorator_list.iter().any(|d| self.is_typing(&d.expression, |name| name == "overload"));
        f.decorator_list.iter().for_each(|d| self.visit_expr(&d.expression));
        self.with_type_params(f.type_params.as_deref(), |me| {
            f.returns.iter().for_each(|r| me.visit_annotation(r));
            me.function(Some(&f.parameters), Body::Statements(&f.body));
        });
        let (at, forks) = (f.name.range.start().into(), self.fork);
        let kind = Kind::Definition;
        self.add(f.name.as_str(), Binding { kind, at, forks, in_loop, overload, ..Binding::default() });
    }

    /// Whether an expression is something of `typing`.
    fn is_typing(&self, expression: &Expr, named: impl Fn(&str) -> bool) -> bool {
        let bound = |name: &str| {
            let found = self.stack.iter().rev().find_map(|&s| self.scopes[s].names.get(name));
            found.map(|binding| &binding.kind)
        };
        let typing = |module: &str| matches!(module, "typing" | "typing_extensions");
        match expression {
            Expr::Name(n) => match bound(&n.id) {
                Some(Kind::From { module, real }) => typing(module) && named(real),
                _ => false,
            },
            Expr::Attribute(a) => match name_of(&a.value).and_then(bound) {
                Some(Kind::Import { module, .. }) => typing(module) && named(&a.attr),
                _ => false,
            },
            _ => false,
        }
    }

    fn comprehension(&mut self, generators: &'a [Comprehension], parts: [Option<&'a Expr>; 2]) {
        self.within(ScopeKind::Inner, |me| {
            for generator in generators {
                me.visit_expr(&generator.iter);
                me.store(&generator.target, Target::Other);
                generator.ifs.iter().for_each(|test| me.visit_expr(test));
            }
            parts.into_iter().flatten().for_each(|part| me.visit_expr(part));
        });
    }

    fn branches(&mut self, s: &'a StmtIf) {
        let at = |e: usize| e + 1;
        let mut nested = Vec::new();
        let outer = self.fork;
        self.conditionally(|me| {
            me.visit_expr(&s.test);
            let mut node = at(s.range.start().into());
            me.in_branch(node, 0, |me| me.visit_body(&s.body));
            for clause in &s.elif_else_clauses {
                // What follows stands in the `else` of what came before.
                nested.push(me.fork);
                me.forks.push(Fork { outer: me.fork, statement: node, branch: 1 });
                me.fork = me.forks.len() - 1;
                match &clause.test {
                    Some(test) => {
                        me.visit_expr(test);
                        node = at(clause.range.start().into());
                        me.in_branch(node, 0, |me| me.visit_body(&clause.body));
                    }
                    None => me.visit_body(&clause.body),
                }
            }
        });
        self.fork = outer;
    }

    fn attempt(&mut self, t: &'a StmtTry) {
        let named = |e: &Expr| matches!(e, Expr::Name(n) if n.id.as_str() == "NameError");
        let guards = t.handlers.iter().any(|ExceptHandler::ExceptHandler(h)| match h.type_.as_deref() {
            Some(Expr::Tuple(all)) => all.elts.iter().any(named),
            Some(kind) => named(kind),
            None => false,
        });
        let node = usize::from(t.range.start()) + 1;
        let guarded = std::mem::replace(&mut self.guarded, guards);
        self.in_branch(node, 0, |me| me.visit_body(&t.body));
        self.guarded = guarded;
        for (i, handler) in t.handlers.iter().enumerate() {
            self.in_branch(node, 1 + i, |me| me.visit_except_handler(handler));
        }
        self.in_branch(node, 0, |me| me.visit_body(&t.orelse));
        self.in_branch(node, usize::MAX, |me| me.visit_body(&t.finalbody));
    }

    fn call(&mut self, c: &'a ExprCall) {
        let (args, keywords) = (&*c.arguments.args, &*c.arguments.keywords);
        let variable = self.is_typing(&c.func, |name| name == "TypeVar");
        if self.is_typing(&c.func, |name| name == "cast") {
            self.annotating(true, |me| args.iter().take(1).for_each(|arg| me.visit_expr(arg)));
        }
        self.visit_expr(&c.func);
        for (i, arg) in args.iter().enumerate() {
            let annotation = if variable { i > 0 } else { self.in_annotation };
            self.annotating(annotation, |me| me.visit_expr(arg));
        }
        for keyword in keywords {
            let bound = keyword.arg.as_ref().is_some_and(|name| name.as_str() == "bound");
            let annotation = if variable { bound } else { self.in_annotation };
            self.annotating(annotation, |me| me.visit_expr(&keyword.value));
        }
    }

    fn interpolated(&mut self, f: &'a ExprFString) {
        use ruff_python_ast::InterpolatedStringElement::Interpolation;
        if !self.in_fstring && !f.value.elements().any(|e| matches!(e, Interpolation(_))) {
            self.found.push(("F541", f.range.start().into()));
        }
        let outer = std::mem::replace(&mut self.in_fstring, true);
        f.value.f_strings().for_each(|part| self.visit_f_string(part));
        self.in_fstring = outer;
    }
}

/// Names in a list, or in lists that are added, as `__all__` takes them.
fn listed(value: &Expr) -> Vec<&str> {
    fn texts(elts: &[Expr]) -> impl Iterator<Item = &str> {
        elts.iter().filter_map(|e| if let Expr::StringLiteral(s) = e { Some(s.value.to_str()) } else { None })
    }
    fn parts(value: &Expr) -> Option<&[Expr]> {
        match value {
            Expr::List(l) => Some(&l.elts),
            Expr::Tuple(t) => Some(&t.elts),
            _ => None,
        }
    }
    let mut found = Vec::new();
    let mut value = value;
    loop {
        if let Some(elts) = parts(value) {
            found.extend(texts(elts));
            return found;
        }
        let Expr::BinOp(b) = value else { return found };
        let Some(right) = parts(&b.right) else { return found };
        found.extend(texts(right));
        value = &b.left;
    }
}

impl<'a> Visitor<'a> for Names<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        let at: usize = statement.range().start().into();
        let in_loop = std::mem::take(&mut self.in_loop);
        match statement {
            Stmt::FunctionDef(f) => self.definition(f, in_loop),
            Stmt::ClassDef(c) => {
                c.decorator_list.iter().for_each(|d| self.visit_expr(&d.expression));
                self.with_type_params(c.type_params.as_deref(), |me| {
                    c.arguments.iter().for_each(|arguments| me.visit_arguments(arguments));
                    me.within(ScopeKind::Class, |me| me.visit_body(&c.body));
                });
                self.define(c.name.as_str(), c.name.range.start().into(), Kind::Definition, in_loop);
            }
            Stmt::Assign(a) => {
                self.visit_expr(&a.value);
                let whole = |e: &Expr| matches!(e, Expr::Tuple(_) | Expr::List(_) | Expr::Set(_));
                let each = whole(&a.value) && a.targets.iter().all(whole);
                for target in &a.targets {
                    match target {
                        Expr::Name(n) if n.id.as_str() == "__all__" && self.stack.len() == 1 => {
                            self.bind("__all__", at, Kind::Export(listed(&a.value)));
                        }
                        _ => self.store(target, if each { Target::EachAssigned } else { Target::Assigned }),
                    }
                }
            }
            Stmt::AugAssign(a) => {
                if let Expr::Name(n) = &*a.target {
                    self.load(&n.id, n.range.start().into(), false);
                }
                self.visit_expr(&a.value);
                match &*a.target {
                    Expr::Name(n) if n.id.as_str() == "__all__" && self.stack.len() == 1 => {
                        let mut names = match self.scopes[0].names.get("__all__").map(|b| &b.kind) {
                            Some(Kind::Export(names)) => names.clone(),
                            _ => Vec::new(),
                        };
                        names.extend(listed(&a.value));
                        self.bind("__all__", at, Kind::Export(names));
                    }
                    target => self.store(target, Target::Assigned),
                }
            }
            Stmt::AnnAssign(a) => {
                self.visit_annotation(&a.annotation);
                a.value.iter().for_each(|value| self.visit_expr(value));
                let how = if a.value.is_some() { Target::Assigned } else { Target::Annotated };
                self.store(&a.target, how);
            }
            Stmt::For(f) => {
                self.visit_expr(&f.iter);
                self.store(&f.target, Target::Loop);
                for statement in f.body.iter().chain(&f.orelse) {
                    self.in_loop = true;
                    self.visit_stmt(statement);
                }
                self.in_loop = false;
            }
            Stmt::While(_) => self.conditionally(|me| walk_stmt(me, statement)),
            Stmt::If(s) => self.branches(s),
            Stmt::Try(t) => self.attempt(t),
            Stmt::Match(m) => {
                self.visit_expr(&m.subject);
                for (i, case) in m.cases.iter().enumerate() {
                    self.in_branch(at + 1, i, |me| me.visit_match_case(case));
                }
            }
            Stmt::Delete(d) => d.targets.iter().for_each(|target| self.delete(target)),
            Stmt::Global(g) => g.names.iter().for_each(|name| self.declare(name.as_str(), at)),
            Stmt::Nonlocal(g) => g.names.iter().for_each(|name| self.declare(name.as_str(), at)),
            Stmt::Import(i) => {
                for alias in &i.names {
                    let module = alias.name.as_str();
                    let submodule = module.contains('.') && alias.asname.is_none();
                    let name = alias.asname.as_ref().map_or(module, |n| n.as_str());
                    let name = if submodule { name.split('.').next().unwrap_or(name) } else { name };
                    self.define(name, at, Kind::Import { module, submodule }, in_loop);
                }
            }
            Stmt::ImportFrom(i) => {
                let module = i.module.as_ref().map_or("", |m| m.as_str());
                for alias in &i.names {
                    let (real, future) = (alias.name.as_str(), module == "__future__");
                    if real == "*" {
                        self.here().starred.push(at);
                        continue;
                    }
                    self.postponed |= future && real == "annotations";
                    let kind = if future { Kind::Future } else { Kind::From { module, real } };
                    self.define(alias.asname.as_ref().map_or(real, |n| n.as_str()), at, kind, in_loop);
                }
            }
            Stmt::Return(_) if matches!(self.here().kind, ScopeKind::Module | ScopeKind::Class) => {}
            _ => walk_stmt(self, statement),
        }
    }

    fn visit_annotation(&mut self, annotation: &'a Expr) {
        if self.postponed && !annotation.is_string_literal_expr() {
            self.defer(Later::Annotation(annotation));
        } else {
            self.annotating(true, |me| me.visit_expr(annotation));
        }
    }

    fn visit_with_item(&mut self, item: &'a WithItem) {
        self.visit_expr(&item.context_expr);
        item.optional_vars.iter().for_each(|target| self.store(target, Target::Assigned));
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(h) = handler;
        let Some(name) = h.name.as_ref().map(ruff_python_ast::Identifier::as_str) else {
            return walk_except_handler(self, handler);
        };
        let at = h.range.start().into();
        if self.here().names.contains_key(name) {
            self.bind(name, at, Kind::Assignment);
        }
        // The name is the handler's own while its body runs.
        let before = self.here().names.remove(name);
        self.bind(name, at, Kind::Assignment);
        walk_except_handler(self, handler);
        if self.here().names.remove(name).is_some_and(|binding| !binding.used) {
            self.found.push(("F841", at));
        }
        if let Some(before) = before {
            self.here().names.insert(name, before);
        }
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        let name = match pattern {
            Pattern::MatchAs(p) => p.name.as_ref(),
            Pattern::MatchStar(p) => p.name.as_ref(),
            Pattern::MatchMapping(p) => p.rest.as_ref(),
            _ => None,
        };
        if let Some(name) = name {
            self.bind(name.as_str(), pattern.range().start().into(), Kind::Assignment);
        }
        walk_pattern(self, pattern);
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        match expression {
            Expr::Name(n) if n.ctx == ExprContext::Load => {
                self.load(&n.id, n.range.start().into(), false);
            }
            Expr::Named(n) => {
                self.visit_expr(&n.value);
                self.store(&n.target, Target::Named);
            }
            Expr::Lambda(l) => self.function(l.parameters.as_deref(), Body::Expression(&l.body)),
            Expr::ListComp(c) => self.comprehension(&c.generators, [Some(&c.elt), None]),
            Expr::SetComp(c) => self.comprehension(&c.generators, [Some(&c.elt), None]),
            Expr::Generator(c) => self.comprehension(&c.generators, [Some(&c.elt), None]),
            Expr::DictComp(c) => self.comprehension(&c.generators, [c.key.as_deref(), Some(&c.value)]),
            Expr::FString(f) => self.interpolated(f),
            Expr::If(_) => self.conditionally(|me| walk_expr(me, expression)),
            Expr::StringLiteral(s) if self.in_annotation => {
                self.defer(Later::Text(s.value.to_str(), s.range.start().into()));
            }
            Expr::Call(c) => {
                let locals = |e: &Expr| matches!(e, Expr::Name(n) if n.id.as_str() == "locals");
                if locals(&c.func) || c.arguments.args.iter().any(locals) {
                    let scope = self.here();
                    scope.uses_all |= scope.kind == ScopeKind::Function;
                }
                self.call(c);
            }
            Expr::Subscript(s) => {
                let name = match &*s.value {
                    Expr::Name(n) => n.id.as_str(),
                    Expr::Attribute(a) => a.attr.as_str(),
                    _ => "",
                };
                if name == "Literal" {
                    self.annotating(false, |me| walk_expr(me, expression));
                } else if let (Expr::Tuple(t), "Annotated") = (&*s.slice, name) {
                    self.visit_expr(&s.value);
                    t.elts.first().into_iter().for_each(|first| self.visit_expr(first));
                    self.annotating(false, |me| t.elts.iter().skip(1).for_each(|e| me.visit_expr(e)));
                } else {
                    let annotation = self.in_annotation || self.is_typing(&s.value, |_| true);
                    self.annotating(annotation, |me| walk_expr(me, expression));
                }
            }
            _ => walk_expr(self, expression),
        }
    }
}
