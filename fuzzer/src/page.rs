//! HTML pages that need nothing but themselves: no script, no font, no address of anything.
//!
//! They are read on a phone and on a desk, in light and in dark. Text comes from guests, so all of it is
//! escaped.

use std::fmt::Write as _;

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--card:#f5f6f8;--text:#1a1c20;--soft:#5b616b;--line:#d9dce1;\
--mark:#ffe08a;--mark-text:#1a1c20;--bad:#b3261e;--link:#0b57d0}\
@media(prefers-color-scheme:dark){:root{--back:#16181c;--card:#20242a;--text:#e6e8eb;--soft:#a2a9b4;\
--line:#3a4049;--mark:#7a5c00;--mark-text:#fff;--bad:#ff8a80;--link:#8ab4f8}}\
*{box-sizing:border-box}\
body{margin:0 auto;padding:16px;max-width:60rem;background:var(--back);color:var(--text);\
font:16px/1.5 system-ui,sans-serif}\
h1{font-size:1.4rem;line-height:1.25;margin:.4rem 0;overflow-wrap:anywhere}\
h2{font-size:1.05rem;margin:1.6rem 0 .5rem}\
a{color:var(--link)}p{margin:.4rem 0;overflow-wrap:anywhere}.soft{color:var(--soft)}.bad{color:var(--bad)}\
pre,code{font:13px/1.45 ui-monospace,'DejaVu Sans Mono',monospace}code{overflow-wrap:anywhere}\
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:10px;margin:0;\
overflow-x:auto}\
.wrap{white-space:pre-wrap;overflow-wrap:anywhere}\
@media(max-width:40rem){.wide{display:none}}\
mark{background:var(--mark);color:var(--mark-text)}\
dl{margin:0;display:grid;grid-template-columns:minmax(6.5rem,auto) 1fr;gap:.3rem 1rem}\
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\
ul{padding-left:1.2rem;margin:0}\
.card{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:12px;margin:12px 0}\
.card h2{margin:0 0 .2rem}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:12px}\
figure.card{margin:0}figcaption{font-weight:600;margin-bottom:4px}\
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:12px system-ui,sans-serif}\
line.grid{stroke:var(--line)}.curve{fill:none;stroke:var(--link);stroke-width:2;stroke-linejoin:round}\
.dot{fill:var(--link)}\
.list{list-style:none;padding:0}.list li{border-top:1px solid var(--line);padding:8px 0;overflow-wrap:anywhere}\
.list p{margin:0}\
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(13.5rem,1fr));gap:0 1rem}";

/// A whole page.
pub(crate) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// `text` as it is to be read.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            // Not allowed in HTML, even as a reference.
            control if control.is_control() => {
                let _ = write!(escaped, "{}", control.escape_default());
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// A list of names and what is to be said of each, which is HTML already.
pub(crate) fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows = facts.into_iter().map(|(name, value)| format!("<dt>{}</dt><dd>{value}</dd>\n", escape(name)));
    format!("<dl>\n{}</dl>\n", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_cannot_become_markup() {
        let said = "<script>alert(\"1\" & '2')</script>\u{1b}[31m\n";
        assert_eq!(
            escape(said),
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;\\u{1b}[31m\n"
        );
        assert!(page("<b>", "").contains("<title>&lt;b&gt;</title>"));
    }
}
