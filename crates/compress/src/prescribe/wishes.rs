//! Ranges that a user wants to keep or to replace, by name.

use nettriage_net::{Graph, block};
use nettriage_records::scan::Scan;

use super::choose::Fixed;
use crate::Error;
use crate::scan::{Options, replaceable};

/// Names of ranges, as a scan prints them: a unit, `FIRST_to_LAST`, or a default block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Ranges that stay as they are.
    pub keep: Vec<String>,
    /// Ranges that one layer each replaces.
    pub replace: Vec<String>,
}

impl Wishes {
    /// The ranges of a network, before it is scanned.
    ///
    /// # Errors
    /// A name that is none of its ranges; wishes that contradict each other; a range that no single layer can replace.
    pub fn resolve(&self, graph: &Graph, options: &Options) -> Result<Fixed, Error> {
        let spans = |names: &[String]| names.iter().map(|name| span(graph, name)).collect::<Result<Vec<_>, _>>();
        let fixed = Fixed { keep: spans(&self.keep)?, replace: spans(&self.replace)? };
        let overlap = |a: &[usize; 2], b: &[usize; 2]| a[0] <= b[1] && b[0] <= a[1];
        for (place, range) in fixed.replace.iter().enumerate() {
            let name = &self.replace[place];
            if let Some(kept) = fixed.keep.iter().position(|kept| overlap(kept, range)) {
                return Err(Error::Request(format!("--replace {name} and --keep {} overlap", self.keep[kept])));
            }
            if let Some(other) = fixed.replace[..place].iter().position(|other| overlap(other, range)) {
                return Err(Error::Request(format!("--replace {name} and --replace {} overlap", self.replace[other])));
            }
        }
        if !fixed.replace.is_empty() {
            let possible = replaceable(graph, options)?;
            if let Some(place) = fixed.replace.iter().position(|range| !possible.contains(range)) {
                return Err(no_candidate(&self.replace[place]));
            }
        }
        Ok(fixed)
    }

    /// Checks that a scan has candidates for every range to replace.
    ///
    /// # Errors
    /// The first range without.
    pub fn check(&self, fixed: &Fixed, scan: &Scan) -> Result<(), Error> {
        let scanned = |range: &[usize; 2]| scan.ranges.iter().any(|r| r.units == *range && !r.candidates.is_empty());
        match fixed.replace.iter().position(|range| !scanned(range)) {
            Some(place) => Err(no_candidate(&self.replace[place])),
            None => Ok(()),
        }
    }
}

fn no_candidate(name: &str) -> Error {
    Error::Request(format!(
        "--replace {name}: none of the --substitutes fits this range and saves anything; name another range or layer"
    ))
}

/// First and last unit of a range.
fn span(graph: &Graph, name: &str) -> Result<[usize; 2], Error> {
    let units = block::units(graph);
    let unit = |name: &str| units.iter().position(|unit| unit.name == name);
    if let Some(at) = unit(name) {
        return Ok([at, at]);
    }
    // Names of units may hold the separator too.
    let splits = name.match_indices(block::TO).filter_map(|(at, to)| {
        let [first, last] = [unit(&name[..at])?, unit(&name[at + to.len()..])?];
        (first <= last).then_some([first, last])
    });
    if let Some(span) = splits.into_iter().next() {
        return Ok(span);
    }
    let blocks = block::find(graph);
    let ends = blocks.iter().find(|block| block.name == name).and_then(|block| {
        let position = |layer: Option<&String>| graph.position(layer?);
        let (first, last) = (position(block.layers.first())?, position(block.layers.last())?);
        let start = units.iter().position(|unit| unit.start == first)?;
        Some([start, units.iter().position(|unit| unit.end == last + 1)?])
    });
    ends.ok_or_else(|| {
        let names: Vec<String> = units.iter().map(|unit| unit.name.clone()).collect();
        let (first, last) = (&names[0], &names[names.len() - 1]);
        Error::Request(format!(
            "no range `{name}`; `nettriage scan` prints them: one of {}, or two of these joined, such as {first}{}{last}",
            nettriage_net::shorten(&names),
            block::TO
        ))
    })
}
