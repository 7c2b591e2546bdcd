//! How well a scan ranks blocks as training does.

use std::path::Path;

use nettriage_compress::scan::{Options, Progress, Scope};
use nettriage_net::surgery::Substitute;
use nettriage_net::{Graph, Network};
use nettriage_records::Run;
use nettriage_records::scan::Trust;
use nettriage_report::scan::Rankings;
use nettriage_train::without_softmax;

use crate::subject::parent_weights;
use crate::{Choice, Error, ScanBuilder, Subject};

/// The scheme whose criticality a scan's drops are compared with, and the inits of its children.
const TRAINED: (&str, [&str; 2]) = ("global", ["random", "least-squares"]);

/// Refuses runs whose parents are of another structure than a network, or are not trained yet.
///
/// # Errors
/// The first such run; a folder that holds no run.
pub fn check_runs(runs: &[impl AsRef<Path>], network: &Network) -> Result<(), Error> {
    for folder in runs {
        let run = Run::open(folder.as_ref())?;
        let parent = parent_weights(&run, None)?;
        let (own, other) = (&network.graph, &without_softmax(parent).graph);
        let kinds = |graph: &Graph| graph.layers.iter().map(|layer| layer.kind.clone()).collect::<Vec<_>>();
        if own.input != other.input || kinds(own) != kinds(other) {
            return Err(Error::Request(format!(
                "{}: a study of another network ({}), which says nothing of the ranking of this one ({})",
                folder.as_ref().display(),
                other.name,
                own.name
            )));
        }
    }
    Ok(())
}

/// Rank correlation between the drops of a scan and the criticality of trained children, over the parents of these runs:
/// one answer per init. `images` fit and `judged` judge each scan.
///
/// # Errors
/// A folder that holds no run, or whose parent or data set is missing.
pub fn trust(
    runs: &[impl AsRef<Path>],
    data_dir: Option<&Path>,
    images: usize,
    judged: Option<usize>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Trust>, Error> {
    let (scheme, inits) = TRAINED;
    let mut pairs = [Vec::new(), Vec::new()];
    for folder in runs {
        let run = Run::open(folder.as_ref())?;
        for parent in &run.plan().parents {
            let subject = Subject::of_run(&run, Some(parent.seed), data_dir, judged, true)?;
            let conv3x3 = Choice::One(Substitute::Conv { kernel: 3, groups: 1 });
            let scan = ScanBuilder::of(&subject)
                .images(images)
                .options(|own| {
                    *own = Options { scope: Scope::Blocks, choices: vec![conv3x3], ..options.clone() };
                })
                .progress(progress)
                .run()?;
            for (pairs, init) in pairs.iter_mut().zip(inits) {
                let trained = nettriage_report::scan::trained_criticality(&run, &parent.id, scheme, init)?;
                let both = scan.ranges.iter().filter_map(|range| {
                    let block = range.block.as_ref()?;
                    let drop = range.candidates.first()?.drop?[0];
                    Some((drop, *trained.get(block)?))
                });
                let (scanned, trained) = both.unzip();
                pairs.push(Rankings { scanned, trained });
            }
        }
    }
    let answers = pairs.iter().zip(inits);
    Ok(answers.filter_map(|(pairs, init)| nettriage_report::scan::trust(pairs, scheme, init)).collect())
}
