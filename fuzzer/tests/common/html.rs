//! A reader of HTML that forgives nothing: what it takes, every browser takes alike.

/// Elements without an end.
const VOID: [&str; 4] = ["meta", "br", "link", "img"];

/// Checks that `html` is a whole page of properly nested elements with nothing that steers a browser to
/// somewhere else, and gives the addresses of its links.
#[track_caller]
pub(crate) fn check(html: &str) -> Vec<String> {
    let mut rest = html.strip_prefix("<!doctype html>").expect("it is a page");
    let (mut open, mut links): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    loop {
        let at = rest.find('<').unwrap_or(rest.len());
        check_text(&rest[..at]);
        rest = &rest[at..];
        if rest.is_empty() {
            break;
        }
        let end = rest.find('>').unwrap_or_else(|| panic!("a tag without end: {rest:.80}"));
        let tag = &rest[1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "it is not this that ends at {rest:.80}");
            continue;
        }
        let (name, attributes) = tag.trim_end_matches('/').split_once(' ').unwrap_or((tag, ""));
        let name = name.trim_end_matches('/');
        assert!(
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) && !name.is_empty(),
            "<{tag}>"
        );
        assert!(!["script", "iframe", "object", "embed", "form", "base"].contains(&name), "<{tag}>");
        for (attribute, value) in attributes_of(attributes) {
            assert!(!attribute.starts_with("on") && attribute != "src" && attribute != "style", "<{tag}>");
            if attribute == "href" {
                assert!(!value.contains(':') && !value.starts_with('/'), "it leads outside: {value}");
                links.push(value);
            }
        }
        if name == "style" {
            let style = rest.find("</style>").expect("the style ends");
            assert!(!rest[..style].contains("url(") && !rest[..style].contains("@import"));
            rest = &rest[style..];
        }
        if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert_eq!(open, Vec::<String>::new(), "elements without an end");
    links
}

fn check_text(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    for after in text.split('&').skip(1) {
        let known = ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|entity| after.starts_with(entity));
        assert!(known, "&{after:.20}");
    }
}

fn attributes_of(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return found;
        }
        let (name, rest) =
            text.split_once("=\"").unwrap_or_else(|| panic!("an attribute without value: {text}"));
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name:?}");
        let (value, rest) = rest.split_once('"').expect("the value ends");
        check_text(value);
        found.push((name.to_owned(), value.to_owned()));
        text = rest;
    }
}
