//! What sequences have seen: keys and values, of their own and shared, in pages.
//!
//! A page holds a few tokens of one layer. A sequence takes pages as it grows and gives them back when it ends, so that
//! memory is that of the tokens seen, nothing is moved, and nothing is allocated once as many sequences have run
//! (PagedAttention, arXiv 2309.06180, without its tables: a page is owned by one cache, and a cache may be shared).

use std::sync::{Arc, Mutex, PoisonError};

use crate::kernel::attention::{PANEL, Panel};
use crate::vision::VisualPrompt;

/// The keys of [`PANEL`] tokens, lane by lane, then their values, row by row.
type Page = Box<[f32]>;

/// Pages that no cache holds at the moment, all of one size.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Page>>);

impl Pool {
    fn take(&self, width: usize) -> Page {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0f32; 2 * PANEL * width].into())
    }

    fn put(&self, pages: impl Iterator<Item = Page>) {
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
        let (keys, values) = pages[place / PANEL].split_at_mut(PANEL * width);
        let place = place % PANEL;
        for (lane, key) in keys.chunks_exact_mut(PANEL).zip(key) {
            lane[place] = *key;
        }
        values[place * width..][..width].copy_from_slice(value);
    }

    /// Gives the pages behind the first `len` tokens back.
    fn truncate(&mut self, len: usize) {
        let Pages { layers, pool } = &mut self.pages;
        if let Some(pool) = pool {
            pool.put(layers.iter_mut().flat_map(|pages| pages.drain(len.div_ceil(PANEL).min(pages.len())..)));
        }
        self.len = len;
    }

    /// The first `len` tokens of a layer, as the key/value head sees them whose lanes begin at `lane` of `width`.
    fn panels(&self, layer: usize, width: usize, lane: usize, len: usize) -> impl Iterator<Item = Panel<'_>> {
        self.pages.layers[layer].iter().take(len.div_ceil(PANEL)).enumerate().map(move |(page, numbers)| {
            Panel {
                keys: &numbers[lane * PANEL..width * PANEL],
                values: &numbers[width * PANEL + lane..],
                stride: width,
                len: PANEL.min(len - page * PANEL),
            }
        })
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

    /// Adds the keys and values that a token sees in a layer: those of the prefix and its own first `own` ones.
    pub(super) fn panels<'a>(
        &'a self,
        layer: usize,
        width: usize,
        lane: usize,
        own: usize,
        panels: &mut Vec<Panel<'a>>,
    ) {
        if let Some(prefix) = &self.prefix {
            panels.extend(prefix.panels(layer, width, lane, prefix.len));
        }
        panels.extend(self.own.panels(layer, width, lane, own));
    }
}
