//! Text within XML and HTML.

use super::is_plain;

/// Text escaped so that it cannot leave its element or attribute. Characters that XML 1.0 forbids even
/// escaped (control characters, two of Unicode's noncharacters), and those that turn the direction of text or do
/// not show ([`is_plain`]), become `?`, one for one, so that columns stay aligned.
pub fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            hidden if !is_plain(hidden) => out.push('?'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::xml;

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(xml("a<b>&\"'\n\u{1b}\u{ffff}\u{202e}\u{e9}"), "a&lt;b&gt;&amp;&quot;&#39;????\u{e9}");
    }
}
