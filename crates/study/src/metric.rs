//! A study of a user-defined metric: the user's program trains the children and measures them, the rest is that of any study.
//!
//! The plan has one scheme, `own`, and no budget: what a training is lies outside nettriage. The parent as it is, the fine-tuned
//! parent, the placebo, the re-initialised and the dropped block are trials like the children.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use nettriage_data::{Dataset, Normalization};
use nettriage_net::init::Init;
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Network, Weights};
use nettriage_records::metric::{Measured, Metric};
use nettriage_records::plan::{Cost, Plan, Role, SchemeSummary, TrialSpec, VERSION};
use nettriage_records::record::{Clock, Outcome, Record};
use nettriage_records::{Run, content_id, unix_time};
use nettriage_train::Device;
use serde_json::json;

use crate::child::{Child, build_child};
use crate::context::StudyContext;
use crate::rate::Rate;
use crate::shared::{Parent, SharedWork};
use crate::study::Study;
use crate::{Error, machine, plan};

/// The scheme of all trials that train.
const OWN: &str = "own";

/// The built-in scheme that the plan is made with: all layers train, so that every control has its place.
const STAND_IN: &str = "global";

/// The version of ids. It stays while equal ids mean equal networks and equal metrics.
const ID_VERSION: u32 = 1;

/// A study whose trials the user's own program trains and measures.
pub struct MetricStudy {
    context: StudyContext,
    plan: Plan,
    parent: Parent,
    /// Weights of substitutes that every seed starts from, by block, substitute and init: they are computed from many images.
    solved: Mutex<BTreeMap<[String; 3], Weights>>,
}

impl MetricStudy {
    /// Plans a study. Of `study` it takes the name, blocks, substitutes, inits, controls, seeds, and the images that inits are
    /// computed from; `images` are these images, normalised as the network takes them.
    ///
    /// # Errors
    /// A metric that cannot judge; an init that needs images where there are none; images or blocks that do not fit the network.
    pub fn new(
        mut study: Study,
        metric: Metric,
        network: Network,
        images: Option<(Dataset, Normalization)>,
    ) -> Result<MetricStudy, Error> {
        if let Some(problem) = metric.problem() {
            return Err(Error::Request(problem));
        }
        if study.children.rate == Rate::Auto {
            return Err(Error::Request(
                "the rate of [children] is \"auto\": in a study of a user-defined metric your own program trains, by a rate of its own; \
                 leave it out"
                    .to_owned(),
            ));
        }
        study.triage.schemes = vec![STAND_IN.to_owned()];
        study.check()?;
        if images.is_none()
            && let Some(init) = study.triage.inits.iter().find(|init| init.needs_images() || init.is_calibrated())
        {
            return Err(Error::Request(format!(
                "init {init} is computed from images: give some, as the network takes them, or choose another init"
            )));
        }
        let (data, normalization) = match images {
            Some(images) => images,
            None => no_images(&network)?,
        };
        let context = StudyContext::without_classes(study, data, normalization, network.clone())?;
        let plan = own_plan(plan(&context)?, metric);
        let id = plan.parents.first().map(|parent| parent.id.clone()).unwrap_or_default();
        let parent =
            Parent { id, network, validation_choices: Vec::new(), test_choices: Vec::new(), validation_top1: 0.0 };
        Ok(MetricStudy { context, plan, parent, solved: Mutex::default() })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The network that a trial starts from.
    ///
    /// # Errors
    /// Images with values that are not finite; a trial of another plan.
    pub fn network(&self, spec: &TrialSpec, threads: usize) -> Result<Network, Error> {
        let key = [&spec.block, &spec.substitute, &spec.init].map(|part| part.clone().unwrap_or_default());
        let init: Option<Init> = spec.init.as_deref().and_then(|init| init.parse().ok());
        let repeats = spec.role == Role::Child && init.is_some_and(|init| !init.is_random());
        let solved = || self.solved.lock().unwrap_or_else(PoisonError::into_inner);
        if repeats
            && let Some(weights) = solved().get(&key).cloned()
            && let Some(block) = self.context.block(&key[0])
            && let Ok(substitute) = key[1].parse::<Substitute>()
        {
            let mut network = surgery::compress(&self.parent.network, &[(block.clone(), substitute)])?;
            network.weights.extend(weights);
            return Ok(network);
        }
        let shared = SharedWork::new(&self.context, 0);
        let Child { network, substitute_layers, .. } = build_child(&shared, &self.parent, spec, threads)?;
        if repeats {
            let own = |name: &str| name.rsplit_once('.').is_some_and(|(layer, _)| substitute_layers.contains(layer));
            let weights = network.weights.iter().filter(|(name, _)| own(name));
            solved().insert(key, weights.map(|(name, tensor)| (name.clone(), tensor.clone())).collect());
        }
        Ok(network)
    }
}

/// Stores the values that the user's program measured for a trial, one per test example.
///
/// # Errors
/// A run of another kind; an unknown trial; a trial with other values; values that [`Metric::problem_of`] refuses.
pub fn record_values(run: &Run, trial: &str, values: Vec<f64>) -> Result<(), Error> {
    let (metric, spec) = open(run, trial)?;
    if let Some(problem) = metric.problem_of(&values) {
        return Err(Error::Request(format!("trial {trial}: {problem}")));
    }
    if let Some(Record { measured: Some(earlier), .. }) = run.record(trial)? {
        if earlier.values == values {
            return Ok(());
        }
        return Err(Error::Request(format!(
            "trial {trial} has other values of {} already: start another folder to measure again",
            metric.name
        )));
    }
    let measured = Measured { values, cost: cost(run.plan(), spec) };
    store(run, spec, Outcome::Done, Some(measured))
}

/// Stores that the user's program could not train a trial. It may be recorded later.
///
/// # Errors
/// A run of another kind; an unknown trial; a trial with values.
pub fn record_failure(run: &Run, trial: &str, reason: &str) -> Result<(), Error> {
    let (_, spec) = open(run, trial)?;
    if run.record(trial)?.is_some_and(|record| record.measured.is_some()) {
        return Err(Error::Request(format!("trial {trial} has its values already")));
    }
    store(run, spec, Outcome::Failed { reason: reason.to_owned() }, None)
}

fn open<'r>(run: &'r Run, trial: &str) -> Result<(&'r Metric, &'r TrialSpec), Error> {
    let folder = run.folder().display();
    let metric = run.plan().metric.as_ref().ok_or_else(|| {
        Error::Request(format!(
            "{folder}: nettriage trains the trials of this run; only a study of a user-defined metric takes values"
        ))
    })?;
    let spec = run.plan().trials.iter().find(|spec| spec.id == trial);
    spec.map(|spec| (metric, spec)).ok_or_else(|| {
        Error::Request(format!("{trial}: no trial of {folder} has this id; give the id of one of its children"))
    })
}

fn store(run: &Run, spec: &TrialSpec, outcome: Outcome, measured: Option<Measured>) -> Result<(), Error> {
    let clock = Clock { finished: unix_time(), machine: Some(machine(&Device::Cpu)), ..Clock::default() };
    Ok(run.write(&Record { version: VERSION, spec: spec.clone(), outcome, readings: None, measured, clock })?)
}

/// The cost of a trial's network, from the plan alone.
fn cost(plan: &Plan, spec: &TrialSpec) -> Cost {
    let sum = |read: fn(&nettriage_records::plan::LayerSummary) -> u64| plan.layers.iter().map(read).sum::<u64>();
    let whole = Cost { parameters: sum(|layer| layer.parameters), macs: sum(|layer| layer.macs) };
    let block = plan.blocks.iter().find(|block| Some(&block.name) == spec.block.as_ref());
    let replaced = match (spec.role, block) {
        (Role::Child | Role::Drop, Some(block)) => block,
        _ => return whole,
    };
    let own = spec.substitute.as_ref().and_then(|name| replaced.substitutes.get(name)).copied().unwrap_or_default();
    Cost {
        parameters: whole.parameters - replaced.parameters + own.parameters,
        macs: whole.macs - replaced.macs + own.macs,
    }
}

/// A plan made with the stand-in scheme as that of the user's metric.
fn own_plan(mut plan: Plan, metric: Metric) -> Plan {
    let blocks: BTreeMap<&String, &Vec<String>> =
        plan.blocks.iter().map(|block| (&block.name, &block.layers)).collect();
    for spec in &mut plan.trials {
        if spec.scheme == STAND_IN {
            OWN.clone_into(&mut spec.scheme);
        }
        spec.budget = None;
        spec.id = content_id(&json!({
            "version": ID_VERSION,
            "loop": OWN,
            "parent": spec.parent,
            "role": spec.role,
            "block": spec.block.as_ref().map(|name| (name, blocks.get(name))),
            "substitute": spec.substitute,
            "init": spec.init,
            "scheme": spec.scheme,
            "metric": metric,
            "seed": spec.seed,
        }));
    }
    plan.budgets.clear();
    plan.schemes = vec![SchemeSummary {
        name: OWN.to_owned(),
        stages: vec!["the user's own program".to_owned()],
        global: true,
        distills: false,
        undistilled: None,
    }];
    plan.data.test = metric.examples;
    plan.metric = Some(metric);
    plan
}

/// A data set that stands for no images: one black image, which nothing is computed from.
fn no_images(network: &Network) -> Result<(Dataset, Normalization), Error> {
    let nettriage_net::Shape { channels, height, width } = network.graph.input;
    let shape = nettriage_data::Shape { channels, height, width };
    let image = || (vec![0; shape.elements()], vec![0]);
    let data = Dataset::from_arrays("none", shape, vec!["none".to_owned()], image(), image())?;
    let normalization = Normalization::new(vec![0.0; channels], vec![1.0; channels], channels);
    Ok((data, normalization.map_err(Error::Request)?))
}

#[cfg(test)]
mod tests {
    use nettriage_net::{Shape, arch, cost};
    use nettriage_records::metric::Better;

    use super::*;

    fn metric() -> Metric {
        Metric { name: "error".to_owned(), unit: String::new(), better: Better::Lower, margin: 0.5, examples: 4 }
    }

    fn study(inits: &str) -> Study {
        let text = format!(
            "name = \"own\"\n[parent]\narch = \"vgg16\"\nfile = \"in memory\"\n[data]\nname = \"none\"\nvalidation = 1\n\
             [children]\nseeds = 2\nimages = 1\nrate = 0.01\ncalibration = 100\n[triage]\ninits = {inits}\n"
        );
        Study::parse(&text, "test").unwrap()
    }

    fn network() -> Network {
        let spec = arch::ArchSpec { plan: Some(vec![vec![4, 4], vec![8, 8]]), ..arch::ArchSpec::named("vgg") };
        let graph = arch::build(&spec, Shape::new(1, 8, 8), 10).unwrap();
        Network::initialised(graph, &mut nettriage_train::seed::rng("test", &[])).unwrap()
    }

    fn digits() -> (Dataset, Normalization) {
        let data = nettriage_data::open("digits", None).unwrap();
        (data, Normalization::new(vec![0.3], vec![0.35], 1).unwrap())
    }

    #[test]
    fn costs_are_those_of_the_networks_and_repeated_networks_are_equal() {
        let own =
            MetricStudy::new(study("[\"least-squares\", \"random\"]"), metric(), network(), Some(digits())).unwrap();
        let plan = own.plan();
        assert!(
            plan.trials.iter().all(|spec| spec.budget.is_none() && (spec.scheme == OWN) != (spec.role == Role::Parent))
        );
        let mut seen: BTreeMap<String, Network> = BTreeMap::new();
        for spec in &plan.trials {
            let first = own.network(spec, 1).unwrap();
            assert_eq!(first.weights, own.network(spec, 1).unwrap().weights, "{spec:?}");
            let total = cost::total(&first.graph).unwrap();
            let planned = super::cost(plan, spec);
            assert_eq!((planned.parameters, planned.macs), (total.parameters, total.macs), "{spec:?}");
            let least_squares = spec.init.as_deref() == Some("least-squares");
            if let Some(other) = seen.insert(format!("{:?}", (spec.role, &spec.block, &spec.init)), first.clone()) {
                let whole = matches!(spec.role, Role::ParentContinued | Role::Placebo | Role::Drop);
                assert_eq!(other.weights == first.weights, least_squares || whole, "{spec:?}");
            }
        }
    }

    #[test]
    fn values_are_recorded_once_and_judged() {
        let folder = tempfile::tempdir().unwrap();
        let own = MetricStudy::new(study("[\"random\"]"), metric(), network(), None).unwrap();
        let run = Run::create(folder.path(), own.plan()).unwrap();
        let ids: Vec<&str> = own.plan().trials.iter().map(|spec| spec.id.as_str()).collect();
        record_values(&run, ids[0], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        record_values(&run, ids[0], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!(record_values(&run, ids[0], vec![1.0, 2.0, 3.0, 5.0]).is_err());
        assert!(record_failure(&run, ids[0], "too late").is_err());
        assert!(record_values(&run, ids[1], vec![1.0; 3]).is_err());
        assert!(record_values(&run, ids[1], vec![f64::NAN; 4]).is_err());
        record_failure(&run, ids[1], "diverged").unwrap();
        record_values(&run, ids[1], vec![0.1; 4]).unwrap();
        assert_eq!(run.record(ids[1]).unwrap().unwrap().measured.unwrap().values, [0.1; 4]);
        let needs_images = MetricStudy::new(study("[\"least-squares\"]"), metric(), network(), None);
        assert!(needs_images.is_err_and(|error| error.to_string().contains("give some")));
    }
}
