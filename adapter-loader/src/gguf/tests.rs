use std::io::{Cursor, Read, Seek};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::read(Cursor::new(bytes), &Limits::default())
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// A whole file of these, whose tensors are of ones.
fn file(metadata: Vec<(String, Value)>, tensors: Vec<(String, Vec<u64>, TensorKind)>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), metadata, tensors).unwrap();
    for size in writer.header().tensors.iter().map(TensorInfo::bytes).collect::<Vec<_>>() {
        writer.tensor(&vec![1; size as usize]).unwrap();
    }
    writer.finish().unwrap()
}

fn small() -> Vec<u8> {
    let tokens = Value::Array(ValueKind::String, vec![text("a"), text("好"), Value::Bytes(vec![0xff])]);
    let metadata = [
        ("general.architecture", text("llama")),
        ("general.alignment", Value::U32(16)),
        ("tokens", tokens),
        ("deep", Value::Array(ValueKind::Array, vec![Value::Array(ValueKind::Bool, vec![Value::Bool(true)])])),
        ("scale", Value::F32(0.5)),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).to_vec();
    let tensors = vec![
        ("a.weight".to_owned(), vec![3, 5], TensorKind::F16),
        ("b.weight".to_owned(), vec![64, 2], TensorKind::Q8_0),
        ("c.bias".to_owned(), vec![1], TensorKind::F32),
    ];
    file(metadata, tensors)
}

/// How much memory a header takes.
fn memory(header: &Header) -> u64 {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.capacity(),
            Value::Bytes(bytes) => bytes.capacity(),
            Value::Array(_, values) => values.capacity() * size_of::<Value>() + values.iter().map(of).sum::<usize>(),
            _ => 0,
        }
    }
    let keys = header.metadata.iter().map(|(key, value)| key.capacity() + of(value)).sum::<usize>();
    let tensors =
        header.tensors.iter().map(|tensor| tensor.name.capacity() + tensor.dims.capacity() * 8).sum::<usize>();
    let metadata = header.metadata.capacity() * size_of::<(String, Value)>();
    (keys + tensors + metadata + header.tensors.capacity() * size_of::<TensorInfo>()) as u64
}

/// Any value but one that is not equal to itself.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        prop::num::f32::NORMAL.prop_map(Value::F32),
        prop::num::f64::NORMAL.prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        vec(any::<u8>(), 0..8).prop_map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => Value::String(text),
            Err(error) => Value::Bytes(error.into_bytes()),
        }),
    ];
    leaf.prop_recursive(3, 32, 4, |inner| {
        vec(inner, 0..4).prop_map(|mut values| {
            let kind = values.first().map_or(ValueKind::I16, Value::kind);
            values.retain(|value| value.kind() == kind);
            Value::Array(kind, values)
        })
    })
}

fn tensors() -> impl Strategy<Value = Vec<(String, Vec<u64>, TensorKind)>> {
    let kinds = prop::sample::select(TensorKind::ALL);
    let one = (kinds, 1_u64..3, vec(1_u64..5, 0..3)).prop_map(|(kind, blocks, rest)| {
        let mut dims = vec![blocks * kind.block().0 as u64];
        dims.extend(rest);
        (dims, kind)
    });
    vec(one, 0..6).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named.map(|(number, (dims, kind))| (format!("blk.{number}.weight"), dims, kind)).collect()
    })
}

fn metadata() -> impl Strategy<Value = Vec<(String, Value)>> {
    let alignment = prop::option::of(prop::sample::select(vec![8_u32, 32, 64, 4096]));
    (prop::collection::btree_map("[a-z.]{1,12}", values(), 0..8), alignment).prop_map(|(mut map, alignment)| {
        map.remove(ALIGNMENT);
        let alignment = alignment.map(|bytes| (ALIGNMENT.to_owned(), Value::U32(bytes)));
        map.into_iter().chain(alignment).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(metadata in metadata(), tensors in tensors()) {
        let bytes = file(metadata.clone(), tensors.clone());
        let header = read(&bytes).unwrap();
        prop_assert_eq!(&header, &Header::new(metadata, tensors).unwrap());
        prop_assert_eq!(header.file_length(), bytes.len() as u64);
        for tensor in &header.tensors {
            let at = header.position(tensor) as usize;
            prop_assert!(bytes[at..at + tensor.bytes() as usize].iter().all(|byte| *byte == 1));
        }
        let ones: u64 = header.tensors.iter().map(TensorInfo::bytes).sum();
        let content = &bytes[header.data_start as usize..];
        prop_assert_eq!(content.iter().filter(|byte| **byte == 1).count() as u64, ones);
        prop_assert_eq!(content.iter().filter(|byte| **byte == 0).count() as u64, content.len() as u64 - ones);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let after: Vec<u8> = [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat();
        let _ = read(&after);
        let one = [b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0k".as_slice(), &bytes].concat();
        let _ = read(&one);
    }

    #[test]
    fn what_is_changed_anywhere_is_read_or_refused(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = small();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(header) = read(&bytes) {
            for tensor in &header.tensors {
                prop_assert!(header.position(tensor) + tensor.bytes() <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn no_header_takes_more_memory_than_it_may(metadata in metadata(), tensors in tensors(), limit in 0_u64..4096) {
        let bytes = file(metadata, tensors);
        let limits = Limits { memory: limit, ..Limits::default() };
        if let Ok(header) = Header::read(Cursor::new(&bytes), &limits) {
            prop_assert!(memory(&header) <= limit, "{} of {limit}", memory(&header));
        }
    }
}

#[test]
fn every_bit_and_every_byte_of_a_header_is_read_or_refused() {
    let whole = small();
    let header = read(&whole).unwrap();
    for at in 0..header.data_start as usize {
        for byte in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            if let Ok(header) = read(&bytes) {
                assert!(
                    header.tensors.iter().all(|tensor| header.position(tensor) + tensor.bytes() <= bytes.len() as u64)
                );
            }
        }
    }
    for end in 0..whole.len() {
        // What fills up the end may be missing: there is nothing in it.
        let last = header.tensors.last().unwrap();
        let ends = header.position(last) + last.bytes();
        assert_eq!(read(&whole[..end]).is_ok(), end as u64 >= ends, "{end}");
    }
}

/// A header by hand: counts and what follows them.
fn by_hand(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    [b"GGUF\x03\0\0\0", tensors.to_le_bytes().as_slice(), &keys.to_le_bytes(), &rest.concat()].concat()
}

fn key(name: &str, kind: ValueKind) -> Vec<u8> {
    [&(name.len() as u64).to_le_bytes(), name.as_bytes(), &(kind as u32).to_le_bytes()].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = [&(name.len() as u64).to_le_bytes(), name.as_bytes(), &(dims.len() as u32).to_le_bytes()].concat();
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], said: &str) {
    let error = read(bytes).expect_err(said).to_string();
    assert!(error.contains(said), "{error}");
}

#[test]
fn other_files_are_refused_by_name() {
    refused(b"", "no GGUF");
    refused(b"{\"a\":1}\0\0\0", "no GGUF");
    refused(b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0", "version 1");
    refused(b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0", "big-endian");
    refused(b"GGUF\x04\0\0\0\0\0\0\0\0\0\0\0", "version 4");
    let empty = by_hand(0, 0, &[]);
    assert_eq!(read(&empty).unwrap(), Header::new(Vec::new(), []).unwrap());
    let second = [b"GGUF\x02\0\0\0", &empty[8..]].concat();
    assert!(read(&second).is_ok());
}

#[test]
fn a_header_that_promises_more_than_there_is_allocates_nothing() {
    let huge = u64::MAX.to_le_bytes();
    refused(&by_hand(0, u64::MAX, &[]), "keys");
    refused(&by_hand(u64::MAX, 0, &[]), "tensors");
    refused(&by_hand(0, 4000, &[]), "cut off");
    refused(&by_hand(60_000, 0, &[]), "cut off");
    refused(&by_hand(0, 1, &[&huge, &[0; 99]]), "a text of");
    refused(&by_hand(0, 1, &[&key("k", ValueKind::String), &huge]), "a text of");
    refused(&by_hand(0, 1, &[&key("k", ValueKind::String), &1000_u64.to_le_bytes()]), "cut off");
    let array = key("k", ValueKind::Array);
    refused(&by_hand(0, 1, &[&array, &0_u32.to_le_bytes(), &huge]), "an array of");
    refused(&by_hand(0, 1, &[&array, &10_u32.to_le_bytes(), &1000_u64.to_le_bytes(), &[0; 999]]), "cut off");
    let deeper = [9_u32.to_le_bytes().as_slice(), &1_u64.to_le_bytes()].concat();
    refused(&by_hand(0, 1, &[&array, &deeper, &deeper, &deeper, &deeper, &deeper, &deeper]), "arrays in arrays");
    let limits = Limits { header: 100, ..Limits::default() };
    let error = Header::read(Cursor::new(small()), &limits).unwrap_err();
    assert!(error.to_string().contains("at most 100"), "{error}");
}

#[test]
fn values_and_keys_that_cannot_be_are_refused() {
    let number = key("k", ValueKind::U8);
    refused(&by_hand(0, 2, &[&number, &[1], &number, &[1]]), "twice");
    refused(&by_hand(0, 1, &[&key("k", ValueKind::Bool), &[2]]), "true (1) or false (0)");
    refused(&by_hand(0, 1, &[&key("", ValueKind::U8), &[1]]), "0 bytes");
    refused(&by_hand(0, 1, &[&[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0]]), "no UTF-8");
    refused(&by_hand(0, 1, &[&[1, 0, 0, 0, 0, 0, 0, 0, b'k', 13, 0, 0, 0, 0]]), "kind 13");
    for alignment in [0_u32, 4, 48, 1 << 20] {
        refused(&by_hand(0, 1, &[&key(ALIGNMENT, ValueKind::U32), &alignment.to_le_bytes()]), "power of two");
    }
    refused(&by_hand(0, 1, &[&key(ALIGNMENT, ValueKind::U64), &32_u64.to_le_bytes()]), "a U32");
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    let with = |tensors: &[Vec<u8>]| {
        let all: Vec<&[u8]> = tensors.iter().map(Vec::as_slice).collect();
        [by_hand(tensors.len() as u64, 0, &all), vec![0; 4096]].concat()
    };
    let f32 = TensorKind::F32.number();
    assert!(read(&with(&[tensor("a", &[8, 4], f32, 0), tensor("b", &[8], f32, 128)])).is_ok());
    assert!(read(&with(&[tensor("b", &[8], f32, 128), tensor("a", &[8, 4], f32, 0)])).is_ok(), "in any order");
    refused(&with(&[tensor("a", &[8, 4], f32, 0), tensor("b", &[8], f32, 96)]), "lies over \"a\"");
    refused(&with(&[tensor("a", &[8], f32, 0), tensor("a", &[8], f32, 32)]), "there twice");
    refused(&with(&[tensor("a", &[8], f32, 31)]), "multiple of 32");
    refused(&with(&[tensor("a", &[8], f32, 1 << 20)]), "cut off, or its header lies");
    refused(&with(&[tensor("a", &[8], f32, u64::MAX - 31)]), "cut off, or its header lies");
    refused(&with(&[tensor("a", &[1 << 20], f32, 0)]), "cut off, or its header lies");
    refused(&with(&[tensor("a", &[1 << 40, 1 << 40], f32, 0)]), "over 63 bits");
    refused(&with(&[tensor("a", &[1 << 62], f32, 0)]), "over 63 bits");
    refused(&with(&[tensor("a", &[0], f32, 0)]), "is 0");
    refused(&with(&[tensor("a", &[], f32, 0)]), "0 dimensions");
    refused(&with(&[tensor("a", &[1; 5], f32, 0)]), "5 dimensions");
    refused(&with(&[tensor("a", &[33], TensorKind::Q8_0.number(), 0)]), "no multiple of 32");
    refused(&with(&[tensor("a", &[32], 5, 0)]), "kind 5");
    refused(&with(&[tensor("", &[8], f32, 0)]), "a name of 0 bytes");
    refused(&with(&[tensor(&"n".repeat(64), &[8], f32, 0)]), "at most 63");
}

#[test]
fn a_writer_takes_each_tensor_whole_and_in_turn() {
    let new = || {
        let tensors = [("a", 3), ("b", 4)].map(|(name, row)| (name.to_owned(), vec![row], TensorKind::F32));
        Writer::new(Vec::new(), Vec::new(), tensors).unwrap()
    };
    let mut writer = new();
    writer.write(&[1; 5]).unwrap();
    assert!(writer.write(&[1; 8]).is_err(), "one byte too many");
    assert!(writer.tensor(&[1; 7]).is_err(), "not at once");
    writer.write(&[1; 7]).unwrap();
    assert!(writer.tensor(&[2; 15]).is_err(), "not whole");
    writer.tensor(&[2; 16]).unwrap();
    assert!(writer.write(&[3]).is_err(), "there is no third one");
    let written = writer.finish().unwrap();
    assert!(read(&written).is_ok());
    assert!(new().finish().is_err(), "nothing came");

    let mut elsewhere = read(&written).unwrap();
    elsewhere.tensors[1].offset += 32;
    assert!(Writer::with(Vec::new(), elsewhere).is_err(), "a gap");
    let mixed = Value::Array(ValueKind::U8, vec![Value::I8(1)]);
    assert!(Writer::new(Vec::new(), vec![("k".to_owned(), mixed)], []).is_err());
}

#[test]
fn the_rigs_models_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/rig/models");
    let open = |name: &str| std::fs::File::open(folder.join(name)).unwrap();
    let story = Header::read(open("tutti-story.gguf"), &Limits::default()).unwrap();
    assert_eq!(story.architecture(), Some("qwen2"));
    assert_eq!(story.number("qwen2.block_count"), Some(3));
    assert_eq!(story.tensor("blk.0.attn_q.weight").map(|q| q.kind), Some(TensorKind::F16));
    let lora = Header::read(open("risk-v1.gguf"), &Limits::default()).unwrap();
    assert_eq!(lora.get("adapter.lora.alpha"), Some(&Value::F32(16.0)));
    assert_eq!(lora.tensor("blk.1.ffn_down.weight.lora_a").map(|a| a.dims[1]), Some(8), "in, rank");
    assert!(Header::read(open("tutti-embed.gguf"), &Limits::default()).is_ok());

    // Written anew, they are the same to a byte.
    let mut bytes = Vec::new();
    open("tutti-story.gguf").read_to_end(&mut bytes).unwrap();
    let mut writer = Writer::with(Vec::new(), story.clone()).unwrap();
    for tensor in &story.tensors {
        let at = story.position(tensor) as usize;
        writer.tensor(&bytes[at..at + tensor.bytes() as usize]).unwrap();
    }
    assert!(writer.finish().unwrap() == bytes);
}

#[test]
fn a_reader_that_fails_is_told_from_a_file_that_is_cut_off() {
    struct Fails(Cursor<Vec<u8>>);
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("a bad disk"))
        }
    }
    impl Seek for Fails {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let error = Header::read(Fails(Cursor::new(small())), &Limits::default()).unwrap_err();
    assert!(matches!(&error, GgufError::Io(_)) && error.to_string().contains("a bad disk"), "{error}");
}
