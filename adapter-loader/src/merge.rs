//! A base and a LoRA as one whole model, for engines that take no adapters: W + (alpha / rank) · B · A of each adapted matrix.
//!
//! What is not adapted is copied as it is, in whatever form the base has it: nothing is lost there by coding it anew, and
//! nothing is gained. Adapted matrices are decoded, added to in 32 bits and written as `mergeTo` says: a base of 4 bits becomes
//! larger, and what the training has learnt is not rounded away. ggml takes files of several kinds.

use std::fs::File;
use std::io::{BufReader, Write};
use std::os::unix::fs::FileExt;
use std::thread;

use tutti_api::MergeTo;

use crate::gguf::{GgufError, Header, Limits, TensorInfo, TensorKind, Value, Writer};
use crate::quant::{dequantise, encode_f16, is_decoded, quantise_q8_0};

/// Numbers that are worked on at a time by one thread.
const PIECE: usize = 1 << 20;
/// How much is copied at a time. Unit: bytes.
const COPIED: usize = 4 << 20;
/// Most threads.
const THREADS: usize = 8;
/// Longest matrix of an adapter that is held in memory. Unit: numbers.
const MAX_MATRIX: u64 = 1 << 28;

/// `general.file_type` (llama.cpp's `llama_ftype`): mostly F16, mostly Q8_0.
const FILE_TYPES: (u32, u32) = (1, 7);
/// `GGML_QNT_VERSION`.
const QUANTISATION: u32 = 2;

/// A LoRA's two matrices, as 32-bit floats.
struct Delta {
    /// Rank by columns.
    a: Vec<f32>,
    /// Rows by rank, scaled.
    b: Vec<f32>,
    rank: usize,
}

/// How long the merged file is at most. Unit: bytes.
///
/// # Errors
/// The base cannot be read.
pub fn room(base: &File, to: MergeTo) -> Result<u64, GgufError> {
    let base = header(base)?;
    let larger = |tensor: &TensorInfo| match tensor.dims.len() {
        1 => tensor.bytes(),
        _ => kind(tensor, to).bytes(tensor.elements()).unwrap_or(0).max(tensor.bytes()),
    };
    let tensors: u64 = base.tensors.iter().map(|tensor| larger(tensor) + base.alignment).sum();
    Ok(base.data_start + tensors + 4096)
}

/// Writes the merged model. `lora` is a GGUF as [`crate::convert`] writes it.
///
/// # Errors
/// One of them cannot be read or `out` not be written; the base is of a kind that is not decoded, or they do not fit.
pub fn merge(base: &File, lora: &File, to: MergeTo, out: impl Write) -> Result<(), GgufError> {
    let (of_base, of_lora) = (header(base)?, header(lora)?);
    let alpha = of_lora.get("adapter.lora.alpha").and_then(Value::as_f32);
    let alpha = alpha.ok_or_else(|| invalid("the adapter has no adapter.lora.alpha"))?;
    let pair =
        |name: &str| Some((of_lora.tensor(&format!("{name}.lora_a"))?, of_lora.tensor(&format!("{name}.lora_b"))?));
    let adapted = of_base.tensors.iter().filter(|tensor| pair(&tensor.name).is_some()).count();
    if adapted * 2 != of_lora.tensors.len() || adapted == 0 {
        return Err(invalid("the adapter has tensors that the base has not"));
    }
    let written = of_base.tensors.iter().map(|tensor| {
        let kind = if pair(&tensor.name).is_some() { kind(tensor, to) } else { tensor.kind };
        (tensor.name.clone(), tensor.dims.clone(), kind)
    });
    let mut writer = Writer::new(out, metadata(&of_base, to), written)?;
    for tensor in &of_base.tensors {
        match pair(&tensor.name) {
            None => copy(base, &of_base, tensor, &mut writer)?,
            Some((a, b)) => {
                let delta = delta(lora, &of_lora, (a, b), tensor, alpha)?;
                add(base, of_base.position(tensor), tensor, &delta, kind(tensor, to), &mut writer)?;
            }
        }
    }
    writer.finish().map(drop)
}

fn header(file: &File) -> Result<Header, GgufError> {
    let header = Header::read(BufReader::new(file), &Limits::default())?;
    Ok(header)
}

fn invalid(what: &str) -> GgufError {
    GgufError::Invalid(what.to_owned())
}

/// What an adapted matrix is written as: rows that are no whole blocks stay floats.
fn kind(tensor: &TensorInfo, to: MergeTo) -> TensorKind {
    let whole = tensor.dims[0].is_multiple_of(TensorKind::Q8_0.block().0 as u64);
    if to == MergeTo::Q8_0 && whole { TensorKind::Q8_0 } else { TensorKind::F16 }
}

fn metadata(base: &Header, to: MergeTo) -> Vec<(String, Value)> {
    let file_type = if to == MergeTo::F16 { FILE_TYPES.0 } else { FILE_TYPES.1 };
    let new = [("general.file_type", file_type), ("general.quantization_version", QUANTISATION)];
    let mut metadata = base.metadata.clone();
    metadata.retain(|(key, _)| new.iter().all(|(name, _)| key != name));
    metadata.extend(new.map(|(name, value)| (name.to_owned(), Value::U32(value))));
    metadata
}

fn copy(file: &File, of: &Header, tensor: &TensorInfo, writer: &mut Writer<impl Write>) -> Result<(), GgufError> {
    let (start, length) = (of.position(tensor), tensor.bytes());
    let mut piece = vec![0; COPIED.min(usize::try_from(length).unwrap_or(COPIED))];
    let mut at = 0;
    while at < length {
        let take = piece.len().min(usize::try_from(length - at).unwrap_or(COPIED));
        file.read_exact_at(&mut piece[..take], start + at)?;
        writer.write(&piece[..take])?;
        at += take as u64;
    }
    Ok(())
}

/// Reads a pair that fits a matrix of the base.
fn delta(
    file: &File,
    of: &Header,
    (a, b): (&TensorInfo, &TensorInfo),
    tensor: &TensorInfo,
    alpha: f32,
) -> Result<Delta, GgufError> {
    let wrong = |what: String| GgufError::Tensor { tensor: tensor.name.clone(), problem: what };
    let (&[columns, rows], &[of_a, rank], &[of_b, rows_b]) = (&tensor.dims[..], &a.dims[..], &b.dims[..]) else {
        return Err(wrong("is no matrix, or its adapter is none".to_owned()));
    };
    if (columns, rows, rank) != (of_a, rows_b, of_b) {
        return Err(wrong(format!("is {:?}, its adapter {:?} and {:?}", tensor.dims, a.dims, b.dims)));
    }
    if !is_decoded(tensor.kind) {
        return Err(wrong(format!("is {}, which is not decoded: take a base of another quantisation", tensor.kind)));
    }
    let read = |half: &TensorInfo| {
        if half.elements() > MAX_MATRIX || !is_decoded(half.kind) {
            return Err(wrong(format!("has an adapter of {} numbers as {}", half.elements(), half.kind)));
        }
        let mut bytes = vec![0; half.bytes() as usize];
        file.read_exact_at(&mut bytes, of.position(half))?;
        let mut numbers = vec![0.0; half.elements() as usize];
        dequantise(half.kind, &bytes, &mut numbers);
        Ok(numbers)
    };
    let (a, mut b) = (read(a)?, read(b)?);
    let scale = alpha / rank as f32;
    b.iter_mut().for_each(|number| *number *= scale);
    Ok(Delta { a, b, rank: rank as usize })
}

/// Writes an adapted matrix: rows are shared out among the processors, as many at a time as memory is meant for.
fn add(
    base: &File,
    start: u64,
    tensor: &TensorInfo,
    delta: &Delta,
    to: TensorKind,
    writer: &mut Writer<impl Write>,
) -> Result<(), GgufError> {
    let (columns, rows) = (tensor.dims[0] as usize, tensor.dims[1] as usize);
    let of_row = |kind: TensorKind| kind.bytes(columns as u64).expect("the header has whole rows") as usize;
    let (from, into) = (of_row(tensor.kind), of_row(to));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let each = (PIECE / columns).max(1);
    let mut done = 0;
    while done < rows {
        let take = (each * threads).min(rows - done);
        let mut coded = vec![0; take * from];
        base.read_exact_at(&mut coded, start + (done * from) as u64)?;
        let mut out = vec![0; take * into];
        thread::scope(|scope| {
            let pieces = coded.chunks(each * from).zip(out.chunks_mut(each * into)).enumerate();
            for (number, (coded, out)) in pieces {
                let first = done + number * each;
                scope.spawn(move || sums(tensor.kind, coded, delta, first, columns, to, out));
            }
        });
        writer.write(&out)?;
        done += take;
    }
    Ok(())
}

/// Some rows, from `first` on: decoded, added to, coded.
fn sums(from: TensorKind, coded: &[u8], delta: &Delta, first: usize, columns: usize, to: TensorKind, out: &mut [u8]) {
    let rows = out.len() / (to.bytes(columns as u64).expect("the header has whole rows") as usize);
    let mut numbers = vec![0.0; rows * columns];
    dequantise(from, coded, &mut numbers);
    for (row, numbers) in numbers.chunks_exact_mut(columns).enumerate() {
        let b = &delta.b[(first + row) * delta.rank..][..delta.rank];
        for (b, a) in b.iter().zip(delta.a.chunks_exact(columns)) {
            numbers.iter_mut().zip(a).for_each(|(number, a)| *number += b * a);
        }
    }
    match to {
        TensorKind::Q8_0 => quantise_q8_0(&numbers, out),
        _ => encode_f16(&numbers, out),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn gguf(metadata: &[(&str, Value)], tensors: &[(&str, &[u64], TensorKind, Vec<u8>)]) -> Vec<u8> {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let told = tensors.iter().map(|(name, dims, kind, _)| ((*name).to_owned(), dims.to_vec(), *kind));
        let mut writer = Writer::new(Vec::new(), metadata, told).unwrap();
        tensors.iter().for_each(|(_, _, _, bytes)| writer.write(bytes).unwrap());
        writer.finish().unwrap()
    }

    fn floats(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn numbers(bytes: &[u8], name: &str) -> (TensorKind, Vec<f32>) {
        let header = Header::read(Cursor::new(bytes), &Limits::default()).unwrap();
        let tensor = header.tensor(name).unwrap();
        let mut out = vec![0.0; tensor.elements() as usize];
        let content = &bytes[header.position(tensor) as usize..][..tensor.bytes() as usize];
        assert!(dequantise(tensor.kind, content, &mut out));
        (tensor.kind, out)
    }

    /// 3 rows of 64 columns, of which each number is its row's number; and something beside it that is not adapted.
    fn base(kind: TensorKind) -> Vec<u8> {
        let rows: Vec<f32> = (0..192_u16).map(|at| f32::from(at / 64)).collect();
        let mut coded = vec![0; kind.bytes(192).unwrap() as usize];
        match kind {
            TensorKind::Q8_0 => quantise_q8_0(&rows, &mut coded),
            _ => coded = floats(&rows),
        }
        gguf(
            &[("general.architecture", Value::String("llama".into())), ("general.file_type", Value::U32(0))],
            &[
                ("blk.0.attn_q.weight", &[64, 3], kind, coded),
                ("blk.0.attn_norm.weight", &[2], TensorKind::F32, floats(&[1.5, -2.0])),
            ],
        )
    }

    fn lora(target: &str) -> Vec<u8> {
        // A: a row of 1s and one of 2s; B: rows 1 0, 0 1, 1 1; alpha / rank is 2.
        let a: Vec<f32> = (0..128_u16).map(|at| 1.0 + f32::from(at / 64)).collect();
        let b = floats(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        gguf(
            &[("adapter.lora.alpha", Value::F32(4.0))],
            &[
                (&format!("{target}.lora_a"), &[64, 2], TensorKind::F32, floats(&a)),
                (&format!("{target}.lora_b"), &[2, 3], TensorKind::F32, b),
            ],
        )
    }

    fn merged(base: &[u8], lora: &[u8], to: MergeTo) -> Result<Vec<u8>, GgufError> {
        let mut out = Vec::new();
        merge(&file(base), &file(lora), to, &mut out)?;
        Ok(out)
    }

    #[test]
    fn a_merged_matrix_is_the_sum_and_the_rest_is_as_it_was() {
        for (kind, to, expected) in [
            (TensorKind::F32, MergeTo::F16, TensorKind::F16),
            (TensorKind::F32, MergeTo::Q8_0, TensorKind::Q8_0),
            (TensorKind::Q8_0, MergeTo::Q8_0, TensorKind::Q8_0),
        ] {
            let base = base(kind);
            let out = merged(&base, &lora("blk.0.attn_q.weight"), to).unwrap();
            let (kind, sums) = numbers(&out, "blk.0.attn_q.weight");
            assert_eq!(kind, expected);
            for (row, wanted) in [(0, 2.0), (1, 5.0), (2, 8.0)] {
                assert!(
                    sums[row * 64..][..64].iter().all(|sum| (sum - wanted).abs() < 0.01),
                    "{row}: {:?}",
                    sums[row * 64]
                );
            }
            assert_eq!(numbers(&out, "blk.0.attn_norm.weight"), (TensorKind::F32, vec![1.5, -2.0]));
            let header = Header::read(Cursor::new(&out), &Limits::default()).unwrap();
            assert_eq!(header.number("general.file_type"), Some(if to == MergeTo::F16 { 1 } else { 7 }));
            assert_eq!(header.architecture(), Some("llama"));
            assert!(room(&file(&base), to).unwrap() >= out.len() as u64);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_merged() {
        for (target, says) in [("blk.1.attn_q.weight", "has not"), ("blk.0.attn_norm.weight", "no matrix")] {
            let error = merged(&base(TensorKind::F32), &lora(target), MergeTo::F16).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
