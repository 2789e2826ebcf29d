//! How things look. Colour never says anything that the text does not, and all colours are the terminal's own.

use std::env;

use ratatui::style::{Color, Modifier, Style};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Theme {
    pub(crate) colour: bool,
    /// Characters beyond ASCII.
    pub(crate) unicode: bool,
}

impl Theme {
    /// As the environment says: `NO_COLOR`, a `TERM` without colours, a locale without UTF-8.
    pub(crate) fn of_environment() -> Self {
        let text = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let term = text("TERM").unwrap_or_default();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(text).unwrap_or_default();
        Self::of(text("NO_COLOR").is_some(), &term, &locale)
    }

    fn of(no_color: bool, term: &str, locale: &str) -> Self {
        let monochrome = term.ends_with("-m")
            || term.ends_with("-mono")
            || ["vt100", "vt102", "vt220", "vt320"].iter().any(|old| term.starts_with(old));
        let locale = locale.to_ascii_lowercase();
        Self {
            colour: !no_color && !monochrome,
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    fn of_colour(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// Rules and what stands on them.
    pub(crate) fn rule(self) -> Style {
        self.of_colour(Color::Cyan)
    }

    /// What a value is called.
    pub(crate) fn label(self) -> Style {
        Style::new()
    }

    /// A value.
    pub(crate) fn value(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// A curve.
    pub(crate) fn curve(self) -> Style {
        self.of_colour(Color::Green)
    }

    /// What someone should look at.
    pub(crate) fn alarm(self) -> Style {
        self.of_colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// The first line.
    pub(crate) fn head(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_and_unicode_are_used_where_they_are_understood() {
        let of = |no_color, term, locale| {
            let Theme { colour, unicode } = Theme::of(no_color, term, locale);
            (colour, unicode)
        };
        assert_eq!(of(false, "xterm-256color", "en_US.UTF-8"), (true, true));
        assert_eq!(of(true, "xterm-256color", "C.utf8"), (false, true));
        assert_eq!(of(false, "vt100", "C"), (false, false));
        assert_eq!(of(false, "xterm-mono", ""), (false, false));
    }
}
