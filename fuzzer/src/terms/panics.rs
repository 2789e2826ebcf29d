//! Panic profiles: what a crash of one kind of kernel looks like, in a file.
//!
//! The built-in ones are in `fuzzer/panics`; `docs/agentless.md` has what a file may say.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use unifork_vmm::foreign::{PanicPoint, Panics};
use unifork_vmm::introspect::Symbols;
use unifork_vmm::regular;

use super::pattern::Pattern;
use crate::cmd::{BlameExt as _, Failure};

/// The profiles that come along.
const BUILT_IN: [(&str, &str); 5] = [
    ("unikraft", include_str!("../../panics/unikraft.toml")),
    ("hermit", include_str!("../../panics/hermit.toml")),
    ("solo5", include_str!("../../panics/solo5.toml")),
    ("nanos", include_str!("../../panics/nanos.toml")),
    ("linux", include_str!("../../panics/linux.toml")),
];
/// Functions that one pattern may stand for, at most.
const MATCHES_MAX: usize = 1000;

/// A profile, as its file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Profile {
    /// An image is of this kind if it has a symbol for each of these patterns.
    #[serde(default)]
    has_symbols: Vec<Pattern>,
    #[serde(default)]
    panic: Vec<Point>,
    #[serde(default)]
    console: Vec<String>,
    #[serde(default)]
    assertions: Vec<String>,
    #[serde(default)]
    exits: Vec<u32>,
}

/// A function that is entered only when the image crashes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    symbol: Pattern,
    when: Option<When>,
    /// Registers that point to texts: a format, and what its `%s` stand for.
    #[serde(default)]
    message: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    register: String,
    #[serde(default = "whole")]
    bits: u32,
    is: u64,
}

const fn whole() -> u32 {
    64
}

/// What a crash looks like: as the profile `named` has it, or the first built-in one that knows an image with these
/// `symbols`.
pub(super) fn find(named: Option<&str>, symbols: &Symbols) -> Result<Panics, Failure> {
    let built_in = |name: &str| BUILT_IN.iter().find(|(known, _)| *known == name);
    let (name, text) = match named {
        Some("none") => return Ok(Panics::default()),
        Some(named) => match built_in(named) {
            Some((name, text)) => ((*name).to_owned(), (*text).to_owned()),
            None => (named.to_owned(), read(named)?),
        },
        None => match BUILT_IN.iter().find(|(_, text)| knows(text, symbols)) {
            Some((name, text)) => ((*name).to_owned(), (*text).to_owned()),
            None => return Ok(Panics::default()),
        },
    };
    let panics = parse(&text).and_then(|profile| profile.resolve(symbols));
    let panics = panics.with_context(|| format!("panic profile {name}")).or_usage();
    let panics = panics.map_err(|failure| failure.help("docs/agentless.md has what a profile may say"))?;
    Ok(Panics { name, ..panics })
}

fn read(path: &str) -> Result<String, Failure> {
    let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    let help = format!("give a file, none, or one of {}", names.join(", "));
    let text =
        regular::read_text(Path::new(path)).with_context(|| format!("cannot read panic profile {path}"));
    text.or_usage().map_err(|failure| failure.help(help))
}

fn parse(text: &str) -> Result<Profile, anyhow::Error> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        anyhow!("line {}: {}", before.matches('\n').count() + 1, error.message().replace('\n', " "))
    })
}

fn knows(text: &str, symbols: &Symbols) -> bool {
    let profile = parse(text).expect("a test reads each of them");
    let has = |pattern: &Pattern| symbols.functions().any(|(name, _)| pattern.matches(name));
    !profile.has_symbols.is_empty() && profile.has_symbols.iter().all(has)
}

impl Profile {
    /// With addresses for symbols; those that the image does not have are left out.
    fn resolve(&self, symbols: &Symbols) -> Result<Panics, anyhow::Error> {
        let mut points = Vec::new();
        for point in &self.panic {
            let when = point.when.as_ref().map(|when| {
                let register = when.register.parse().map_err(|error: String| anyhow!(error))?;
                Ok::<_, anyhow::Error>((register, when.bits, when.is))
            });
            let when = when.transpose()?;
            let message: Result<Vec<_>, String> = point.message.iter().map(|name| name.parse()).collect();
            let message = message.map_err(|error| anyhow!(error))?;
            let named = symbols.functions().filter(|(name, _)| point.symbol.matches(name));
            points.extend(named.take(MATCHES_MAX).map(|(name, range)| PanicPoint {
                address: range.start,
                name: name.to_owned(),
                when,
                message: message.clone(),
            }));
        }
        let (console, assertions, exits) =
            (self.console.clone(), self.assertions.clone(), self.exits.clone());
        if console.iter().chain(&assertions).any(String::is_empty) {
            return Err(anyhow!("an empty text is on every console"));
        }
        Ok(Panics { name: String::new(), points, console, assertions, exits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_can_be_read() {
        for (name, text) in BUILT_IN {
            let profile = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!profile.has_symbols.is_empty(), "{name}");
            profile.resolve(&Symbols::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!knows(text, &Symbols::new()), "{name}");
        }
    }

    #[test]
    fn a_profile_with_a_mistake_is_refused() {
        assert!(parse("exit = [1]").is_err());
        let empty = parse("console = ['']").unwrap();
        assert!(empty.resolve(&Symbols::new()).is_err());
        let register = parse("[[panic]]\nsymbol = 'x'\nwhen = { register = 'edi', is = 1 }").unwrap();
        assert!(register.resolve(&Symbols::new()).unwrap_err().to_string().contains("edi"));
    }
}
