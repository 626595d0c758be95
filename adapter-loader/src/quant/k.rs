//! The K kinds: 256 numbers in groups of 16 or 32, whose scales share a scale of their own; Q2, Q4 and Q5 have a smallest
//! number a group, too.

use super::half_at;

#[inline(always)]
pub(super) fn q2(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, least) = (half_at(block, 80), half_at(block, 82));
    // Each byte of 32 has two bits of four groups.
    for group in 0..16 {
        let (half, shift, begin) = (group / 8, group % 8 / 2 * 2, group % 2 * 16);
        let (low, high) = (block[group] & 15, block[group] >> 4);
        let (scale, least) = (scale * f32::from(low), least * f32::from(high));
        let bytes = &block[16 + half * 32 + begin..][..16];
        for (out, byte) in out[group * 16..][..16].iter_mut().zip(bytes) {
            *out = scale * f32::from(byte >> shift & 3) - least;
        }
    }
}

#[inline(always)]
pub(super) fn q3(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half_at(block, 108);
    for group in 0..16 {
        let (half, shift, begin) = (group / 8, group % 8 / 2 * 2, group % 2 * 16);
        // Scales have 6 bits: four in the first 8 bytes, two in the last 4.
        let low = block[96 + group % 8] >> (group / 8 * 4) & 15;
        let high = block[104 + group % 4] >> (group / 4 * 2) & 3;
        let scale = scale * (i32::from(low | high << 4) - 32) as f32;
        let lows = &block[32 + half * 32 + begin..][..16];
        let highs = &block[begin..][..16];
        for (out, (low, high)) in out[group * 16..][..16].iter_mut().zip(lows.iter().zip(highs)) {
            // The third bit says that nothing is taken away.
            let taken = 4 - (high >> (group / 2) & 1) * 4;
            *out = scale * (i32::from(low >> shift & 3) - i32::from(taken)) as f32;
        }
    }
}

/// The scale and the smallest number of a group of 32, 6 bits each, in the 12 bytes of Q4_K and Q5_K.
#[inline(always)]
fn scale_and_least(bytes: &[u8; 12], group: usize) -> (f32, f32) {
    let (scale, least) = if group < 4 {
        (bytes[group] & 63, bytes[group + 4] & 63)
    } else {
        let both = bytes[group + 4];
        (both & 15 | bytes[group - 4] >> 6 << 4, both >> 4 | bytes[group] >> 6 << 4)
    };
    (scale.into(), least.into())
}

#[inline(always)]
fn scales(block: &[u8], out: &mut [(f32, f32); 8]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let bytes: &[u8; 12] = block[4..].first_chunk().expect("a block has more than 16 bytes");
    for (group, out) in out.iter_mut().enumerate() {
        let (of_scale, of_least) = scale_and_least(bytes, group);
        *out = (scale * of_scale, least * of_least);
    }
}

#[inline(always)]
pub(super) fn q4(block: &[u8; 144], out: &mut [f32; 256]) {
    let mut of = [(0.0, 0.0); 8];
    scales(block, &mut of);
    for pair in 0..4 {
        let ((scale, least), (second_scale, second_least)) = (of[pair * 2], of[pair * 2 + 1]);
        let bytes = &block[16 + pair * 32..][..32];
        let (first, second) = out[pair * 64..][..64].split_at_mut(32);
        for at in 0..32 {
            first[at] = scale * f32::from(bytes[at] & 15) - least;
            second[at] = second_scale * f32::from(bytes[at] >> 4) - second_least;
        }
    }
}

#[inline(always)]
pub(super) fn q5(block: &[u8; 176], out: &mut [f32; 256]) {
    let mut of = [(0.0, 0.0); 8];
    scales(block, &mut of);
    let fifth = &block[16..48];
    for pair in 0..4 {
        let ((scale, least), (second_scale, second_least)) = (of[pair * 2], of[pair * 2 + 1]);
        let bytes = &block[48 + pair * 32..][..32];
        let (first, second) = out[pair * 64..][..64].split_at_mut(32);
        for at in 0..32 {
            let bits = fifth[at] >> (pair * 2);
            first[at] = scale * f32::from(bytes[at] & 15 | (bits & 1) << 4) - least;
            second[at] = second_scale * f32::from(bytes[at] >> 4 | (bits & 2) << 3) - second_least;
        }
    }
}

#[inline(always)]
pub(super) fn q6(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    for half in 0..2 {
        let low = &block[half * 64..][..64];
        let high = &block[128 + half * 32..][..32];
        for quarter in 0..4 {
            // The low four bits of the first two quarters and of the last two share 64 bytes.
            let low = &low[quarter % 2 * 32..][..32];
            for group in 0..2 {
                let index = half * 8 + quarter * 2 + group;
                let scale = scale * f32::from(block[192 + index] as i8);
                let out = &mut out[index * 16..][..16];
                for at in 0..16 {
                    let (low, high) = (low[group * 16 + at], high[group * 16 + at]);
                    let number = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
                    out[at] = scale * (i32::from(number) - 32) as f32;
                }
            }
        }
    }
}
