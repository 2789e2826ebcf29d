//! A line through measured points.

/// `fixed + x * each`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fit {
    /// Where it begins.
    pub(crate) fixed: f64,
    /// What it grows by.
    pub(crate) each: f64,
    /// Root mean square of the relative errors.
    pub(crate) error: f64,
}

/// The line with the least sum of squared *relative* errors, so that small values count as much as large
/// ones. None of fewer than two different x, or when a y is not above zero.
pub(crate) fn relative(points: &[(f64, f64)]) -> Option<Fit> {
    if points.iter().any(|(_, y)| *y <= 0.0) {
        return None;
    }
    // Weighted least squares, a weight being 1/y².
    let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for &(x, y) in points {
        let weight = 1.0 / (y * y);
        w += weight;
        wx += weight * x;
        wy += weight * y;
        wxx += weight * x * x;
        wxy += weight * x * y;
    }
    let det = w * wxx - wx * wx;
    if points.len() < 2 || det <= f64::EPSILON * w * wxx {
        return None;
    }
    let each = (w * wxy - wx * wy) / det;
    let fixed = (wy - each * wx) / w;
    let squares: f64 = points.iter().map(|(x, y)| ((fixed + each * x - y) / y).powi(2)).sum();
    Some(Fit { fixed, each, error: (squares / points.len() as f64).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let points: Vec<_> = [1.0, 10.0, 100.0, 10_000.0].iter().map(|x| (*x, 5.0 + 0.25 * x)).collect();
        let fit = relative(&points).unwrap();
        assert!((fit.fixed - 5.0).abs() < 1e-6 && (fit.each - 0.25).abs() < 1e-9, "{fit:?}");
        assert!(fit.error < 1e-9, "{fit:?}");
    }

    #[test]
    fn there_is_none_through_one_point() {
        assert_eq!(relative(&[]), None);
        assert_eq!(relative(&[(1.0, 2.0)]), None);
        assert_eq!(relative(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
