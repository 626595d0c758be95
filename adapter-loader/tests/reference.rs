//! What is made of adapters is what llama.cpp's own script makes of them, and has the effect that it has in PyTorch. The
//! references are in `tests/reference/convert`; its README says how they were made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use tutti_adapter_loader::base::Base;
use tutti_adapter_loader::gguf::{Header, Limits, Value};
use tutti_adapter_loader::{convert, merge, verify};
use tutti_api::{Digest, FileEntry, Manifest, MergeTo};

const MODELS: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];
const NUMBERS: [&str; 3] = ["f32", "f16", "bf16"];
/// What the script writes and no engine reads.
const NOT_OURS: &str = "general.name";

fn reference(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/convert").join(model)
}

fn read(path: &Path) -> Json {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// An adapter, converted for its model.
fn converted(model: &str, numbers: &str) -> Vec<u8> {
    let folder = reference(model);
    let file = File::open(folder.join("base.gguf")).expect("a base");
    let header = Header::read(std::io::BufReader::new(file), &Limits::default()).expect("a header");
    let base = Base::of_header(&header, None).expect("a base");
    let entry = FileEntry { sha256: Digest::new([0; 32]), size: 1 };
    let names = ["adapter_config.json", "adapter_model.safetensors"];
    let files: BTreeMap<_, _> = names.map(|name| (name.to_owned(), entry)).into_iter().collect();
    let manifest = Manifest { files, ..Manifest::default() };
    let checked = verify::verify(&folder.join(numbers), &manifest, &base).expect("it is taken");
    let mut bytes = Vec::new();
    convert::convert(&checked, &mut bytes).expect("it is converted");
    bytes
}

#[test]
fn tensors_are_those_of_llama_cpps_script_bit_for_bit_and_so_are_the_keys() {
    for (model, numbers) in MODELS.iter().flat_map(|model| NUMBERS.map(|numbers| (model, numbers))) {
        let said = read(&reference(model).join(numbers).join("expected.json"));
        let bytes = converted(model, numbers);
        let header = Header::read(std::io::Cursor::new(&bytes), &Limits::default()).expect("a header");
        let tensor = |tensor: &tutti_adapter_loader::gguf::TensorInfo| {
            let at = usize::try_from(header.position(tensor)).expect("small");
            let content = &bytes[at..][..usize::try_from(tensor.bytes()).expect("small")];
            let sha256: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
            (tensor.name.clone(), json!({ "dims": tensor.dims, "kind": tensor.kind.name(), "sha256": sha256 }))
        };
        let ours: serde_json::Map<_, _> = header.tensors.iter().map(tensor).collect();
        assert!(ours.len() >= 16, "{model} {numbers}: both layers' matrices, of all linear layers");
        assert_eq!(Json::Object(ours), said["tensors"], "{model} {numbers}");
        let key = |(name, value): &(String, Value)| {
            let value = match value {
                Value::String(text) => json!(text),
                Value::U32(number) => json!(number),
                Value::F32(number) => json!(number),
                other => panic!("{name}: {other:?}"),
            };
            (name.clone(), value)
        };
        let ours: serde_json::Map<_, _> = header.metadata.iter().map(key).collect();
        let mut theirs = said["keys"].as_object().expect("keys").clone();
        assert!(theirs.remove(NOT_OURS).is_some());
        assert_eq!(ours, theirs, "{model} {numbers}");
    }
}

/// What llama.cpp answers with.
fn answered(base: &Path, tokens: &Json, lora: Option<&Path>) -> Vec<Vec<f64>> {
    let packages = tutti_rig::llama_packages().expect("packages");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/with_llama/logits.py");
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages).arg("-SB").arg(script).arg(base).arg(tokens.to_string()).args(lora);
    let output = python.output().expect("runs");
    assert!(output.status.success(), "{}: {}", base.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The largest difference.
fn apart(ours: &[Vec<f64>], theirs: &Json) -> f64 {
    let theirs: Vec<Vec<f64>> = serde_json::from_value(theirs.clone()).expect("rows");
    assert!(ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(ours, theirs)| ours.len() == theirs.len()));
    let differences = ours.iter().flatten().zip(theirs.iter().flatten()).map(|(ours, theirs)| (ours - theirs).abs());
    differences.fold(0.0, f64::max)
}

/// Logits of up to 4 in size, which an adapter moves by 3 to 7. `llama.cpp` takes GELU, which Gemma has, from a table of 16-bit
/// floats (`ggml_table_gelu_f16`): without any adapter its logits are up to 0.003 beside PyTorch's. Merged, what is rounded are
/// the sums: seen were up to 0.02 of logits for F16 and 0.39, a tenth of the effect, for Q8_0, on weights without any pattern.
#[test]
fn the_effect_is_that_in_pytorch_as_an_adapter_and_merged() {
    let temp = tempfile::tempdir().unwrap();
    for model in MODELS {
        let as_adapter = if model.starts_with("gemma") { 1e-2 } else { 1e-3 };
        let said = read(&reference(model).join("logits.json"));
        let base = reference(model).join("base.gguf");
        let lora = temp.path().join("lora.gguf");
        let plain = answered(&base, &said["tokens"], None);
        assert!(apart(&plain, &said["base"]) < as_adapter, "{model}: {}", apart(&plain, &said["base"]));
        for numbers in NUMBERS {
            fs::write(&lora, converted(model, numbers)).unwrap();
            let effect = apart(&plain, &said[numbers]);
            assert!(effect > 0.5, "{model} {numbers}: an adapter that changes nothing shows nothing: {effect}");
            let adapted = apart(&answered(&base, &said["tokens"], Some(&lora)), &said[numbers]);
            eprintln!("{model} {numbers}: {adapted:.6} of {effect:.3}");
            assert!(adapted < as_adapter, "{model} {numbers}: {adapted}");
        }
        fs::write(&lora, converted(model, "f32")).unwrap();
        let effect = apart(&plain, &said["f32"]);
        for (to, most) in [(MergeTo::F16, 0.04), (MergeTo::Q8_0, effect / 5.0)] {
            let merged = temp.path().join("merged.gguf");
            let out = std::io::BufWriter::new(File::create(&merged).unwrap());
            merge::merge(&File::open(&base).unwrap(), &File::open(&lora).unwrap(), to, out).unwrap();
            let apart = apart(&answered(&merged, &said["tokens"], None), &said["f32"]);
            eprintln!("{model} merged to {to:?}: {apart:.6}");
            assert!(apart < most, "{model} merged to {to:?}: {apart}");
        }
    }
}
