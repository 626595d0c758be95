//! The IQ4 kinds: four bits name one of 16 numbers that are not evenly spaced.

use super::half_at;

/// ggml's `kvalues_iq4nl`.
const VALUES: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

#[inline(always)]
fn group(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let (first, second) = out.split_at_mut(16);
    for ((first, second), byte) in first.iter_mut().zip(second).zip(bytes) {
        *first = scale * VALUES[usize::from(byte & 15)];
        *second = scale * VALUES[usize::from(byte >> 4)];
    }
}

#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    group(&block[2..], half_at(block, 0), out);
}

#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    let highs = u16::from_le_bytes([block[2], block[3]]);
    for index in 0..8 {
        let low = block[4 + index / 2] >> (index % 2 * 4) & 15;
        let high = (highs >> (index * 2) & 3) as u8;
        let scale = scale * (i32::from(low | high << 4) - 32) as f32;
        group(&block[8 + index * 16..][..16], scale, &mut out[index * 32..][..32]);
    }
}
