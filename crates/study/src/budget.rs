//! Budgets: how long a network trains, in images, steps or epochs.

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::study::{Children, Training};

/// How long a network trains. In a study file it is a text such as `20 steps`, `2560 images` or `1.5 epochs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// A number of images.
    Images(usize),
    /// A number of steps, each of a whole batch.
    Steps(usize),
    /// A number of passes over the training images.
    Epochs(f64),
}

impl Budget {
    /// The images in all, of steps of `batch` images and epochs of `train` images.
    pub fn images(self, batch: usize, train: usize) -> usize {
        match self {
            Budget::Images(images) => images,
            Budget::Steps(steps) => steps.saturating_mul(batch),
            Budget::Epochs(epochs) => (epochs * train as f64).ceil() as usize,
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self {
            Budget::Images(images) => (*images as f64, "image"),
            Budget::Steps(steps) => (*steps as f64, "step"),
            Budget::Epochs(epochs) => (*epochs, "epoch"),
        };
        write!(f, "{number} {unit}{}", if number == 1.0 { "" } else { "s" })
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let wrong = || {
            format!(
                "`{text}` is no budget: write a number and its unit, such as \"20 steps\", \"5000 images\" or \"1 epoch\""
            )
        };
        let (number, unit) = text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
        let number = number.replace('_', "");
        let whole = || number.parse::<usize>().ok().filter(|number| *number > 0).ok_or_else(wrong);
        match unit.trim() {
            "image" | "images" => Ok(Budget::Images(whole()?)),
            "step" | "steps" => Ok(Budget::Steps(whole()?)),
            "epoch" | "epochs" => {
                let epochs = number.parse::<f64>().ok().filter(|epochs| *epochs > 0.0 && *epochs <= 1e6);
                Ok(Budget::Epochs(epochs.ok_or_else(wrong)?))
            }
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Budget, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One of several budgets of a study: a text, or a table that also says which schemes train with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChildBudget {
    /// How long a child trains.
    pub train: Budget,
    /// The schemes of this budget, some of those of `[triage]`; all if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schemes: Option<Vec<String>>,
    /// The inits of this budget, some of those of `[triage]`; all if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inits: Option<Vec<String>>,
}

impl ChildBudget {
    /// With all schemes and inits.
    pub fn new(train: Budget) -> ChildBudget {
        ChildBudget { train, schemes: None, inits: None }
    }

    /// Whether a scheme trains with this budget.
    pub fn has_scheme(&self, name: &str) -> bool {
        self.schemes.as_ref().is_none_or(|schemes| schemes.iter().any(|scheme| scheme == name))
    }

    /// Whether an init is tried with this budget.
    pub fn has_init(&self, name: &str) -> bool {
        self.inits.as_ref().is_none_or(|inits| inits.iter().any(|init| init == name))
    }
}

impl<'de> Deserialize<'de> for ChildBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ChildBudget, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            train: Budget,
            schemes: Option<Vec<String>>,
            inits: Option<Vec<String>>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ChildBudget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a budget such as \"1 epoch\", or a table such as { train = \"1 epoch\", schemes = [\"global\"] }",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ChildBudget, E> {
                text.parse().map(ChildBudget::new).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ChildBudget, A::Error> {
                let Table { train, schemes, inits } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ChildBudget { train, schemes, inits })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The one budget that the keys `images`, `steps` and `epochs` of a section give; an error if they give none or several.
fn given(images: Option<usize>, steps: Option<usize>, epochs: Option<f64>) -> Result<Budget, String> {
    let all = [images.map(Budget::Images), steps.map(Budget::Steps), epochs.map(Budget::Epochs)];
    let mut all = all.into_iter().flatten();
    match (all.next(), all.next()) {
        (Some(budget), None) => Ok(budget),
        (None, _) => Err("how long to train is missing: add `epochs`, `images` or `steps`".to_owned()),
        (Some(one), Some(other)) => Err(format!("the budgets \"{one}\" and \"{other}\" are both given: keep one")),
    }
}

impl Training {
    /// How long the network trains.
    ///
    /// # Errors
    /// None or several of the keys that give it.
    pub fn budget(&self) -> Result<Budget, String> {
        given(self.images, self.steps, self.epochs)
    }

    /// The images that the network trains on, of `train` training images in an epoch; 0 if the budget is not given.
    pub fn total(&self, train: usize) -> usize {
        self.budget().map_or(0, |budget| budget.images(self.batch, train))
    }
}

impl Children {
    /// The budgets that children train with: one, or those of `budgets`.
    ///
    /// # Errors
    /// None or several of the keys that give it.
    pub fn all_budgets(&self) -> Result<Vec<ChildBudget>, String> {
        if self.budgets.is_empty() {
            return Ok(vec![ChildBudget::new(given(self.images, self.steps, self.epochs)?)]);
        }
        match given(self.images, self.steps, self.epochs) {
            Ok(one) => Err(format!("the budget \"{one}\" is given beside `budgets`: keep one of the two")),
            Err(_) => Ok(self.budgets.clone()),
        }
    }

    /// The same children with a single budget in images. Ids of trials are made from it, so that a trial has the same id in a
    /// study of one budget and in a study of several.
    pub fn with_budget(&self, images: usize) -> Children {
        Children { images: Some(images), steps: None, epochs: None, budgets: Vec::new(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_numbers_with_units() {
        for (text, budget, images) in [
            ("20 steps", Budget::Steps(20), 2560),
            ("1 step", Budget::Steps(1), 128),
            ("100_000 images", Budget::Images(100_000), 100_000),
            ("1 epoch", Budget::Epochs(1.0), 999),
            ("0.5 epochs", Budget::Epochs(0.5), 500),
        ] {
            assert_eq!(text.parse(), Ok(budget));
            assert_eq!(budget.images(128, 999), images);
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
        for wrong in ["", "20", "steps", "0 steps", "1.5 steps", "-1 epochs", "nan epochs", "20 minutes", "1e9 epochs"]
        {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }
}
