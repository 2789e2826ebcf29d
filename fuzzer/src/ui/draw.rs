//! A frame: everything at 80x24, more of it where there is more room, the figures alone where there is less.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph};

use super::ascii;
use super::model::Model;
use super::theme::Theme;
use crate::monitor::{ClientFigures, Figures};
use crate::units::{plural, show_clock, show_count, show_size};

/// Below this, only figures are shown.
const LEAST: (u16, u16) = (60, 18);
/// The column of speeds.
const SPEED_COLUMNS: u16 = 33;
/// Edges between the ends of the curve's axis at least, so that one of them is no cliff.
const LEAST_RANGE: f64 = 10.0;
/// A label and its value.
const LABEL_COLUMNS: usize = 11;

/// Draws `model`.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        small(frame, area, model, theme);
    } else {
        whole(frame, area, model, theme);
    }
    if !theme.unicode {
        ascii::degrade(frame.buffer_mut());
    }
}

fn whole(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let none = Figures::default();
    let figures = model.figures.as_ref().unwrap_or(&none);
    let wide = area.width >= 120;
    let spare = area.height.saturating_sub(24);
    let clients = u16::try_from(figures.clients.len()).unwrap_or(u16::MAX).max(1);
    let rows = clients.min(4 + spare / 2);
    let [head, top, state, cores, found, foot] = area.layout(&Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(8 + (spare / 3).min(14)),
        Constraint::Length(if wide { 3 } else { 4 }),
        Constraint::Length(2 + rows),
        Constraint::Min(3),
        Constraint::Length(1),
    ]));
    frame.render_widget(Paragraph::new(head_line(model, head.width)).style(theme.head()), head);
    let [left, right] =
        top.layout(&Layout::horizontal([Constraint::Length(SPEED_COLUMNS), Constraint::Min(20)]));
    speed(frame, left, model, figures, theme);
    curve(frame, right, model, theme);
    campaign(frame, state, figures, if wide { 3 } else { 2 }, theme);
    cores_table(frame, cores, figures, theme);
    findings(frame, found, model, figures, theme);
    foot_line(frame, foot, model, theme);
}

fn head_line(model: &Model, width: u16) -> String {
    let left = format!(" unifork  {}", model.facts.name);
    let clock = model.figures.as_ref().map(|figures| clock(figures.runtime_s));
    let right = match (clock, model.stopping, model.silence()) {
        (_, true, _) => "stopping: saving the campaign ".to_owned(),
        (None, ..) => "running the corpus and the seeds ".to_owned(),
        (Some(clock), _, None) => format!("{clock} of fuzzing "),
        (Some(clock), _, Some(silence)) => {
            format!("{clock} of fuzzing, no news for {} ", show_clock(silence))
        }
    };
    let gap = usize::from(width).saturating_sub(left.chars().count());
    format!("{left}{right:>gap$}")
}

fn rule<'a>(title: String, theme: Theme) -> Block<'a> {
    Block::new()
        .borders(Borders::TOP)
        .border_style(theme.rule())
        .title(Span::styled(format!(" {title} "), theme.rule()))
}

fn pair<'a>(label: &str, value: String, theme: Theme) -> Line<'a> {
    let label = Span::styled(format!(" {label:<LABEL_COLUMNS$}"), theme.label());
    Line::from(vec![label, Span::styled(value, theme.value())])
}

fn speed(frame: &mut Frame<'_>, area: Rect, model: &Model, figures: &Figures, theme: Theme) {
    let average = figures.execs as f64 / figures.runtime_s.max(1e-9);
    let right = |value: String| format!("{value:>17}");
    let mut lines = vec![
        pair("executions", right(short(figures.execs, 17)), theme),
        pair("a second", right(short(figures.execs_per_s.round() as u64, 17)), theme),
        pair("on average", right(short(average.round() as u64, 17)), theme),
    ];
    let all = (figures.guest_us + figures.reset_us + figures.engine_us).max(1e-12);
    for (label, us) in
        [("guest", figures.guest_us), ("reset", figures.reset_us), ("engine", figures.engine_us)]
    {
        let share = format!("{:>8} {:>6.1} %", show_us(us), 100.0 * us / all);
        lines.push(pair(label, right(share), theme));
    }
    let newest = model
        .newest_edge_s
        .map_or_else(|| "-".to_owned(), |then| format!("{} ago", clock((figures.runtime_s - then).max(0.0))));
    lines.push(pair("new edge", right(newest), theme));
    frame.render_widget(Paragraph::new(lines).block(rule("speed".to_owned(), theme)), area);
}

fn curve(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let block = rule("edges over time".to_owned(), theme);
    let points: Vec<(f64, f64)> = model.edges.points().collect();
    let (Some(&(start, low)), Some(&(end, high))) = (points.first(), points.last()) else {
        let text = Paragraph::new("there is nothing to draw yet").alignment(Alignment::Center);
        frame.render_widget(text.block(block), area);
        return;
    };
    let low = points.iter().map(|point| point.1).fold(low, f64::min);
    let high = points.iter().map(|point| point.1).fold(high, f64::max).max(low + LEAST_RANGE);
    let label = |value: f64| short(value as u64, 9);
    let data = Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(theme.curve())
        .data(&points);
    let chart = Chart::new(vec![data])
        .block(block)
        .x_axis(
            Axis::default()
                .style(theme.label())
                .bounds([start, end.max(start + 1.0)])
                .labels([clock(start), clock(end)]),
        )
        .y_axis(Axis::default().style(theme.label()).bounds([low, high]).labels([label(low), label(high)]))
        .legend_position(None);
    frame.render_widget(chart, area);
}

fn campaign(frame: &mut Frame<'_>, area: Rect, figures: &Figures, columns: usize, theme: Theme) {
    let cells = facts(figures);
    let rows = cells.len().div_ceil(columns);
    let block = rule("campaign".to_owned(), theme);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let parts = Layout::horizontal(vec![Constraint::Ratio(1, columns as u32); columns]).split(inner);
    for (column, part) in parts.iter().enumerate() {
        let cells = cells.iter().skip(column * rows).take(rows);
        let line = |(label, value, alarm): &(&str, String, bool)| {
            let mut line = pair(label, value.clone(), theme);
            if *alarm {
                line = line.style(theme.alarm());
            }
            line
        };
        frame.render_widget(Paragraph::new(cells.map(line).collect::<Vec<_>>()), *part);
    }
}

/// What there is to say of the campaign beside its speed: what, value, and whether it is alarming.
fn facts(figures: &Figures) -> Vec<(&'static str, String, bool)> {
    let percent = 100.0 * figures.edges as f64 / figures.edges_total.max(1) as f64;
    let count = |count: usize| short(count as u64, 12);
    let batch = match (figures.batch_size, figures.batches) {
        (0, _) => "none, inputs run one by one".to_owned(),
        (size, 0) => plural(size, "run"),
        (size, batches) => {
            let spoiled = 100.0 * figures.spoiled as f64 / batches as f64;
            format!("{}, {spoiled:.1} % spoiled", plural(size, "run"))
        }
    };
    let audits = match (figures.audits, figures.audit_differences) {
        (0, _) => "none".to_owned(),
        (audits, 0) => format!("{}, all the same", short(audits, 12)),
        (audits, differ) => format!("{} of {} DIFFER", short(differ, 9), short(audits, 9)),
    };
    vec![
        (
            "edges",
            format!("{} of {} ({percent:.1} %)", count(figures.edges), count(figures.edges_total)),
            false,
        ),
        ("corpus", plural_short(figures.corpus, "input"), false),
        (
            "stability",
            match figures.unstable {
                0 => format!("{:.1} %", 100.0 * figures.stability),
                edges => format!("{:.1} %, {} unstable", 100.0 * figures.stability, count(edges)),
            },
            false,
        ),
        (
            "hot set",
            format!(
                "{}, hit rate {:.1} %",
                plural_short(figures.hot_pages, "page"),
                100.0 * figures.hot_hit_rate
            ),
            false,
        ),
        ("batch", batch, false),
        ("audits", audits, figures.audit_differences > 0),
    ]
}

const HEADER: [(&str, usize); 9] = [
    ("core", 5),
    ("executions", 15),
    ("a second", 10),
    ("corpus", 8),
    ("edges", 8),
    ("stability", 10),
    ("batch", 7),
    ("hot", 7),
    ("restarts", 9),
];

fn cores_table(frame: &mut Frame<'_>, area: Rect, figures: &Figures, theme: Theme) {
    let row = |cells: [String; HEADER.len()]| -> String {
        cells.iter().zip(HEADER).map(|(cell, (_, width))| format!("{cell:>width$}")).collect()
    };
    let mut lines = vec![Line::styled(row(HEADER.map(|(name, _)| name.to_owned())), theme.label())];
    let room = usize::from(area.height).saturating_sub(2);
    let own = [ClientFigures {
        execs: figures.execs,
        execs_per_s: figures.execs_per_s,
        corpus: figures.corpus,
        edges: figures.edges,
        stability: figures.stability,
        batch_size: figures.batch_size,
        hot_pages: figures.hot_pages,
        ..ClientFigures::default()
    }];
    // One process that does it all is its own client.
    let clients = if figures.clients.is_empty() { &own[..] } else { &figures.clients };
    let all = clients.len();
    let shown = if all > room { room.saturating_sub(1) } else { all };
    for client in &clients[..shown] {
        lines.push(Line::styled(
            row([
                short(client.core as u64, 4),
                short(client.execs, 14),
                // A client that died has no process until it is started again.
                if client.pid == 0 && !figures.clients.is_empty() {
                    "gone".to_owned()
                } else {
                    short(client.execs_per_s.round() as u64, 9)
                },
                short(client.corpus as u64, 7),
                short(client.edges as u64, 7),
                format!("{:.1} %", 100.0 * client.stability),
                short(client.batch_size as u64, 6),
                short(client.hot_pages as u64, 6),
                short(client.restarts, 8),
            ]),
            theme.value(),
        ));
    }
    let mut title = "cores".to_owned();
    if figures.rss_bytes > 0 {
        title += &format!(", {} of memory", show_size(figures.rss_bytes));
    }
    if figures.links > 0 {
        title += &format!(", connected to {}", plural(figures.links, "other machine"));
    }
    if figures.imported > 0 {
        title += &format!(", {} exchanged", plural_short(figures.imported as usize, "input"));
    }
    if shown < all {
        let rest: f64 = clients[shown..].iter().map(|client| client.execs_per_s).sum();
        let text = format!("  and {} more, {}/s together", all - shown, short(rest.round() as u64, 12));
        lines.push(Line::styled(text, theme.label()));
    }
    frame.render_widget(Paragraph::new(lines).block(rule(title, theme)), area);
}

fn findings(frame: &mut Frame<'_>, area: Rect, model: &Model, figures: &Figures, theme: Theme) {
    let count = figures.findings.max(model.found.len());
    let mut title = format!("findings {}", show_count(count as u64));
    if figures.duplicates > 0 {
        title += &format!(", and {} runs that repeated one", short(figures.duplicates, 12));
    }
    let mut lines = Vec::new();
    let room = usize::from(area.height).saturating_sub(1);
    let listed = if count > room { room.saturating_sub(1) } else { room };
    let shown: Vec<_> = model.found.iter().rev().take(listed).collect();
    let width = shown.iter().map(|found| found.name.chars().count()).max().unwrap_or(0).min(36);
    for found in &shown {
        lines.push(Line::from(vec![
            Span::raw(format!("{:>9}  ", clock(found.runtime_s))),
            Span::styled(format!("{:<width$}", found.name), theme.alarm()),
            Span::raw(format!("  {}", found.sentence)),
        ]));
    }
    if count == 0 {
        lines.push(Line::raw(" none yet"));
    } else if shown.len() < count {
        let more = show_count((count - shown.len()) as u64);
        lines.push(Line::raw(format!(
            " and {more} more in {}",
            model.facts.folder.join("findings").display()
        )));
    }
    let style = if count > 0 { theme.alarm() } else { theme.rule() };
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(theme.rule())
        .title(Span::styled(format!(" {title} "), style));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn foot_line(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let (text, style) = match &model.notice {
        Some(notice) => (notice.lines().next().unwrap_or_default().to_owned(), theme.alarm()),
        None => (model.facts.folder.display().to_string(), Style::new()),
    };
    const KEYS: &str = " q: save and stop  ";
    let line = Line::from(vec![Span::styled(KEYS, theme.value()), Span::styled(text, style)]);
    frame.render_widget(Paragraph::new(line), area);
}

/// The figures that matter most come first, and as many are shown as there is room for.
fn small(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let none = Figures::default();
    let figures = model.figures.as_ref().unwrap_or(&none);
    let mut lines = vec![
        Line::styled(head_line(model, area.width), theme.head()),
        pair("executions", short(figures.execs, 17), theme),
        pair("a second", short(figures.execs_per_s.round() as u64, 17), theme),
        pair("findings", show_count(figures.findings as u64), theme),
    ];
    lines.extend(facts(figures).into_iter().map(|(label, value, _)| pair(label, value, theme)));
    lines.extend(model.found.iter().rev().map(|found| Line::styled(found.name.as_str(), theme.alarm())));
    frame.render_widget(Paragraph::new(lines), area);
}

fn clock(seconds: f64) -> String {
    show_clock(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn plural_short(count: usize, noun: &str) -> String {
    if count < 1_000_000_000 { plural(count, noun) } else { format!("{} {noun}s", short(count as u64, 9)) }
}

/// `1,234,567` if that fits `width`, else `1.23 M`.
fn short(count: u64, width: usize) -> String {
    let whole = show_count(count);
    if whole.len() <= width {
        return whole;
    }
    let mut value = count as f64;
    for unit in ["k", "M", "G", "T", "P"] {
        value /= 1e3;
        if value < 1e3 {
            return format!("{value:.1}{unit}");
        }
    }
    format!("{:.1}E", value / 1e3)
}

/// `3.10 us`, `412 us`, `12.3 ms`.
fn show_us(us: f64) -> String {
    match us {
        _ if us < 100.0 => format!("{us:.2} us"),
        _ if us < 10_000.0 => format!("{us:.0} us"),
        _ if us < 10_000_000.0 => format!("{:.1} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests;
