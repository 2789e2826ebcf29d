//! Curves as SVG, drawn with the page's own colours, so that they follow light and dark.
//!
//! plotters, which draws the benchmarks, writes its colours into the picture.

use std::fmt::Write as _;
use std::time::Duration;

use crate::page::escape;
use crate::units::{show_clock, show_count};

/// The picture's own units; it is as wide as its column.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 190.0;
/// Where the axes are.
const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = HEIGHT - 26.0;
/// Points of a curve at most: there are no more pixels.
const POINTS_MAX: usize = 400;

/// A curve over the time from `start` to `end`. `points` are seconds and values, in order, within that time.
pub(super) fn chart(title: &str, points: &[(f64, f64)], (start, end): (f64, f64), steps: bool) -> String {
    let title = escape(title);
    let mut svg = format!("<figure class=\"card\">\n<figcaption>{title}</figcaption>\n");
    let Some(&(_, newest)) = points.last() else {
        svg.push_str("<p class=\"soft\">There are no figures yet.</p>\n</figure>\n");
        return svg;
    };
    let highest = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let step = nice(highest / 4.0, points.iter().all(|point| point.1.fract() == 0.0));
    let top = (highest / step).ceil().max(1.0) * step;
    let end = end.max(start + 1.0);
    let x = |at: f64| LEFT + (at - start) / (end - start) * (RIGHT - LEFT);
    let y = |value: f64| BOTTOM - value / top * (BOTTOM - TOP);
    let _ = writeln!(
        svg,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}: {} at {}\">",
        show(newest),
        clock(end)
    );
    let mut tick = 0.0;
    while tick <= top * 1.001 {
        let at = y(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 6.0,
            at + 4.0,
            show(tick)
        );
        tick += step;
    }
    for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
        let at = start + share * (end - start);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            x(at),
            HEIGHT - 8.0,
            clock(at)
        );
    }
    if let [(at, value)] = points {
        let _ = writeln!(svg, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", x(*at), y(*value));
    } else {
        let mut path = String::new();
        for (number, (at, value)) in thin(points).into_iter().enumerate() {
            let (x, y) = (x(at), y(value));
            let _ = match (number, steps) {
                (0, _) => write!(path, "M{x:.1} {y:.1}"),
                // Counts stay until the next.
                (_, true) => write!(path, "H{x:.1}V{y:.1}"),
                _ => write!(path, "L{x:.1} {y:.1}"),
            };
        }
        let _ = writeln!(svg, "<path class=\"curve\" d=\"{path}\"/>");
    }
    svg.push_str("</svg>\n</figure>\n");
    svg
}

/// At most [`POINTS_MAX`] of `points`, the first and the last among them.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS_MAX).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.iter().enumerate().filter(|(at, _)| at % every == 0 || *at == last);
    kept.map(|(_, point)| *point).collect()
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice(least: f64, whole: bool) -> f64 {
    let least = if whole { least.max(1.0) } else { least.max(1e-9) };
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&step| step >= least * 0.999)
        .unwrap_or(least)
}

/// `950`, `12.5k`, `3.2M`.
fn show(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 9_999.5 && unit.is_empty() {
            let fraction = usize::from(value.fract() != 0.0 && value < 100.0);
            return if fraction == 0 { show_count(value.round() as u64) } else { format!("{value:.1}") };
        }
        if value < 999.95 {
            let text = format!("{value:.1}");
            return format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text));
        }
        value /= 1e3;
    }
    format!("{value:.0}P")
}

fn clock(seconds: f64) -> String {
    show_clock(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_the_scale_are_round() {
        assert_eq!(
            [0.3, 1.1, 7.0, 130.0, 49_000.0].map(|least| nice(least, true)),
            [1.0, 2.0, 10.0, 200.0, 50_000.0]
        );
        assert_eq!(nice(0.3, false), 0.5);
        assert_eq!(
            [0.0, 0.5, 9_999.0, 12_500.0, 1e6, 3.2e9].map(show),
            ["0", "0.5", "9,999", "12.5k", "1M", "3.2G"]
        );
    }

    #[test]
    fn everything_is_drawn_inside_the_picture() {
        let many: Vec<_> = (0..5000).map(|at| (f64::from(at), f64::from(at * at))).collect();
        for points in [&many[..], &many[..2], &[(5.0, 0.0), (5.0, 0.0)], &[(1e9, 1e18), (1e10, 1e18)]] {
            for steps in [false, true] {
                let svg = chart("a < b", points, (points[0].0, points[points.len() - 1].0), steps);
                let (_, path) = svg.split_once("d=\"").unwrap();
                let path = path.split_once('"').unwrap().0;
                assert!(path.len() < 20 * POINTS_MAX, "{}", path.len());
                for number in path.split(['M', 'L', 'H', 'V', ' ']).filter(|text| !text.is_empty()) {
                    assert!((0.0..=WIDTH).contains(&number.parse::<f64>().unwrap()), "{number} in {svg}");
                }
                assert!(svg.contains("a &lt; b") && !svg.contains("NaN"), "{svg}");
            }
        }
        assert!(chart("none", &[], (0.0, 0.0), true).contains("no figures yet"));
        assert!(chart("one", &[(1.0, 3.0)], (1.0, 1.0), true).contains("<circle"));
    }
}
