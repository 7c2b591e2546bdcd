//! The headline: the substitute, init and scheme under which blocks are compared.

use nettriage_records::plan::SchemeSummary;
use serde::{Deserialize, Serialize};

use super::index::{Group, Index};

/// One substitute, init and scheme for all blocks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Headline {
    /// The substitute of every block (shapes may call for different ones).
    pub substitutes: Vec<(String, String)>,
    /// The init.
    pub init: String,
    /// The scheme.
    pub scheme: String,
}

impl Headline {
    /// The substitute of a block.
    pub fn substitute(&self, block: &str) -> Option<&str> {
        self.substitutes.iter().find(|(name, _)| name == block).map(|(_, substitute)| substitute.as_str())
    }

    /// The children of a block.
    pub(crate) fn group<'i, 'a>(&self, index: &'i Index<'a>, block: &str) -> Option<&'i Group<'a>> {
        index.child(block, self.substitute(block)?, &self.init, &self.scheme)
    }

    /// The names of all substitutes, separated by commas.
    pub fn substitute_text(&self) -> String {
        let mut names: Vec<&str> = self.substitutes.iter().map(|(_, substitute)| substitute.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}

/// All combinations with a finished trial for every block, in the plan's order.
pub(crate) fn candidates(index: &Index) -> Vec<Headline> {
    let mut blocks: Vec<&str> = Vec::new();
    for block in &index.data.plan.blocks {
        if index.children().any(|(kind, group)| kind.block == block.name && !group.series.is_empty()) {
            blocks.push(&block.name);
        }
    }
    let mut candidates: Vec<Headline> = Vec::new();
    for (kind, _) in index.children() {
        let of_block = |block: &str| {
            // The same substitute if the block has it, else the block's first.
            let fits = |substitute: &str| {
                index.child(block, substitute, &kind.init, &kind.scheme).is_some_and(|group| !group.series.is_empty())
            };
            let others = index.children().map(|(other, _)| other).filter(|other| other.block == block);
            let substitute =
                std::iter::once(kind).chain(others).map(|kind| &kind.substitute).find(|name| fits(name))?;
            Some((block.to_owned(), substitute.clone()))
        };
        let substitutes: Option<Vec<_>> = blocks.iter().map(|block| of_block(block)).collect();
        let Some(substitutes) = substitutes else { continue };
        let candidate = Headline { substitutes, init: kind.init.clone(), scheme: kind.scheme.clone() };
        if !candidate.substitutes.is_empty() && !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
    }
    candidates
}

/// The combination with the highest mean validation accuracy over blocks, among those with the most finished trials.
///
/// The choice uses the validation set only, so the test accuracy of the chosen combination is unbiased by it. The scheme
/// `none` is chosen only where there is no other.
pub(crate) fn choose(index: &Index, allowed: impl Fn(&SchemeSummary) -> bool) -> Option<Headline> {
    let schemes = &index.data.plan.schemes;
    let scheme_allowed = |name: &str| schemes.iter().find(|scheme| scheme.name == name).is_none_or(&allowed);
    let score = |candidate: &Headline| {
        let groups: Vec<&Group> =
            candidate.substitutes.iter().filter_map(|(block, _)| candidate.group(index, block)).collect();
        let complete = groups.iter().map(|group| group.done.len()).min().unwrap_or(0);
        let mean = |group: &Group| {
            group.done.iter().map(|(_, _, readings)| readings.validation.top1).sum::<f64>() / group.done.len() as f64
        };
        let accuracy = groups.iter().map(|group| mean(group)).sum::<f64>() / groups.len() as f64;
        (candidate.scheme != "none", complete, accuracy)
    };
    let mut best: Option<(Headline, (bool, usize, f64))> = None;
    for candidate in candidates(index).into_iter().filter(|candidate| scheme_allowed(&candidate.scheme)) {
        let score = score(&candidate);
        // Ties go to the first in the plan, so the choice is deterministic.
        if best.as_ref().is_none_or(|(_, highest)| score > *highest) {
            best = Some((candidate, score));
        }
    }
    best.map(|(candidate, _)| candidate)
}
