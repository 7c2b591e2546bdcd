//! Narrower layers: a convolution with fewer filters, and the layers behind it with fewer channels, where no other layer notices.
//!
//! Inside a residual unit the channels between its convolutions are free: the sum with the shortcut fixes those of the unit's input
//! and output alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::{Error, Graph, Kind, Network, Tensor};

/// How many of the inner channels of a unit remain. In text: `narrow50` for half of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Narrow {
    /// Per cent of the channels, 1 to 99.
    pub percent: usize,
}

impl Narrow {
    /// The number that remains of `channels`: rounded, at least 1.
    pub fn of(self, channels: usize) -> usize {
        ((channels * self.percent + 50) / 100).max(1)
    }
}

impl fmt::Display for Narrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "narrow{}", self.percent)
    }
}

impl FromStr for Narrow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Narrow, Error> {
        let percent = text.strip_prefix("narrow").and_then(|digits| digits.parse().ok());
        let percent = percent.filter(|percent| (1..100).contains(percent));
        let unknown = || Error::Name(format!("no substitute `{text}`; use narrow1 to narrow99, such as narrow50"));
        Ok(Narrow { percent: percent.ok_or_else(unknown)? })
    }
}

impl TryFrom<String> for Narrow {
    type Error = Error;

    fn try_from(text: String) -> Result<Narrow, Error> {
        text.parse()
    }
}

impl From<Narrow> for String {
    fn from(narrow: Narrow) -> String {
        narrow.to_string()
    }
}

/// Two convolutions, with layers between them that treat every channel alone: their channels can be left out one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name of the convolution whose filters they are.
    pub producer: String,
    /// Names of the layers between, in order: norms, activations, dropout, pooling, depthwise convolutions.
    pub through: Vec<String>,
    /// Name of the convolution that reads them.
    pub consumer: String,
    /// Their number.
    pub channels: usize,
}

impl Chain {
    /// The tensor that the consumer reads.
    pub fn tensor(&self) -> &str {
        self.through.last().map_or(self.producer.as_str(), String::as_str)
    }
}

/// The chains inside a block, in the graph's order. Their convolutions are dense, and their tensors have one reader each.
pub fn chains(graph: &Graph, block: &Block) -> Vec<Chain> {
    block.layers.iter().filter_map(|name| chain(graph, block, name)).collect()
}

fn chain(graph: &Graph, block: &Block, producer: &str) -> Option<Chain> {
    let Kind::Conv(conv) = graph.layer(producer)?.kind else { return None };
    if conv.groups != 1 || conv.filters < 2 {
        return None;
    }
    let channels = conv.filters;
    let mut through: Vec<String> = Vec::new();
    let mut tensor = producer;
    loop {
        let reader = only_reader(graph, tensor).filter(|reader| block.layers.contains(&reader.name))?;
        match &reader.kind {
            Kind::Conv(conv) if conv.groups == 1 => {
                let (producer, consumer) = (producer.to_owned(), reader.name.clone());
                return Some(Chain { producer, through, consumer, channels });
            }
            // A depthwise convolution with one filter a channel.
            Kind::Conv(conv) if conv.groups == channels && conv.filters == channels => {}
            Kind::BatchNorm(_)
            | Kind::Affine
            | Kind::Activation(_)
            | Kind::Dropout(_)
            | Kind::MaxPool(_)
            | Kind::AvgPool(_)
            | Kind::Identity => {}
            _ => return None,
        }
        through.push(reader.name.clone());
        tensor = &reader.name;
    }
}

/// The only layer that reads a tensor; none if there are several, or if the tensor is the network's output.
pub fn only_reader<'a>(graph: &'a Graph, tensor: &str) -> Option<&'a crate::Layer> {
    let mut readers = graph.layers.iter().filter(|layer| layer.inputs.iter().any(|input| input == tensor));
    let reader = readers.next()?;
    (readers.next().is_none() && reader.inputs.len() == 1 && graph.output != tensor).then_some(reader)
}

/// The network with only the channels `kept` of a chain, in ascending order; all other weights stay as they are.
///
/// # Errors
/// A chain that is not one of this network; no channel, or one that it does not have.
pub fn narrow(network: &Network, chain: &Chain, kept: &[usize]) -> Result<Network, Error> {
    let mut result = network.clone();
    let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
    if kept.is_empty() || !ascending || kept.last().is_some_and(|last| *last >= chain.channels) {
        let problem = format!("keep at least one of its {} filters, in ascending order", chain.channels);
        return Err(Error::layer(&chain.producer, problem));
    }
    for layer in &mut result.graph.layers {
        let (produces, inside) = (layer.name == chain.producer, chain.through.contains(&layer.name));
        match &mut layer.kind {
            Kind::Conv(conv) if produces => conv.filters = kept.len(),
            Kind::Conv(conv) if inside => (conv.filters, conv.groups) = (kept.len(), kept.len()),
            _ => {}
        }
    }
    for (key, tensor) in &mut result.weights {
        let Some((layer, _)) = key.rsplit_once('.') else { continue };
        // A PReLU may have one slope for all channels.
        let per_channel = tensor.shape.first() == Some(&chain.channels);
        if (layer == chain.producer || chain.through.iter().any(|name| name == layer)) && per_channel {
            *tensor = take(tensor, 0, kept);
        } else if layer == chain.consumer && tensor.shape.get(1) == Some(&chain.channels) {
            *tensor = take(tensor, 1, kept);
        }
    }
    result.check()?;
    Ok(result)
}

/// The network with the first channels of every chain of a block, as many as `how` says: its shapes and costs, with weights that
/// mean nothing.
///
/// # Errors
/// A block without a chain.
pub fn narrowed_shape(network: &Network, block: &Block, how: Narrow) -> Result<Network, Error> {
    let chains = chains(&network.graph, block);
    if chains.is_empty() {
        return Err(Error::block(&block.name, "it has no inner channels that could be left out"));
    }
    let mut result = network.clone();
    for chain in &chains {
        let kept: Vec<usize> = (0..how.of(chain.channels)).collect();
        result = narrow(&result, chain, &kept)?;
    }
    Ok(result)
}

/// The slices `kept` along an axis.
fn take(tensor: &Tensor, axis: usize, kept: &[usize]) -> Tensor {
    let inner: usize = tensor.shape[axis + 1..].iter().product();
    let extent = tensor.shape[axis];
    let mut data = Vec::with_capacity(tensor.data.len() / extent * kept.len());
    for outer in tensor.data.chunks_exact(extent * inner) {
        for &at in kept {
            data.extend_from_slice(&outer[at * inner..(at + 1) * inner]);
        }
    }
    let mut shape = tensor.shape.clone();
    shape[axis] = kept.len();
    Tensor { shape, data }
}
