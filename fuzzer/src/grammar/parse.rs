//! Where the symbols of a grammar are in a text: Earley's algorithm, which takes any grammar.
//!
//! It is more forgiving than the grammar: letters of either case match, spaces may be before any part,
//! and of a text that does not follow to its end, the part that does is taken. One of perhaps many
//! readings is returned. Work is bounded; what takes more has no reading.

use std::collections::HashSet;

use super::{Builtin, Grammar, Part, Symbol};

/// Longest text that is read.
const BYTES_MAX: usize = 2048;
/// Steps for one text.
const STEPS_MAX: usize = 1 << 18;

/// A symbol, and the bytes that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) symbol: usize,
}

/// A rule that is read up to its part `dot`, from `origin` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Item {
    symbol: u32,
    rule: u32,
    dot: u32,
    origin: u32,
}

/// How an item came to be: the same rule, one part earlier, and the item that is that part.
#[derive(Clone, Copy, Debug)]
struct Step {
    item: Item,
    at: usize,
    before: Option<usize>,
    part: Option<usize>,
}

struct Parser<'a> {
    grammar: &'a Grammar,
    steps: Vec<Step>,
    // By position: the items there, and which wait for a symbol.
    sets: Vec<Vec<usize>>,
    waiting: Vec<Vec<(usize, usize)>>,
    seen: HashSet<(usize, Item)>,
}

impl Grammar {
    /// Where symbols are in `text`: the whole first, every symbol before those in it. `None` when it does
    /// not even begin as the grammar says.
    pub(crate) fn parse(&self, text: &[u8]) -> Option<Vec<Span>> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let positions = text.len() + 1;
        let mut parser = Parser {
            grammar: self,
            steps: Vec::new(),
            sets: vec![Vec::new(); positions],
            waiting: vec![Vec::new(); positions],
            seen: HashSet::new(),
        };
        parser.predict(0, 0);
        let (mut work, mut longest) = (0_usize, None);
        for at in 0..positions {
            let mut next = 0;
            while let Some(&step) = parser.sets[at].get(next) {
                next += 1;
                work += 1 + parser.advance(step, text);
                if work > STEPS_MAX {
                    return None;
                }
                let item = parser.steps[step].item;
                let ends = item.dot as usize == parser.rule(item).len();
                if ends && item.symbol == 0 && item.origin == 0 && at > 0 {
                    longest = Some(step);
                }
            }
        }
        longest.map(|step| parser.spans(step, text))
    }
}

impl<'a> Parser<'a> {
    fn rule(&self, item: Item) -> &'a [Part] {
        match &self.grammar.symbols[item.symbol as usize] {
            Symbol::Rules(rules) => &rules[item.rule as usize].parts,
            Symbol::Builtin(_) => &[],
        }
    }

    fn add(&mut self, item: Item, at: usize, before: Option<usize>, part: Option<usize>) {
        if self.seen.insert((at, item)) {
            self.sets[at].push(self.steps.len());
            self.steps.push(Step { item, at, before, part });
        }
    }

    fn predict(&mut self, symbol: usize, at: usize) {
        if let Symbol::Rules(rules) = &self.grammar.symbols[symbol] {
            for rule in 0..rules.len() {
                let item = Item { symbol: symbol as u32, rule: rule as u32, dot: 0, origin: at as u32 };
                self.add(item, at, None, None);
            }
        }
    }

    /// Does what follows from one item; how much work that was.
    fn advance(&mut self, step: usize, text: &[u8]) -> usize {
        let Step { item, at, .. } = self.steps[step];
        let further = Item { dot: item.dot + 1, ..item };
        let Some(part) = self.rule(item).get(item.dot as usize) else {
            // It is complete: whoever waited for it where it began goes on.
            let waiting = self.waiting[item.origin as usize].clone();
            for &(symbol, waits) in &waiting {
                if symbol == item.symbol as usize {
                    let own = self.steps[waits].item;
                    self.add(Item { dot: own.dot + 1, ..own }, at, Some(waits), Some(step));
                }
            }
            return waiting.len();
        };
        let spaces = text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        match part {
            Part::Text(wanted) => {
                for from in [at, at + spaces] {
                    let end = from + wanted.len();
                    if text.get(from..end).is_some_and(|found| found.eq_ignore_ascii_case(wanted)) {
                        self.add(further, end, Some(step), None);
                    } else if let Some(end) = end_without_space(text, from, wanted) {
                        self.add(further, end, Some(step), None);
                    }
                }
                2
            }
            Part::Symbol(symbol) => match &self.grammar.symbols[*symbol] {
                Symbol::Builtin(builtin) => {
                    for from in [at, at + spaces] {
                        if let Some(len) = builtin.matches(&text[from..]) {
                            let own = Item { symbol: *symbol as u32, rule: 0, dot: 0, origin: from as u32 };
                            let part = self.steps.len();
                            self.steps.push(Step { item: own, at: from + len, before: None, part: None });
                            self.add(further, from + len, Some(step), Some(part));
                        }
                    }
                    2
                }
                Symbol::Rules(_) => {
                    self.waiting[at].push((*symbol, step));
                    self.predict(*symbol, at);
                    // What is complete here already, since it may be empty, is not completed again.
                    let done: Vec<usize> = self.sets[at]
                        .iter()
                        .copied()
                        .filter(|&done| {
                            let item = self.steps[done].item;
                            item.symbol as usize == *symbol
                                && item.origin as usize == at
                                && item.dot as usize == self.rule(item).len()
                        })
                        .collect();
                    for done in done {
                        self.add(further, at, Some(step), Some(done));
                    }
                    1 + self.sets[at].len()
                }
            },
        }
    }

    /// All symbols below a complete item.
    fn spans(&self, whole: usize, text: &[u8]) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut left = vec![whole];
        while let Some(step) = left.pop() {
            let Step { item, at, .. } = self.steps[step];
            let (mut start, end) = (item.origin as usize, at);
            while start < end && text[start].is_ascii_whitespace() {
                start += 1;
            }
            spans.push(Span { start, end, symbol: item.symbol as usize });
            let mut before = Some(step);
            while let Some(now) = before {
                left.extend(self.steps[now].part);
                before = self.steps[now].before;
            }
        }
        spans
    }
}

/// Where `wanted` ends in a text that has other spaces than it: any number of them for one, and none at its
/// ends.
fn end_without_space(text: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
    if !wanted.iter().any(u8::is_ascii_whitespace) {
        return None;
    }
    let mut at = from;
    let mut parts = wanted.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty()).peekable();
    parts.peek()?;
    for part in parts {
        at += text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let found = text.get(at..at + part.len())?;
        if !found.eq_ignore_ascii_case(part) {
            return None;
        }
        at += part.len();
    }
    Some(at)
}

impl Builtin {
    /// How many bytes at the start of `text` are one.
    fn matches(self, text: &[u8]) -> Option<usize> {
        let run = |from: usize, is: fn(&u8) -> bool| {
            text.get(from..).map_or(0, |text| text.iter().take_while(|&byte| is(byte)).count())
        };
        let minus = usize::from(text.first() == Some(&b'-'));
        let digits = run(minus, u8::is_ascii_digit);
        let integer = minus + digits;
        match self {
            Self::Integer => (digits > 0).then_some(integer),
            Self::Number => {
                let mut end = integer;
                if text.get(end) == Some(&b'.') {
                    end += 1 + run(end + 1, u8::is_ascii_digit);
                }
                if digits > 0 && matches!(text.get(end), Some(b'e' | b'E')) {
                    let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
                    let exponent = run(end + 1 + sign, u8::is_ascii_digit);
                    if exponent > 0 {
                        end += 1 + sign + exponent;
                    }
                }
                (digits > 0).then_some(end)
            }
            Self::Identifier => {
                let first = text.first()?;
                let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                (first.is_ascii_alphabetic() || *first == b'_').then(|| run(0, is_name))
            }
            Self::Characters => Some(run(0, |byte| !matches!(byte, b'"' | b'\'' | b'\\' | b'\n' | b'\r'))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{grammar, json};
    use super::*;

    fn texts<'a>(text: &'a str, spans: &[Span]) -> Vec<&'a str> {
        spans.iter().map(|span| &text[span.start..span.end]).collect()
    }

    #[test]
    fn symbols_are_found_where_they_are() {
        let text = "{\"k\": [1, \"x\"] }";
        let spans = json().parse(text.as_bytes()).unwrap();
        let found = texts(text, &spans);
        assert_eq!(found[0], text);
        for part in ["[1, \"x\"]", "1", "\"x\"", "\"k\"", "\"k\": [1, \"x\"]"] {
            assert!(found.contains(&part), "{part}: {found:?}");
        }
    }

    #[test]
    fn ambiguous_empty_and_left_recursive_rules_end() {
        let sums =
            grammar(&[("E", "{E}+{E}"), ("E", "{E}{N}"), ("E", "{INTEGER}"), ("N", ""), ("N", "{N}{N}")]);
        let text = "1+2+3+4";
        let spans = sums.parse(text.as_bytes()).unwrap();
        assert_eq!(texts(text, &spans)[0], text);
        let loops = grammar(&[("A", "{A}"), ("A", "x")]);
        assert_eq!(loops.parse(b"x").unwrap()[0], Span { start: 0, end: 1, symbol: 0 });
    }

    #[test]
    fn case_and_spaces_may_differ_and_an_end_that_does_not_follow_is_left() {
        let select = grammar(&[
            ("ALL", "{S}; {ALL}"),
            ("ALL", "{S};"),
            ("S", "SELECT {X} FROM {IDENTIFIER}"),
            ("X", "*"),
        ]);
        let text = "select  *\n from t ; SELECT * FROM u; nonsense";
        let spans = select.parse(text.as_bytes()).unwrap();
        let found = texts(text, &spans);
        assert_eq!(found[0], "select  *\n from t ; SELECT * FROM u;");
        assert!(found.contains(&"SELECT * FROM u") && found.contains(&"*"), "{found:?}");
        assert!(select.parse(b"nonsense").is_none());
    }

    #[test]
    fn work_is_bounded() {
        let all = grammar(&[("A", "{A}{A}"), ("A", "{A}{A}{A}"), ("A", "a"), ("A", "")]);
        // However it ends.
        let _ = all.parse(&[b'a'; BYTES_MAX]);
        assert!(all.parse(&[b'a'; BYTES_MAX + 1]).is_none());
    }
}
