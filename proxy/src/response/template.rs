//! Templates of pages: HTML with placeholders.
//!
//! `{{name}}` is a value, escaped. `{{#name}}...{{/name}}` stays where the value is not empty,
//! `{{^name}}...{{/name}}` where it is. That is all there is; it is a subset of Mustache.
//!
//! The page's Content-Security-Policy is made with it: nothing but the template's own `<style>`
//! elements, by their hashes, and inline (`data:`) images and fonts where there are any. Placeholders inside of styles
//! would change the hash, and scripts would not run, so both are mistakes. Reading files is up to
//! `pages`.

use std::ops::Range;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portico_config::{Diagnostic, Severity};

/// What stands for the placeholders; empty for what is not known.
#[derive(Debug, Clone, Default)]
pub struct Values<'a> {
    /// `502`
    pub status: &'a str,
    /// `Bad Gateway`
    pub reason: &'a str,
    /// The headline.
    pub title: &'a str,
    /// What happened.
    pub detail: &'a str,
    /// `client`, `tool`, `platform` or `proxy`
    pub fault: &'a str,
    /// Whose fault it is, as a sentence.
    pub blame: &'a str,
    /// What the reader can do.
    pub advice: &'a str,
    /// Who can mend it.
    pub maintainers: &'a str,
    /// What they can do.
    pub remedy: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// The host of the request.
    pub host: &'a str,
    /// Which proxy.
    pub server: &'a str,
    /// The id of the request.
    pub request_id: &'a str,
    /// When, in UTC.
    pub time: &'a str,
    /// `fallback.help_url`
    pub help_url: &'a str,
}

/// The names that placeholders may have.
pub const NAMES: [&str; 15] = [
    "status",
    "reason",
    "title",
    "detail",
    "fault",
    "blame",
    "advice",
    "maintainers",
    "remedy",
    "tool",
    "host",
    "server",
    "request_id",
    "time",
    "help_url",
];

impl Values<'_> {
    fn get(&self, name: &str) -> &str {
        match name {
            "status" => self.status,
            "reason" => self.reason,
            "title" => self.title,
            "detail" => self.detail,
            "fault" => self.fault,
            "blame" => self.blame,
            "advice" => self.advice,
            "maintainers" => self.maintainers,
            "remedy" => self.remedy,
            "tool" => self.tool,
            "host" => self.host,
            "server" => self.server,
            "request_id" => self.request_id,
            "time" => self.time,
            "help_url" => self.help_url,
            _ => "",
        }
    }
}

/// A template that was read and checked.
#[derive(Debug, Clone)]
pub struct Template {
    parts: Vec<Part>,
    /// The Content-Security-Policy of its pages.
    pub policy: String,
}

#[derive(Debug, Clone)]
enum Part {
    Text(Box<str>),
    Value(&'static str),
    /// Go on at part `end` unless the value is there, or with `inverted` if it is.
    Section {
        name: &'static str,
        inverted: bool,
        end: usize,
    },
}

impl Template {
    /// Reads the text of a template; `file` is the name that mistakes show.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn parse(file: &str, source: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut parser = Parser {
            file,
            source,
            mistakes: Vec::new(),
        };
        let styles = parser.styles();
        let parts = parser.parts(&styles);
        if !parser.mistakes.is_empty() {
            parser.mistakes.sort_by_key(|m| (m.line, m.column));
            return Err(parser.mistakes);
        }
        Ok(Self {
            parts,
            policy: policy(source, &styles),
        })
    }

    /// The page.
    pub fn render(&self, values: &Values<'_>) -> String {
        let mut out = String::with_capacity(8192);
        let mut at = 0;
        while let Some(part) = self.parts.get(at) {
            at += 1;
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(name) => escape(&mut out, values.get(name)),
                Part::Section {
                    name,
                    inverted,
                    end,
                } if values.get(name).is_empty() != *inverted => at = *end,
                Part::Section { .. } => {}
            }
        }
        out
    }
}

/// Appends text so that it is text in HTML, in elements and in quoted attributes.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
}

fn policy(source: &str, styles: &[Range<usize>]) -> String {
    let mut policy = String::from("default-src 'none'");
    for (i, style) in styles.iter().enumerate() {
        // Browsers hash what their parser makes of the text: there, every line end is LF.
        let text = source.get(style.clone()).unwrap_or_default();
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let hash = STANDARD.encode(digest(&SHA256, text.as_bytes()));
        policy.push_str(if i == 0 { "; style-src" } else { "" });
        policy.push_str(&format!(" 'sha256-{hash}'"));
    }
    if source.contains("data:") {
        policy.push_str("; img-src data:; font-src data:");
    }
    policy.push_str("; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    policy
}

struct Parser<'a> {
    file: &'a str,
    source: &'a str,
    mistakes: Vec<Diagnostic>,
}

impl Parser<'_> {
    fn mistake(&mut self, offset: usize, message: impl Into<String>, allowed: Option<String>) {
        let (line, column) = position(self.source, offset);
        self.mistakes.push(Diagnostic {
            file: self.file.to_owned(),
            line,
            column,
            key: String::new(),
            message: message.into(),
            allowed,
            suggestion: None,
            severity: Severity::Error,
        });
    }

    /// Where the contents of `<style>` elements are.
    fn styles(&mut self) -> Vec<Range<usize>> {
        let lower = self.source.to_ascii_lowercase();
        let mut styles = Vec::new();
        let mut at = 0;
        while let Some(open) = lower[at..].find('<') {
            let here = at + open;
            let rest = &lower[here..];
            at = here + 1;
            if rest.starts_with("<!--") {
                at = rest.find("-->").map_or(lower.len(), |end| here + end + 3);
            } else if is_tag(rest, "<script") {
                self.mistake(
                    here,
                    "scripts do not run on these pages",
                    Some("a page without <script>".to_owned()),
                );
            } else if is_tag(rest, "<style") {
                let start = rest.find('>').map_or(rest.len(), |end| end + 1);
                match rest[start..].find("</style") {
                    Some(length) => {
                        at = here + start + length;
                        styles.push(here + start..at);
                    }
                    None => {
                        self.mistake(here, "this <style> is not closed", None);
                        break;
                    }
                }
            }
        }
        styles
    }

    fn parts(&mut self, styles: &[Range<usize>]) -> Vec<Part> {
        let source = self.source;
        let mut parts = Vec::new();
        // Sections that are not closed yet: name, index of the part, where.
        let mut open: Vec<(&str, usize, usize)> = Vec::new();
        let mut at = 0;
        while let Some(start) = source[at..].find("{{").map(|found| at + found) {
            parts.push(Part::Text(source[at..start].into()));
            let line = source[start..].lines().next().unwrap_or_default();
            let Some(end) = line.find("}}").map(|found| start + found) else {
                let allowed = "{{name}}, on one line".to_owned();
                self.mistake(start, "a placeholder that is not closed", Some(allowed));
                at = start + 2;
                continue;
            };
            at = end + 2;
            if styles.iter().any(|style| style.contains(&start)) {
                self.mistake(
                    start,
                    "a placeholder inside of <style>, whose hash is in the page's Content-Security-Policy",
                    Some("placeholders outside of <style>; class=\"{{fault}}\" chooses between fixed rules".to_owned()),
                );
                continue;
            }
            let word = source[start + 2..end].trim();
            let (sign, word) = match word.split_at_checked(1) {
                Some((sign @ ("#" | "^" | "/"), name)) => (sign, name.trim()),
                _ => ("", word),
            };
            let Some(name) = NAMES.iter().copied().find(|name| *name == word) else {
                let message = format!("there is no placeholder {word:?}");
                self.mistake(start, message, Some(NAMES.join(", ")));
                continue;
            };
            match sign {
                "/" => match open.pop() {
                    Some((opened, index, _)) if opened == name => {
                        let here = parts.len();
                        if let Some(Part::Section { end, .. }) = parts.get_mut(index) {
                            *end = here;
                        }
                    }
                    _ => self.mistake(
                        start,
                        format!("{name} is closed, but not the section that is open last"),
                        None,
                    ),
                },
                "" if source[..start].ends_with('=') => self.mistake(
                    start,
                    "a value without quotes around it could become more than one attribute",
                    Some(format!("\"{{{{{name}}}}}\"")),
                ),
                "" => parts.push(Part::Value(name)),
                _ => {
                    open.push((name, parts.len(), start));
                    parts.push(Part::Section {
                        name,
                        inverted: sign == "^",
                        end: usize::MAX,
                    });
                }
            }
        }
        for (name, _, start) in open {
            self.mistake(
                start,
                format!("the section {name} is not closed"),
                Some(format!("{{{{/{name}}}}} at its end")),
            );
        }
        parts.push(Part::Text(source[at..].into()));
        parts
    }
}

/// Line and column of an offset, from 1; columns in characters.
pub(super) fn position(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[line_start..].chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// Whether `text` begins with this tag, and not with one of a longer name.
fn is_tag(text: &str, tag: &str) -> bool {
    text.strip_prefix(tag)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_whitespace() || "/>".contains(c)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: Values<'_> = Values {
        status: "502",
        reason: "",
        title: "T",
        detail: "<script>alert('1' & \"2\")</script>{{title}}",
        fault: "tool",
        blame: "",
        advice: "",
        maintainers: "",
        remedy: "",
        tool: "",
        host: "a'b\"c",
        server: "",
        request_id: "",
        time: "",
        help_url: "",
    };

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let template = Template::parse("t", source).unwrap();
        assert_eq!(template.render(&VALUES), expected, "{source:?}");
    }

    #[test]
    fn values_and_sections() {
        check("", "");
        check("a } } { b", "a } } { b");
        check("{{status}}|{{ title }}|{{tool}}", "502|T|");
        check("a{{#title}}b{{title}}{{/title}}c", "abTc");
        check("a{{#tool}}b{{/tool}}c", "ac");
        check("a{{^tool}}b{{/tool}}c{{^title}}d{{/title}}e", "abce");
        check(
            "{{#title}}{{#tool}}x{{/tool}}{{^tool}}y{{/tool}}{{/title}}z",
            "yz",
        );
        check("{{#tool}}{{#title}}x{{/title}}{{/tool}}z", "z");
        check(
            "<style>@media a{b{c:d}}</style>",
            "<style>@media a{b{c:d}}</style>",
        );
    }

    #[test]
    fn values_stay_text() {
        check(
            "<p title='{{host}}'>{{detail}}</p>",
            "<p title='a&#39;b&quot;c'>&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;{{title}}</p>",
        );
    }

    #[test]
    fn every_name_has_a_value() {
        let values = Values {
            status: "status",
            reason: "reason",
            title: "title",
            detail: "detail",
            fault: "fault",
            blame: "blame",
            advice: "advice",
            maintainers: "maintainers",
            remedy: "remedy",
            tool: "tool",
            host: "host",
            server: "server",
            request_id: "request_id",
            time: "time",
            help_url: "help_url",
        };
        for name in NAMES {
            assert_eq!(values.get(name), name);
        }
    }

    #[track_caller]
    fn refused(source: &str, expected: &[&str]) {
        let mistakes = Template::parse("t.html", source).unwrap_err();
        let shown: Vec<String> = mistakes
            .iter()
            .map(|m| m.to_string().lines().next().unwrap().to_owned())
            .collect();
        assert_eq!(shown, expected, "{source:?}");
    }

    #[test]
    fn mistakes_have_places() {
        refused(
            "\u{fc}b\n \u{fc}{{titel}}\n{{}}{{{title}}}",
            &[
                "t.html:2:3: error: there is no placeholder \"titel\"",
                "t.html:3:1: error: there is no placeholder \"\"",
                "t.html:3:5: error: there is no placeholder \"{title\"",
            ],
        );
        refused(
            "a {{title",
            &["t.html:1:3: error: a placeholder that is not closed"],
        );
        refused(
            "{{#tool}}{{#title}}{{/tool}}",
            &[
                "t.html:1:1: error: the section tool is not closed",
                "t.html:1:20: error: tool is closed, but not the section that is open last",
            ],
        );
        refused(
            "{{/tool}}",
            &["t.html:1:1: error: tool is closed, but not the section that is open last"],
        );
        refused(
            "<a href={{help_url}}>",
            &[
                "t.html:1:9: error: a value without quotes around it could become more than one attribute",
            ],
        );
        refused(
            "<STYLE>a{color:{{fault}}}</STYLE>",
            &[
                "t.html:1:16: error: a placeholder inside of <style>, whose hash is in the page's Content-Security-Policy",
            ],
        );
        refused(
            "<style>",
            &["t.html:1:1: error: this <style> is not closed"],
        );
        refused(
            "<p>\n<Script src=x>",
            &["t.html:2:1: error: scripts do not run on these pages"],
        );
    }

    #[track_caller]
    fn check_policy(source: &str, expected: &str) {
        let template = Template::parse("t", source).unwrap();
        assert_eq!(
            template.policy,
            format!(
                "default-src 'none'{expected}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
        );
    }

    /// The hashes are those of `openssl dgst -sha256 -binary | base64`.
    #[test]
    fn the_policy_names_the_styles() {
        const A: &str = "'sha256-u0Jj2e1i7IBkNDEHdGEj6YSZteK6W+q1Sv+Vn8x343I='";
        const B: &str = "'sha256-7yqHVAesot11p6HczDsgKRipvI5UPgs97z80zNXlans='";
        check_policy("<p>", "");
        check_policy("<style>a{}\n</style>", &format!("; style-src {A}"));
        check_policy(
            "<!-- <style>x --><style media=all>a{}\r\n</style>",
            &format!("; style-src {A}"),
        );
        check_policy(
            "<style>a{}\n</style>{{#tool}}<STYLE>b{}</STYLE >{{/tool}}<styles>",
            &format!("; style-src {A} {B}"),
        );
        check_policy("<img src='data:x'>", "; img-src data:; font-src data:");
    }

    proptest! {
        #[test]
        fn any_text_is_a_template_or_a_mistake(
            source in "(\\{\\{|\\}\\}|[#^/]|tool|title|<style>|</style>|<!--|-->|=|\\PC|\n){0,30}",
        ) {
            if let Ok(template) = Template::parse("t", &source) {
                template.render(&VALUES);
            }
        }

        #[test]
        fn escaped_text_holds_no_markup(text in "\\PC*") {
            let mut out = String::new();
            escape(&mut out, &text);
            prop_assert!(!out.contains(['<', '>', '"', '\'']));
            let back = out.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
            prop_assert_eq!(back.replace("&#39;", "'").replace("&amp;", "&"), text);
        }
    }
}
