//! The classes of a data set and the outputs of a network, matched by name.

use std::collections::HashMap;

use crate::error::one_line;
use crate::{Dataset, Error, Images};

/// The output of a network that stands for each class of a data set: as many indices as `data` has classes.
///
/// If the network's outputs have names, classes are matched by name: exactly or, failing that, without regard to case and to the
/// difference between spaces, `_` and `-`. All classes must be found; the network may have more outputs. If the outputs have no
/// names, `network` is empty, and classes are matched by position if there are as many of them as outputs.
///
/// # Errors
/// [`Error::Setting`] with both lists: names for another number of outputs, a class that no output has, two that match one output.
pub fn match_classes(network: &[String], outputs: usize, data: &[String]) -> Result<Vec<usize>, Error> {
    let both = || {
        let names = if network.is_empty() { "no names".to_owned() } else { list(network) };
        format!("the network has {outputs} outputs ({names}), the data set {} classes ({})", data.len(), list(data))
    };
    let refuse = |problem: &str| Err(Error::Setting(format!("{}: {problem}", both())));
    if network.is_empty() {
        if data.len() == outputs {
            return Ok((0..outputs).collect());
        }
        return refuse("name the outputs with `classes` in the file <network>.toml, or choose another data set");
    }
    if network.len() != outputs {
        return refuse(&format!("correct the {} names in `classes`, one per output", network.len()));
    }
    let map = by_name(network, data, |name| name.to_owned()).or_else(|_| by_name(network, data, folded));
    match map {
        Ok(map) => Ok(map),
        Err(Mismatch::Unknown(missing)) if missing.len() == data.len() => {
            refuse("no class is an output's name; correct `classes`, or the names of the class folders")
        }
        Err(Mismatch::Unknown(missing)) => refuse(&format!(
            "no output is named {}; correct `classes`, or the names of the class folders",
            list(&missing)
        )),
        Err(Mismatch::Twice(name)) => {
            refuse(&format!("the name {} occurs twice; make the names differ", one_line(&name)))
        }
    }
}

enum Mismatch {
    Unknown(Vec<String>),
    Twice(String),
}

fn by_name(network: &[String], data: &[String], key: impl Fn(&str) -> String) -> Result<Vec<usize>, Mismatch> {
    let mut outputs: HashMap<String, Vec<usize>> = HashMap::new();
    for (output, name) in network.iter().enumerate() {
        outputs.entry(key(name)).or_default().push(output);
    }
    let unknown: Vec<String> = data.iter().filter(|name| !outputs.contains_key(&key(name))).cloned().collect();
    if !unknown.is_empty() {
        return Err(Mismatch::Unknown(unknown));
    }
    let mut used = std::collections::HashSet::new();
    data.iter()
        .map(|name| match outputs[&key(name)][..] {
            [output] if used.insert(output) => Ok(output),
            _ => Err(Mismatch::Twice(name.clone())),
        })
        .collect()
}

fn folded(name: &str) -> String {
    name.to_lowercase().replace(['_', '-'], " ")
}

/// Names for a message: at most ten.
fn list(names: &[String]) -> String {
    let some: Vec<&str> = names.iter().take(10).map(String::as_str).collect();
    let more = if names.len() > 10 { ", …" } else { "" };
    one_line(&format!("{}{more}", some.join(", ")))
}

impl Dataset {
    /// Gives the classes the order of a network's outputs: class `c` gets the label `map[c]`, and the classes the names `names`.
    ///
    /// # Panics
    /// Unless `map` is a permutation of the classes, and there are as many names.
    pub fn relabel(&mut self, map: &[usize], names: &[String]) {
        assert_eq!((map.len(), names.len()), (self.classes.len(), self.classes.len()), "a permutation of the classes");
        let relabel = |images: &mut Images| {
            for label in &mut images.labels {
                *label = map[usize::from(*label)] as u16;
            }
        };
        relabel(&mut self.train);
        relabel(&mut self.test);
        self.classes = names.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn matched(network: &str, outputs: usize, data: &str) -> Result<Vec<usize>, String> {
        match_classes(&names(network), outputs, &names(data)).map_err(|error| error.to_string())
    }

    #[test]
    fn classes_are_matched_by_name() {
        assert_eq!(matched("cat dog", 2, "cat dog"), Ok(vec![0, 1]));
        assert_eq!(matched("dog cat", 2, "cat dog"), Ok(vec![1, 0]));
        assert_eq!(matched("eel dog cat fox", 4, "cat dog"), Ok(vec![2, 1]));
        assert_eq!(matched("Sports_car Dog", 2, "dog sports-car"), Ok(vec![1, 0]));
        // A name that matches exactly is preferred to one in other spelling.
        assert_eq!(matched("crane Crane", 2, "Crane crane"), Ok(vec![1, 0]));
        assert_eq!(matched("", 3, "0 1 2"), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn what_does_not_match_is_refused_with_both_lists() {
        for (network, outputs, data, words) in [
            ("dog cat", 2, "eel fox", "no class is an output's name"),
            ("dog cat", 2, "cat fox", "no output is named fox"),
            ("dog cat eel", 2, "cat dog", "correct the 3 names"),
            ("dog cat", 2, "cat dog eel", "no output is named eel"),
            ("", 3, "cat dog", "name the outputs"),
            ("dog dog", 2, "dog", "occurs twice"),
            ("Dog dOg", 2, "dog", "occurs twice"),
            ("dog cat", 2, "dog DOG", "occurs twice"),
        ] {
            let error = matched(network, outputs, data).unwrap_err();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
            assert!(names(network).iter().chain(&names(data)).all(|name| error.contains(name)), "{error}");
        }
    }

    #[test]
    fn relabelling_keeps_images_with_their_classes() {
        let mut digits = crate::open("digits", None).unwrap();
        let before = digits.clone();
        let reversed: Vec<String> = before.classes.iter().rev().cloned().collect();
        let map = match_classes(&reversed, 10, &digits.classes).unwrap();
        digits.relabel(&map, &reversed);
        for (old, new) in [(&before.train, &digits.train), (&before.test, &digits.test)] {
            let name = |set: &Dataset, label: u16| set.classes[usize::from(label)].clone();
            assert!(
                old.labels.iter().zip(&new.labels).all(|(&a, &b)| name(&before, a) == name(&digits, b) && a + b == 9)
            );
        }
    }
}
