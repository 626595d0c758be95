//! Whether all numbers are numbers: one NaN in an adapter makes every answer of its base's noise.

use std::fs::File;
use std::os::unix::fs::FileExt;

use tutti_api::Reason;

use super::Refused;
use crate::quant::f16_to_f32;
use crate::safetensors::Dtype;

/// How much is read at a time. Unit: bytes; whole numbers of each kind.
const PIECE: usize = 1 << 20;

/// Looks at the numbers of a tensor; yields the largest, whatever its sign.
pub(super) fn scan(file: &File, name: &str, dtype: Dtype, start: u64, length: u64) -> Result<f32, Refused> {
    let mut piece = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    let (mut at, mut largest) = (0, 0.0_f32);
    while at < length {
        let take = piece.len().min(usize::try_from(length - at).unwrap_or(PIECE));
        let read = file.read_exact_at(&mut piece[..take], start + at);
        read.map_err(|error| Refused::new(Reason::InvalidFile, format!("cannot be read: {error}")))?;
        let of_piece = largest_of(&piece[..take], dtype);
        if !of_piece.is_finite() {
            let message =
                format!("tensor {name:?} has a number that is none (NaN) or infinite: its training went wrong");
            return Err(Refused::new(Reason::NotFinite, message));
        }
        largest = largest.max(of_piece);
        at += take as u64;
    }
    Ok(largest)
}

/// The largest magnitude; infinite or NaN where one is. Without a sign, floats are in the order of their bits, NaN above
/// infinity (IEEE 754): whole numbers are compared, without a branch, so many at a time.
fn largest_of(bytes: &[u8], dtype: Dtype) -> f32 {
    let half = || {
        let halves = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]) & 0x7fff);
        halves.fold(0, u16::max)
    };
    match dtype {
        Dtype::F16 => f16_to_f32(half()),
        Dtype::BF16 => f32::from_bits(u32::from(half()) << 16),
        Dtype::F32 => {
            let all = bytes.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            f32::from_bits(all.map(|bits| bits & 0x7fff_ffff).fold(0, u32::max))
        }
    }
}
