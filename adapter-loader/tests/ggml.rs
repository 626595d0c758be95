//! Files and numbers as ggml's own Python package reads and makes them.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use tutti_adapter_loader::gguf::{TensorKind, Value, ValueKind, Writer};
use tutti_adapter_loader::quant;

/// Of each tensor.
const BLOCKS: usize = 2000;

/// What `decode.py` says of a file; what it decoded lies in the folder.
fn decoded(file: &Path, folder: &Path) -> Json {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/with_gguf/decode.py");
    let packages = tutti_rig::gguf().expect("packages");
    let mut python = Command::new("python3");
    python
        .arg("-I")
        .arg("-c")
        .arg("import runpy, sys; sys.path[:0] = [sys.argv.pop(1)]; sys.argv.pop(0); runpy.run_path(sys.argv[0])");
    let output = python.arg(packages).arg(script).arg(file).arg(folder).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn random(runner: &mut TestRunner, length: usize) -> Vec<u8> {
    prop::collection::vec(any::<u8>(), length).new_tree(runner).expect("a tree").current()
}

/// Numbers as weights have them, with zeros, equal ones, halves to round, subnormal, tiny and large ones.
fn weights(runner: &mut TestRunner, length: usize) -> Vec<f32> {
    let number = prop_oneof![
        20 => -1_f32..1.0,
        2 => Just(0.0),
        1 => Just(-0.0),
        2 => (-254_i16..=254).prop_map(|half| f32::from(half) / 2.0),
        1 => prop::num::f32::SUBNORMAL,
        1 => -1e-6_f32..1e-6,
        1 => -60000_f32..60000.0,
    ];
    let scales = prop::sample::select(vec![0.0_f32, 1e-3, 1.0, 1.0, 1.0, 127.0]);
    let mut numbers = Vec::with_capacity(length);
    while numbers.len() < length {
        let scale = scales.new_tree(runner).expect("a tree").current();
        let block = prop::collection::vec(number.clone(), 32).new_tree(runner).expect("a tree").current();
        numbers.extend(block.into_iter().map(|number| number * scale));
    }
    // Blocks that are whole numbers of halves: every rounding is a tie.
    for block in numbers.chunks_exact_mut(32).step_by(7) {
        block[0] = 127.0;
        block.iter_mut().skip(1).for_each(|number| *number = (*number * 10.0).round().clamp(-126.0, 126.0) + 0.5);
    }
    numbers
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).expect("numbers");
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn every_kind_is_decoded_and_encoded_as_ggml_does_and_its_package_reads_the_file() {
    let mut runner = TestRunner::deterministic();
    let folder = tempfile::tempdir().unwrap();
    let kinds: Vec<TensorKind> = TensorKind::ALL.iter().copied().filter(|kind| quant::is_decoded(*kind)).collect();
    assert_eq!(kinds.len(), 15);
    let tensors: Vec<_> = kinds
        .iter()
        .map(|kind| (format!("{kind}.weight"), vec![kind.block().0.max(32) as u64, BLOCKS as u64], *kind))
        .collect();
    let metadata = [
        ("general.architecture", Value::String("llama".to_owned())),
        ("general.name", Value::String("积分 🎈".to_owned())),
        ("llama.block_count", Value::U32(7)),
        ("a.flag", Value::Bool(true)),
        ("a.small", Value::I8(-3)),
        ("a.long", Value::U64(1 << 40)),
        ("a.float", Value::F32(0.25)),
        ("a.double", Value::F64(-0.1)),
        ("a.list", Value::Array(ValueKind::I32, vec![Value::I32(-1), Value::I32(5)])),
        ("a.texts", Value::Array(ValueKind::String, ["a", "好"].map(|text| Value::String(text.to_owned())).to_vec())),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).to_vec();
    let path = folder.path().join("all.gguf");
    let mut writer = Writer::new(File::create(&path).unwrap(), metadata, tensors).unwrap();
    let header = writer.header().clone();
    let contents: Vec<Vec<u8>> = header
        .tensors
        .iter()
        .map(|tensor| match tensor.kind {
            TensorKind::F32 => {
                weights(&mut runner, tensor.elements() as usize).iter().flat_map(|n| n.to_le_bytes()).collect()
            }
            _ => random(&mut runner, tensor.bytes() as usize),
        })
        .collect();
    contents.iter().for_each(|content| writer.tensor(content).unwrap());
    writer.finish().unwrap();

    let said = decoded(&path, folder.path());
    let expected: Vec<Json> = header
        .tensors
        .iter()
        .map(|tensor| json!([tensor.name, tensor.dims, tensor.kind.name(), header.position(tensor)]))
        .collect();
    assert_eq!(said["tensors"], json!(expected));
    let metadata = json!({
        "general.architecture": "llama", "general.name": "积分 🎈", "llama.block_count": 7, "a.flag": true, "a.small": -3,
        "a.long": 1_u64 << 40, "a.float": 0.25, "a.double": -0.1, "a.list": [-1, 5], "a.texts": ["a", "好"],
    });
    assert_eq!(said["metadata"], metadata);

    for (tensor, content) in header.tensors.iter().zip(&contents) {
        let mut numbers = vec![0.0; tensor.elements() as usize];
        assert!(quant::dequantise(tensor.kind, content, &mut numbers));
        if tensor.kind == TensorKind::F32 {
            let mut encoded = vec![0; numbers.len() / 32 * 34];
            quant::quantise_q8_0(&numbers, &mut encoded);
            let expected = fs::read(folder.path().join(format!("{}.q8_0", tensor.name))).unwrap();
            for (block, (ours, theirs)) in encoded.chunks(34).zip(expected.chunks(34)).enumerate() {
                assert_eq!(ours, theirs, "block {block}: {:?}", &numbers[block * 32..][..32]);
            }
            let mut encoded = vec![0; numbers.len() * 2];
            quant::encode_f16(&numbers, &mut encoded);
            assert!(encoded == fs::read(folder.path().join(format!("{}.f16", tensor.name))).unwrap());
        } else {
            let theirs = floats(&folder.path().join(format!("{}.f32", tensor.name)));
            assert_eq!(theirs.len(), numbers.len());
            for (at, (ours, theirs)) in numbers.iter().zip(&theirs).enumerate() {
                let same = ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
                assert!(same, "{} {at}: {ours} is {theirs}", tensor.kind);
            }
            assert!(numbers.iter().filter(|number| number.is_finite()).count() > numbers.len() / 2, "numbers, mostly");
        }
    }
}
