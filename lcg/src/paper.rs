//! One label a token, as the paper classifies vocabularies: for comparison with published counts and weights.

use crate::family::FamilySet;
use crate::table::FamilyTable;

/// The paper's class of a token, an index of `paper4`; `None` under another taxonomy.
///
/// `cj` where the token holds any of it, `latin` where it holds nothing else, `symbols` where it holds no letter, else
/// `low_res`. An unfinished character counts where it can only be of one class. The authors' code calls a token Latin as soon as
/// it holds a Latin letter, which the paper does not.
pub fn primary(table: &FamilyTable, token: usize) -> Option<usize> {
    let index = |name| table.taxonomy().family(name);
    let (cj, latin, low_res) = (index("cj")?, index("latin")?, index("low_res")?);
    let signature = table.signature(token);
    let start = if signature.all.0.count_ones() == 1 { signature.all } else { FamilySet::EMPTY };
    let families = signature.any | start;
    Some(match families {
        _ if families.contains(cj) => cj,
        _ if families == FamilySet::one(latin) => latin,
        FamilySet::EMPTY => table.taxonomy().symbols(),
        _ => low_res,
    })
}
