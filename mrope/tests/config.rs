//! Rotary sections of real and of broken configuration files.
#![allow(missing_docs, clippy::unwrap_used)]

use mrope::{Allocation, Error, Frequencies, Llama3, RopeParameters, Yarn};

fn parse(json: &str) -> RopeParameters {
    serde_json::from_str(json).unwrap()
}

fn plain(theta: f64) -> Frequencies {
    Frequencies::new(theta, 128).unwrap()
}

#[test]
fn released_files() {
    // Qwen2.5-VL writes both names of the type; the base stands beside the section.
    let qwen2_5 = r#"{"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]}"#;
    let qwen2_5 = RopeParameters { rope_theta: Some(1e6), ..parse(qwen2_5) };
    assert_eq!(qwen2_5.allocation(128).unwrap(), Allocation::Chunked(vec![16, 24, 24]));
    assert_eq!(qwen2_5.frequencies(128, 128_000, 0).unwrap(), plain(1e6));
    // Qwen2-VL names the section in the type.
    let qwen2 = RopeParameters {
        rope_theta: Some(1e6),
        ..parse(r#"{"type": "mrope", "mrope_section": [16, 24, 24]}"#)
    };
    assert_eq!(qwen2.frequencies(128, 32_768, 0).unwrap(), plain(1e6));
    // Qwen3-VL stretched to a million tokens keeps its section.
    let long = parse(
        r#"{"rope_type": "yarn", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": true,
            "factor": 3.0, "original_max_position_embeddings": 262144, "finetuned": true}"#,
    );
    assert_eq!(long.allocation(128).unwrap(), Allocation::Interleaved([24, 20, 20]));
    let want = plain(5e6).yarn(&Yarn::new(3.0, 262_144.0)).unwrap();
    assert_eq!(long.frequencies(128, 786_432, 0).unwrap(), want);
    // Qwen3.5 rotates a quarter of 256 lanes.
    let partial = parse(
        r#"{"rope_theta": 1e7, "partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10], "mrope_interleaved": true}"#,
    );
    assert_eq!(partial.rotary_dim(256).unwrap(), 64);
    assert_eq!(partial.allocation(256).unwrap(), Allocation::Interleaved([11, 11, 10]));
    assert_eq!(partial.frequencies(256, 262_144, 0).unwrap(), Frequencies::new(1e7, 64).unwrap());
    // A text model, in the newer form.
    let text = parse(r#"{"rope_type": "default", "rope_theta": 1000000.0}"#);
    assert_eq!(text.allocation(128).unwrap(), Allocation::OneAxis);
}

#[test]
fn every_kind_of_scaling() {
    let of = |json: &str, len: usize| {
        let parameters = RopeParameters { rope_theta: Some(1e6), ..parse(json) };
        parameters.frequencies(128, 4096, len).unwrap()
    };
    assert_eq!(of(r#"{"rope_type": "linear", "factor": 2.0}"#, 0), plain(1e6).linear(2.0).unwrap());
    let dynamic = r#"{"rope_type": "dynamic", "factor": 2.0}"#;
    assert_eq!(of(dynamic, 8192), plain(1e6).ntk(3.0).unwrap());
    assert_eq!(of(dynamic, 100), plain(1e6));
    let yarn = Yarn { beta_fast: 16.0, beta_slow: 2.0, truncate: false, ..Yarn::new(4.0, 1024.0) };
    let json = r#"{"rope_type": "yarn", "original_max_position_embeddings": 1024, "beta_fast": 16, "beta_slow": 2, "truncate": false}"#;
    assert_eq!(of(json, 0), plain(1e6).yarn(&yarn).unwrap(), "the factor is 4096 / 1024");
    let json = r#"{"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25}"#;
    assert_eq!(of(json, 0).scaling(), 1.25);
    let json = r#"{"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5}"#;
    let ratio = (0.1 * 4f64.ln() + 1.0) / (0.05 * 4f64.ln() + 1.0);
    assert!((of(json, 0).scaling() - ratio).abs() < 1e-12);
    let json = r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024}"#;
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, trained_len: 1024.0 };
    assert_eq!(of(json, 0), plain(1e6).llama3(&llama3).unwrap());
}

#[test]
fn broken_files() {
    let refused = |json: &str| parse(json).frequencies(128, 4096, 0).unwrap_err();
    assert!(matches!(refused("{}"), Error::MissingKey { key: "rope_theta", .. }));
    assert!(
        matches!(refused(r#"{"rope_theta": 1e6, "type": "longrope"}"#), Error::RopeType(name) if name == "longrope")
    );
    for kind in ["linear", "dynamic", "yarn", "llama3"] {
        let error = refused(&format!(r#"{{"rope_theta": 1e6, "rope_type": "{kind}"}}"#));
        assert!(
            matches!(&error, Error::MissingKey { rope_type, key: "factor" } if rope_type == kind),
            "{error}"
        );
    }
    assert!(matches!(
        refused(r#"{"rope_theta": 1e6, "rope_type": "mrope"}"#),
        Error::MissingKey { key: "mrope_section", .. }
    ));
    assert!(matches!(
        refused(r#"{"rope_theta": 1e6, "partial_rotary_factor": 1.5}"#),
        Error::Parameter { name: "partial_rotary_factor", .. }
    ));
    assert!(matches!(
        refused(r#"{"rope_theta": 1e6, "rope_type": "yarn", "original_max_position_embeddings": 0}"#),
        Error::Parameter { .. }
    ));
    let allocation = |json: &str| parse(json).allocation(128).unwrap_err();
    assert!(matches!(
        allocation(r#"{"mrope_section": [40, -8, 32]}"#),
        Error::NegativeSection { index: 1, value: -8 }
    ));
    assert!(matches!(
        allocation(r#"{"mrope_section": [16, 24]}"#),
        Error::Sections { sum: 40, pairs: 64, .. }
    ));
    assert!(matches!(
        allocation(r#"{"mrope_section": [32, 32], "mrope_interleaved": true}"#),
        Error::SectionCount { found: 2, .. }
    ));
    assert!(matches!(
        allocation(r#"{"mrope_section": [16, 24, 24], "mrope_interleaved": true}"#),
        Error::InterleavedClips { .. }
    ));
}
