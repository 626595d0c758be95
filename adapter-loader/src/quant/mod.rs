//! The numbers in a GGUF's tensors: ggml's blocks to 32-bit floats and back.
//!
//! Each kind is decoded and encoded exactly as ggml's own code does (`ggml-quants.c`, `ggml-common.h`), to the last bit, as a
//! test against its Python package holds it. The loops are plain ones over arrays of known sizes, which the compiler turns
//! into vector instructions.

mod half;
mod k;
mod nonlinear;
mod rounded;

use crate::gguf::TensorKind;

pub use half::{f16_to_f32, f32_to_f16};

/// Whether [`dequantise`] knows a kind: all that Ollama's library commonly ships.
pub fn is_decoded(kind: TensorKind) -> bool {
    use TensorKind::*;
    matches!(
        kind,
        F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_NL | IQ4_XS
    )
}

/// Decodes blocks to as many numbers as they hold; yields whether the kind [is known](is_decoded). An infinite or missing
/// scale makes infinite and missing numbers.
///
/// # Panics
/// `bytes` are not whole blocks, or hold more or fewer numbers than `out` has place for.
pub fn dequantise(kind: TensorKind, bytes: &[u8], out: &mut [f32]) -> bool {
    assert_eq!(kind.bytes(out.len() as u64), Some(bytes.len() as u64), "{kind}: {} numbers", out.len());
    match kind {
        TensorKind::F32 => {
            blocks(bytes, out, |bytes: &[u8; 4], out: &mut [f32; 1]| out[0] = f32::from_le_bytes(*bytes))
        }
        TensorKind::F16 => {
            blocks(bytes, out, |bytes: &[u8; 2], out: &mut [f32; 1]| out[0] = f16_to_f32(u16::from_le_bytes(*bytes)));
        }
        TensorKind::BF16 => blocks(bytes, out, |bytes: &[u8; 2], out: &mut [f32; 1]| {
            out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }),
        TensorKind::Q4_0 => blocks(bytes, out, rounded::q4_0),
        TensorKind::Q4_1 => blocks(bytes, out, rounded::q4_1),
        TensorKind::Q5_0 => blocks(bytes, out, rounded::q5_0),
        TensorKind::Q5_1 => blocks(bytes, out, rounded::q5_1),
        TensorKind::Q8_0 => blocks(bytes, out, rounded::q8_0),
        TensorKind::Q2_K => blocks(bytes, out, k::q2),
        TensorKind::Q3_K => blocks(bytes, out, k::q3),
        TensorKind::Q4_K => blocks(bytes, out, k::q4),
        TensorKind::Q5_K => blocks(bytes, out, k::q5),
        TensorKind::Q6_K => blocks(bytes, out, k::q6),
        TensorKind::IQ4_NL => blocks(bytes, out, nonlinear::iq4_nl),
        TensorKind::IQ4_XS => blocks(bytes, out, nonlinear::iq4_xs),
        _ => return false,
    }
    true
}

/// Encodes numbers as Q8_0, as ggml's `quantize_row_q8_0_ref`: a scale of 16 bits and 32 numbers of 8 a block, rounded to the
/// nearest, halves away from zero. Of numbers that are not finite nothing sensible is made.
///
/// # Panics
/// The numbers are not whole blocks, or `out` has place for more or fewer.
pub fn quantise_q8_0(numbers: &[f32], out: &mut [u8]) {
    assert_eq!(TensorKind::Q8_0.bytes(numbers.len() as u64), Some(out.len() as u64), "{} numbers", numbers.len());
    let (numbers, _) = numbers.as_chunks();
    let (blocks, _) = out.as_chunks_mut();
    numbers.iter().zip(blocks).for_each(|(numbers, block)| rounded::to_q8_0(numbers, block));
}

/// Encodes numbers as F16, rounded to the nearest, halves to even; too large ones become infinite.
///
/// # Panics
/// `out` has place for more or fewer.
pub fn encode_f16(numbers: &[f32], out: &mut [u8]) {
    assert_eq!(numbers.len() * 2, out.len(), "{} numbers", numbers.len());
    let (halves, _) = out.as_chunks_mut();
    numbers.iter().zip(halves).for_each(|(number, half)| *half = f32_to_f16(*number).to_le_bytes());
}

/// A function of one block, for all of them.
#[inline(always)]
fn blocks<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn(&[u8; B], &mut [f32; N])) {
    let (blocks, _) = bytes.as_chunks();
    let (numbers, _) = out.as_chunks_mut();
    blocks.iter().zip(numbers).for_each(|(block, numbers)| one(block, numbers));
}

/// The 16-bit float at the front of `bytes`.
#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}
