//! The network graph: layers known at run time, in topological order, connected by name.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::shape::{MAX_ELEMENTS, check_extent};
use crate::{Error, Layer, Shape};

/// The name by which layers refer to the network's input.
pub const INPUT: &str = "input";

/// A network's structure: layers in topological order, one input and one output tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The network's name, such as `vgg16_bn`.
    pub name: String,
    /// Shape of one input image.
    pub input: Shape,
    /// The layers; every input of a layer comes before it.
    pub layers: Vec<Layer>,
    /// Name of the layer (or [`INPUT`]) whose output is the network's.
    pub output: String,
}

impl Graph {
    /// The layer of that name.
    pub fn layer(&self, name: &str) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.name == name)
    }

    /// The index in [`Graph::layers`] of the layer of that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.name == name)
    }

    /// Output shape (C, H, W) of every layer, in order.
    ///
    /// # Errors
    /// A layer whose name is empty, taken, or contains whitespace; an input that is not an earlier layer; a wrong
    /// number of inputs; geometry that gives no output or overflows.
    pub fn shapes(&self) -> Result<Vec<Shape>, Error> {
        check_extent(self.input).map_err(|problem| Error::layer(INPUT, problem))?;
        let mut known: HashMap<&str, Shape> = HashMap::with_capacity(self.layers.len() + 1);
        known.insert(INPUT, self.input);
        let mut shapes = Vec::with_capacity(self.layers.len());
        let mut inputs = Vec::new();
        for layer in &self.layers {
            let fail = |problem: String| Error::layer(&layer.name, problem);
            if layer.name.is_empty() || layer.name.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(fail(
                    "a layer's name must have at least one letter, no whitespace and nothing unprintable".into(),
                ));
            }
            inputs.clear();
            for input in &layer.inputs {
                let shape = known.get(input.as_str());
                inputs.push(*shape.ok_or_else(|| fail(format!("its input `{input}` is not an earlier layer")))?);
            }
            let shape = layer.kind.output_shape(&inputs).map_err(fail)?;
            check_extent(shape).map_err(fail)?;
            check_parameters(layer, inputs[0]).map_err(fail)?;
            if known.insert(&layer.name, shape).is_some() {
                return Err(fail("the name is taken by an earlier layer or the input".into()));
            }
            shapes.push(shape);
        }
        if !known.contains_key(self.output.as_str()) {
            let problem = format!("its output `{}` is none of its layers", self.output);
            return Err(Error::Graph { network: self.name.clone(), problem });
        }
        Ok(shapes)
    }

    /// Shape (C, H, W) of the output of a layer, or of [`INPUT`].
    ///
    /// # Errors
    /// Those of [`Graph::shapes`]; a name that the graph does not have.
    pub fn shape_of(&self, tensor: &str) -> Result<Shape, Error> {
        let shapes = self.shapes()?;
        if tensor == INPUT {
            return Ok(self.input);
        }
        let position = self.position(tensor).ok_or_else(|| self.no_tensor(tensor))?;
        Ok(shapes[position])
    }

    /// Shape (C, H, W) of the network's output.
    ///
    /// # Errors
    /// Those of [`Graph::shapes`].
    pub fn output_shape(&self) -> Result<Shape, Error> {
        self.shape_of(&self.output)
    }

    /// [`Graph::shapes`]' checks, and that every layer's output is used.
    ///
    /// # Errors
    /// Those of [`Graph::shapes`], and the name of a layer whose output is not used.
    pub fn check(&self) -> Result<(), Error> {
        self.shapes()?;
        let mut used: HashSet<&str> = [self.output.as_str()].into();
        for layer in self.layers.iter().rev() {
            if !used.contains(layer.name.as_str()) {
                return Err(Error::layer(&layer.name, "nothing uses its output; leave it out"));
            }
            used.extend(layer.inputs.iter().map(String::as_str));
        }
        Ok(())
    }

    /// Shapes of a layer's inputs, given those of all layers in the graph's order.
    pub fn input_shapes(&self, layer: &Layer, shapes: &[Shape]) -> Vec<Shape> {
        let shape = |name: &String| match self.position(name) {
            Some(position) => shapes[position],
            None => self.input,
        };
        layer.inputs.iter().map(shape).collect()
    }

    /// Shape of every layer's first input, given those of all layers.
    pub(crate) fn first_inputs(&self, shapes: &[Shape]) -> Vec<Shape> {
        let mut known: HashMap<&str, Shape> = HashMap::from([(INPUT, self.input)]);
        known.extend(self.layers.iter().map(|layer| layer.name.as_str()).zip(shapes.iter().copied()));
        let first = |layer: &Layer| layer.inputs.first().and_then(|input| known.get(input.as_str()));
        self.layers.iter().map(|layer| first(layer).copied().unwrap_or(self.input)).collect()
    }

    pub(crate) fn no_tensor(&self, tensor: &str) -> Error {
        let problem = format!("it has no layer `{tensor}`; `nettriage inspect` lists its layers");
        Error::Graph { network: self.name.clone(), problem }
    }
}

fn check_parameters(layer: &Layer, input: Shape) -> Result<(), String> {
    for parameter in layer.kind.parameters(input) {
        let count = parameter.shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        if count.is_none_or(|count| count > MAX_ELEMENTS) {
            return Err(format!("its {} of shape {:?} is too large", parameter.name, parameter.shape));
        }
    }
    Ok(())
}
