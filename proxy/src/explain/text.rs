//! An explanation for people: what happens first, then why, narrow enough for any terminal.
//!
//! Patterns, backends and fields were written by others: what could move the cursor is escaped.

use std::fmt;

use super::fields::{Changes, FieldLine, ToClient};
use super::{Address, BackendView, Explanation, Outcome, OwnAnswer, Share, State};
use crate::http1::reason_phrase;
use crate::terminal::visible;

/// Columns of a line, unless one word is longer.
const WIDTH: usize = 78;
/// Where the text of a labelled line begins.
const LABEL: usize = 19;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut page = Page(String::new());
        page.paragraph(0, &self.url);
        page.paragraph(0, &self.verdict.text);
        for note in &self.notes {
            page.paragraph(0, &format!("Note: {note}"));
        }
        page.request(self);
        page.heading("Rules, in the order in which they are tried");
        for step in &self.steps {
            let mark = if step.decides { "=>" } else { "  " };
            let label = step.rule.replace('_', " ");
            page.line(&format!("{mark} {label}"), &step.text);
        }
        if !self.policies.is_empty() {
            page.heading("Policies");
        }
        for policy in &self.policies {
            let mark = match policy.outcome {
                Outcome::Refuses => "!!",
                Outcome::DryRun => "! ",
                Outcome::Passes | Outcome::Off | Outcome::NotKnown => "  ",
            };
            let label = policy.policy.replace('_', " ");
            page.line(&format!("{mark} {label}"), &policy.text);
        }
        if let Some(backend) = &self.backend {
            page.backend(backend);
        }
        if let Some(changes) = &self.to_backend {
            page.request_fields(changes);
        }
        if let Some(changes) = &self.to_client {
            page.answer_fields(changes);
        }
        if let Some(answer) = &self.answer {
            page.answer(answer);
        }
        f.write_str(&page.0)
    }
}

struct Page(String);

impl Page {
    fn heading(&mut self, text: &str) {
        self.0.push('\n');
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// A label and a text, wrapped under itself.
    fn line(&mut self, label: &str, text: &str) {
        // A label that is too long for its column still ends before the text.
        self.0
            .push_str(&format!("{label:<width$}", width = LABEL - 1));
        self.0.push(' ');
        self.wrap(label.chars().count().max(LABEL - 1) + 1, LABEL, text);
    }

    fn paragraph(&mut self, indent: usize, text: &str) {
        self.0.push_str(&" ".repeat(indent));
        self.wrap(indent, indent, text);
    }

    /// Goes on in a column; further lines begin at `indent`.
    fn wrap(&mut self, mut column: usize, indent: usize, text: &str) {
        let text = visible(text);
        for (index, word) in text.split(' ').filter(|word| !word.is_empty()).enumerate() {
            let width = word.chars().count();
            if index > 0 && column + 1 + width > WIDTH {
                self.0.push('\n');
                self.0.push_str(&" ".repeat(indent));
                column = indent;
            } else if index > 0 {
                self.0.push(' ');
                column += 1;
            }
            self.0.push_str(word);
            column += width;
        }
        self.0.truncate(self.0.trim_end_matches(' ').len());
        self.0.push('\n');
    }

    fn request(&mut self, explanation: &Explanation) {
        let request = &explanation.request;
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        self.heading("Request");
        let line = format!("{} {} {}", request.method, request.target, request.version);
        self.paragraph(3, &line);
        let over = if request.over_tls {
            "TLS"
        } else {
            "plain HTTP"
        };
        self.line("   over", &format!("{over}, port {}", request.port));
        self.line("   host", &or_none(&request.host));
        self.line("   path", &or_none(&request.path));
        self.line("   tool", &or_none(&request.tool));
    }

    fn backend(&mut self, backend: &BackendView) {
        self.heading("Backend");
        if let Some(url) = &backend.url {
            self.line("   URL", url);
        }
        if let Some(pool) = &backend.pool {
            self.line("   pool", pool);
        }
        self.line("   protocol", backend.protocol);
        for share in &backend.split {
            let Share { pool, percent, .. } = share;
            let mark = if share.chosen { "=> split" } else { "   split" };
            self.line(mark, &format!("{pool}: {percent} %"));
        }
        for address in &backend.addresses {
            let state = match address.state {
                State::Allowed => "allowed",
                State::Refused => "refused",
                State::Unresolved => "unresolved",
                State::Up => "up",
                State::Down => "down",
                State::Drained => "drained",
                State::Maintenance => "maintenance",
                State::NotKnown => "not known",
            };
            let mut text = address.name.clone();
            if let Some(resolved) = address.address
                && resolved.to_string() != text
            {
                text.push_str(&format!(" ({resolved})"));
            }
            if let Some(why) = &address.why {
                text.push_str(&format!(": {why}"));
            }
            text.push_str(&numbers(address));
            self.line(&format!("   {state}"), &text);
        }
        if let Some(queue) = &backend.queue
            && let Some(waiting) = queue.waiting
        {
            let (limit, timeout) = (queue.limit, queue.timeout);
            self.line(
                "   queue",
                &format!("{waiting} of {limit} wait, each for {timeout} s at most"),
            );
        }
        for text in &backend.text {
            self.paragraph(LABEL, text);
        }
    }

    fn fields(&mut self, mark: &str, fields: &[FieldLine]) {
        for field in fields {
            self.line(mark, &format!("{}: {}", field.name, field.value));
        }
    }

    fn request_fields(&mut self, changes: &Changes) {
        self.heading("Request headers: what the backend gets");
        self.paragraph(3, &changes.line);
        self.fields("   passes", &changes.kept);
        for field in &changes.replaced {
            let text = format!("{}: {} (was {})", field.name, field.to, field.from);
            self.line("   changed", &text);
        }
        self.fields("   added", &changes.added);
        self.fields("   removed", &changes.removed);
    }

    fn answer_fields(&mut self, changes: &ToClient) {
        self.heading("Answer headers: what the client gets of the backend's");
        self.fields("   set", &changes.set);
        if !changes.hidden.is_empty() {
            self.line("   removed", &changes.hidden.join(", "));
        }
        if let Some(location) = &changes.location {
            let text = format!("{}... becomes {}...", location.from, location.to);
            self.line("   Location", &text);
        }
        self.line("   compression", &changes.compression.text);
        if let Some(file) = &changes.default_file {
            self.line(
                "   default file",
                &format!("If the answer is 404, portico gives its own {file}."),
            );
        }
    }

    fn answer(&mut self, answer: &OwnAnswer) {
        self.heading("Answer, by portico itself");
        let status = answer.status;
        self.line("   status", &format!("{status} {}", reason_phrase(status)));
        if let Some(failure) = answer.failure {
            self.line("   failure", failure);
        }
        if let Some(side) = &answer.side {
            self.line("   fault", side);
        }
        if let Some(text) = &answer.text {
            self.line("   the page says", text);
        }
        if let Some(remedy) = &answer.remedy {
            self.line("   what to do", remedy);
        }
        self.fields("   header", &answer.fields);
    }
}

/// The numbers of a node.
fn numbers(address: &Address) -> String {
    let mut text = String::new();
    if let Some(weight) = address.weight {
        text.push_str(&format!(", weight {weight}"));
    }
    if let Some(ramp @ 0..100) = address.ramp {
        text.push_str(&format!(", of which it has {ramp} % (slow start)"));
    }
    if let (Some(in_flight), Some(most)) = (address.in_flight, address.max_connections) {
        text.push_str(&format!(", {in_flight} of {most} requests"));
        if in_flight >= most {
            text.push_str(" (full)");
        }
    }
    text
}
