//! The page: self-contained HTML.

use std::fmt::Write as _;

use crate::figure::{Figure, STYLE, escape};

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--text:#1a1a1a;--soft:#5c5c5c;--rule:#d0d0d0;--tint:#f4f5f7;--bad:#a32100;--warn:#7a5200}\
@media screen and (prefers-color-scheme:dark){:root{--paper:#16181b;--text:#eceded;--soft:#b0b4b8;--rule:#43474c;--tint:#202327;--bad:#ff9d85;--warn:#f0c36d}}\
body{margin:0 auto;padding:1.5rem;max-width:72rem;background:var(--paper);color:var(--text);font:16px/1.5 system-ui,sans-serif}\
h1{font-size:1.7rem}h2{margin-top:2.5rem;border-bottom:2px solid var(--rule)}h3{margin-top:1.8rem}\
a{color:inherit}nav ul{padding-left:1.2rem}.scroll{overflow-x:auto}figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.93rem}\
table{border-collapse:collapse;margin:.6rem 0;font-size:.92rem}caption{text-align:left;font-weight:600;padding-bottom:.3rem}\
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top}td{overflow-wrap:anywhere;min-width:4.5rem}td.n{min-width:0}ul.gap{padding-left:2rem}\
thead th{background:var(--tint)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n,td.s{white-space:nowrap}td.s{min-width:0}\
.gap{border-left:4px solid var(--warn);background:var(--tint);padding:.4rem .8rem}\
.state-degraded,.state-missing{font-weight:600;white-space:nowrap}.state-missing{color:var(--bad)}.state-degraded{color:var(--warn)}\
svg.figure{max-width:100%;height:auto}\
@media print{body{max-width:none;padding:0;font-size:10pt}h2,h3,caption{break-after:avoid}caption{break-inside:avoid}table{font-size:9pt}figure,tr,p.gap{break-inside:avoid}\
tbody tr:first-child{break-before:avoid}thead{display:table-header-group}nav{display:none}\
.scroll{overflow:visible}a{text-decoration:none}}";

/// Maximum length of a cell without line breaks.
const SHORT: usize = 24;

/// A page under construction.
pub(super) struct Page {
    body: String,
    contents: Vec<(String, String)>,
    figures: Vec<Figure>,
    has_unread: bool,
}

impl Page {
    pub(super) fn new() -> Self {
        Self { body: String::new(), contents: Vec::new(), figures: Vec::new(), has_unread: false }
    }

    /// Notes that a table could not be read.
    pub(super) fn note_unread(&mut self) {
        self.has_unread = true;
    }

    /// Whether that was noted.
    pub(super) fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// A chapter, listed in the contents.
    pub(super) fn chapter(&mut self, id: &str, title: &str) {
        self.contents.push((id.to_owned(), title.to_owned()));
        self.raw(format_args!("<h2 id=\"{id}\">{}</h2>", escape(title)));
    }

    pub(super) fn section(&mut self, title: &str) {
        self.raw(format_args!("<h3>{}</h3>", escape(title)));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.raw(format_args!("<p>{}</p>", escape(text)));
    }

    /// A gap or a warning.
    pub(super) fn gap(&mut self, text: &str) {
        self.raw(format_args!("<p class=\"gap\" role=\"note\">{}</p>", escape(text)));
    }

    /// Several of these as one list.
    pub(super) fn gaps(&mut self, texts: &[String]) {
        if texts.is_empty() {
            return;
        }
        let items: String = texts.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
        self.raw(format_args!("<div role=\"note\"><ul class=\"gap\">{items}</ul></div>"));
    }

    /// A figure with its caption.
    pub(super) fn figure(&mut self, figure: Figure, caption: &str) {
        let title = escape(&figure.title);
        self.raw(format_args!(
            "<figure><div class=\"scroll\">{}</div><figcaption><strong>{title}.</strong> {}</figcaption></figure>",
            figure.inline(),
            escape(caption)
        ));
        self.figures.push(figure);
    }

    /// A table; headings that begin with `>` are for numbers. The first cell of a row is its heading.
    pub(super) fn table(&mut self, caption: &str, headings: &[&str], rows: &[Vec<String>]) {
        let mut text =
            format!("<div class=\"scroll\"><table><caption>{}</caption><thead><tr>", escape(caption));
        let class = |heading: &str| if heading.starts_with('>') { " class=\"n\"" } else { "" };
        for heading in headings {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "<th scope=\"col\"{}>{}</th>",
                class(heading),
                escape(heading.trim_start_matches('>'))
            );
        }
        text.push_str("</tr></thead><tbody>\n");
        for row in rows {
            text.push_str("<tr>");
            for (place, cell) in row.iter().enumerate() {
                let class = match class(headings.get(place).copied().unwrap_or_default()) {
                    // Short cells stay on one line, so that long sentences get the width.
                    "" if place > 0 && cell.chars().count() <= SHORT => " class=\"s\"",
                    class => class,
                };
                let _ = match place {
                    0 => write!(text, "<th scope=\"row\"{class}>{}</th>", escape(cell)),
                    _ => write!(text, "<td{class}>{}</td>", cell_text(cell)),
                };
            }
            text.push_str("</tr>\n");
        }
        self.raw(format_args!("{text}</tbody></table></div>"));
    }

    fn raw(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(text);
        self.body.push('\n');
    }

    /// The whole document, and its figures.
    pub(super) fn finish(self, title: &str, lead: &str) -> (String, Vec<Figure>) {
        let mut contents = String::new();
        for (id, title) in &self.contents {
            let _ = write!(contents, "<li><a href=\"#{id}\">{}</a></li>", escape(title));
        }
        let title = escape(title);
        let html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
             <title>{title}</title><style>{PAGE_STYLE}{STYLE}</style></head>\n<body><header><h1>{title}</h1><p>{}</p></header>\n\
             <nav aria-label=\"Contents\"><ul>{contents}</ul></nav>\n<main>\n{}</main></body></html>\n",
            escape(lead),
            self.body
        );
        (html, self.figures)
    }
}

/// States of `doctor` are highlighted, by more than colour.
fn cell_text(cell: &str) -> String {
    match cell {
        "degraded" | "missing" => format!("<span class=\"state-{cell}\">{cell}</span>"),
        other => escape(other),
    }
}
