//! The parts of a network whose times a scan adds up: its units, and the substitutes of its ranges; and times of them from elsewhere.

use nettriage_net::block::{self, Block, Unit};
use nettriage_net::narrow::{self, Narrow};
use nettriage_net::surgery;
use nettriage_net::{Graph, INPUT, Network, Shape, Weights, cost, slice};
use nettriage_records::content_id;
use nettriage_records::plan::Cost;
use nettriage_records::scan::{Candidate, Range, Scan};
use nettriage_train::seed;
use serde_json::json;

use super::units::recorded_cost;
use crate::Error;

/// A part of a network, which may occur several times.
#[derive(Clone, Debug)]
pub struct Part {
    /// The same for equal layers with equal inputs, in any network.
    pub key: String,
    /// Where it occurs first: a unit, or a range and its substitute.
    pub name: String,
    /// How often it occurs.
    pub count: usize,
    /// Its layers.
    pub graph: Graph,
    /// Its output, (C, H, W).
    pub output: Shape,
    /// Its cost.
    pub cost: Cost,
}

impl Part {
    fn new(name: String, graph: Graph) -> Result<Part, Error> {
        let (output, cost) = (graph.output_shape()?, recorded_cost(cost::total(&graph)?));
        Ok(Part { key: key(&graph), name, count: 1, graph, output, cost })
    }

    /// Its layers in words.
    pub fn describe(&self) -> String {
        self.graph.layers.iter().map(|layer| layer.describe()).collect::<Vec<_>>().join("; ")
    }

    /// It with weights at random, on which times do not depend.
    ///
    /// # Errors
    /// A graph whose shapes do not fit.
    pub fn network(&self) -> Result<Network, Error> {
        Ok(Network::initialised(self.graph.clone(), &mut seed::rng("timed weights", &[]))?)
    }
}

/// What is computed, whatever the names of layers.
fn key(graph: &Graph) -> String {
    let place = |name: &str| graph.position(name).map_or(0, |place| place + 1);
    let layers: Vec<_> = graph
        .layers
        .iter()
        .map(|layer| json!([layer.kind, layer.inputs.iter().map(|input| place(input)).collect::<Vec<_>>()]))
        .collect();
    format!("part-{}", content_id(&json!({ "input": graph.input, "layers": layers, "output": place(&graph.output) })))
}

/// Every part of the network and of the substitutes in its scan, each once.
///
/// # Errors
/// A scan of another network.
pub fn parts(network: &Network, scan: &Scan) -> Result<Vec<Part>, Error> {
    let mut found: Vec<Part> = Vec::new();
    let mut add = |part: Part| match found.iter_mut().find(|other| other.key == part.key) {
        Some(known) => known.count += 1,
        None => found.push(part),
    };
    let cut = Cut::new(network);
    for unit in block::units(&network.graph) {
        add(cut.unit(&unit)?);
    }
    for range in &scan.ranges {
        let mut named: Vec<&str> = Vec::new();
        for candidate in &range.candidates {
            // Of every method the layer is the same.
            if named.contains(&candidate.substitute.as_str()) {
                continue;
            }
            named.push(&candidate.substitute);
            if let Some(part) = cut.candidate(range, candidate)? {
                add(part);
            }
        }
    }
    Ok(found)
}

/// The scan with other milliseconds: those that `milliseconds` gives for each part.
///
/// # Errors
/// Those of `milliseconds`; a scan of another network; parts that take no time in all.
pub fn with_times(
    network: &Network,
    scan: &Scan,
    milliseconds: &dyn Fn(&Part) -> Result<f64, Error>,
) -> Result<Scan, Error> {
    let (mut scan, cut) = (scan.clone(), Cut::new(network));
    for (unit, row) in block::units(&network.graph).iter().zip(&mut scan.units) {
        row.milliseconds = milliseconds(&cut.unit(unit)?)?;
    }
    scan.parent.milliseconds = scan.units.iter().map(|unit| unit.milliseconds).sum();
    if scan.parent.milliseconds <= 0.0 {
        return Err(Error::Request(format!("{}: its units take no time in all", network.graph.name)));
    }
    for range in &mut scan.ranges {
        let [first, last] = range.units;
        range.milliseconds = scan.units[first..=last].iter().map(|unit| unit.milliseconds).sum();
        let parts = range.candidates.iter().map(|candidate| cut.candidate(range, candidate));
        let parts = parts.collect::<Result<Vec<_>, Error>>()?;
        for (candidate, part) in range.candidates.iter_mut().zip(parts) {
            // A range that is left out takes no time.
            candidate.milliseconds = part.as_ref().map_or(Ok(0.0), milliseconds)?;
        }
    }
    Ok(scan)
}

/// A network, and the same without its weights, whose parts are cheap.
struct Cut<'a> {
    network: &'a Network,
    weightless: Network,
}

impl<'a> Cut<'a> {
    fn new(network: &'a Network) -> Cut<'a> {
        Cut { network, weightless: Network { graph: network.graph.clone(), weights: Weights::new() } }
    }

    /// A unit alone.
    fn unit(&self, unit: &Unit) -> Result<Part, Error> {
        let layers = &self.network.graph.layers;
        let input = unit.start.checked_sub(1).map_or(INPUT, |before| &layers[before].name);
        let graph = slice::between(&self.weightless, input, &layers[unit.end - 1].name)?.graph;
        Part::new(unit.name.clone(), graph)
    }

    /// A substitute alone; none of a range that is left out.
    fn candidate(&self, range: &Range, candidate: &Candidate) -> Result<Option<Part>, Error> {
        let [first, last] = &range.layers;
        let block = block::range(&self.network.graph, &range.name, first, last)?;
        let name = format!("{}, {}", range.name, candidate.substitute);
        let whole = Block { input: INPUT.to_owned(), ..block.clone() };
        if let Ok(how) = candidate.substitute.parse::<Narrow>() {
            let alone = slice::between(self.network, &block.input, &block.output)?;
            return Ok(Some(Part::new(name, narrow::narrowed_shape(&alone, &whole, how)?.graph)?));
        }
        let alone = slice::between(&self.weightless, &block.input, &block.output)?;
        let child = surgery::compress(&alone, &[(whole.clone(), candidate.substitute.parse()?)])?;
        match surgery::affine_map(&whole, &child) {
            Some(_) => Ok(Some(Part::new(name, child.graph)?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use nettriage_net::arch::{self, ArchSpec};

    use super::super::images::noise;
    use super::super::{Options, Phase, Progress, Scope, Subject, scan};
    use super::*;

    struct Silent;

    impl Progress for Silent {
        fn phase(&self, _phase: Phase, _done: usize, _of: usize) {}
    }

    fn scanned() -> (Network, Scan) {
        let spec = ArchSpec { width: 0.25, ..ArchSpec::named("cifar-resnet20") };
        let graph = arch::build(&spec, Shape::new(3, 8, 8), 10).unwrap();
        let network = Network::initialised(graph, &mut seed::rng("test", &[])).unwrap();
        let images = noise(Shape::new(3, 8, 8), 60);
        let choices = ["conv1x1", "conv3x3", "drop", "narrow50"].map(|name| name.parse().unwrap()).to_vec();
        let options = Options { scope: Scope::Stages, choices, ..Options::default() };
        let found = scan(&Subject { network: &network, fitted: &images, judged: &images }, &options, &Silent).unwrap();
        (network, found)
    }

    #[test]
    fn parts_are_the_units_and_substitutes_and_their_times_are_added_up() {
        let (network, found) = scanned();
        let parts = parts(&network, &found).unwrap();
        let named = |name: &str| parts.iter().find(|part| part.name == name).unwrap();
        // Three residual units of equal shapes are one part.
        assert_eq!(named("layer1.0").count, 3, "{:?}", parts.iter().map(|part| &part.name).collect::<Vec<_>>());
        assert!(!parts.iter().any(|part| part.name == "layer1.1" || part.name.contains("drop")));
        let narrower = named("layer1.0, narrow50");
        assert_eq!(narrower.cost.macs * 2, named("layer1.0").cost.macs);
        assert_eq!(narrower.network().unwrap().graph.output_shape().unwrap(), narrower.output);
        for (place, part) in parts.iter().enumerate() {
            assert!(parts[..place].iter().all(|other| other.key != part.key));
        }
        // By multiply-accumulates as times, times are costs.
        let timed = with_times(&network, &found, &|part| Ok(part.cost.macs as f64)).unwrap();
        assert_eq!(timed.parent.milliseconds, found.parent.cost.macs as f64);
        for range in &timed.ranges {
            assert_eq!(range.milliseconds, range.cost.macs as f64);
            for candidate in &range.candidates {
                assert_eq!(
                    candidate.milliseconds, candidate.cost.macs as f64,
                    "{}, {}",
                    range.name, candidate.substitute
                );
            }
        }
        let error = with_times(&network, &found, &|_| Ok(0.0)).unwrap_err();
        assert!(error.to_string().contains("no time"), "{error}");
    }

    #[test]
    fn keys_do_not_depend_on_names_but_on_what_is_computed() {
        let (network, _) = scanned();
        let units = block::units(&network.graph);
        let cut = Cut::new(&network);
        let keys: Vec<String> = units.iter().map(|unit| cut.unit(unit).unwrap().key).collect();
        let at = |name: &str| units.iter().position(|unit| unit.name == name).unwrap();
        assert_eq!(keys[at("layer1.0")], keys[at("layer1.2")]);
        assert_ne!(keys[at("layer1.0")], keys[at("layer2.1")]);
        // The same layers, but one reads another tensor.
        let mut part = cut.unit(&units[at("layer1.0")]).unwrap();
        let sum = part.graph.layers.iter_mut().find(|layer| layer.inputs.len() == 2).unwrap();
        sum.inputs[1] = sum.inputs[0].clone();
        assert_ne!(key(&part.graph), keys[at("layer1.0")]);
    }
}
