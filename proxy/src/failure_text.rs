//! An error with its causes, as one sentence for logs and the command line, and texts of several lines
//! as one.

use std::error::Error;

/// `error: its cause: the cause of that`.
pub fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Diagnostics have a line for what is allowed; an event of the log is one line.
pub fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_of_causes_is_said_once() {
        let error = Outer(std::io::Error::other("refused"));
        assert_eq!(with_sources(&error), "cannot connect: refused");
    }

    #[test]
    fn lines_become_one() {
        assert_eq!(
            one_line("f:1:2: no\n    allowed: a\nf:3:4: no\n"),
            "f:1:2: no; allowed: a; f:3:4: no"
        );
    }
}
