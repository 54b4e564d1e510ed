//! Text that others wrote, on its way to a terminal. Leaves as it is what prints.

/// What tools wrote, without the power to move the cursor, to turn the direction of writing or to
/// look like another line. Backslashes stay as they are: patterns are full of them.
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) {
            visible.push(c);
        } else {
            visible.extend(c.escape_debug());
        }
    }
    visible
}

/// The same for a text that is JSON, which means the same afterwards.
pub(crate) fn visible_json(json: &str) -> String {
    let mut visible = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        // What JSON itself has of these stands between its tokens.
        if c == '\n' || is_harmless(c) {
            visible.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            visible.push_str(&format!("\\u{unit:04x}"));
        }
    }
    visible
}

/// Whether it shows as itself: no control character, and nothing that Unicode does not print.
fn is_harmless(c: char) -> bool {
    match c {
        ' '..='~' => true,
        _ => c.escape_debug().count() == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(visible(text), expected);
    }

    #[test]
    fn json_means_the_same_and_moves_no_cursor_either() {
        let hostile = "a\"\\\n\x1b\x7f\u{9b}31m\u{202e}\u{e0041}é\u{1f600}";
        let json = serde_json::to_string_pretty(&[hostile]).unwrap();
        let visible = visible_json(&json);
        let again: [String; 1] = serde_json::from_str(&visible).unwrap();
        assert_eq!(again, [hostile]);
        let shown: String = visible.split('\n').collect();
        assert!(shown.chars().all(is_harmless), "{shown:?}");
        assert!(
            shown.contains("\\u009b31m\\u202e\\udb40\\udc41é\u{1f600}"),
            "{shown}"
        );
    }

    #[test]
    fn nothing_that_tools_write_moves_the_cursor() {
        check("^/a\\.b\"'(é|中|\u{1f600})$", "^/a\\.b\"'(é|中|\u{1f600})$");
        check("a\n\r\t\0", "a\\n\\r\\t\\0");
        check("\x1b]0;x\x07\x7f", "\\u{1b}]0;x\\u{7}\\u{7f}");
        check("\u{9b}31m", "\\u{9b}31m");
        // Right-to-left override, zero width space, line separator, soft hyphen, tags, byte order.
        check("a\u{202e}b\u{200b}", "a\\u{202e}b\\u{200b}");
        check("\u{2028}\u{ad}", "\\u{2028}\\u{ad}");
        check("\u{e0041}\u{feff}", "\\u{e0041}\\u{feff}");
    }
}
