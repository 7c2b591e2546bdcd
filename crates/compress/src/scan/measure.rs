//! What the outputs of a network are, and how far another network's outputs are from them.

use std::str::FromStr;

use nettriage_engine::first_non_finite;
use nettriage_net::{Graph, Kind, Network, Tensor};
use nettriage_records::scan::Measure;
use nettriage_train::seed::digest_hex;

use super::options::Options;
use crate::Error;

/// What the outputs of a network are, as a user states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// Classes: one vector of them, or one at every position.
    Classes,
    /// Numbers.
    Values,
}

impl FromStr for Outputs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Outputs, Error> {
        match text {
            "classes" => Ok(Outputs::Classes),
            "values" => Ok(Outputs::Values),
            _ => Err(Error::Request(format!("no outputs `{text}`; use classes or values"))),
        }
    }
}

/// The measure for a network's outputs. Unless `said`, a single output and the values of a closing activation are numbers, all
/// others are classes.
///
/// # Errors
/// Outputs that cannot be what is said, or what labels need.
pub fn measure(graph: &Graph, labelled: bool, said: Option<Outputs>) -> Result<Measure, Error> {
    let shape = graph.output_shape()?;
    let dense = shape.height * shape.width > 1;
    if labelled {
        return match (said, dense || shape.channels < 2) {
            (Some(Outputs::Values), _) => {
                let problem = "the labels are classes: leave `--outputs values` out, or the labels (--unlabelled)";
                Err(Error::Request(format!("{}: {problem}", graph.name)))
            }
            (_, true) => Err(Error::Request(format!(
                "{}: its output, {shape}, is not one vector of classes, so labels cannot judge it; use --unlabelled",
                graph.name
            ))),
            (_, false) => Ok(Measure::Accuracy),
        };
    }
    let activated = matches!(graph.layer(&graph.output).map(|layer| &layer.kind), Some(Kind::Activation(_)));
    match said {
        Some(Outputs::Classes) if shape.channels < 2 => {
            let problem = "it has a single output, which cannot be classes; use --outputs values";
            Err(Error::Request(format!("{}: {problem}", graph.name)))
        }
        Some(Outputs::Values) => Ok(Measure::Values),
        None if shape.channels < 2 || activated => Ok(Measure::Values),
        Some(Outputs::Classes) | None if dense => Ok(Measure::DenseClasses),
        Some(Outputs::Classes) | None => Ok(Measure::Classes),
    }
}

/// Refuses a method that weights by the gradients of class probabilities where the outputs are not one vector of classes.
pub fn check_methods(measure: Measure, options: &Options) -> Result<(), Error> {
    let one_vector = matches!(measure, Measure::Accuracy | Measure::Classes);
    match options.methods.iter().find(|method| method.gradients && !one_vector) {
        None => Ok(()),
        Some(method) => Err(Error::Request(format!(
            "method {method}: +gradients needs one vector of classes as output; leave it out"
        ))),
    }
}

/// Refuses outputs that are not finite; the message names the first layer with such an output.
///
/// # Errors
/// The problem, for the images from index `first` on.
pub fn check_finite(network: &Network, first: usize, images: &[f32], outputs: &[f32]) -> Result<(), Error> {
    if outputs.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let name = &network.graph.name;
    let found = match first_non_finite(network, images)? {
        Some(mut found) => {
            found.image += first;
            found.to_string()
        }
        None => "an output is not finite".to_owned(),
    };
    Err(Error::Request(format!("{name}: {found}; nothing can be judged")))
}

/// Hexadecimal SHA-256 of a network's structure and weights, whatever its name.
pub fn digest(network: &Network) -> String {
    let graph = Graph { name: String::new(), ..network.graph.clone() };
    let mut text = serde_json::to_string(&graph).expect("a graph is plain data");
    for (name, Tensor { shape, data }) in &network.weights {
        let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        text += &format!("\n{name} {shape:?} {}", digest_hex(&bytes));
    }
    digest_hex(text.as_bytes())
}
