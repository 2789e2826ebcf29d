//! A grammar that inputs follow, as a harness declares it.
//!
//! The file is Nautilus's: a JSON list of rules, each `["NAME", "text with {OTHER} in it"]`; the first
//! rule's name is what an input is. `\{` and `\}` are braces, `\\` is a backslash; in `{label:NAME}` the label
//! means nothing. A name that has no rules may be one of [`Builtin`]'s.
//!
//! ```json
//! [["ARRAY", "[{LIST}]"], ["LIST", "{INTEGER}"], ["LIST", "{INTEGER},{LIST}"]]
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;
use unifork_vmm::regular;

mod generate;
mod parse;

pub(crate) use parse::Span;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a grammar cannot be used. All of it is the user's to mend.
#[derive(Debug, Error)]
pub(crate) enum GrammarError {
    /// The file cannot be read.
    #[error("cannot read grammar {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is not a list of pairs of strings.
    #[error("{} is not a grammar: {source}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A rule that cannot be.
    #[error("{}: rule {rule}: {what}", path.display())]
    Rule {
        /// The grammar.
        path: PathBuf,
        /// The rule, from one.
        rule: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// What a name without rules may be: text of which nobody wants to write the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// `INTEGER`: decimal digits, and perhaps a minus.
    Integer,
    /// `NUMBER`: the same, with a fraction or an exponent.
    Number,
    /// `IDENTIFIER`: a letter or `_`, then letters, digits and `_`.
    Identifier,
    /// `CHARACTERS`: any text but quotes, backslashes and line ends.
    Characters,
}

const BUILTINS: [(&str, Builtin); 4] = [
    ("INTEGER", Builtin::Integer),
    ("NUMBER", Builtin::Number),
    ("IDENTIFIER", Builtin::Identifier),
    ("CHARACTERS", Builtin::Characters),
];

/// Part of what a rule produces.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Symbol(usize),
}

/// One way in which a symbol is written.
#[derive(Clone, Debug)]
struct Rule {
    parts: Vec<Part>,
    /// Symbols below it, on the shortest way down.
    depth: usize,
}

#[derive(Clone, Debug)]
enum Symbol {
    Rules(Vec<Rule>),
    Builtin(Builtin),
}

/// A grammar. The first symbol is what an input is.
#[derive(Clone, Debug)]
pub(crate) struct Grammar {
    symbols: Vec<Symbol>,
}

impl Grammar {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, GrammarError> {
        let failed = |source| GrammarError::Read { path: path.to_path_buf(), source };
        if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
            return Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "larger than 4 MiB")));
        }
        let text = regular::read(path).map_err(failed)?;
        let rules: Vec<(String, String)> = serde_json::from_slice(&text)
            .map_err(|source| GrammarError::Json { path: path.to_path_buf(), source })?;
        Self::new(&rules).map_err(|(rule, what)| GrammarError::Rule {
            path: path.to_path_buf(),
            rule: rule + 1,
            what,
        })
    }

    /// The grammar of these rules. An error is the number of a rule, and what is wrong with it.
    fn new(rules: &[(String, String)]) -> Result<Self, (usize, String)> {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut symbols: Vec<Symbol> = Vec::new();
        for (name, _) in rules {
            numbers.entry(name).or_insert_with(|| {
                symbols.push(Symbol::Rules(Vec::new()));
                symbols.len() - 1
            });
        }
        if symbols.is_empty() {
            return Err((0, "there is none".into()));
        }
        for (number, (name, production)) in rules.iter().enumerate() {
            let mut parts = Vec::new();
            for piece in pieces(production).map_err(|what| (number, what))? {
                let part = match piece {
                    Piece::Text(text) => Part::Text(text),
                    Piece::Name(name) => match numbers.get(name) {
                        Some(&symbol) => Part::Symbol(symbol),
                        None => {
                            let builtin = BUILTINS.iter().find(|(builtin, _)| *builtin == name);
                            let Some(&(_, builtin)) = builtin else {
                                return Err((number, format!("{{{name}}} has no rule")));
                            };
                            symbols.push(Symbol::Builtin(builtin));
                            numbers.insert(name, symbols.len() - 1);
                            Part::Symbol(symbols.len() - 1)
                        }
                    },
                };
                parts.push(part);
            }
            if let Symbol::Rules(own) = &mut symbols[numbers[name.as_str()]] {
                own.push(Rule { parts, depth: usize::MAX });
            }
        }
        let mut grammar = Self { symbols };
        grammar.measure();
        for (number, (name, _)) in rules.iter().enumerate() {
            if grammar.depth(numbers[name.as_str()]) == usize::MAX {
                return Err((number, format!("{{{name}}} never ends: each of its rules needs itself")));
            }
        }
        Ok(grammar)
    }

    /// How many symbols there are.
    pub(crate) fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Symbols below `symbol`, on the shortest way down; `usize::MAX` where there is none.
    fn depth(&self, symbol: usize) -> usize {
        match &self.symbols[symbol] {
            Symbol::Builtin(_) => 0,
            Symbol::Rules(rules) => rules.iter().map(|rule| rule.depth).min().unwrap_or(usize::MAX),
        }
    }

    /// Finds the shortest way down from every rule: what has one is found in as many rounds as it is
    /// deep.
    fn measure(&mut self) {
        loop {
            let mut changed = false;
            for symbol in 0..self.symbols.len() {
                let Symbol::Rules(rules) = &self.symbols[symbol] else { continue };
                let below = |part: &Part| match part {
                    Part::Text(_) => 0,
                    Part::Symbol(symbol) => self.depth(*symbol).saturating_add(1),
                };
                let depths: Vec<usize> =
                    rules.iter().map(|rule| rule.parts.iter().map(below).max().unwrap_or(0)).collect();
                if let Symbol::Rules(rules) = &mut self.symbols[symbol] {
                    for (rule, depth) in rules.iter_mut().zip(depths) {
                        changed |= rule.depth != depth;
                        rule.depth = depth;
                    }
                }
            }
            if !changed {
                return;
            }
        }
    }
}

enum Piece<'a> {
    Text(Vec<u8>),
    Name(&'a str),
}

/// Cuts a production at its names.
fn pieces(production: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    let mut rest = production;
    while let Some(next) = rest.chars().next() {
        let (_, behind) = rest.split_at(next.len_utf8());
        match next {
            '{' => {
                let (name, behind) = behind.split_once('}').ok_or("a { is not closed")?;
                let name = name.rsplit(':').next().unwrap_or(name);
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
                    return Err(format!("{{{name}}} is not a name; write \\{{ for a brace"));
                }
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Name(name));
                rest = behind;
            }
            '}' => return Err("a } that closes nothing; write \\} for a brace".into()),
            '\\' if behind.starts_with(['{', '}', '\\']) => {
                text.push(behind.as_bytes()[0]);
                rest = &behind[1..];
            }
            _ => {
                text.extend_from_slice(&rest.as_bytes()[..next.len_utf8()]);
                rest = behind;
            }
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[(&str, &str)]) -> Vec<(String, String)> {
        rules.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
    }

    pub(super) fn grammar(list: &[(&str, &str)]) -> Grammar {
        Grammar::new(&rules(list)).unwrap()
    }

    pub(super) fn json() -> Grammar {
        grammar(&[
            ("VALUE", "\\{{PAIRS}\\}"),
            ("VALUE", "[{LIST}]"),
            ("VALUE", "{STRING}"),
            ("VALUE", "{NUMBER}"),
            ("PAIRS", "{STRING}:{v:VALUE}"),
            ("PAIRS", "{STRING}:{VALUE},{PAIRS}"),
            ("LIST", ""),
            ("LIST", "{VALUE}"),
            ("LIST", "{VALUE},{LIST}"),
            ("STRING", "\"{CHARACTERS}\""),
        ])
    }

    #[test]
    fn mistakes_are_said_with_the_number_of_the_rule() {
        let complaint = |list: &[(&str, &str)]| Grammar::new(&rules(list)).unwrap_err();
        assert_eq!(complaint(&[("A", "x"), ("A", "{B}")]), (1, "{B} has no rule".into()));
        assert_eq!(complaint(&[("A", "{A")]), (0, "a { is not closed".into()));
        assert!(complaint(&[("A", "x}")]).1.contains("closes nothing"));
        assert!(complaint(&[("A", "{a b}")]).1.contains("not a name"));
        assert!(complaint(&[("A", "{B}"), ("B", "x{A}")]).1.contains("never ends"));
        assert_eq!(complaint(&[]).1, "there is none");
    }

    #[test]
    fn a_file_that_is_no_grammar_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.json");
        assert!(Grammar::read(&path).unwrap_err().to_string().contains("g.json"));
        fs::write(&path, "{\"A\": 1}").unwrap();
        assert!(Grammar::read(&path).unwrap_err().to_string().contains("is not a grammar"));
        fs::write(&path, "[[\"A\", \"{B}\"]]").unwrap();
        assert!(Grammar::read(&path).unwrap_err().to_string().ends_with("g.json: rule 1: {B} has no rule"));
        fs::write(&path, "[[\"A\", \"{INTEGER}\"]]").unwrap();
        assert_eq!(Grammar::read(&path).unwrap().len(), 2);
    }
}
