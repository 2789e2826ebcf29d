use std::path::PathBuf;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::*;
use crate::monitor::board::{Found, News};
use crate::ui::Facts;

const PLAIN: Theme = Theme { colour: false, unicode: true };
const SIZES: [(u16, u16); 10] =
    [(80, 24), (140, 45), (60, 18), (59, 24), (80, 17), (300, 100), (20, 5), (1, 1), (80, 1), (1, 40)];

fn model(news: News) -> Model {
    let mut model = Model::new(Facts { name: "cjson".into(), folder: PathBuf::from("cjson.campaign") });
    model.take(news);
    model
}

fn news(figures: Figures, clients: usize, found: usize) -> News {
    let client = |core| ClientFigures {
        core,
        pid: 1,
        execs: figures.execs,
        execs_per_s: figures.execs_per_s,
        corpus: figures.corpus,
        edges: figures.edges,
        stability: figures.stability,
        batch_size: figures.batch_size,
        hot_pages: figures.hot_pages,
        restarts: figures.execs,
        ..ClientFigures::default()
    };
    let clients = (0..clients).map(client).collect();
    let found = (0..found).map(|number| Found {
        name: format!("null-write-{number:08x}"),
        sentence: "page fault: write to 0x10, which is not mapped".into(),
        runtime_s: number as f64,
    });
    let figures = Some(Figures { clients, ..figures });
    News { figures, found: found.collect(), ..News::default() }
}

fn usual() -> Figures {
    Figures {
        runtime_s: 3723.0,
        execs: 1_234_567,
        execs_per_s: 198_123.4,
        guest_us: 3.1,
        reset_us: 0.25,
        engine_us: 1.65,
        corpus: 324,
        edges: 412,
        edges_total: 1743,
        findings: 2,
        duplicates: 28_528,
        stability: 0.995,
        unstable: 2,
        rss_bytes: 33 << 20,
        hot_pages: 31,
        hot_hit_rate: 0.999,
        batch_size: 512,
        batches: 2000,
        spoiled: 3,
        audits: 120,
        ..Figures::default()
    }
}

fn huge() -> Figures {
    let large = u64::MAX;
    Figures {
        runtime_s: 1e9,
        execs: large,
        execs_per_s: 1e18,
        guest_us: 1e12,
        reset_us: 1e12,
        engine_us: 1e12,
        corpus: usize::MAX,
        edges: usize::MAX,
        edges_total: usize::MAX,
        findings: usize::MAX,
        duplicates: large,
        stability: 1.0,
        unstable: usize::MAX,
        rss_bytes: large,
        hot_pages: usize::MAX,
        hot_hit_rate: 1.0,
        batch_size: usize::MAX,
        batches: large,
        spoiled: large,
        audits: large,
        audit_differences: large,
        ..Figures::default()
    }
}

fn rendered(
    model: &Model,
    (width, height): (u16, u16),
    theme: Theme,
) -> (Vec<String>, Terminal<TestBackend>) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    ((0..height).map(row).collect(), terminal)
}

fn text(model: &Model, size: (u16, u16)) -> String {
    rendered(model, size, PLAIN).0.join("\n")
}

#[test]
fn every_figure_is_read_at_80_by_24() {
    let text = text(&model(news(usual(), 1, 2)), (80, 24));
    for wanted in [
        "unifork  cjson",
        "1:02:03 of fuzzing",
        "executions         1,234,567",
        "a second             198,123",
        "guest       3.10 us   62.0 %",
        "reset       0.25 us    5.0 %",
        "engine      1.65 us   33.0 %",
        "412 of 1,743 (23.6 %)",
        "324 inputs",
        "stability 99.5 %, 2 unstable",
        "cores, 33 MiB of memory",
        "31 pages, hit rate 99.9 %",
        "512 runs, 0.1 % spoiled",
        "120, all the same",
        "findings 2, and 28,528 runs that repeated one",
        "null-write-00000001  page fault: write to 0x10, which is not mapped",
        "q: save and stop  cjson.campaign",
    ] {
        // Columns of blanks may be wider than they are here.
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let found = text.lines().any(|line| squeeze(line).contains(&squeeze(wanted)));
        assert!(found, "no {wanted:?} in\n{text}");
    }
}

#[test]
fn nothing_and_everything_fit_any_size() {
    let clients = |count| news(huge(), count, 1500);
    for size in SIZES {
        for news in
            [News::default(), news(Figures::default(), 0, 0), news(usual(), 1, 2), clients(1), clients(64)]
        {
            let model = model(news);
            for theme in [PLAIN, Theme { colour: true, unicode: false }] {
                let (lines, _) = rendered(&model, size, theme);
                assert_eq!(lines.len(), usize::from(size.1));
                assert!(theme.unicode || lines.iter().all(|line| line.is_ascii()), "{lines:#?}");
            }
        }
    }
}

#[test]
fn huge_figures_do_not_run_into_each_other_at_80_by_24() {
    let text = text(&model(news(huge(), 1, 1500)), (80, 24));
    for wanted in ["18.4E", "277777:46:40", "DIFFER", "more in"] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    let row = text.lines().skip_while(|line| !line.contains(" cores")).nth(2).unwrap();
    assert_eq!(row.split_whitespace().count(), HEADER.len() + 1, "{row}");
}

#[test]
fn cores_that_do_not_fit_are_counted() {
    let many = model(news(usual(), 64, 0));
    let text_small = text(&many, (80, 24));
    assert!(text_small.contains("and 61 more, 12,085,527/s together"), "{text_small}");
    let text_large = text(&many, (140, 45));
    assert!(text_large.contains("more, ") && !text_large.contains("and 61 more"), "{text_large}");
}

#[test]
fn an_empty_campaign_says_so() {
    let text = text(&model(News::default()), (80, 24));
    for wanted in ["running the corpus and the seeds", "there is nothing to draw yet", "none yet"] {
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn without_colour_no_cell_has_one() {
    let model = model(news(Figures { audit_differences: 1, ..usual() }, 1, 2));
    let colours = |theme| {
        let (_, terminal) = rendered(&model, (80, 24), theme);
        let cells = terminal.backend().buffer().content.clone();
        (
            cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count(),
            cells.iter().filter(|cell| cell.modifier.contains(Modifier::BOLD)).count(),
        )
    };
    let (coloured, bold) = colours(PLAIN);
    assert!(coloured == 0 && bold > 0);
    assert!(colours(Theme { colour: true, unicode: true }).0 > 0);
}

#[test]
fn what_a_guest_says_cannot_steer_the_terminal() {
    let mut news = news(usual(), 1, 0);
    news.found.push(Found {
        name: "a\u{1b}[2Jb".into(),
        sentence: "x\u{7}\r\n\u{9b}31m".into(),
        runtime_s: 1.0,
    });
    news.notices.push("\u{1b}]0;title\u{7}".into());
    let model = model(news);
    let (_, terminal) = rendered(&model, (80, 24), PLAIN);
    let hostile = |symbol: &str| symbol.chars().any(char::is_control);
    assert!(!terminal.backend().buffer().content.iter().any(|cell| hostile(cell.symbol())));
}

#[test]
fn numbers_are_short_when_they_must_be() {
    assert_eq!(short(1_234_567, 9), "1,234,567");
    assert_eq!(short(1_234_567, 8), "1.2M");
    assert_eq!(short(u64::MAX, 9), "18.4E");
    assert_eq!([3.1, 412.3, 12_345.0, 2e7].map(show_us), ["3.10 us", "412 us", "12.3 ms", "20.0 s"]);
}
