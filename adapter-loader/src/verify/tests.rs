use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_api::{BaseRef, Digest, FileEntry, Manifest, Reason};

use super::*;
use crate::convert::convert;
use crate::gguf::{Header, Limits};
use crate::quant::f16_to_f32;
use crate::safetensors::tests::file;

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// A base with one layer of 4 heads of 4, 2 of them with keys, 8 columns.
fn base(architecture: &str) -> Base {
    let tensors = [("blk.0.attn_q.weight", [8, 16]), ("blk.0.attn_k.weight", [8, 8]), ("blk.0.ffn_up.weight", [8, 12])];
    Base {
        architecture: architecture.to_owned(),
        digest: Some(Digest::new([1; 32])),
        heads: 4,
        heads_kv: 2,
        tensors: tensors.into_iter().map(|(name, dims)| (name.to_owned(), dims.to_vec())).collect(),
    }
}

fn config() -> Value {
    json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_dora": false, "modules_to_save": null })
}

fn ramp(count: u16) -> Vec<f32> {
    (0..count).map(|number| f32::from(number) - 3.5).collect()
}

fn weights() -> Vec<u8> {
    file(&[(&format!("{Q}.lora_A.weight"), &[2, 8], ramp(16)), (&format!("{Q}.lora_B.weight"), &[16, 2], ramp(32))])
}

fn manifest(files: &[&str]) -> Manifest {
    let entry = FileEntry { sha256: Digest::new([0; 32]), size: 1 };
    let files: BTreeMap<_, _> = files.iter().map(|name| ((*name).to_owned(), entry)).collect();
    Manifest { files, ..Manifest::default() }
}

fn folder(config: &Value, weights: &[u8]) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
    fs::write(folder.path().join(WEIGHTS), weights).unwrap();
    folder
}

fn looked_at(config: &Value, weights: &[u8], base: &Base) -> Result<Checked, Refused> {
    verify(folder(config, weights).path(), &manifest(&[CONFIG, WEIGHTS]), base)
}

/// A converted file's tensors.
fn converted(checked: &Checked) -> (Header, BTreeMap<String, Vec<f32>>) {
    let mut bytes = Vec::new();
    convert(checked, &mut bytes).unwrap();
    let header = Header::read(std::io::Cursor::new(&bytes), &Limits::default()).unwrap();
    let values = |tensor: &crate::gguf::TensorInfo| {
        let at = usize::try_from(header.position(tensor)).unwrap();
        let content = &bytes[at..][..usize::try_from(tensor.bytes()).unwrap()];
        let values = content.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        (tensor.name.clone(), values)
    };
    let all = header.tensors.iter().map(values).collect();
    (header.clone(), all)
}

#[test]
fn of_llama_the_rows_of_q_become_neighbours_and_of_qwen_nothing_changes() {
    let folder = folder(&config(), &weights());
    let of = |base: &Base| converted(&verify(folder.path(), &manifest(&[CONFIG, WEIGHTS]), base).unwrap());
    let (header, qwen) = of(&base("qwen2"));
    assert_eq!(header.text("general.type"), Some("adapter"));
    assert_eq!(header.get("adapter.lora.alpha").unwrap().as_f32(), Some(4.0));
    assert_eq!(header.tensor("blk.0.attn_q.weight.lora_a").unwrap().dims, [8, 2]);
    assert_eq!(header.tensor("blk.0.attn_q.weight.lora_b").unwrap().dims, [2, 16]);
    assert_eq!((&qwen["blk.0.attn_q.weight.lora_a"], &qwen["blk.0.attn_q.weight.lora_b"]), (&ramp(16), &ramp(32)));
    let (_, llama) = of(&base("llama"));
    let rows: Vec<f32> = llama["blk.0.attn_q.weight.lora_b"].chunks(2).map(|row| (row[0] + 3.5) / 2.0).collect();
    assert_eq!(rows, [0., 2., 1., 3., 4., 6., 5., 7., 8., 10., 9., 11., 12., 14., 13., 15.]);
    assert_eq!(llama["blk.0.attn_q.weight.lora_a"], ramp(16));
}

#[test]
fn scales_are_pefts() {
    let scale = |more: Value| {
        let mut config = config();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let folder = folder(&config, &weights());
        let checked = verify(folder.path(), &manifest(&[CONFIG, WEIGHTS]), &base("qwen2")).unwrap();
        let (_, tensors) = converted(&checked);
        f64::from(checked.alpha / 2.0 * tensors["blk.0.attn_q.weight.lora_b"][0] / ramp(1)[0])
    };
    assert_eq!(scale(json!({})), 2.0);
    assert!((scale(json!({ "use_rslora": true })) - 4.0 / 2f64.sqrt()).abs() < 1e-6);
    assert!((scale(json!({ "alpha_pattern": { "q_proj": 6 } })) - 3.0).abs() < 1e-6);
    assert!((scale(json!({ "alpha_pattern": { "proj": 6 } })) - 2.0).abs() < 1e-6, "not a part of a name");
    assert!((scale(json!({ "init_lora_weights": "gaussian", "alpha_pattern": null })) - 2.0).abs() < 1e-6);
    assert_eq!(scale(json!({ "r": 7, "rank_pattern": { "self_attn.q_proj": 2 } })), 2.0);
}

#[test]
fn the_rigs_adapter_becomes_what_the_rigs_maker_made_of_it() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/rig/models");
    let header = |name: &str| {
        let file = fs::File::open(models.join(name)).unwrap();
        (
            Header::read(std::io::BufReader::new(&file), &Limits::default()).unwrap(),
            fs::read(models.join(name)).unwrap(),
        )
    };
    let base = Base::of_header(&header("tutti-story.gguf").0, None).unwrap();
    for name in ["risk-v1", "risk-v2"] {
        let checked = verify(&models.join(name), &manifest(&[CONFIG, WEIGHTS]), &base).unwrap();
        let (ours, tensors) = converted(&checked);
        let (theirs, bytes) = header(&format!("{name}.gguf"));
        assert_eq!(ours.get("adapter.lora.alpha"), theirs.get("adapter.lora.alpha"));
        assert_eq!(ours.tensors.len(), theirs.tensors.len());
        for tensor in &theirs.tensors {
            assert_eq!(ours.tensor(&tensor.name).unwrap().dims, tensor.dims, "{}", tensor.name);
            let at = usize::try_from(theirs.position(tensor)).unwrap();
            let content = &bytes[at..][..usize::try_from(tensor.bytes()).unwrap()];
            let width = content.len() / tensors[&tensor.name].len();
            assert!(width == 4 || width == 2);
            for (ours, theirs) in tensors[&tensor.name].iter().zip(content.chunks_exact(width)) {
                match width {
                    4 => assert_eq!(ours.to_le_bytes(), theirs),
                    // Rounded to 16 bits, it is off by half a unit in the last of 11 places at most.
                    _ => {
                        let half = f64::from(f16_to_f32(u16::from_le_bytes(theirs.try_into().unwrap())));
                        assert!(
                            (f64::from(*ours) - half).abs() <= half.abs() / 2048.0 + 6e-8,
                            "{}: {ours} {half}",
                            tensor.name
                        );
                    }
                }
            }
        }
        let gguf = format!("{name}.gguf");
        assert_eq!(verify(&models, &manifest(&[&gguf]), &base).unwrap().rank(), checked.rank());
    }
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let base = base("llama");
    let named = |name: &str, a: &[u64], b: &[u64]| {
        let count = |shape: &[u64]| ramp(u16::try_from(shape.iter().product::<u64>()).unwrap());
        file(&[(&format!("{name}.lora_A.weight"), a, count(a)), (&format!("{name}.lora_B.weight"), b, count(b))])
    };
    let of = |module: &str| named(&format!("base_model.model.{module}"), &[2, 8], &[16, 2]);
    let with = |more: Value| {
        let mut config = config();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (config, weights())
    };
    let mut nan = weights();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut infinite = weights();
    infinite[end - 8..end - 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    for ((config, weights), reason, what) in [
        (with(json!({ "use_dora": true })), Reason::Unsupported, "use_dora"),
        (with(json!({ "modules_to_save": ["lm_head"] })), Reason::Unsupported, "modules_to_save"),
        (with(json!({ "trainable_token_indices": [1] })), Reason::Unsupported, "trainable_token_indices"),
        (with(json!({ "kasa_config": { "beta": 1e-4 } })), Reason::Unsupported, "kasa_config"),
        (with(json!({ "bias": "all" })), Reason::Unsupported, "bias"),
        (with(json!({ "peft_type": "IA3" })), Reason::Unsupported, "IA3"),
        (with(json!({ "init_lora_weights": "pissa_niter_16" })), Reason::Unsupported, "pissa"),
        (with(json!({ "lora_alpha": 1e300 })), Reason::InvalidFile, "the scale inf"),
        (with(json!({ "alpha_pattern": { "q_proj": 1e40 } })), Reason::NotFinite, "to infinity"),
        (with(json!({ "lora_alpha": 1e-30, "alpha_pattern": { "q_proj": 1e8 } })), Reason::NotFinite, "to infinity"),
        (with(json!({ "rank_pattern": { "q.*": 2 } })), Reason::Unsupported, "no expressions"),
        (with(json!({ "r": 0 })), Reason::InvalidFile, "r is 0"),
        (with(json!({ "r": 3 })), Reason::InvalidFile, "ranks 2 and 2"),
        (with(json!({ "lora_alpha": "x" })), Reason::InvalidFile, "no configuration"),
        ((config(), of("model.embed_tokens")), Reason::Unsupported, "no linear layer"),
        ((config(), of("lm_head")), Reason::Unsupported, "no linear layer"),
        ((config(), of("model.layers.1.self_attn.q_proj")), Reason::WrongBase, "fewer layers"),
        ((config(), of("model.layers.0.self_attn.k_proj")), Reason::WrongBase, "8 by 8"),
        ((config(), named(Q, &[2, 8], &[16, 3])), Reason::InvalidFile, "ranks 2 and 3"),
        ((config(), named(Q, &[16], &[16, 2])), Reason::WrongBase, "not all matrices"),
        ((config(), named("x", &[2, 8], &[16, 2])), Reason::Unsupported, "does not begin"),
        ((config(), file(&[(&format!("{Q}.lora_A.weight"), &[2, 8], ramp(16))])), Reason::InvalidFile, "only one of"),
        (
            (config(), file(&[(&format!("{Q}.lora_magnitude_vector"), &[16], ramp(16))])),
            Reason::Unsupported,
            "none of a LoRA",
        ),
        ((config(), file(&[])), Reason::InvalidFile, "no tensors"),
        ((config(), nan), Reason::NotFinite, "NaN"),
        ((config(), infinite), Reason::NotFinite, "infinite"),
    ] {
        let refused = looked_at(&config, &weights, &base).unwrap_err();
        assert!(refused.reason == reason && refused.message.contains(what), "{what}: {refused:?}");
        assert!(refused.message.starts_with("adapter_"), "it names the file: {refused}");
    }
    assert_eq!(looked_at(&config(), &weights(), &super::tests::base("bert")).unwrap_err().reason, Reason::Unsupported);
}

#[test]
fn who_was_trained_on_another_base_is_refused() {
    let folder = folder(&config(), &weights());
    let mut said = manifest(&[CONFIG, WEIGHTS]);
    said.base = Some(BaseRef { name: "other".to_owned(), digest: Some(Digest::new([2; 32])) });
    let refused = verify(folder.path(), &said, &base("llama")).unwrap_err();
    assert!(refused.reason == Reason::WrongBase && refused.message.contains("other"), "{refused}");
    said.base = Some(BaseRef { name: "same".to_owned(), digest: Some(Digest::new([1; 32])) });
    said.rank = Some(3);
    assert_eq!(verify(folder.path(), &said, &base("llama")).unwrap_err().reason, Reason::InvalidManifest);
    said.rank = Some(2);
    verify(folder.path(), &said, &base("llama")).unwrap();
    for files in [&["adapter_model.bin", CONFIG][..], &[WEIGHTS], &["a.gguf", "b.gguf"], &[]] {
        verify(folder.path(), &manifest(files), &base("llama")).unwrap_err();
    }
}

/// Whatever byte of a small adapter is another, it is refused or read; what is read in silence differs in its SHA-256.
#[test]
fn no_flipped_byte_hurts() {
    let whole = weights();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let folder = folder(&config(), &bytes);
            if let Ok(checked) = verify(folder.path(), &manifest(&[CONFIG, WEIGHTS]), &base("llama")) {
                converted(&checked);
            }
        }
    }
}
