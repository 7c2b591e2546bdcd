//! The end of a job's log, for a message.

/// The last lines of a log, for a message.
pub(crate) fn tail(log: &str) -> String {
    const LINES: usize = 20;
    const BYTES: usize = 4000;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let text = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let cut = text.char_indices().map(|(i, _)| i).find(|i| text.len() - i <= BYTES).unwrap_or(text.len());
    text[cut..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_within_bounds() {
        assert_eq!(tail("\n\na\n\nb\n"), "a\nb");
        assert_eq!(tail(""), "");
        let many: String = (0..100).map(|i| format!("line {i}\n")).collect();
        assert!(tail(&many).starts_with("line 80\n") && tail(&many).ends_with("line 99"));
        // A cut never falls inside a character.
        assert!(tail(&"é".repeat(10_000)).len() <= 4000);
    }
}
