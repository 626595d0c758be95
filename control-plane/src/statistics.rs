//! Exact tails of two distributions, so that few samples mislead nobody.

/// The logarithm of the gamma function (Lanczos, g = 7, n = 9; Godfrey's coefficients): to 15 digits for x > 0.
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let series = COEFFICIENTS.iter().zip(1u8..).map(|(c, i)| c / (x + f64::from(i))).sum::<f64>();
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + (0.999_999_999_999_809_9 + series).ln()
}

/// The regularised incomplete beta function I_x(a, b) (Numerical Recipes, 6.4: Lentz's continued fraction).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(a, b, x) / a
    } else {
        1.0 - front * fraction(b, a, 1.0 - x) / b
    }
}

fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const MOST: usize = 10_000;
    let guard = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut result = d;
    for m in 1..MOST {
        let m = m as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        result *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        result *= d * c;
        if (d * c - 1.0).abs() < 1e-12 {
            break;
        }
    }
    result
}

/// How likely `least` or more of `n` are, each with this chance.
pub(crate) fn binomial_tail(n: u64, chance: f64, least: u64) -> f64 {
    match least {
        0 => 1.0,
        least if least > n => 0.0,
        least => incomplete_beta(least as f64, (n - least + 1) as f64, chance),
    }
}

/// The highest chance by which `some` or fewer of `n` are still as likely as `level` (Clopper, Pearson 1934).
pub(crate) fn upper_bound(n: u64, some: u64, level: f64) -> f64 {
    if some >= n {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if 1.0 - binomial_tail(n, middle, some + 1) > level { low = middle } else { high = middle }
    }
    high
}

/// How likely `least` or more marked ones are among `drawn` of `all`, of which `marked` are.
pub(crate) fn hypergeometric_tail(all: u64, marked: u64, drawn: u64, least: u64) -> f64 {
    let ln_choose = |n: u64, k: u64| {
        let (n, k) = (n as f64, k as f64);
        ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0)
    };
    let (unmarked, most) = (all - marked, marked.min(drawn));
    // Fewer there cannot be: all others are drawn then.
    let first = least.max(drawn.saturating_sub(unmarked));
    if first > most {
        return 0.0;
    }
    // From the likeliest on, for what is far from it may be too little to be a number.
    let likeliest = ((marked + 1) as f64 * (drawn + 1) as f64 / (all + 2) as f64) as u64;
    let start = likeliest.clamp(first, most);
    let chance = (ln_choose(marked, start) + ln_choose(unmarked, drawn - start) - ln_choose(all, drawn)).exp();
    // How much likelier one more than `k` are than `k`.
    let ratio =
        |k: u64| (marked - k) as f64 * (drawn - k) as f64 / ((k + 1) as f64 * (unmarked + k + 1 - drawn) as f64);
    let (mut sum, mut next) = (chance, chance);
    for k in start..most {
        next *= ratio(k);
        sum += next;
        if next < sum * NOTHING {
            break;
        }
    }
    next = chance;
    for k in (first..start).rev() {
        next /= ratio(k);
        sum += next;
        if next < sum * NOTHING {
            break;
        }
    }
    sum.min(1.0)
}

/// The part of a sum that makes no difference to it.
const NOTHING: f64 = 1e-17;

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 + b.abs() * 1e-8, "{a} {b}");
    }

    #[test]
    fn tails_are_those_of_counting() {
        near(binomial_tail(2, 0.5, 1), 0.75);
        near(binomial_tail(10, 0.1, 3), 0.070_190_826_4);
        near(binomial_tail(10, 0.1, 0), 1.0);
        near(binomial_tail(10, 0.1, 11), 0.0);
        let sum: f64 = (0..=20u64)
            .map(|k| {
                let choose = (0..k).fold(1.0, |choose, i| choose * (500 - i) as f64 / (i + 1) as f64);
                choose * 0.01f64.powi(i32::try_from(k).unwrap()) * 0.99f64.powi(500 - i32::try_from(k).unwrap())
            })
            .sum();
        near(binomial_tail(500, 0.01, 21), 1.0 - sum);
        // Of 52 cards 4 are aces, 5 are drawn, 2 or more of them are.
        near(hypergeometric_tail(52, 4, 5, 2), 0.041_684_366_054_113_95);
        near(hypergeometric_tail(10, 10, 5, 5), 1.0);
        near(hypergeometric_tail(10, 8, 5, 0), 1.0);
        near(hypergeometric_tail(10, 3, 5, 4), 0.0);
        near(hypergeometric_tail(2_000_000, 20_000, 1_000_000, 0), 1.0);
        assert!((hypergeometric_tail(2_000_000, 20_000, 1_000_000, 10_000) - 0.5).abs() < 0.01);
        assert!(hypergeometric_tail(2_000_000, 20_000, 1_000_000, 20_000) < 1e-300);
    }

    #[test]
    fn a_bound_is_where_what_was_seen_is_as_unlikely_as_said() {
        near(upper_bound(100, 0, 0.05), 1.0 - 0.05f64.powf(0.01));
        assert!((upper_bound(500, 5, 0.025) - 0.023_18).abs() < 1e-4, "{}", upper_bound(500, 5, 0.025));
        near(upper_bound(0, 0, 0.1), 1.0);
    }
}
