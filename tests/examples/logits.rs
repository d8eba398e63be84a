//! Writes the logits of a model directory for one fixed text, for `oracles/check_checkpoint.py`.

use std::path::Path;

use qwen3::{Batch, ForwardOptions, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, out] = arguments.as_slice() else { return Err("usage: logits MODEL OUT.json".into()) };
    let model = Model::load(Path::new(dir))?;
    let codec = train_core::data::TextCodec::from_dir(Path::new(dir), model.config().eos_token_ids.clone())?;
    let text = "9041376=6731409";
    let ids = codec.encode(text)?;
    let hidden = model.forward(&Batch::pack([ids.as_slice()]), &ForwardOptions::default())?;
    let logits = model.logits(&hidden.states)?.to_vec2::<f32>()?;
    let json = serde_json::json!({ "text": text, "input_ids": ids, "logits": logits });
    std::fs::write(out, json.to_string())?;
    Ok(())
}
