//! An error with its causes, as one sentence for logs and the command line.

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
}
