//! The pages of failures: HTML from a template, JSON (RFC 9457) or text.
//!
//! [`Pages`] is made at start: the built-in template, or those of `pages.templates`, read and
//! checked. What goes into a page is known values only, never the URL or another part of the
//! request but its canonical host; and all of them are escaped as their form wants it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

use portico_config::{Config, Diagnostic, Severity};
use serde::Serialize;

use super::accept::Format;
use super::failure::Failure;
use super::template::{Template, Values, position};
use super::words::{Words, blame};
use crate::http1::reason_phrase;
use crate::request_id::RequestId;

/// The built-in template.
const PAGE: &str = include_str!("pages/page.html");
/// The template for every status without one of its own.
const FALLBACK: &str = "page.html";
/// A larger file is no template.
const MAX_TEMPLATE: usize = 256 * 1024;
/// The statuses of failures: the templates that there may be.
const STATUSES: [u16; 15] = [
    400, 403, 404, 405, 408, 413, 414, 417, 429, 431, 502, 503, 504, 505, 508,
];

/// Everything that pages need and that only a reload changes.
#[derive(Debug)]
pub struct Pages {
    server: String,
    help_url: String,
    page: Template,
    by_status: BTreeMap<u16, Template>,
}

/// What one page is about.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// What happened.
    pub failure: &'a Failure,
    /// The form that the client wants.
    pub format: Format,
    /// The tool, as far as it is known.
    pub tool: Option<&'a str>,
    /// The canonical host of the request.
    pub host: Option<&'a str>,
    /// The name of the request.
    pub request_id: RequestId,
    /// Now, as a Date field has it.
    pub date: &'a str,
}

/// A page that is ready to be sent.
#[derive(Debug)]
pub struct Rendered<'a> {
    /// The media type.
    pub content_type: &'static str,
    /// The Content-Security-Policy, for HTML.
    pub policy: Option<&'a str>,
    /// The page.
    pub body: String,
}

impl Pages {
    /// Reads what the configuration asks for.
    ///
    /// # Errors
    /// All mistakes in all templates at once.
    pub fn load(config: &Config) -> Result<Self, Vec<Diagnostic>> {
        let directory = config.pages.templates.as_deref();
        let mut own = directory.map_or_else(|| Ok(BTreeMap::new()), read_templates)?;
        let page = match own.remove(&None) {
            Some(page) => page,
            None => Template::parse(FALLBACK, PAGE)?,
        };
        Ok(Self {
            server: server_name(config),
            help_url: config.fallback.help_url.clone().unwrap_or_default(),
            page,
            by_status: own
                .into_iter()
                .filter_map(|(status, template)| Some((status?, template)))
                .collect(),
        })
    }

    /// Makes a page.
    pub fn render(&self, page: &Page<'_>) -> Rendered<'_> {
        let (status, side) = page.failure.status_and_side();
        let words = Words::of(page.failure);
        let fault = side.to_string();
        let values = Values {
            status: &status.to_string(),
            reason: reason_phrase(status),
            title: words.title,
            detail: &page.failure.to_string(),
            fault: &fault,
            blame: blame(side),
            advice: words.advice,
            maintainers: words.maintainers,
            remedy: words.remedy,
            tool: page.tool.unwrap_or_default(),
            host: page.host.unwrap_or_default(),
            server: &self.server,
            request_id: &page.request_id.to_string(),
            // The same clock under the name that people know.
            time: &page.date.replace("GMT", "UTC"),
            help_url: &self.help_url,
        };
        match page.format {
            Format::Html => {
                let template = self.by_status.get(&status).unwrap_or(&self.page);
                Rendered {
                    content_type: "text/html; charset=utf-8",
                    policy: Some(&template.policy),
                    body: template.render(&values),
                }
            }
            Format::Problem => Rendered {
                content_type: "application/problem+json",
                policy: None,
                body: json(status, &values),
            },
            Format::Json => Rendered {
                content_type: "application/json",
                policy: None,
                body: json(status, &values),
            },
            Format::Text => Rendered {
                content_type: "text/plain; charset=utf-8",
                policy: None,
                body: text(&values),
            },
        }
    }
}

/// What the machine is called: as configured, or its host name. Never an address.
fn server_name(config: &Config) -> String {
    if let Some(name) = &config.server.name {
        return name.to_string();
    }
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    match host.parse::<IpAddr>() {
        Ok(_) => String::new(),
        Err(_) => host.into_owned(),
    }
}

/// Problem details (RFC 9457). There is no `instance`: it would have to be a URI.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    /// `about:blank`: the title is that of the status.
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    fault: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tool: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    server: &'a str,
    request_id: &'a str,
    time: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    help: &'a str,
}

fn json(status: u16, values: &Values<'_>) -> String {
    let problem = Problem {
        kind: "about:blank",
        title: values.reason,
        status,
        detail: values.detail,
        fault: values.fault,
        tool: values.tool,
        host: values.host,
        server: values.server,
        request_id: values.request_id,
        time: values.time,
        help: values.help_url,
    };
    // Text and numbers always become JSON.
    let mut text = serde_json::to_string_pretty(&problem).unwrap_or_default();
    text.push('\n');
    text
}

/// For a person at a terminal, and for grep.
fn text(values: &Values<'_>) -> String {
    let mut text = format!(
        "{} {}: {}\n\n{} {}\n",
        values.status, values.reason, values.title, values.detail, values.blame
    );
    if !values.advice.is_empty() {
        text.push_str(&format!("\nWhat you can do: {}\n", values.advice));
    }
    if !values.remedy.is_empty() {
        text.push_str(&format!(
            "What {} can do: {}\n",
            values.maintainers, values.remedy
        ));
    }
    text.push('\n');
    for (name, value, note) in [
        ("fault", values.fault, ""),
        ("tool", values.tool, ""),
        ("host", values.host, ""),
        ("server", values.server, ""),
        ("request", values.request_id, ""),
        ("time", values.time, ""),
        (
            "help",
            values.help_url,
            " (who can help; give them the lines above)",
        ),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}{note}\n"));
        }
    }
    text
}

/// The templates of a directory, by status; `None` is the one for all others.
fn read_templates(directory: &Path) -> Result<BTreeMap<Option<u16>, Template>, Vec<Diagnostic>> {
    let names = template_names(directory).map_err(|error| {
        let message = format!("the directory of templates cannot be read: {error}");
        vec![about(directory, message, None)]
    })?;
    let allowed = || {
        let statuses: Vec<String> = STATUSES.iter().map(|s| format!("{s}.html")).collect();
        Some(format!("{FALLBACK}, {}", statuses.join(", ")))
    };
    let mut mistakes = Vec::new();
    if names.is_empty() {
        mistakes.push(about(
            directory,
            "there is no template here".to_owned(),
            allowed(),
        ));
    }
    let mut templates = BTreeMap::new();
    for name in names {
        let path = directory.join(&name);
        let status = name
            .strip_suffix(".html")
            .and_then(|stem| stem.parse().ok());
        // `0404.html` is not it.
        let is_status = |status: &u16| name == format!("{status}.html");
        if name != FALLBACK && !STATUSES.iter().any(is_status) {
            let message = "portico makes no such page".to_owned();
            mistakes.push(about(&path, message, allowed()));
            continue;
        }
        let template = read_template(&path)
            .and_then(|source| Template::parse(&path.display().to_string(), &source));
        match template {
            Ok(template) => _ = templates.insert(status, template),
            Err(found) => mistakes.extend(found),
        }
    }
    match mistakes.is_empty() {
        true => Ok(templates),
        false => Err(mistakes),
    }
}

/// The names that end in `.html`, in order. Other files may be there: notes, copies of editors.
fn template_names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".html") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn read_template(path: &Path) -> Result<String, Vec<Diagnostic>> {
    let cannot = |error: io::Error| {
        let message = format!("the template cannot be read: {error}");
        vec![about(path, message, None)]
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(MAX_TEMPLATE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() > MAX_TEMPLATE {
        let message = format!("the template is larger than {} KiB", MAX_TEMPLATE / 1024);
        return Err(vec![about(path, message, None)]);
    }
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes().get(..end).unwrap_or_default());
        let (line, column) = position(&text, end);
        vec![Diagnostic {
            line,
            column,
            key: String::new(),
            ..about(path, "this byte is not UTF-8".to_owned(), None)
        }]
    })
}

/// A mistake that has no line.
fn about(path: &Path, message: String, allowed: Option<String>) -> Diagnostic {
    Diagnostic {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        key: "pages.templates".to_owned(),
        message,
        allowed,
        suggestion: None,
        severity: Severity::Error,
    }
}

/// Pages for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A configuration that more tables may follow.
    pub(crate) const CONFIG: &str = "server.name = 'proxy-1.example'\n\
        listen = { https = [], redirect = false }\n\
        domains.canonical = 'toolforge.org'\n\
        fallback.help_url = 'https://help.example/'\n";

    /// Pages as [`CONFIG`] and `more` have them.
    #[track_caller]
    pub(crate) fn pages(more: &str) -> Pages {
        loaded(more).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
    }

    #[track_caller]
    pub(crate) fn loaded(more: &str) -> Result<Pages, Vec<Diagnostic>> {
        let text = format!("{CONFIG}{more}");
        let config = portico_config::parse("test", &text).unwrap().config;
        Pages::load(&config)
    }
}

#[cfg(test)]
mod tests;
