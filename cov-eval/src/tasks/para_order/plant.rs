//! Faults in an order.

use super::verify::read_blocks;
use super::{ParaOrderTargets, render};
use crate::key::DetRng;
use crate::model::{Instance, PlantKind, Planted};

pub(super) fn plant(
    instance: &Instance,
    targets: &ParaOrderTargets,
    answer: &str,
    kind: PlantKind,
    rng: &mut DetRng,
) -> Option<Planted> {
    let mut blocks: Vec<(usize, String)> =
        read_blocks(answer).into_iter().map(|(n, text, _)| (n, text)).collect();
    let segment = |number: usize| targets.numbers.iter().position(|&x| x == number);
    let order: Vec<usize> = blocks.iter().map(|b| segment(b.0)).collect::<Option<_>>()?;
    let sorted = order.windows(2).all(|pair| pair[0] < pair[1]);
    let neighbors = |order: &[usize]| -> Vec<usize> {
        order.windows(2).filter(|pair| pair[0] + 1 == pair[1]).map(|pair| pair[0]).collect()
    };
    let of = |kinds: &[&str], i: usize| instance.ids(|kind, target| kinds.contains(&kind) && target == i);
    let global = || instance.ids(|kind, _| kind == "global_order");
    // Neighbours that stood together before and do not after.
    let parted = |after: &[usize]| -> Vec<u16> {
        let left = neighbors(after);
        let parted = neighbors(&order).into_iter().filter(|i| !left.contains(i));
        parted.flat_map(|i| of(&["adjacent"], i)).collect()
    };
    let permuted =
        |blocks: &[(usize, String)]| -> Vec<usize> { blocks.iter().filter_map(|b| segment(b.0)).collect() };
    let last = blocks.len().checked_sub(1).filter(|&last| last >= 2)?;
    let copied = ["exactly_once", "verbatim"];
    let must_fail = match kind {
        "adjacent_swap" => {
            let places: Vec<usize> = (0..last).filter(|&i| order[i] + 1 == order[i + 1]).collect();
            let at = *places.get(rng.index(places.len().max(1)))?;
            blocks.swap(at, at + 1);
            [parted(&permuted(&blocks)), global()].concat()
        }
        "far_swap" if sorted => {
            let at = rng.index(last - 1);
            blocks.swap(at, at + 2 + rng.index(last - at - 1));
            [parted(&permuted(&blocks)), global()].concat()
        }
        "rotate" if sorted => {
            blocks.rotate_left(1 + rng.index(last));
            [parted(&permuted(&blocks)), global()].concat()
        }
        "drop_first" | "drop_last" if sorted => {
            let at = if kind == "drop_first" { 0 } else { last };
            blocks.remove(at);
            [of(&copied, order[at]), parted(&permuted(&blocks))].concat()
        }
        "duplicate_block" => {
            let once: Vec<usize> =
                (0..=last).filter(|&i| order.iter().filter(|&&s| s == order[i]).count() == 1).collect();
            let at = *once.get(rng.index(once.len().max(1)))?;
            blocks.push(blocks[at].clone());
            of(&["exactly_once"], order[at])
        }
        "edit_block" => {
            let whole: Vec<usize> =
                (0..=last).filter(|&i| blocks[i].1 == targets.segments[order[i]]).collect();
            let at = *whole.get(rng.index(whole.len().max(1)))?;
            let edit = |(i, c): (usize, char)| if i % 10 == 0 { '#' } else { c };
            blocks[at].1 = blocks[at].1.chars().enumerate().map(edit).collect();
            of(&["verbatim"], order[at])
        }
        "wrong_id" if sorted => {
            let at = 1 + rng.index(last);
            let other = rng.index(at);
            blocks[at].0 = blocks[other].0;
            let mut left = order.clone();
            left.remove(at);
            [of(&copied, order[at]), of(&["exactly_once"], order[other]), parted(&left)].concat()
        }
        "untagged" => {
            let text = blocks.iter().map(|b| b.1.as_str()).collect::<Vec<_>>().join("\n\n");
            return Some(Planted { text, must_fail: instance.ids(|_, _| true), may_fail: vec![] });
        }
        _ => return None,
    };
    Some(Planted { text: render(&blocks), must_fail, may_fail: vec![] })
}
