//! The older kinds: 32 numbers, evenly spaced, and one scale; those that end in 1 also have a smallest number.

use super::half_at;
use crate::quant::f32_to_f16;

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (at, byte) in block[2..].iter().enumerate() {
        out[at] = scale * (i32::from(byte & 15) - 8) as f32;
        out[at + 16] = scale * (i32::from(byte >> 4) - 8) as f32;
    }
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (at, byte) in block[4..].iter().enumerate() {
        out[at] = scale * f32::from(byte & 15) + least;
        out[at + 16] = scale * f32::from(byte >> 4) + least;
    }
}

/// The 32 numbers of 5 bits whose low four are `low` and whose fifth bits are the bits of `high`.
#[inline(always)]
fn five(low: &[u8], high: [u8; 4]) -> [u8; 32] {
    let high = u32::from_le_bytes(high);
    let mut numbers = [0; 32];
    for at in 0..16 {
        numbers[at] = low[at] & 15 | ((high >> at) << 4) as u8 & 16;
        numbers[at + 16] = low[at] >> 4 | ((high >> (at + 16)) << 4) as u8 & 16;
    }
    numbers
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let numbers = five(&block[6..22], [block[2], block[3], block[4], block[5]]);
    for at in 0..32 {
        out[at] = scale * (i32::from(numbers[at]) - 16) as f32;
    }
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let numbers = five(&block[8..24], [block[4], block[5], block[6], block[7]]);
    for at in 0..32 {
        out[at] = scale * f32::from(numbers[at]) + least;
    }
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for at in 0..32 {
        out[at] = scale * f32::from(block[at + 2] as i8);
    }
}

#[inline(always)]
pub(super) fn to_q8_0(numbers: &[f32; 32], block: &mut [u8; 34]) {
    // Magnitudes are in the order of their bits, so the largest is found in whole numbers: floats may not be reordered.
    let largest = numbers.iter().fold(0, |largest, number| largest.max(number.abs().to_bits() as i32));
    let scale = f32::from_bits(largest as u32) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    [block[0], block[1]] = f32_to_f16(scale).to_le_bytes();
    for (number, byte) in numbers.iter().zip(&mut block[2..]) {
        *byte = nearest(number * inverse);
    }
}

/// The nearest whole number of at most 127 (and a little), halves away from zero, as an i8.
#[inline(always)]
fn nearest(number: f32) -> u8 {
    /// Above it, floats are whole; a whole number added to it is its bits' end.
    const WHOLE: f32 = 8_388_608.0;
    let magnitude = number.abs();
    let even = (magnitude + WHOLE) - WHOLE; // halves are rounded to even
    let up = if magnitude - even == 0.5 { 1.0 } else { 0.0 };
    let rounded = (even + up + WHOLE).to_bits() as i32 & 0xff;
    let sign = number.to_bits() as i32 >> 31; // 0 or -1
    ((rounded ^ sign) - sign) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rounds_as_c_does() {
        for eighth in -1016..=1016 {
            let number = eighth as f32 / 8.0;
            for number in [number, number.next_up(), number.next_down()] {
                assert_eq!(nearest(number) as i8, number.round() as i8, "{number}");
            }
        }
        assert_eq!(nearest(0.5_f32.next_down()), 0);
    }
}
