//! The network that a trial trains: the parent with a block replaced, re-initialised or dropped.

use std::collections::BTreeSet;

use nettriage_compress::{LeastSquares, Moments};
use nettriage_engine::Options;
use nettriage_net::block::Block;
use nettriage_net::init::{self, Init, SubstituteLayer};
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Network, Tensor, slice};
use nettriage_records::plan::{Role, TrialSpec};

use nettriage_train::seed;

use crate::Error;
use crate::shared::{ImageSet, Parent, SharedWork};

/// Images of a batch of the least-squares init's sums.
const BATCH: usize = 100;

/// The ridge of the least-squares init, as a share of the mean diagonal element of the patches' centred products.
const RIDGE: f64 = 1e-4;

/// A network under trial.
pub struct Child {
    /// The network.
    pub network: Network,
    /// The block, where the trial is about one.
    pub block: Option<Block>,
    /// The tensor that takes the block's output's place.
    pub block_output: String,
    /// The layers that a stage with `train = "substitute"` trains.
    pub substitute_layers: BTreeSet<String>,
}

/// Builds the network of `spec`, its substitute initialised.
pub fn build_child(shared: &SharedWork<'_>, parent: &Parent, spec: &TrialSpec, threads: usize) -> Result<Child, Error> {
    let block = match &spec.block {
        Some(name) => Some(shared.context.block(name).ok_or_else(|| {
            Error::Request(format!("the plan names block `{name}`, which this network does not have: plan again"))
        })?),
        None => None,
    };
    let Some(block) = block else {
        // A placebo is built as a child is, with no layer replaced.
        let network = match spec.role {
            Role::Placebo => surgery::compress(&parent.network, &[])?,
            _ => parent.network.clone(),
        };
        let block_output = network.graph.output.clone();
        return Ok(Child { network, block: None, block_output, substitute_layers: BTreeSet::new() });
    };
    let child = |network: Network, block_output: String, substitute_layers: Vec<String>| Child {
        network,
        block: Some(block.clone()),
        block_output,
        substitute_layers: substitute_layers.into_iter().collect(),
    };
    let kept = |network| child(network, block.output.clone(), block.layers.clone());
    // Of everything but the scheme, so that the schemes of a seed start from the same weights.
    let number = spec.seed.to_string();
    let identity = [&spec.parent, &block.name, &number].map(String::as_str);
    match spec.role {
        Role::Parent | Role::ParentContinued | Role::Placebo => Ok(kept(parent.network.clone())),
        Role::Reinit => {
            let mut rng = seed::rng("re-initialised block", &identity);
            Ok(kept(surgery::reinit(&parent.network, block, &mut rng)?))
        }
        Role::Drop => {
            let network = surgery::compress(&parent.network, &[(block.clone(), Substitute::Drop)])?;
            Ok(child(network, block.input.clone(), Vec::new()))
        }
        Role::Child => {
            let (substitute, init) = child_choices(spec)?;
            let mut network = surgery::compress(&parent.network, &[(block.clone(), substitute)])?;
            let layers = surgery::substitute_layers(block, &network);
            let output = layers.last().cloned().unwrap_or_else(|| block.input.clone());
            let mut child = child(network.clone(), output, layers);
            match init {
                Init::LeastSquares => {
                    let (weight, bias) = least_squares(shared, parent, block, substitute, &child, threads)?;
                    init::set_affine(&mut network, block, weight, &bias)?;
                }
                init => {
                    let mut rng = seed::rng("substitute's weights", &identity);
                    init::apply(init, &mut network, &parent.network, block, &mut rng)?;
                }
            }
            if init.is_calibrated() {
                calibrate(shared, parent, block, &mut network, &child, threads)?;
            }
            child.network = network;
            Ok(child)
        }
    }
}

fn child_choices(spec: &TrialSpec) -> Result<(Substitute, Init), Error> {
    let unknown = |what: &str| Error::Request(format!("trial {}: {what}: plan again with this version", spec.id));
    let substitute = spec.substitute.as_deref().and_then(|s| s.parse().ok());
    let init = spec.init.as_deref().and_then(|i| i.parse().ok());
    Ok((substitute.ok_or_else(|| unknown("unknown substitute"))?, init.ok_or_else(|| unknown("unknown init"))?))
}

impl Child {
    /// What stands in the block's place, as a network of its own; none without a block.
    pub fn substitute(&self) -> Option<Result<Network, Error>> {
        let block = self.block.as_ref()?;
        Some(slice::between(&self.network, &block.input, &self.block_output).map_err(Error::from))
    }

    /// The last convolution or linear layer of a substitute that is an affine map.
    pub fn weighted_layer(&self) -> Option<String> {
        let product = surgery::last_product(self.block.as_ref()?, &self.network.graph)?;
        self.substitute_layers.contains(&product).then_some(product)
    }
}

/// Weight and bias of the substitute's affine map, as [`init::set_affine`] takes them.
fn least_squares(
    shared: &SharedWork<'_>,
    parent: &Parent,
    block: &Block,
    substitute: Substitute,
    child: &Child,
    threads: usize,
) -> Result<(Tensor, Vec<f32>), Error> {
    let graph = &parent.network.graph;
    let layer = SubstituteLayer::of(&child.network, block)?.zip(surgery::affine_map(block, &child.network));
    let (layer, map) = layer
        .ok_or_else(|| Error::Request(format!("least squares needs a layer with weights; {substitute} has none")))?;
    let target = init::target_tensor(graph, block);
    let (input, output) = (graph.shape_of(&block.input)?, graph.shape_of(&target)?);
    // The solution is the same for every scheme and seed, so it is kept as one row: weights, then biases.
    let count = layer.elements();
    let solve = || -> Result<Vec<f32>, Error> {
        let mut sums = LeastSquares::new(map, input, output);
        let activations = |tensor| shared.activations(&parent.request(tensor, ImageSet::Calibration, BATCH, threads));
        let (mut x, mut y) = (activations(block.input.as_str())?, activations(target.as_str())?);
        for start in (0..x.len()).step_by(BATCH) {
            let range = start..x.len().min(start + BATCH);
            sums.add(x.values(range.clone())?, y.values(range)?);
        }
        let (weight, bias) = sums.solve(RIDGE).ok_or_else(|| {
            Error::Request("least squares: the block's input holds values that are not finite".to_owned())
        })?;
        Ok(weight.into_iter().chain(bias).collect())
    };
    let row = shared.memoise(&parent.id, &block.name, &substitute.to_string(), count + output.channels, solve)?;
    Ok((Tensor::new(&layer.shape, row[..count].to_vec()), row[count..].to_vec()))
}

/// Gives the substitute's norm the running statistics of its convolution's output, its function unchanged.
fn calibrate(
    shared: &SharedWork<'_>,
    parent: &Parent,
    block: &Block,
    network: &mut Network,
    child: &Child,
    threads: usize,
) -> Result<(), Error> {
    let Some(product) = child.weighted_layer() else { return Ok(()) };
    let convolution = slice::between(network, &block.input, &product)?;
    let channels = convolution.graph.output_shape()?.channels;
    let exact = shared.context.study.children.exact;
    let options = Options { threads, exact, ..Options::inference(BATCH) };
    let mut model = shared.context.device().model(&convolution, &options)?;
    let mut inputs = shared.activations(&parent.request(&block.input, ImageSet::Calibration, BATCH, threads))?;
    let mut moments = Moments::new(channels);
    for start in (0..inputs.len()).step_by(BATCH) {
        moments.add(model.forward(inputs.batch(start..inputs.len().min(start + BATCH))?)?);
    }
    let [mean, variance] = moments.finish();
    Ok(init::calibrate(network, block, &mean, &variance)?)
}
