//! Names of functions with `*` for any text.

use serde::Deserialize;

/// A name, or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Pattern(pub(super) String);

impl Pattern {
    /// Whether `name` is one of them.
    pub(super) fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut last = None;
        for part in parts {
            if let Some(middle) = last.replace(part) {
                match rest.find(middle) {
                    Some(at) => rest = &rest[at + middle.len()..],
                    None => return false,
                }
            }
        }
        last.map_or(rest.is_empty(), |last: &str| rest.ends_with(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name, wanted) in [
            ("parse", "parse", true),
            ("parse", "parser", false),
            ("parse*", "parser", true),
            ("*parse", "do_parse", true),
            ("*parse", "do_parser", false),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(Pattern(pattern.to_owned()).matches(name), wanted, "{pattern} {name}");
        }
    }
}
