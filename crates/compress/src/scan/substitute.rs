//! A substitute as a network, with its solved weights.

use nettriage_net::block::Block;
use nettriage_net::init::SubstituteLayer;
use nettriage_net::{INPUT, Network, Tensor, init, slice, surgery};

use super::ranges::{Candidate, Range};
use super::regression::Solution;
use crate::Error;

/// A candidate as a network of its own, with its weights.
pub fn substitute(
    network: &Network,
    range: &Range,
    candidate: &Candidate,
    fitted: &Solution,
) -> Result<Network, Error> {
    let whole = Block { input: INPUT.to_owned(), ..range.block.clone() };
    let alone = slice::between(network, &range.block.input, &range.block.output)?;
    let mut child = surgery::compress(&alone, &[(whole.clone(), candidate.substitute)])?;
    fill(&mut child, &whole, fitted)?;
    Ok(child)
}

/// Puts fitted weights into a substitute.
pub fn fill(child: &mut Network, block: &Block, fitted: &Solution) -> Result<(), Error> {
    let layer = SubstituteLayer::of(child, block)?;
    let shape = layer.map(|layer| layer.shape).unwrap_or_default();
    Ok(init::set_affine(child, block, Tensor { shape, data: fitted.weight.clone() }, &fitted.bias)?)
}
