//! One response against one entry: counts, names, and which arguments there are.

use super::compiled::{Absent, Checker, Fault, GoldCall, Route, Slot};
use super::values::{Check, Fail, UNEXPECTED, argument, fail, fault};
use super::{Matching, NamePolicy, Options, Verdict};
use crate::msg::Call;

impl Checker {
    /// Checks the calls of a response.
    pub fn check(&self, calls: &[Call], options: Options) -> Verdict {
        match self.routed(calls, options) {
            Ok(()) => Verdict::Valid,
            Err(Fail::Invalid(error_type, at)) => Verdict::invalid(error_type, at),
            Err(Fail::Fault(kind, at)) => Verdict::fault(kind, at),
        }
    }

    fn routed<'a>(&'a self, calls: &'a [Call], options: Options) -> Check<'a> {
        let gold = self.gold.as_deref()?;
        let wrong_count = match self.route {
            Route::Parallel if calls.len() == gold.len() => return self.parallel(calls, gold, options),
            Route::Parallel => "parallel_function_checker_no_order:wrong_count",
            Route::Multiple if calls.len() != gold.len() => "multiple_function_checker:wrong_count",
            Route::Multiple => "",
            _ if calls.len() != 1 => "simple_function_checker:wrong_count",
            _ => "",
        };
        match (calls, gold) {
            _ if !wrong_count.is_empty() => fail(wrong_count, ""),
            ([call, ..], [gold, ..]) => self.one(call, gold.as_ref()?, options),
            _ => fault("gold.empty", "ground_truth"),
        }
    }

    fn parallel<'a>(
        &'a self,
        calls: &'a [Call],
        gold: &'a [Result<GoldCall, Fault>],
        options: Options,
    ) -> Check<'a> {
        if options.matching == Matching::Optimal {
            return self.optimal(calls, gold, options);
        }
        let mut few = [false; 16];
        let mut many = Vec::new();
        let used = scratch(&mut few, &mut many, calls.len());
        for gold in gold {
            let gold = gold.as_ref()?;
            let mut found = false;
            for (call, used) in calls.iter().zip(&mut *used).filter(|(_, used)| !**used) {
                match self.one(call, gold, options) {
                    Ok(()) => {
                        *used = true;
                        found = true;
                        break;
                    }
                    Err(Fail::Invalid(..)) => {}
                    Err(other) => return Err(other),
                }
            }
            if !found {
                return fail("parallel_function_checker_no_order:cannot_find_match", &gold.name);
            }
        }
        Ok(())
    }

    /// Bipartite matching by augmenting paths.
    fn optimal<'a>(
        &'a self,
        calls: &'a [Call],
        gold: &'a [Result<GoldCall, Fault>],
        options: Options,
    ) -> Check<'a> {
        let mut passes = Vec::with_capacity(gold.len());
        for gold in gold {
            let gold = gold.as_ref()?;
            let row: Result<Vec<bool>, Fail<'a>> = calls
                .iter()
                .map(|call| match self.one(call, gold, options) {
                    Ok(()) => Ok(true),
                    Err(Fail::Invalid(..)) => Ok(false),
                    Err(other) => Err(other),
                })
                .collect();
            passes.push(row?);
        }
        let mut owner = vec![None; calls.len()];
        for g in 0..gold.len() {
            if !augment(g, &passes, &mut owner, &mut vec![false; calls.len()]) {
                return fail("parallel_function_checker_no_order:cannot_find_match", "");
            }
        }
        Ok(())
    }

    /// One call against one gold call (the reference's `simple_function_checker`).
    fn one<'a>(&self, call: &'a Call, gold: &'a GoldCall, options: Options) -> Check<'a> {
        let spelled = match (options.names, &gold.underscored) {
            (NamePolicy::DotToUnderscore, Some(underscored)) => underscored,
            _ => &gold.name,
        };
        if call.name != *spelled {
            return fail("simple_function_checker:wrong_func_name", &gold.name);
        }
        let mut few = [NOWHERE; 16];
        let mut many = Vec::new();
        let places = scratch(&mut few, &mut many, call.args.len());
        let (mut next, mut required, mut needed) = (0, 0, 0);
        for (key, place) in call.args.keys().zip(&mut *places) {
            *place = gold.find(key, next).unwrap_or(NOWHERE);
            if let Some(slot) = gold.slots.get(*place) {
                next = *place + 1;
                required += usize::from(slot.required);
                needed += usize::from(slot.absent != Absent::Allowed);
            }
        }
        // Which one is missing is looked for only when the numbers differ.
        let key_of = |at: usize| gold.slots[at].key.as_str().unwrap_or_default();
        if required < gold.required_slots
            && let Some(missing) = gold.required.iter().find(|at| !places.contains(at))
        {
            return fail("simple_function_checker:missing_required", key_of(*missing));
        }
        for ((key, value), place) in call.args.iter().zip(&*places) {
            let name = key.as_str().unwrap_or_default();
            match gold.slots.get(*place) {
                Some(slot) => argument(name, value, &slot.rule, self.lang)?,
                None => return fail(UNEXPECTED, name),
            }
        }
        if needed == gold.needed_slots {
            return Ok(());
        }
        let missing =
            gold.slots.iter().enumerate().find(|(at, s)| s.absent != Absent::Allowed && !places.contains(at));
        match missing {
            Some((at, Slot { absent: Absent::Fault, .. })) => fault("gold.not_list", key_of(at)),
            Some((at, _)) => fail("simple_function_checker:missing_optional", key_of(at)),
            None => Ok(()),
        }
    }
}

/// A slice of `len` defaults, on the stack where it is short.
fn scratch<'s, T: Copy, const N: usize>(
    few: &'s mut [T; N],
    many: &'s mut Vec<T>,
    len: usize,
) -> &'s mut [T] {
    if len > N {
        many.resize(len, few[0]);
        return many;
    }
    &mut few[..len]
}

/// The place of an argument that neither tool nor gold call has.
const NOWHERE: usize = usize::MAX;

fn augment(g: usize, passes: &[Vec<bool>], owner: &mut [Option<usize>], seen: &mut [bool]) -> bool {
    for c in 0..owner.len() {
        if passes[g][c] && !seen[c] {
            seen[c] = true;
            if owner[c].is_none_or(|other| augment(other, passes, owner, seen)) {
                owner[c] = Some(g);
                return true;
            }
        }
    }
    false
}
