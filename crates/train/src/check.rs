//! Whether a network and a data set fit each other, and what makes them fit.

use nettriage_data::{Dataset, match_classes};
use nettriage_net::{Activation, Graph, Kind, Network, Shape, Tensor};

use crate::Error;

/// Refuses a data set whose images have another shape than the network's input.
///
/// # Errors
/// [`Error::Mismatch`] with both shapes.
pub fn check_images(graph: &Graph, data: &Dataset) -> Result<(), Error> {
    let images = Shape::new(data.channels, data.height, data.width);
    if graph.input != images {
        let problem = format!("{} takes {} images, {} holds {images}", graph.name, graph.input, data.name);
        return Err(Error::Mismatch(problem));
    }
    Ok(())
}

/// Fits the classes of a data set and the outputs of a network to each other, by the outputs' names; none are known if `names` is
/// empty. Returns a note for the user if anything was changed.
///
/// If the data set has all classes in another order, its labels get the order of the outputs. If it has some of them, the network
/// keeps only their outputs. Networks whose output is not one vector are left to [`check_images`] and its like.
///
/// # Errors
/// [`Error::Data`] with both lists if classes do not match, see [`match_classes`]; [`Error::Mismatch`] if the outputs of the network
/// cannot be separated.
pub fn fit_classes(network: &mut Network, names: &[String], data: &mut Dataset) -> Result<Option<String>, Error> {
    let output = network.graph.output_shape()?;
    if output.height * output.width != 1 || data.classes.is_empty() {
        return Ok(None);
    }
    let map = match_classes(names, output.channels, &data.classes)?;
    if map.iter().copied().eq(0..output.channels) {
        return Ok(None);
    }
    if map.len() == output.channels {
        data.relabel(&map, names);
        return Ok(Some(format!("the classes of {} are matched to the network's outputs by name", data.name)));
    }
    select_outputs(network, output.channels, &map)?;
    Ok(Some(format!(
        "{} has {} of the network's {} classes: only these outputs are used",
        data.name,
        map.len(),
        output.channels
    )))
}

/// Keeps the outputs `map`, of `outputs`, of a network that ends in a linear layer or a convolution, in that order.
fn select_outputs(network: &mut Network, outputs: usize, map: &[usize]) -> Result<(), Error> {
    let mut name = network.graph.output.clone();
    let graph = &mut network.graph;
    while let Some(layer) = graph.layers.iter_mut().find(|layer| layer.name == name) {
        match &mut layer.kind {
            Kind::Linear(linear) if linear.features == outputs => linear.features = map.len(),
            Kind::Conv(conv) if conv.groups == 1 && conv.filters == outputs => conv.filters = map.len(),
            // One vector of outputs passes these unchanged, or element by element.
            Kind::Flatten
            | Kind::Softmax { .. }
            | Kind::AdaptiveAvgPool { .. }
            | Kind::AvgPool { .. }
            | Kind::Dropout { .. }
            | Kind::Identity => {
                name = layer.inputs[0].clone();
                continue;
            }
            Kind::Activation(activation) if !matches!(activation, Activation::Prelu) => {
                name = layer.inputs[0].clone();
                continue;
            }
            _ => break,
        }
        for parameter in ["weight", "bias"] {
            if let Some(tensor) = network.weights.get_mut(&format!("{name}.{parameter}")) {
                let row = tensor.data.len() / tensor.shape[0].max(1);
                let data = map.iter().flat_map(|&output| tensor.data[output * row..][..row].iter().copied()).collect();
                let shape = [&[map.len()], &tensor.shape[1..]].concat();
                *tensor = Tensor { shape, data };
            }
        }
        return Ok(network.check()?);
    }
    let problem = format!(
        "{}: its outputs come from no linear layer or convolution, so some cannot be selected",
        network.graph.name
    );
    Err(Error::Mismatch(problem))
}

/// The network up to its logits: the losses here take logits, and a closing softmax changes no prediction.
pub fn without_softmax(mut network: Network) -> Network {
    let graph = &mut network.graph;
    while let Some(last) = graph.layer(&graph.output).filter(|l| matches!(l.kind, Kind::Softmax(_))) {
        let (name, input) = (last.name.clone(), last.inputs[0].clone());
        graph.layers.retain(|l| l.name != name);
        graph.output = input;
    }
    network
}

#[cfg(test)]
mod tests {
    use nettriage_data::Images;
    use nettriage_net::layer::{Linear, Softmax};
    use nettriage_net::{INPUT, Layer, Weights};

    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Four inputs; output i has the weights 4 i, 4 i + 1, … and the bias i.
    fn network() -> Network {
        let layer = |name: &str, input: &str, kind| Layer { name: name.into(), inputs: vec![input.into()], kind };
        let graph = Graph {
            name: "small".into(),
            input: Shape::new(4, 1, 1),
            layers: vec![
                layer("flat", INPUT, Kind::Flatten),
                layer("fc", "flat", Kind::Linear(Linear { features: 3, bias: true })),
                layer("softmax", "fc", Kind::Softmax(Softmax { log: false })),
            ],
            output: "softmax".into(),
        };
        let mut weights = Weights::new();
        weights.insert("fc.weight".into(), Tensor { shape: vec![3, 4], data: (0..12).map(|i| i as f32).collect() });
        weights.insert("fc.bias".into(), Tensor { shape: vec![3], data: vec![0.0, 1.0, 2.0] });
        Network { graph, weights }
    }

    fn data(classes: &str) -> Dataset {
        let classes = names(classes);
        let labels: Vec<u16> = (0..classes.len() as u16).collect();
        let images = Images { pixels: vec![0; 4 * labels.len()].into(), labels };
        Dataset {
            name: "set".into(),
            channels: 4,
            height: 1,
            width: 1,
            classes,
            train: images.clone(),
            test: images,
            checksum: String::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn classes_in_another_order_get_the_labels_of_the_outputs() {
        let (mut network, mut set) = (network(), data("cat dog eel"));
        let before = network.clone();
        let note = fit_classes(&mut network, &names("dog eel cat"), &mut set).unwrap();
        assert!(note.is_some_and(|note| note.contains("by name")));
        assert_eq!((set.test.labels, set.classes), (vec![2, 0, 1], names("dog eel cat")));
        assert_eq!(network, before);
        let mut same = data("dog eel cat");
        assert_eq!(fit_classes(&mut network, &names("dog eel cat"), &mut same).unwrap(), None);
        assert_eq!(same, data("dog eel cat"));
        assert_eq!(fit_classes(&mut network, &[], &mut same).unwrap(), None);
    }

    #[test]
    fn a_subset_of_the_classes_is_judged_on_its_outputs() {
        let (mut network, mut set) = (network(), data("cat dog"));
        let note = fit_classes(&mut network, &names("dog eel cat"), &mut set).unwrap().unwrap();
        assert!(note.contains("2 of the network's 3 classes"), "{note}");
        network.check().unwrap();
        assert_eq!(network.graph.output_shape().unwrap().channels, 2);
        assert_eq!(network.weights["fc.weight"].data, [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(network.weights["fc.bias"].data, [2.0, 0.0]);
        assert_eq!(set, data("cat dog"));
    }

    #[test]
    fn classes_that_do_not_match_are_refused() {
        for (outputs, classes) in
            [("dog eel cat", "fox hen"), ("", "cat dog"), ("cat dog", "cat dog"), ("a b c", "a b c d")]
        {
            let (mut network, mut set) = (network(), data(classes));
            assert!(fit_classes(&mut network, &names(outputs), &mut set).is_err(), "{outputs}, {classes}");
        }
        let mut other = network();
        other.graph.layers.push(Layer {
            name: "scale".into(),
            inputs: vec!["fc".into(), "fc".into()],
            kind: Kind::Add,
        });
        other.graph.output = "scale".into();
        let error = fit_classes(&mut other, &names("dog eel cat"), &mut data("cat dog")).unwrap_err();
        assert!(error.to_string().contains("cannot be selected"), "{error}");
    }
}
