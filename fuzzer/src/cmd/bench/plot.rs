//! Pictures of figures, as SVG or PNG by the file's name.
//!
//! PNG needs a font to draw with, and a machine that is measured has often none: one is built in.

mod bars;
mod lines;

use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context as _, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(crate) use bars::{Bar, Bars};
pub(crate) use lines::{Line, Lines};

/// Pixels of a picture, and of the title, a panel's heading and the caption.
const WIDTH: u32 = 1280;
const TITLE: u32 = 44;
const HEADING: u32 = 34;
const CAPTION: u32 = 32;

/// Colours told apart by most eyes, and in print: Okabe and Ito's.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(148, 148, 148),
    RGBColor(60, 60, 60),
];

type Area<'a, DB> = DrawingArea<DB, Shift>;

/// One picture: panels below each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    /// Said at the top.
    pub(crate) title: String,
    /// Where it was measured; said at the bottom.
    pub(crate) caption: String,
    /// From the top.
    pub(crate) panels: Vec<Panel>,
}

/// One part of a picture.
#[derive(Clone, Debug)]
pub(crate) enum Panel {
    /// Horizontal bars.
    Bars(Bars),
    /// Lines over two logarithmic axes.
    Lines(Lines),
}

impl Panel {
    fn height(&self) -> u32 {
        match self {
            Self::Bars(bars) => bars.height(),
            Self::Lines(_) => 560,
        }
    }

    fn heading(&self) -> &str {
        match self {
            Self::Bars(bars) => &bars.heading,
            Self::Lines(lines) => &lines.heading,
        }
    }
}

/// Checks that a picture can be written under this name.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg" | "png") => Ok(path),
        _ => Err("give a name that ends in .svg or .png".into()),
    }
}

/// The file's bytes.
pub(crate) fn draw(picture: &Picture, path: &Path) -> anyhow::Result<Vec<u8>> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // Refused only when the bytes are no font, and these are.
        let _known = plotters::style::register_font(
            "sans-serif",
            FontStyle::Normal,
            epaint_default_fonts::HACK_REGULAR,
        );
    });
    let panels: u32 = picture.panels.iter().map(|panel| HEADING + panel.height()).sum();
    let size = (WIDTH, TITLE + panels + CAPTION);
    if path.extension().is_some_and(|extension| extension == "png") {
        let bytes = usize::try_from(size.0 * size.1 * 3).context("too large a picture")?;
        let mut pixels = vec![0; bytes];
        paint(picture, BitMapBackend::with_buffer(&mut pixels, size))?;
        return encode(&pixels, size);
    }
    let mut text = String::new();
    paint(picture, SVGBackend::with_string(&mut text, size))?;
    Ok(text.into_bytes())
}

fn encode(pixels: &[u8], (width, height): (u32, u32)) -> anyhow::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(file)
}

fn paint<DB: DrawingBackend>(picture: &Picture, backend: DB) -> anyhow::Result<()> {
    let root = backend.into_drawing_area();
    root.fill(&WHITE).map_err(words)?;
    write(&root, (16, 12), &picture.title, 24, HPos::Left)?;
    let mut top = TITLE;
    for panel in &picture.panels {
        let bottom = top + HEADING + panel.height();
        write(&root, (16, top.cast_signed() + 10), panel.heading(), 18, HPos::Left)?;
        let area = root.clone().shrink((0, top + HEADING), (WIDTH, panel.height()));
        match panel {
            Panel::Bars(bars) => bars.draw(&area)?,
            Panel::Lines(lines) => lines.draw(&area)?,
        }
        top = bottom;
    }
    write(&root, (16, top.cast_signed() + 8), &picture.caption, 14, HPos::Left)?;
    root.present().map_err(words)
}

/// Writes `text` from, before or around a point; the top of the letters is at its height.
fn write<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    at: (i32, i32),
    text: &str,
    size: u32,
    from: HPos,
) -> anyhow::Result<()> {
    let style = ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(from, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(words)
}

/// Plotters' errors are not all errors of ours to keep.
fn words(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

/// 1, 2, 5, 10, ... from `least` to `most`.
fn round_steps(least: f64, most: f64) -> Vec<f64> {
    let mut steps = Vec::new();
    let mut decade = 10f64.powf(least.max(1e-9).log10().floor());
    while decade <= most && steps.len() < 100 {
        steps.extend([1.0, 2.0, 5.0].map(|step| step * decade));
        decade *= 10.0;
    }
    steps.retain(|step| (least * 0.999..=most * 1.001).contains(step));
    steps
}

/// A number on an axis: `0`, `0.5`, `20`, `1k`, `2M`.
fn axis_number(value: f64) -> String {
    let (value, suffix) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e4 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let digits = format!("{value:.3}");
    format!("{}{suffix}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_panel_is_drawn_in_both_formats() {
        let bars = Bars {
            heading: "bars".into(),
            unit: "us".into(),
            segments: vec!["a".into(), "b".into()],
            log: true,
            bars: vec![
                Bar {
                    label: "one".into(),
                    values: vec![1.0, 200.0],
                    note: "n".into(),
                    range: Some((90.0, 300.0)),
                },
                Bar { label: "none".into(), ..Bar::default() },
            ],
        };
        let line = Line { name: "l".into(), points: vec![(1.0, 2.0), (10_000.0, 300.0)], ..Line::default() };
        let nothing = Line { name: "n".into(), points: vec![(1.0, 0.0), (f64::NAN, 1.0)], ..Line::default() };
        let axes = Lines { x: "pages".into(), y: "us".into(), ..Lines::default() };
        // What cannot be on a logarithmic axis is left out; there may be nothing else.
        let lines = Lines { lines: vec![line, nothing.clone()], ..axes.clone() };
        let empty = Lines { lines: vec![nothing], ..axes };
        let picture = Picture {
            title: "t".into(),
            caption: "c".into(),
            panels: vec![Panel::Bars(bars), Panel::Lines(lines), Panel::Lines(empty)],
        };
        let svg = draw(&picture, Path::new("x.svg")).unwrap();
        assert!(svg.starts_with(b"<svg"));
        let png = draw(&picture, Path::new("x.png")).unwrap();
        assert!(png.starts_with(b"\x89PNG"));
    }

    #[test]
    fn axes_are_marked_at_round_numbers() {
        assert_eq!(round_steps(3.0, 120.0), [5.0, 10.0, 20.0, 50.0, 100.0]);
        let numbers = [0.0, 0.05, 1.0, 2.5, 9_000.0, 20_000.0, 2e6].map(axis_number);
        assert_eq!(numbers, ["0", "0.05", "1", "2.5", "9000", "20k", "2M"]);
    }
}
