//! Names and shapes of the parameters in Hugging Face files.

use super::config::{VisionConfig, VlConfig};
use crate::weights::{NamedTensor, ParameterGroup, ParameterSpec, parameter_specs as text_specs};

const TEXT: &str = "model.language_model.";
/// What names of the tower, mergers included, begin with.
pub(super) const TOWER: &str = "model.visual.";

fn rename(name: &str) -> String {
    match name.strip_prefix("model.") {
        Some(rest) => format!("{TEXT}{rest}"),
        None => name.to_owned(),
    }
}

/// All parameters in their fixed order, decoder first, as they are held in memory. A parameter that stands in files
/// as it is held is its own only part. (Experts are transposed in files: see `file_specs`.)
pub fn parameter_specs(config: &VlConfig) -> Vec<ParameterSpec> {
    let mut specs = text_specs(&config.text);
    for spec in &mut specs {
        spec.name = rename(&spec.name);
        for (name, _) in &mut spec.parts {
            *name = rename(name);
        }
        if is_experts(&spec.name) {
            spec.parts = vec![(spec.name.clone(), spec.shape.clone())];
        }
    }
    specs.extend(tower_specs(&config.vision));
    specs
}

/// [`parameter_specs`] with the shapes of files: fused experts are input-major there.
pub(super) fn file_specs(config: &VlConfig) -> Vec<ParameterSpec> {
    let mut specs = parameter_specs(config);
    for spec in specs.iter_mut().filter(|s| is_experts(&s.name)) {
        spec.shape.swap(1, 2);
        spec.parts = vec![(spec.name.clone(), spec.shape.clone())];
    }
    specs
}

/// Turns fused experts between the layout of files and that of memory; its own inverse.
pub(super) fn transpose_experts(tensors: &mut [NamedTensor]) {
    for tensor in tensors.iter_mut().filter(|t| is_experts(&t.name)) {
        let (rows, columns) = (tensor.shape[1], tensor.shape[2]);
        let turned = tensor.data.chunks_exact(rows * columns).flat_map(|expert| {
            (0..columns).flat_map(move |c| (0..rows).map(move |r| expert[r * columns + c]))
        });
        tensor.data = turned.collect();
        tensor.shape.swap(1, 2);
    }
}

fn is_experts(name: &str) -> bool {
    name.ends_with(".mlp.experts.gate_up_proj") || name.ends_with(".mlp.experts.down_proj")
}

pub(super) fn tower_specs(v: &VisionConfig) -> Vec<ParameterSpec> {
    let (d, out, merged) = (v.hidden_size, v.out_hidden_size, v.hidden_size * v.patches_per_token());
    let mut specs = Vec::new();
    let mut push = |name: String, group, shape: Vec<usize>| {
        let name = format!("{TOWER}{name}");
        specs.push(ParameterSpec { parts: vec![(name.clone(), shape.clone())], name, group, shape });
    };
    let mut pair = |name: String, group, shape: Vec<usize>| {
        let bias = vec![shape[0]];
        push(format!("{name}.weight"), group, shape);
        push(format!("{name}.bias"), ParameterGroup::Norm, bias);
    };
    use ParameterGroup::{Matrix, Norm};
    let kernel = vec![d, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size];
    pair("patch_embed.proj".into(), Matrix, kernel);
    for block in 0..v.depth {
        let name = |rest: &str| format!("blocks.{block}.{rest}");
        pair(name("norm1"), Norm, vec![d]);
        pair(name("norm2"), Norm, vec![d]);
        pair(name("attn.qkv"), Matrix, vec![3 * d, d]);
        pair(name("attn.proj"), Matrix, vec![d, d]);
        pair(name("mlp.linear_fc1"), Matrix, vec![v.intermediate_size, d]);
        pair(name("mlp.linear_fc2"), Matrix, vec![d, v.intermediate_size]);
    }
    let levels =
        (0..v.deepstack_visual_indexes.len()).map(|j| (format!("deepstack_merger_list.{j}"), merged));
    for (name, normed) in [("merger".to_owned(), d)].into_iter().chain(levels) {
        pair(format!("{name}.norm"), Norm, vec![normed]);
        pair(format!("{name}.linear_fc1"), Matrix, vec![merged, merged]);
        pair(format!("{name}.linear_fc2"), Matrix, vec![out, merged]);
    }
    push("pos_embed.weight".into(), ParameterGroup::Embedding, vec![v.num_position_embeddings, d]);
    specs
}
