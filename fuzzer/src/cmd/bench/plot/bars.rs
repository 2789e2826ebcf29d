//! Horizontal bars, each made of segments: what a thing costs, and what of it is what.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Area, COLORS, WIDTH, axis_number, round_steps, words, write};

/// Pixels: a bar with the room below it, its labels, the notes behind it, legend and axis.
const BAR: u32 = 34;
const LABELS: i32 = 290;
const NOTES: i32 = 310;
const LEGEND: u32 = 34;
const AXIS: u32 = 52;
/// Marks on an axis at most.
const MARKS_MAX: usize = 12;

/// Bars over one axis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bars {
    /// Said above.
    pub(crate) heading: String,
    /// Said at the axis.
    pub(crate) unit: String,
    /// What the parts of a bar are, from the left.
    pub(crate) segments: Vec<String>,
    /// A logarithmic axis, over which a bar's parts end where their sums do.
    pub(crate) log: bool,
    /// From the top.
    pub(crate) bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bar {
    /// Said before it.
    pub(crate) label: String,
    /// Length of each part.
    pub(crate) values: Vec<f64>,
    /// Said behind it.
    pub(crate) note: String,
    /// How far repetitions were apart, as seen from the end of the bar.
    pub(crate) range: Option<(f64, f64)>,
}

impl Bar {
    fn end(&self) -> f64 {
        self.values.iter().sum()
    }
}

/// From figures to pixels.
struct Axis {
    log: bool,
    least: f64,
    most: f64,
}

impl Axis {
    fn new(bars: &Bars) -> Self {
        let ends = bars.bars.iter().flat_map(|bar| [bar.end(), bar.range.map_or(0.0, |(_, most)| most)]);
        let most = ends.fold(0.0, f64::max).max(1e-6);
        // The first part of any bar is to be seen.
        let firsts = bars.bars.iter().filter_map(|bar| bar.values.iter().copied().find(|&value| value > 0.0));
        let least = if bars.log { firsts.fold(most, f64::min) / 2.0 } else { 0.0 };
        Self { log: bars.log, least: if bars.log { least.max(most / 1e7) } else { 0.0 }, most: most * 1.02 }
    }

    fn place(&self, value: f64) -> i32 {
        let share = if self.log {
            (value.max(self.least) / self.least).log10() / (self.most / self.least).log10()
        } else {
            value / self.most
        };
        let room = f64::from(WIDTH.cast_signed() - LABELS - NOTES);
        LABELS + (share.clamp(0.0, 1.0) * room).round() as i32
    }

    fn marks(&self) -> Vec<f64> {
        if !self.log {
            let step = round_steps(self.most / 12.0, self.most).first().copied().unwrap_or(self.most);
            return (0..)
                .map(|i| f64::from(i) * step)
                .take_while(|&mark| mark <= self.most)
                .take(50)
                .collect();
        }
        let mut marks = round_steps(self.least, self.most);
        if marks.len() > MARKS_MAX {
            marks.retain(|mark| mark.log10().fract().abs() < 1e-9);
        }
        marks
    }
}

impl Bars {
    pub(super) fn height(&self) -> u32 {
        let count = u32::try_from(self.bars.len()).unwrap_or(u32::MAX / BAR / 2);
        LEGEND + count * BAR + AXIS
    }

    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<'_, DB>) -> anyhow::Result<()> {
        let axis = Axis::new(self);
        let top = LEGEND.cast_signed();
        let bottom = top + i32::try_from(self.bars.len()).unwrap_or(0) * BAR.cast_signed();
        self.legend(area)?;
        for mark in axis.marks() {
            let x = axis.place(mark);
            let grid = RGBColor(225, 225, 225);
            area.draw(&PathElement::new(vec![(x, top), (x, bottom)], grid)).map_err(words)?;
            write(area, (x, bottom + 6), &axis_number(mark), 14, HPos::Center)?;
        }
        let scale = if self.log { ", logarithmic" } else { "" };
        let middle = i32::midpoint(LABELS, WIDTH.cast_signed() - NOTES);
        write(area, (middle, bottom + 24), &format!("{}{scale}", self.unit), 15, HPos::Center)?;
        let mut y = top;
        for bar in &self.bars {
            self.bar(area, &axis, bar, y)?;
            y += BAR.cast_signed();
        }
        Ok(())
    }

    fn bar<DB: DrawingBackend>(
        &self,
        area: &Area<'_, DB>,
        axis: &Axis,
        bar: &Bar,
        y: i32,
    ) -> anyhow::Result<()> {
        let (above, below) = (y + 5, y + BAR.cast_signed() - 7);
        write(area, (LABELS - 10, y + 8), &bar.label, 15, HPos::Right)?;
        let mut sum = 0.0;
        for (value, color) in bar.values.iter().zip(COLORS.iter().cycle()) {
            let from = if sum > 0.0 { axis.place(sum) } else { LABELS };
            sum += value;
            let to = axis.place(sum);
            if *value > 0.0 && to > from {
                area.draw(&Rectangle::new([(from, above), (to, below)], color.filled())).map_err(words)?;
            }
        }
        let mut end = axis.place(sum);
        if let Some((least, most)) = bar.range {
            let (from, to, middle) = (axis.place(least), axis.place(most), i32::midpoint(above, below));
            end = end.max(to);
            for line in [
                [(from, middle), (to, middle)],
                [(from, middle - 5), (from, middle + 5)],
                [(to, middle - 5), (to, middle + 5)],
            ] {
                area.draw(&PathElement::new(line.to_vec(), BLACK.stroke_width(2))).map_err(words)?;
            }
        }
        write(area, (end + 8, y + 8), &bar.note, 14, HPos::Left)
    }

    fn legend<DB: DrawingBackend>(&self, area: &Area<'_, DB>) -> anyhow::Result<()> {
        if self.segments.len() < 2 {
            return Ok(());
        }
        let mut x = LABELS;
        for (name, color) in self.segments.iter().zip(COLORS.iter().cycle()) {
            area.draw(&Rectangle::new([(x, 9), (x + 14, 23)], color.filled())).map_err(words)?;
            write(area, (x + 20, 8), name, 15, HPos::Left)?;
            x += 44 + i32::try_from(name.chars().count()).unwrap_or(0) * 9;
        }
        Ok(())
    }
}
