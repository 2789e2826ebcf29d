//! A frame for terminals that know nothing but ASCII.

use ratatui::buffer::Buffer;

/// Replaces every other character by what comes close.
pub(super) fn degrade(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        let symbol = cell.symbol();
        if symbol.is_ascii() {
            continue;
        }
        let plain = match symbol {
            "─" | "━" => "-",
            "│" | "┃" => "|",
            "┌" | "┐" | "└" | "┘" | "├" | "┤" | "┬" | "┴" | "┼" => "+",
            "\u{2800}" => " ",
            "µ" => "u",
            other if other.starts_with(|c| ('\u{2801}'..='\u{28ff}').contains(&c)) => "*",
            _ => "?",
        };
        cell.set_symbol(plain);
    }
}
