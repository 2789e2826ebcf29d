//! Lines over two logarithmic axes: how something grows.

use plotters::prelude::*;

use super::{Area, COLORS, axis_number, words};

/// Lines and what their axes are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    /// Said above.
    pub(crate) heading: String,
    /// Said at the axes.
    pub(crate) x: String,
    /// As `x`.
    pub(crate) y: String,
    /// The legend is in the lower right corner, and not the upper left, where there is no room.
    pub(crate) legend_low: bool,
    /// One line each.
    pub(crate) lines: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Said in the legend.
    pub(crate) name: String,
    /// Those that are not above zero have no place on these axes, and are left out.
    pub(crate) points: Vec<(f64, f64)>,
    /// Which colour; the same means the same in all panels.
    pub(crate) color: usize,
    /// Not measured but what others are compared with: dashed.
    pub(crate) reference: bool,
}

impl Lines {
    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<'_, DB>) -> anyhow::Result<()> {
        // The library looks for the decade of a zero for ever.
        let shown = |line: &Line| -> Vec<(f64, f64)> {
            let is_shown = |value: f64| value > 0.0 && value.is_finite();
            line.points.iter().copied().filter(|&(x, y)| is_shown(x) && is_shown(y)).collect()
        };
        let mut all: Vec<_> = self.lines.iter().flat_map(shown).collect();
        if all.is_empty() {
            all.push((1.0, 1.0));
        }
        let points = || all.iter();
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::MAX, 1e-9f64), |(least, most), value| (least.min(value), most.max(value)))
        };
        let (left, right) = range(&mut points().map(|point| point.0));
        let (low, high) = range(&mut points().map(|point| point.1));
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(30)
            .x_label_area_size(48)
            .y_label_area_size(80)
            .build_cartesian_2d((left * 0.9..right * 1.1).log_scale(), (low * 0.8..high * 1.3).log_scale())
            .map_err(words)?;
        chart
            .configure_mesh()
            .x_desc(format!("{}, logarithmic", self.x))
            .y_desc(format!("{}, logarithmic", self.y))
            .axis_desc_style(("sans-serif", 16))
            .label_style(("sans-serif", 14))
            .x_label_formatter(&|value| axis_number(*value))
            .y_label_formatter(&|value| axis_number(*value))
            .light_line_style(RGBColor(240, 240, 240))
            .draw()
            .map_err(words)?;
        for line in &self.lines {
            let color = COLORS[line.color % COLORS.len()];
            let style = color.stroke_width(2);
            let drawn = if line.reference {
                let dashes = DashedLineSeries::new(shown(line), 8, 6, style);
                chart.draw_series(dashes).map_err(words)?
            } else {
                let dots = shown(line).into_iter().map(|point| Circle::new(point, 3, color.filled()));
                chart.draw_series(dots).map_err(words)?;
                chart.draw_series(LineSeries::new(shown(line), style)).map_err(words)?
            };
            drawn
                .label(line.name.clone())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 24, y)], style));
        }
        chart
            .configure_series_labels()
            .position(if self.legend_low {
                SeriesLabelPosition::LowerRight
            } else {
                SeriesLabelPosition::UpperLeft
            })
            .margin(12)
            .legend_area_size(34)
            .background_style(WHITE.mix(0.9))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 15))
            .draw()
            .map_err(words)
    }
}
