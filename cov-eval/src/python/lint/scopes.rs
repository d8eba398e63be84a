//! Scopes, and what binds names in them.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// What a name was bound by.
#[derive(Debug, Clone, Default)]
pub(super) enum Kind<'a> {
    /// `import a.b` (whose name is `a`), `import a as b`.
    Import {
        module: &'a str,
        submodule: bool,
    },
    /// `from module import real`.
    From {
        module: &'a str,
        real: &'a str,
    },
    /// `from __future__ import …`.
    Future,
    Definition,
    Assignment,
    Named,
    /// A name that is declared with a type alone.
    Annotation,
    /// `__all__` and what it names.
    Export(Vec<&'a str>),
    /// Arguments, targets of loops, parts of what is unpacked.
    #[default]
    Other,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Binding<'a> {
    pub(super) kind: Kind<'a>,
    /// Where it is reported.
    pub(super) at: usize,
    pub(super) forks: usize,
    pub(super) used: bool,
    /// The target of a `for`.
    pub(super) in_loop: bool,
    /// A function with `@overload`.
    pub(super) overload: bool,
    /// Where inner scopes bind the name again.
    pub(super) redefined: Vec<usize>,
}

impl<'a> Binding<'a> {
    pub(super) fn is_import(&self) -> bool {
        matches!(self.kind, Kind::Import { .. } | Kind::From { .. } | Kind::Future)
    }

    pub(super) fn is_definition(&self) -> bool {
        self.is_import() || matches!(self.kind, Kind::Definition)
    }

    /// Whether it takes the place of another one of the same name, which nobody has used so far.
    pub(super) fn redefines(&self, other: &Self) -> bool {
        let submodules = |a: &Kind<'a>, b: &Kind<'a>| match (a, b) {
            (Kind::Import { module: a, .. }, Kind::Import { module: b, .. }) => Some(a == b),
            _ => None,
        };
        match (&self.kind, &other.kind) {
            (Kind::Annotation, _) => false,
            (a @ Kind::Import { submodule: true, .. }, b) if other.is_import() => {
                submodules(a, b).unwrap_or(false)
            }
            (a, b @ Kind::Import { submodule: true, .. }) if self.is_import() => {
                submodules(a, b).unwrap_or(false)
            }
            (Kind::Definition, Kind::Assignment | Kind::Named) => true,
            _ => other.is_definition(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScopeKind {
    Module,
    Class,
    Function,
    /// Of a comprehension, or of parameters of types.
    Inner,
}

pub(super) struct Scope<'a> {
    pub(super) kind: ScopeKind,
    pub(super) names: HashMap<&'a str, Binding<'a>, FixedState>,
    /// Places of `from module import *`, and whether a name may come from them.
    pub(super) starred: Vec<usize>,
    pub(super) star_used: bool,
    /// `locals()`, which uses all names.
    pub(super) uses_all: bool,
}

/// Assignments to these say something to a debugger.
const ALWAYS_USED: [&str; 4] =
    ["__tracebackhide__", "__traceback_info__", "__traceback_supplement__", "__debuggerskip__"];

impl<'a> Scope<'a> {
    pub(super) fn new(kind: ScopeKind) -> Self {
        Self { kind, names: HashMap::default(), starred: Vec::new(), star_used: false, uses_all: false }
    }

    /// Reports what nobody uses.
    pub(super) fn unused(&self, found: &mut Vec<(&'static str, usize)>) {
        if self.kind == ScopeKind::Class {
            return;
        }
        if !self.star_used {
            found.extend(self.starred.iter().map(|&at| ("F401", at)));
        }
        let exported: &[&str] = match self.names.get("__all__").map(|b| &b.kind) {
            Some(Kind::Export(names)) => names,
            _ => &[],
        };
        for (name, binding) in &self.names {
            if binding.is_import() {
                let used = binding.used || exported.contains(name) || matches!(binding.kind, Kind::Future);
                if !used {
                    found.push(("F401", binding.at));
                    found.extend(binding.redefined.iter().map(|&at| ("F811", at)));
                }
            } else if self.kind == ScopeKind::Function
                && matches!(binding.kind, Kind::Assignment | Kind::Named)
                && !(binding.used || self.uses_all || *name == "_" || ALWAYS_USED.contains(name))
            {
                found.push(("F841", binding.at));
            }
        }
    }
}
