//! What sequences have seen: keys and values, of their own and shared, in pages.
//!
//! A page holds a few tokens of one layer. A sequence takes pages as it grows and gives them back when it ends, so that
//! memory is that of the tokens seen, nothing is moved, and nothing is allocated once as many sequences have run
//! (PagedAttention, arXiv 2309.06180, without its tables: a page is owned by one cache, and a cache may be shared).

use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::Buffer;
use crate::kernel::attention::{PANEL, Panel, Rows, pack_panels};
use crate::vision::VisualPrompt;

/// Keys, then values, of [`PANEL`] tokens. Keys lie by rows while there is room for more, so that few of them touch little
/// memory, and as a panel ([`Panel::keys`]) once the page is full, so that many are not laid out anew for every token.
#[derive(Clone, Debug)]
struct Page {
    numbers: Box<[f32]>,
    full: bool,
}

impl Page {
    fn new(width: usize) -> Self {
        Self { numbers: vec![0f32; 2 * PANEL * width].into(), full: false }
    }

    fn put(&mut self, place: usize, key: &[f32], value: &[f32]) {
        let width = key.len();
        let (keys, values) = self.numbers.split_at_mut(PANEL * width);
        keys[place * width..][..width].copy_from_slice(key);
        values[place * width..][..width].copy_from_slice(value);
        if place + 1 == PANEL {
            let mut rows = Buffer::of(keys.len());
            rows.copy_from_slice(keys);
            pack_panels(Rows { data: &rows, stride: width }, PANEL, width, keys);
            self.full = true;
        }
    }

    /// Makes room behind some of its tokens.
    fn reopen(&mut self) {
        if std::mem::take(&mut self.full) {
            let keys = self.numbers.len() / 2;
            let (width, panel) = (keys / PANEL, self.numbers[..keys].to_vec());
            for (at, key) in self.numbers[..keys].iter_mut().enumerate() {
                *key = panel[at % width * PANEL + at / width];
            }
        }
    }
}

/// Pages that no cache holds at the moment, all of one size.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Page>>);

impl Pool {
    fn take(&self, width: usize) -> Page {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Page::new(width))
    }

    fn put(&self, pages: impl Iterator<Item = Page>) {
        let pages = pages.map(|page| Page { full: false, ..page });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(pages);
    }
}

/// The pages of every layer.
#[derive(Clone, Debug, Default)]
struct Pages {
    layers: Vec<Vec<Page>>,
    /// Where they are from; `None` while there are none.
    pool: Option<Arc<Pool>>,
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.put(self.layers.drain(..).flatten());
        }
    }
}

/// Keys and values of one run of tokens, for every layer.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pages: Pages,
    pub(super) len: usize,
    /// The prompt that it starts with, under a vision model: where tokens stand depends on it.
    pub(super) prompt: Option<Arc<VisualPrompt>>,
}

impl KvCache {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for tokens of a decoder with this pool.
    pub(super) fn prepare(&mut self, layers: usize, pool: &Arc<Pool>) {
        self.pages.layers.resize_with(layers, Vec::new);
        self.pages.pool.get_or_insert_with(|| pool.clone());
    }

    /// Puts the key and the value of token `place` of a layer, which comes after those before it.
    pub(super) fn put(&mut self, layer: usize, place: usize, key: &[f32], value: &[f32]) {
        let (Pages { layers, pool }, width) = (&mut self.pages, key.len());
        let pages = &mut layers[layer];
        if let (true, Some(pool)) = (place / PANEL == pages.len(), pool) {
            pages.push(pool.take(width));
        }
        pages[place / PANEL].put(place % PANEL, key, value);
    }

    /// Gives the pages behind the first `len` tokens back.
    fn truncate(&mut self, len: usize) {
        let Pages { layers, pool } = &mut self.pages;
        if let Some(pool) = pool {
            pool.put(layers.iter_mut().flat_map(|pages| pages.drain(len.div_ceil(PANEL).min(pages.len())..)));
            for page in layers.iter_mut().filter_map(|pages| pages.get_mut(len / PANEL)) {
                page.reopen();
            }
        }
        self.len = len;
    }

    /// The first `len` tokens of a layer by pages, as the key/value head of `d` lanes sees them whose first is lane `lane`. Keys of the
    /// page with room are in `open`, where [`KvCache::lay_out`] put them.
    fn panels<'a>(
        &'a self,
        layer: usize,
        [lane, d]: [usize; 2],
        len: usize,
        open: &'a [f32],
    ) -> impl Iterator<Item = Panel<'a>> + Clone {
        self.pages.layers[layer].iter().take(len.div_ceil(PANEL)).enumerate().map(move |(index, page)| {
            let (keys, values) = page.numbers.split_at(page.numbers.len() / 2);
            let keys = if page.full { &keys[lane * PANEL..][..d * PANEL] } else { open };
            let values = Rows { data: &values[lane..], stride: values.len() / PANEL };
            Panel { keys, values, len: PANEL.min(len - index * PANEL) }
        })
    }

    /// Lays out the keys of the page with room, which is the last: those of the first `len` tokens that are in it.
    fn lay_out(&self, layer: usize, [lane, d]: [usize; 2], len: usize, open: &mut [f32]) {
        if let Some(page) =
            self.pages.layers[layer].get(len.div_ceil(PANEL).wrapping_sub(1)).filter(|p| !p.full)
        {
            let keys = &page.numbers[..page.numbers.len() / 2];
            let rows = Rows { data: &keys[lane..], stride: keys.len() / PANEL };
            pack_panels(rows, len - (len - 1) / PANEL * PANEL, d, open);
        }
    }
}

/// What one sequence has seen: a prefix that other sequences may share, then its own tokens.
#[derive(Clone, Debug, Default)]
pub struct Context {
    pub(super) prefix: Option<Arc<KvCache>>,
    pub(super) own: KvCache,
}

impl Context {
    /// A sequence that starts after a shared prefix.
    pub fn after(prefix: Arc<KvCache>) -> Self {
        Self { prefix: Some(prefix), own: KvCache::default() }
    }

    /// A sequence that is to read a prompt of [`Decoder::prompt`](super::Decoder::prompt): its tokens are fed first.
    pub fn reading(prompt: Arc<VisualPrompt>) -> Self {
        Self { prefix: None, own: KvCache { prompt: Some(prompt), ..KvCache::default() } }
    }

    pub(super) fn prompt(&self) -> Option<&VisualPrompt> {
        self.prefix.as_deref().unwrap_or(&self.own).prompt.as_deref()
    }

    /// Number of tokens seen.
    pub fn len(&self) -> usize {
        self.prefix.as_ref().map_or(0, |p| p.len) + self.own.len
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all but the first `len` tokens; those of a shared prefix stay.
    pub fn truncate(&mut self, len: usize) {
        let own = len.saturating_sub(self.prefix.as_ref().map_or(0, |p| p.len));
        if own < self.own.len {
            self.own.truncate(own);
        }
    }

    /// The tokens seen so far as a prefix to share; `None` when this context itself started after one.
    pub fn into_prefix(self) -> Option<Arc<KvCache>> {
        match self.prefix {
            None => Some(Arc::new(self.own)),
            Some(_) => None,
        }
    }

    /// The keys and values that a token sees in a layer, those of the prefix and its own first `own` ones, of the key/value
    /// head of `d` lanes whose first is `lane`. `spare` is `[2, d, PANEL]`, for keys that do not lie as a panel.
    pub(super) fn panels<'a>(
        &'a self,
        layer: usize,
        head: [usize; 2],
        own: usize,
        spare: &'a mut [f32],
    ) -> impl Iterator<Item = Panel<'a>> + Clone {
        let (shared, mine) = spare.split_at_mut(head[1] * PANEL);
        let prefix = self.prefix.as_deref();
        if let Some(prefix) = prefix {
            prefix.lay_out(layer, head, prefix.len, shared);
        }
        self.own.lay_out(layer, head, own, mine);
        let (shared, mine) = (&*shared, &*mine);
        let prefix = prefix.map(|prefix| prefix.panels(layer, head, prefix.len, shared));
        prefix.into_iter().flatten().chain(self.own.panels(layer, head, own, mine))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDTH: usize = 6;

    fn numbers(token: u32) -> (Vec<f32>, Vec<f32>) {
        let lane = |lane: usize| (token * 16) as f32 + lane as f32;
        ((0..WIDTH).map(lane).collect(), (0..WIDTH).map(|l| -lane(l)).collect())
    }

    fn feed(context: &mut Context, pool: &Arc<Pool>, tokens: &[u32]) {
        context.own.prepare(1, pool);
        for token in tokens {
            let (key, value) = numbers(*token);
            context.own.put(0, context.own.len, &key, &value);
            context.own.len += 1;
        }
    }

    proptest! {
        /// However a sequence grew, was cut and grew again, a head sees its tokens in order; and so do fewer of its rows.
        #[test]
        fn a_head_sees_the_tokens_in_order(
            prompt in prop::collection::vec(0u32..1000, 0..80),
            turns in prop::collection::vec((prop::collection::vec(0u32..1000, 0..80), 0usize..90), 1..5),
            less in 0usize..20, head in 0usize..3,
        ) {
            let (pool, d) = (Arc::default(), 2);
            let mut first = Context::default();
            feed(&mut first, &pool, &prompt);
            let mut context = Context::after(first.into_prefix().unwrap());
            let mut wanted = prompt.clone();
            for (tokens, keep) in turns {
                feed(&mut context, &pool, &tokens);
                wanted.extend(tokens);
                context.truncate(prompt.len() + keep);
                wanted.truncate(prompt.len() + keep);
            }
            prop_assert_eq!(context.len(), wanted.len());
            let own = context.own.len - less.min(context.own.len);
            let mut spare = vec![f32::NAN; 2 * d * PANEL];
            let panels = context.panels(0, [head * d, d], own, &mut spare);
            let seen = panels.flat_map(|p| (0..p.len).map(move |j| (p, j)));
            let seen: Vec<[f32; 4]> = seen
                .map(|(p, j)| {
                    let value = &p.values.data[j * p.values.stride..];
                    [p.keys[j], p.keys[PANEL + j], value[0], value[1]]
                })
                .collect();
            let wanted: Vec<[f32; 4]> = wanted[..prompt.len() + own]
                .iter()
                .map(|token| {
                    let (key, value) = numbers(*token);
                    [key[head * d], key[head * d + 1], value[head * d], value[head * d + 1]]
                })
                .collect();
            prop_assert_eq!(seen, wanted);
        }
    }
}
