//! What is called: rules of bugbear 24.12 for defaults, and of comprehensions 3.16.

use ruff_python_ast::visitor::{Visitor, walk_expr};
use ruff_python_ast::{Comprehension, Expr, ExprCall, UnaryOp};

use super::plugins::{Plugins, at, name_of};

/// Dotted names of what is called: `a.b().c` is `a.b.c`.
fn path(e: &Expr) -> String {
    match e {
        Expr::Attribute(a) => match path(&a.value) {
            before if before.is_empty() => a.attr.to_string(),
            before => format!("{before}.{}", a.attr),
        },
        Expr::Call(c) => path(&c.func),
        other => name_of(other).unwrap_or_default().to_owned(),
    }
}

/// Calls and collections in the defaults of parameters.
pub(super) struct Defaults<'b> {
    pub(super) found: &'b mut Vec<(&'static str, usize)>,
    pub(super) depth: usize,
}

impl Visitor<'_> for Defaults<'_> {
    fn visit_expr(&mut self, e: &Expr) {
        self.depth += 1;
        match e {
            Expr::Lambda(_) => {}
            Expr::Dict(_)
            | Expr::List(_)
            | Expr::Set(_)
            | Expr::ListComp(_)
            | Expr::DictComp(_)
            | Expr::SetComp(_) => {
                if self.depth == 1 {
                    self.found.push(("B006", at(e)));
                }
                walk_expr(self, e);
            }
            Expr::Call(c) => {
                self.found.extend(default_call(c).map(|code| (code, at(e))));
                walk_expr(self, e);
            }
            _ => walk_expr(self, e),
        }
        self.depth -= 1;
    }
}

/// What is wrong with a call as a default.
fn default_call(call: &ExprCall) -> Option<&'static str> {
    match path(&call.func).as_str() {
        "Counter"
        | "OrderedDict"
        | "collections.Counter"
        | "collections.OrderedDict"
        | "collections.defaultdict"
        | "collections.deque"
        | "defaultdict"
        | "deque"
        | "dict"
        | "list"
        | "set" => Some("B006"),
        "tuple"
        | "frozenset"
        | "types.MappingProxyType"
        | "MappingProxyType"
        | "re.compile"
        | "operator.attrgetter"
        | "operator.itemgetter"
        | "operator.methodcaller"
        | "attrgetter"
        | "itemgetter"
        | "methodcaller" => None,
        "float" if call.arguments.args.len() == 1 => match &call.arguments.args[0] {
            Expr::StringLiteral(s) => {
                let number = s.value.to_str().trim().replace('_', "").parse::<f64>();
                number.is_ok_and(f64::is_finite).then_some("B008")
            }
            Expr::NumberLiteral(_) | Expr::BooleanLiteral(_) => Some("B008"),
            Expr::UnaryOp(u) if u.op != UnaryOp::Not && u.operand.is_number_literal_expr() => Some("B008"),
            _ => None,
        },
        _ => Some("B008"),
    }
}

impl<'a> Plugins<'a> {
    pub(super) fn call(&mut self, call: &'a ExprCall) {
        let Some(name) = name_of(&call.func) else { return };
        let (args, keywords) = (&*call.arguments.args, &*call.arguments.keywords);
        let pairs = |e: &Expr| matches!(e, Expr::Tuple(t) if t.elts.len() == 2);
        let (first, one) = (args.first(), args.len() == 1);
        let inner = first.and_then(|e| if let Expr::Call(c) = e { name_of(&c.func) } else { None });
        let calls = |names: &[&str]| inner.is_some_and(|name| names.contains(&name));
        let code = match (name, first) {
            ("list", Some(Expr::Generator(_))) if one => Some("C400"),
            ("set", Some(Expr::Generator(_))) if one => Some("C401"),
            ("dict", Some(Expr::Generator(g))) if one && keywords.is_empty() && pairs(&g.elt) => Some("C402"),
            ("dict", Some(Expr::ListComp(l))) if one && keywords.is_empty() && pairs(&l.elt) => Some("C404"),
            ("list", Some(Expr::ListComp(_))) if one => Some("C411"),
            ("set", Some(Expr::ListComp(_))) if one => Some("C403"),
            ("any" | "all", Some(Expr::ListComp(_))) if one => Some("C419"),
            ("set", Some(Expr::Tuple(_) | Expr::List(_))) if one => Some("C405"),
            ("dict", None) if keywords.iter().all(|k| k.arg.is_some()) => Some("C408"),
            ("tuple" | "list", None) if keywords.is_empty() => Some("C408"),
            // Calls in calls, which other rules are about.
            ("list" | "reversed", Some(_)) if calls(&["sorted"]) => None,
            ("map", Some(Expr::Lambda(_))) if args.len() == 2 && !self.in_list.contains(&at(call)) => {
                Some("C417")
            }
            ("list" | "set" | "dict", Some(Expr::Call(inner))) if one && calls(&["map"]) => {
                self.mapped(name, inner)
            }
            _ => None,
        };
        self.found.extend(code.map(|code| (code, at(call))));
    }

    /// `map` of a lambda within a collection.
    fn mapped(&mut self, outer: &str, map: &ExprCall) -> Option<&'static str> {
        let [Expr::Lambda(lambda), _] = &*map.arguments.args else { return None };
        self.in_list.insert(at(map));
        let pair = match &*lambda.body {
            Expr::Tuple(t) => t.elts.len() == 2,
            Expr::List(l) => l.elts.len() == 2,
            _ => false,
        };
        (outer != "dict" || pair).then_some("C417")
    }

    /// A comprehension that only copies.
    pub(super) fn copies(
        &mut self,
        generators: &'a [Comprehension],
        key: &Expr,
        value: Option<&Expr>,
        place: usize,
    ) {
        let [generator] = generators else { return };
        if !generator.ifs.is_empty() || generator.is_async {
            return;
        }
        let same = |a: &Expr, b: &Expr| name_of(a).is_some() && name_of(a) == name_of(b);
        let copies = match (value, &generator.target) {
            (None, target) => same(key, target),
            (Some(value), Expr::Tuple(t)) => {
                matches!(&*t.elts, [k, v] if same(key, k) && same(value, v))
            }
            _ => false,
        };
        self.report_if(copies, "C416", place);
    }
}
