//! How numbers are written, the same in every output.

/// A number with its sign, such as `+1.24` or `−0.30` (U+2212); what rounds to zero has none.
pub(crate) fn signed(x: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", x.abs());
    let zero = text.chars().all(|c| c == '0' || c == '.');
    let sign = if zero {
        ""
    } else if x < 0.0 {
        "−"
    } else {
        "+"
    };
    format!("{sign}{text}")
}

/// A number, with U+2212 as its minus.
pub(crate) fn number(x: f64, digits: usize) -> String {
    let text = signed(x, digits);
    text.strip_prefix('+').map(str::to_owned).unwrap_or(text)
}

/// An interval such as `0.81 to 1.67`.
pub(crate) fn interval([low, high]: [f64; 2]) -> String {
    format!("{} to {}", number(low, 2), number(high, 2))
}

/// A count such as `1 234 567`, with narrow no-break spaces.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202F}');
        }
        out.push(c);
    }
    out
}

/// A large count, such as `1.23 M`.
pub(crate) fn short(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// A share as a percentage, such as `38%`; small ones keep a decimal.
pub(crate) fn percent(share: f64) -> String {
    let digits = if share.abs() < 0.095 { 1 } else { 0 };
    format!("{}%", number(100.0 * share, digits))
}

/// A relative change, such as `−67%` or `+1.2%`.
pub(crate) fn signed_percent(share: f64) -> String {
    let digits = if share.abs() < 0.095 { 1 } else { 0 };
    format!("{}%", signed(100.0 * share, digits))
}

/// Text as one word of a POSIX shell's command line.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Text without characters that act instead of being shown: control characters, and overrides of the writing direction.
/// Names come from files; every output passes its text through here.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if acts(c) { '\u{FFFD}' } else { c }).collect()
}

fn acts(c: char) -> bool {
    let direction = matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    direction || (c.is_control() && c != '\n' && c != '\t')
}

/// A p value, such as `p = 0.013` or `p < 0.0001`.
pub(crate) fn p_value(p: f64) -> String {
    if p < 1e-4 {
        "p < 0.0001".to_owned()
    } else if p < 0.01 {
        format!("p = {p:.4}")
    } else {
        format!("p = {p:.3}")
    }
}

/// A duration, such as `1 h 12 min`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {} s", (s / 60.0) as u64, (s % 60.0) as u64),
        s => format!("{} h {} min", (s / 3600.0) as u64, (s % 3600.0 / 60.0) as u64),
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `rough`.
pub(crate) fn round_step(rough: f64) -> f64 {
    let magnitude = 10.0_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * magnitude).into_iter().find(|&step| step >= rough).unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_words_are_quoted() {
        assert_eq!(shell_word("runs/digits-1"), "runs/digits-1");
        assert_eq!(shell_word("it's; rm -rf"), r"'it'\''s; rm -rf'");
        assert_eq!((shell_word(""), shell_word("-x")), ("''".to_owned(), "'-x'".to_owned()));
    }

    #[test]
    fn characters_that_act_are_replaced() {
        assert_eq!(printable("a\u{1b}[2J\u{202E}b\n\t\u{85}é"), "a\u{FFFD}[2J\u{FFFD}b\n\t\u{FFFD}é");
    }

    #[test]
    fn numbers_are_formatted() {
        assert_eq!(signed(1.237, 2), "+1.24");
        assert_eq!(signed(-0.3, 2), "−0.30");
        assert_eq!(signed(-0.001, 2), "0.00");
        assert_eq!(interval([-0.2, 0.4]), "−0.20 to 0.40");
        assert_eq!(count(1_234_567), "1\u{202F}234\u{202F}567");
        assert_eq!(count(999), "999");
        assert_eq!((percent(0.384), percent(0.0123)), ("38%".to_owned(), "1.2%".to_owned()));
        assert_eq!(p_value(0.00002), "p < 0.0001");
        assert_eq!(duration(4321.0), "1 h 12 min");
    }
}
