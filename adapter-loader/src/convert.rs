//! An adapter in the form that engines take: a GGUF LoRA, as llama.cpp's `convert_lora_to_gguf.py` writes it by default (32-bit
//! floats; `<tensor>.lora_a` and `<tensor>.lora_b`): to the last bit, as `tests/reference.rs` holds it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use crate::gguf::{GgufError, TensorKind, Value, Writer};
use crate::quant::f16_to_f32;
use crate::safetensors::{Dtype, Tensor};
use crate::verify::{Checked, Form, Pair};

/// How much is read at a time. Unit: bytes.
const PIECE: usize = 1 << 20;
/// `GGML_QNT_VERSION`.
const QUANTISATION: u32 = 2;

/// How long the converted file may be. Unit: bytes.
pub fn room(checked: &Checked) -> u64 {
    // 16 bits become 32; the header's names, at most that of the other.
    checked.bytes.saturating_mul(2).saturating_add(1 << 20)
}

/// Writes it. A GGUF is copied as it is.
///
/// # Errors
/// It cannot be read, or `out` not be written.
pub fn convert(checked: &Checked, mut out: impl Write) -> Result<(), GgufError> {
    match &checked.form {
        Form::Gguf(path) => {
            io::copy(&mut File::open(path)?.take(checked.bytes), &mut out)?;
            out.flush()?;
            Ok(())
        }
        Form::Peft { file, pairs } => peft(checked, &File::open(file)?, pairs, out),
    }
}

fn peft(checked: &Checked, file: &File, pairs: &[Pair], out: impl Write) -> Result<(), GgufError> {
    let text = |text: &str| Value::String(text.to_owned());
    let metadata = vec![
        ("general.architecture".to_owned(), text(&checked.architecture)),
        ("general.type".to_owned(), text("adapter")),
        ("adapter.type".to_owned(), text("lora")),
        ("adapter.lora.alpha".to_owned(), Value::F32(checked.alpha)),
        ("general.quantization_version".to_owned(), Value::U32(QUANTISATION)),
    ];
    // ggml has the fastest dimension first.
    let dims = |tensor: &Tensor| tensor.shape.iter().rev().copied().collect::<Vec<_>>();
    let tensors = pairs.iter().flat_map(|pair| {
        let half = |letter: char, tensor| (format!("{}.lora_{letter}", pair.target), dims(tensor), TensorKind::F32);
        [half('a', &pair.a), half('b', &pair.b)]
    });
    let mut writer = Writer::new(out, metadata, tensors)?;
    for pair in pairs {
        copy(file, &pair.a, 1.0, &mut writer)?;
        match pair.heads {
            None => copy(file, &pair.b, pair.factor, &mut writer)?,
            Some(heads) => permuted(file, &pair.b, heads, pair.factor, &mut writer)?,
        }
    }
    writer.finish().map(drop)
}

/// A tensor as it lies there, in pieces.
fn copy(file: &File, tensor: &Tensor, factor: f32, writer: &mut Writer<impl Write>) -> Result<(), GgufError> {
    let (mut from, mut to) = (vec![0; PIECE], Vec::with_capacity(PIECE * 2));
    let mut at = 0;
    while at < tensor.length {
        let take = PIECE.min(usize::try_from(tensor.length - at).unwrap_or(PIECE));
        file.read_exact_at(&mut from[..take], tensor.start + at)?;
        widened(&from[..take], tensor.dtype, factor, &mut to);
        writer.write(&to)?;
        at += take as u64;
    }
    Ok(())
}

/// B with its rows as llama.cpp's rotary embedding wants them: of each head, row `j` of the first half and of the second become
/// neighbours (`LlamaModel.permute`: reshape(heads, 2, half, …), swap the middle two).
fn permuted(
    file: &File,
    tensor: &Tensor,
    heads: u64,
    factor: f32,
    writer: &mut Writer<impl Write>,
) -> Result<(), GgufError> {
    let rows = tensor.shape[0];
    let row = tensor.length / rows;
    let of_head = rows / heads;
    // A head's rows at a time: all of a large model's are 128 of at most 16 KiB.
    let mut head = vec![0; usize::try_from(of_head * row).unwrap_or(usize::MAX)];
    let (row, half) = (row as usize, (of_head / 2) as usize);
    let (mut turned, mut to) = (Vec::with_capacity(head.len()), Vec::new());
    for number in 0..heads {
        file.read_exact_at(&mut head, tensor.start + number * of_head * row as u64)?;
        turned.clear();
        for at in 0..half {
            turned.extend_from_slice(&head[at * row..][..row]);
            turned.extend_from_slice(&head[(half + at) * row..][..row]);
        }
        widened(&turned, tensor.dtype, factor, &mut to);
        writer.write(&to)?;
    }
    Ok(())
}

/// Numbers as 32-bit floats, little endian. Without a factor they are the very same.
fn widened(from: &[u8], dtype: Dtype, factor: f32, to: &mut Vec<u8>) {
    to.clear();
    let halves = from.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    match dtype {
        Dtype::F32 => to.extend_from_slice(from),
        Dtype::BF16 => to.extend(halves.flat_map(|half| (u32::from(half) << 16).to_le_bytes())),
        Dtype::F16 => to.extend(halves.flat_map(|half| f16_to_f32(half).to_le_bytes())),
    }
    if factor != 1.0 {
        for four in to.chunks_exact_mut(4) {
            let value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]) * factor;
            four.copy_from_slice(&value.to_le_bytes());
        }
    }
}
