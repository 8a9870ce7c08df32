//! Random weights that look like trained ones: normal values, rows of different scale, a few outlier
//! columns. Every row has its own counter-based stream, so the values depend on the seed, the tensor's
//! name and the position alone, and need nothing but IEEE arithmetic.

use crate::shape::Role;

/// One column in this many is an outlier.
const OUTLIER_EVERY: u64 = 512;

/// The values of one tensor, row by row.
pub struct Source {
    quantiles: &'static [f32],
    key: u64,
    role: Role,
    col_scales: Vec<f32>,
}

impl Source {
    pub fn new(seed: u64, name: &str, role: Role, n_cols: usize) -> Self {
        let key = name
            .bytes()
            .fold(mix(seed), |key, byte| mix(key ^ u64::from(byte)));
        let col_scales = match role {
            Role::Norm => Vec::new(),
            Role::Matrix { .. } => (0..n_cols as u64)
                .map(|col| {
                    let bits = mix(key ^ mix(!col));
                    if bits.is_multiple_of(OUTLIER_EVERY) {
                        4.0 + unit(bits) * 8.0
                    } else {
                        1.0
                    }
                })
                .collect(),
        };
        Self {
            quantiles: normal_quantiles(),
            key,
            role,
            col_scales,
        }
    }

    /// The weights of row `row`; `out` is one row long.
    pub fn fill_row(&self, row: u64, out: &mut [f32]) {
        let row_key = mix(self.key ^ mix(row));
        for (i, quad) in out.chunks_mut(4).enumerate() {
            let bits = mix(row_key.wrapping_add(i as u64));
            for (lane, value) in quad.iter_mut().enumerate() {
                *value = self.quantiles[(bits >> (16 * lane)) as usize & 0xffff];
            }
        }
        match self.role {
            Role::Norm => out.iter_mut().for_each(|x| *x = 1.0 + 0.1 * *x),
            Role::Matrix { std } => {
                let scale = std * (0.75 + 0.5 * unit(row_key));
                for (x, col_scale) in out.iter_mut().zip(&self.col_scales) {
                    *x *= scale * col_scale;
                }
            }
        }
    }
}

/// SplitMix64's output function: a counter in, 64 well-mixed bits out.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The top 24 bits as a number in [0, 1).
fn unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1u32 << 24) as f32
}

/// The middles of 65536 equally likely slices of the standard normal distribution: 16 random bits
/// become one normal value, up to 4.3 standard deviations.
fn normal_quantiles() -> &'static [f32] {
    static TABLE: std::sync::OnceLock<Vec<f32>> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| {
        (0..65536)
            .map(|i| normal_quantile((f64::from(i) + 0.5) / 65536.0) as f32)
            .collect()
    })
}

/// Acklam's rational approximation (relative error below 1.2e-9).
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 6] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 5] = [
        7.784695709041462e-3,
        3.224671290700398e-1,
        2.445134137142996,
        3.754408661907416,
        1.0,
    ];
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if p > 0.5 {
        -normal_quantile(1.0 - p)
    } else if p < 0.02425 {
        let q = (-2.0 * ln(p)).sqrt();
        horner(&C, q) / horner(&D, q)
    } else {
        let q = p - 0.5;
        q * horner(&A, q * q) / horner(&B, q * q)
    }
}

/// Natural logarithm of a normal positive number, by the same arithmetic on every platform.
fn ln(x: f64) -> f64 {
    let exponent = (x.to_bits() >> 52) as i32 - 1023;
    let mantissa = f64::from_bits((x.to_bits() & ((1 << 52) - 1)) | (1023 << 52));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..20)
        .rev()
        .fold(0.0, |sum, k| sum * s * s + 1.0 / f64::from(2 * k + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_normal() {
        assert!((ln(0.1) + std::f64::consts::LN_10).abs() < 1e-14);
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-8);
        assert!((normal_quantile(0.001) + 3.090_232_306_167_813).abs() < 1e-8);
        let table = normal_quantiles();
        let variance =
            table.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / table.len() as f64;
        assert!((variance - 1.0).abs() < 1e-4, "{variance}");
    }

    #[test]
    fn rows_differ_and_repeat() {
        let source = Source::new(1, "a.weight", Role::Matrix { std: 0.02 }, 1024);
        let row = |source: &Source, row| {
            let mut out = vec![0.0; 1024];
            source.fill_row(row, &mut out);
            out
        };
        assert_eq!(row(&source, 5), row(&source, 5));
        assert_ne!(row(&source, 5), row(&source, 6));
        let other = Source::new(2, "a.weight", Role::Matrix { std: 0.02 }, 1024);
        assert_ne!(row(&source, 5), row(&other, 5));
    }
}
