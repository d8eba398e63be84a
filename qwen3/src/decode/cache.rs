//! What sequences have seen: keys and values, of their own and shared.

use std::sync::Arc;

use crate::kernel::attention::Run;
use crate::vision::VisualPrompt;

/// Keys and values of one run of tokens, for every layer.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    pub(super) len: usize,
    /// The prompt that it starts with, under a vision model: where tokens stand depends on it.
    pub(super) prompt: Option<Arc<VisualPrompt>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct LayerCache {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
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

    /// The tokens seen so far as a prefix to share; `None` when this context itself started after one.
    pub fn into_prefix(self) -> Option<Arc<KvCache>> {
        match self.prefix {
            None => Some(Arc::new(self.own)),
            Some(_) => None,
        }
    }

    pub(super) fn runs<'a>(&'a self, layer: usize, width: usize, own: usize) -> Vec<Run<'a>> {
        let run = |cache: &'a KvCache, len: usize| Run {
            keys: &cache.layers[layer].keys,
            values: &cache.layers[layer].values,
            stride: width,
            len,
        };
        self.prefix.iter().map(|p| run(p, p.len)).chain([run(&self.own, own)]).collect()
    }
}
