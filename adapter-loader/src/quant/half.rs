//! Floats of 16 bits (IEEE 754 binary16), without a branch, so that loops over them become vector instructions. Both ways are
//! those of the FP16 library, which ggml has too.

/// The same number in 32 bits.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    let bits = u32::from(half);
    // Exponent and fraction in their new places, then the exponent's bias set right: by a product, which sets small numbers
    // (that have no leading one) right too.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let no_number = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | no_number | (bits & 0x8000) << 16)
}

/// The nearest number of 16 bits, the even one of two; from 65,520 on infinity.
#[inline(always)]
pub fn f32_to_f16(number: f32) -> u16 {
    let bits = number.to_bits();
    // What is too large becomes infinite in the first product, and the second brings back what did not.
    let base = (number.abs() * f32::from_bits((127 + 112) << 23)) * f32::from_bits((127 - 110) << 23);
    // A power of two is added whose last bit is the half's last one: the processor's sum rounds.
    let exponent = ((bits << 1) & 0xff00_0000).max(0x7100_0000);
    let rounded = (f32::from_bits((exponent >> 1) + 0x0780_0000) + base).to_bits();
    let magnitude = ((rounded >> 13) & 0x7c00) + (rounded & 0x0fff);
    let magnitude = if bits << 1 > 0xff00_0000 { 0x7e00 } else { magnitude };
    (magnitude | (bits >> 16) & 0x8000) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back() {
        for half in 0..=u16::MAX {
            let number = f16_to_f32(half);
            let missing = half & 0x7fff > 0x7c00;
            assert_eq!(number.is_nan(), missing, "{half:#x}");
            let expected = if missing { half & 0x8000 | 0x7e00 } else { half };
            assert_eq!(f32_to_f16(number), expected, "{half:#x}");
        }
        for (half, number) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2_f32.powi(-24)), (0x7bff, 65504.0), (0x8000, -0.0)]
        {
            assert_eq!(f16_to_f32(half).to_bits(), number.to_bits());
        }
    }

    #[test]
    fn between_two_halves_the_nearest_is_taken_and_the_even_one_from_the_middle() {
        for half in 0..0x7bff_u16 {
            let (low, high) = (f16_to_f32(half), f16_to_f32(half + 1));
            let middle = f32::midpoint(low, high);
            let even = half + (half & 1);
            for (number, expected) in [(middle.next_down(), half), (middle, even), (middle.next_up(), half + 1)] {
                assert_eq!(f32_to_f16(number), expected, "{number}");
                assert_eq!(f32_to_f16(-number), expected | 0x8000, "-{number}");
            }
        }
        assert_eq!(f32_to_f16(65519.996), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(f32::MIN), 0xfc00);
        assert_eq!(f32_to_f16(2_f32.powi(-25)), 0);
    }
}
