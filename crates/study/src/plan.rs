//! The plan: a pure function of study file, network and data set.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use nettriage_formats::safetensors;
use nettriage_net::block::Block;
use nettriage_net::init::Init;
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Graph, Network, Shape, Weights, cost, shorten};
use nettriage_records::plan::{
    BlockSummary, BudgetSummary, Cost, DataSummary, LayerSummary, ParentSpec, Plan, RangeTestSpec, Role, SchemeSummary,
    Trainings, TrialSpec, VERSION,
};
use nettriage_records::{Canonical, content_id};
use nettriage_train::scheme::{Scheme, Train};
use nettriage_train::seed;
use serde_json::json;

use crate::Error;
use crate::budget::ChildBudget;
use crate::context::StudyContext;
use crate::limits::TRIALS;
use crate::rate::{RULE_VERSION, Rate};
use crate::study::{Children, Keep, Study, ValidationFrom};

/// The version of ids. It stays while equal ids mean equal results, whatever the version of the files is.
///
/// Ids have no member for nettriage's own engine, in f32. Another engine with its precision is a member of its own, so that its
/// parents and trials have ids of their own.
const ID_VERSION: u32 = 1;

/// Everything that the study will do.
pub fn plan(context: &StudyContext) -> Result<Plan, Error> {
    let study = &context.study;
    let schemes: Vec<Scheme> = study.triage.schemes.iter().filter_map(|name| study.scheme(name)).collect();
    let budgets = context.budgets()?;
    let images: Vec<usize> = budgets.iter().map(|(_, images)| *images).collect();
    check_count(study, context.blocks.len(), budgets.len())?;
    let parents = parents(context)?;
    let range_tests = range_tests(context, &parents);
    let blank = blank(&context.graph)?;
    let blocks = context.blocks.iter().map(|b| summarise_block(context, &blank, b)).collect::<Result<Vec<_>, _>>()?;
    check_inits(context, &blank)?;
    let trials = Trials {
        context,
        schemes: &schemes,
        blocks: &blocks,
        blank: &blank,
        known: RefCell::default(),
        keys: Keys::of(context, &schemes, &images, &range_tests),
        budgets: &budgets,
    }
    .of(&parents);
    Ok(Plan {
        version: VERSION,
        name: study.name.clone(),
        study: context.text.clone(),
        engine: context.device().engine(),
        data: DataSummary {
            name: context.data.name.clone(),
            checksum: context.data.checksum.clone(),
            classes: context.data.classes.clone(),
            shape: [context.data.channels, context.data.height, context.data.width],
            mean: context.normalization.mean.clone(),
            std: context.normalization.std.clone(),
            train: context.train.len(),
            validation: context.validation.len(),
            test: context.test.len(),
        },
        budgets: budgets
            .iter()
            .map(|(budget, images)| BudgetSummary { name: budget.train.to_string(), images: *images })
            .collect(),
        layers: layers(context)?,
        schemes: schemes.iter().map(|s| summarise_scheme(s, &schemes, &images)).collect(),
        blocks,
        parents,
        range_tests,
        trials,
        margin: study.children.recovery_margin(),
        metric: None,
    })
}

/// Refuses a plan of too many trials, by an upper bound of their number.
fn check_count(study: &Study, blocks: usize, budgets: usize) -> Result<(), Error> {
    let triage = &study.triage;
    let (schemes, children) = (triage.schemes.len(), triage.inits.len() * triage.substitutes().len());
    // Every block has its children and three controls, every seed two more.
    let of_seed = schemes as f64 * (blocks as f64 * (children + 3) as f64 + 2.0);
    let trials = study.parent.seeds as f64 * (1.0 + study.children.seeds as f64 * budgets as f64 * of_seed);
    match TRIALS.problem(trials) {
        Some(remedy) => Err(Error::Request(format!(
            "the study has up to {trials} trials: {remedy}; lower the seeds, or leave inits or schemes out"
        ))),
        None => Ok(()),
    }
}

/// What a reader should know of a plan: which substitutes have more parameters than what they replace, and which inits do not
/// apply to which.
pub fn notes(context: &StudyContext, plan: &Plan) -> Result<Vec<String>, Error> {
    let (triage, mut notes) = (&context.study.triage, Vec::new());
    let blank = blank(&context.graph)?;
    // A collapse takes time: only what has no trial is tried again, for its reason.
    let children = plan.trials.iter().filter(|trial| trial.role == Role::Child);
    let kinds: BTreeSet<_> = children.map(|trial| [&trial.block, &trial.substitute, &trial.init]).collect();
    for &substitute in triage.substitutes() {
        let name = substitute.to_string();
        let larger: Vec<String> = (plan.blocks.iter())
            .filter_map(|block| Some((block, block.substitutes.get(&name)?)))
            .filter(|(block, own)| own.parameters > block.parameters)
            .map(|(block, own)| format!("{} ({} for {})", block.name, own.parameters, block.parameters))
            .collect();
        if !larger.is_empty() {
            notes.push(format!("{name} has more parameters than what it replaces: {}", shorten(&larger)));
        }
        for &init in &triage.inits {
            let problems = plan.blocks.iter().filter_map(|block| {
                let kind = [block.name.clone(), name.clone(), init.to_string()].map(Some);
                if kinds.contains(&kind.each_ref()) {
                    return None;
                }
                let problem = applies(context, &blank, &block.name, substitute, init).err()?;
                Some((block.name.clone(), problem.to_string()))
            });
            let (blocks, problems): (Vec<String>, Vec<String>) = problems.unzip();
            if let Some(problem) = problems.first() {
                let blocks = shorten(&blocks);
                notes.push(format!("init {init} is left out for {name} at {blocks}: {problem}"));
            }
        }
    }
    Ok(notes)
}

/// Whether shapes permit a substitute and an init at a block, or why not.
fn applies(
    context: &StudyContext,
    blank: &Network,
    block: &str,
    substitute: Substitute,
    init: Init,
) -> Result<(), Error> {
    let missing = || Error::Request(format!("there is no block {block}"));
    let block = context.block(block).ok_or_else(missing)?;
    let mut child = surgery::compress(blank, &[(block.clone(), substitute)])?;
    if substitute == Substitute::Drop || init.needs_images() && substitute.is_affine() {
        return Ok(());
    }
    let mut rng = seed::rng("blank", &[]);
    Ok(nettriage_net::init::apply(init, &mut child, blank, block, &mut rng)?)
}

/// Refuses a substitute to which no init of the study applies at any block.
fn check_inits(context: &StudyContext, blank: &Network) -> Result<(), Error> {
    let triage = &context.study.triage;
    for &substitute in triage.substitutes() {
        let mut last = None;
        let tried = context.blocks.iter().flat_map(|block| triage.inits.iter().map(move |init| (block, *init)));
        for (block, init) in tried {
            match applies(context, blank, &block.name, substitute, init) {
                Ok(()) => {
                    last = None;
                    break;
                }
                Err(error) => last = Some((init, error)),
            }
        }
        if let Some((init, error)) = last {
            return Err(Error::Request(format!(
                "[triage] no init applies to `{substitute}` ({init}: {error}): add `random` to `inits`"
            )));
        }
    }
    Ok(())
}

/// The graph with weights of zero: enough for surgery and costs.
fn blank(graph: &Graph) -> Result<Network, Error> {
    let mut rng = seed::rng("blank", &[]);
    Ok(Network::initialised(graph.clone(), &mut rng)?)
}

fn shape(s: Shape) -> [usize; 3] {
    [s.channels, s.height, s.width]
}

fn layers(context: &StudyContext) -> Result<Vec<LayerSummary>, Error> {
    let graph = &context.graph;
    let (shapes, costs) = (graph.shapes()?, cost::per_layer(graph)?);
    let block = |name: &String| context.blocks.iter().find(|b| b.layers.contains(name)).map(|b| b.name.clone());
    let summary = |((layer, output), cost): ((&nettriage_net::Layer, &Shape), &cost::LayerCost)| LayerSummary {
        name: layer.name.clone(),
        kind: layer.describe(),
        shape: shape(*output),
        parameters: cost.parameters,
        macs: cost.macs,
        block: block(&layer.name),
    };
    Ok(graph.layers.iter().zip(&shapes).zip(&costs).map(summary).collect())
}

fn summarise_block(context: &StudyContext, blank: &Network, block: &Block) -> Result<BlockSummary, Error> {
    let graph = &context.graph;
    let costs = cost::per_layer(graph)?;
    let inside = graph.layers.iter().zip(&costs).filter(|(layer, _)| block.layers.contains(&layer.name));
    let sum = inside.fold(Cost::default(), |sum, (_, cost)| Cost {
        parameters: sum.parameters + cost.parameters,
        macs: sum.macs + cost.macs,
    });
    let mut substitutes = BTreeMap::new();
    for &substitute in context.study.triage.substitutes() {
        let child = surgery::compress(blank, &[(block.clone(), substitute)])?;
        let own = surgery::substitute_layers(block, &child);
        let costs = cost::per_layer(&child.graph)?;
        let own = child.graph.layers.iter().zip(&costs).filter(|(layer, _)| own.contains(&layer.name));
        let cost = own.fold(Cost::default(), |sum, (_, cost)| Cost {
            parameters: sum.parameters + cost.parameters,
            macs: sum.macs + cost.macs,
        });
        substitutes.insert(substitute.to_string(), cost);
    }
    Ok(BlockSummary {
        name: block.name.clone(),
        layers: block.layers.clone(),
        input: shape(graph.shape_of(&block.input)?),
        output: shape(graph.shape_of(&block.output)?),
        parameters: sum.parameters,
        macs: sum.macs,
        substitutes,
    })
}

fn summarise_scheme(scheme: &Scheme, all: &[Scheme], budgets: &[usize]) -> SchemeSummary {
    let undistilled = scheme.undistilled();
    let twin = all.iter().find(|s| scheme.distills() && s.stages == undistilled);
    SchemeSummary {
        name: scheme.name.clone(),
        stages: scheme.describe(budgets),
        global: scheme.is_global(),
        distills: scheme.distills(),
        undistilled: twin.map(|s| s.name.clone()),
    }
}

/// Everything about the data that determines a result.
fn data_key(context: &StudyContext) -> serde_json::Value {
    let data = &context.study.data;
    let mut key = json!({
        "checksum": context.data.checksum,
        "validation": data.validation,
        "train": data.train,
        "augment": data.augment,
        "mean": context.normalization.mean,
        "std": context.normalization.std,
    });
    // Left out where it is the default, so that ids stay as they were.
    if data.validation_from == ValidationFrom::Test {
        key["validation_from"] = json!("test");
    }
    key
}

fn parents(context: &StudyContext) -> Result<Vec<ParentSpec>, Error> {
    let key = |network: serde_json::Value, seed: u64| {
        let exact = context.study.children.exact;
        let mut key = json!({
            "version": ID_VERSION, "data": data_key(context), "network": network, "seed": seed, "exact": exact
        });
        if let Some(engine) = context.device().engine() {
            key["engine"] = json!(engine);
        }
        ParentSpec { id: content_id(&key), seed }
    };
    if let Some(network) = &context.given {
        let bytes = safetensors::to_bytes(network)?;
        return Ok(vec![key(json!({ "file": seed::digest_hex(&bytes) }), 0)]);
    }
    let training = &context.study.parent.training;
    let mut network = json!({ "graph": context.graph, "training": training });
    if training.as_ref().is_some_and(|training| training.rate == Rate::Auto) {
        network["range_test"] = json!(RULE_VERSION);
    }
    // Left out where there are none, so that ids stay as they were.
    if !context.constants.is_empty() {
        network["constants"] = json!(digests(&context.constants));
    }
    Ok((0..context.study.parent.seeds).map(|seed| key(network.clone(), seed)).collect())
}

/// The range tests of the study, which follow from its first parent.
fn range_tests(context: &StudyContext, parents: &[ParentSpec]) -> Vec<RangeTestSpec> {
    let Some(first) = parents.first() else { return Vec::new() };
    let training = context.study.parent.training.as_ref().filter(|_| context.given.is_none());
    let test = |of: Trainings, settings: serde_json::Value| RangeTestSpec {
        id: content_id(&json!({ "range_test": RULE_VERSION, "of": of, "parent": first.id, "settings": settings })),
        of,
    };
    let of_parents = training.is_some_and(|training| training.rate == Rate::Auto);
    // Not the budgets: a trial has the same id in studies that differ in these.
    let settings = || json!(without_choices(context.study.children.with_budget(0)));
    let of_children = context.study.children.rate == Rate::Auto;
    let tests = [
        of_parents.then(|| test(Trainings::Parents, json!(null))),
        of_children.then(|| test(Trainings::Children, settings())),
    ];
    tests.into_iter().flatten().collect()
}

/// The settings of children that decide results: not the number of seeds, nor which weights are kept.
fn without_choices(children: Children) -> Children {
    Children { seeds: 0, keep: Keep::Nothing, keep_sample: None, ..children }
}

/// The ids of `count` of a plan's trials, those whose hashes are the smallest: a sample that depends on no result.
pub(crate) fn sample(plan: &Plan, count: usize) -> HashSet<&str> {
    let hash = |id: &str| seed::seed("sample of kept networks", &[id]);
    let mut ids: Vec<(u64, &str)> = plan.trials.iter().map(|trial| (hash(&trial.id), trial.id.as_str())).collect();
    ids.sort_unstable();
    ids.into_iter().take(count).map(|(_, id)| id).collect()
}

/// The digest of every tensor's values.
fn digests(weights: &Weights) -> BTreeMap<&str, String> {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    weights.iter().map(|(name, tensor)| (name.as_str(), seed::digest_hex(&bytes(&tensor.data)))).collect()
}

struct Trials<'a> {
    context: &'a StudyContext,
    schemes: &'a [Scheme],
    blocks: &'a [BlockSummary],
    blank: &'a Network,
    /// The budgets with their images, the smallest first.
    budgets: &'a [(ChildBudget, usize)],
    /// Which substitutes and inits the shapes permit; every seed and scheme needs the answer.
    known: RefCell<BTreeMap<(String, String, String), bool>>,
    keys: Keys,
}

/// The parts of trial ids that several trials have in common.
struct Keys {
    version: Canonical,
    engine: Option<Canonical>,
    /// By the images of a budget.
    children: BTreeMap<usize, Canonical>,
    test: Canonical,
    /// The range test that finds the largest learning rate; none where the study gives it.
    range_test: Option<Canonical>,
    stages: BTreeMap<String, Canonical>,
    blocks: BTreeMap<String, Canonical>,
}

impl Keys {
    fn of(context: &StudyContext, schemes: &[Scheme], budgets: &[usize], range_tests: &[RangeTestSpec]) -> Keys {
        let study = &context.study;
        // The parents' own controls are untrained, whatever the schemes are.
        let names = schemes.iter().map(|s| s.name.as_str()).chain(["none"]);
        let mut ends: Vec<&String> = context.blocks.iter().map(|block| &block.output).collect();
        ends.sort();
        let stages = |name: &str| match study.scheme(name) {
            // The other blocks decide the result too.
            Some(scheme) if scheme.compares_blocks() => Canonical::of(&(scheme.stages, &ends)),
            scheme => Canonical::of(&scheme.map(|s| s.stages)),
        };
        Keys {
            version: Canonical::of(&ID_VERSION),
            engine: context.device().engine().map(|engine| Canonical::of(&engine)),
            // The number of seeds, what is kept and the other budgets decide no result.
            children: budgets
                .iter()
                .map(|&images| (images, Canonical::of(&without_choices(study.children.with_budget(images)))))
                .collect(),
            test: Canonical::of(&study.data.test),
            range_test: range_tests.iter().find(|test| test.of == Trainings::Children).map(|t| Canonical::of(&t.id)),
            stages: names.map(|name| (name.to_owned(), stages(name))).collect(),
            blocks: context.blocks.iter().map(|b| (b.name.clone(), Canonical::of(&(&b.name, &b.layers)))).collect(),
        }
    }
}

impl Trials<'_> {
    /// Parent by parent, seed by seed, block by block: trials that share activations follow one another.
    fn of(&self, parents: &[ParentSpec]) -> Vec<TrialSpec> {
        let mut trials = Vec::new();
        for parent in parents {
            trials.push(self.spec(Role::Parent, parent, None, None, "none", (0, 0)));
            for (at, (budget, _)) in self.budgets.iter().enumerate() {
                for seed in 0..self.context.study.children.seeds {
                    let run = (at, seed);
                    let whole = self.controls(budget, &self.context.study.triage.parent_continued);
                    let whole = whole.filter(|s| s.is_global());
                    trials.extend(whole.map(|s| self.spec(Role::ParentContinued, parent, None, None, &s.name, run)));
                    let placebo = self.controls(budget, &self.context.study.triage.placebo);
                    let placebo = placebo.filter(|s| s.is_global());
                    trials.extend(placebo.map(|s| self.spec(Role::Placebo, parent, None, None, &s.name, run)));
                    for block in self.blocks {
                        self.of_block(parent, block, run, &mut trials);
                    }
                }
            }
        }
        trials
    }

    /// The trials of a block under one budget, by its place, and seed.
    fn of_block(&self, parent: &ParentSpec, block: &BlockSummary, run: (usize, u64), trials: &mut Vec<TrialSpec>) {
        let (at, seed) = run;
        let budget = &self.budgets[at].0;
        let triage = &self.context.study.triage;
        let name = Some(block.name.as_str());
        for &substitute in triage.substitutes() {
            for &init in triage.inits.iter().filter(|init| budget.has_init(&init.to_string())) {
                for scheme in self.schemes.iter().filter(|scheme| self.runs(at, scheme)) {
                    // Untrained and not random: every seed would give the same.
                    let once = scheme.stages.is_empty() && !init.is_random();
                    if self.possible(block, substitute, init) && !(once && seed > 0) {
                        let how = Some((substitute, init));
                        trials.push(self.spec(Role::Child, parent, name, how, &scheme.name, run));
                    }
                }
            }
        }
        // Where only the substitute trains, the control of equal budget trains the block in its place.
        let local = self.controls(budget, &triage.parent_continued).filter(|s| !s.is_global());
        trials.extend(local.map(|s| self.spec(Role::ParentContinued, parent, name, None, &s.name, run)));
        let reinit = self.controls_or_none(&triage.reinit).filter(|scheme| self.runs(at, scheme));
        trials.extend(reinit.map(|s| self.spec(Role::Reinit, parent, name, None, &s.name, run)));
        if self.possible(block, Substitute::Drop, Init::Identity) {
            // Nothing is left in the block's place that a stage could train alone.
            let trainable = |s: &&Scheme| s.stages.iter().all(|stage| stage.train == Train::All);
            let drop = self.controls_or_none(&triage.drop).filter(trainable);
            let drop = drop.filter(|s| self.runs(at, s) && !(s.stages.is_empty() && seed > 0));
            trials.extend(drop.map(|s| self.spec(Role::Drop, parent, name, None, &s.name, run)));
        }
    }

    /// Whether trials of a scheme are made under a budget, by its place. Without training every budget would give the same.
    fn runs(&self, at: usize, scheme: &Scheme) -> bool {
        if scheme.stages.is_empty() { at == 0 } else { self.budgets[at].0.has_scheme(&scheme.name) }
    }

    /// The schemes of a control that trains.
    fn controls<'b>(
        &'b self,
        budget: &'b ChildBudget,
        names: &'b Option<Vec<String>>,
    ) -> impl Iterator<Item = &'b Scheme> {
        self.controls_or_none(names).filter(|s| !s.stages.is_empty() && budget.has_scheme(&s.name))
    }

    fn controls_or_none<'b>(&'b self, names: &'b Option<Vec<String>>) -> impl Iterator<Item = &'b Scheme> {
        self.schemes.iter().filter(move |s| names.as_ref().is_none_or(|names| names.contains(&s.name)))
    }

    /// Whether shapes permit the substitute and the init at that block.
    fn possible(&self, block: &BlockSummary, substitute: Substitute, init: Init) -> bool {
        let key = (block.name.clone(), substitute.to_string(), init.to_string());
        let known = self.known.borrow().get(&key).copied();
        known.unwrap_or_else(|| {
            let possible = applies(self.context, self.blank, &block.name, substitute, init).is_ok();
            self.known.borrow_mut().insert(key, possible);
            possible
        })
    }

    fn spec(
        &self,
        role: Role,
        parent: &ParentSpec,
        block: Option<&str>,
        how: Option<(Substitute, Init)>,
        scheme: &str,
        (at, seed): (usize, u64),
    ) -> TrialSpec {
        let (substitute, init) = match how {
            Some((substitute, init)) => (Some(substitute.to_string()), Some(init.to_string())),
            None => (None, None),
        };
        let Keys { version, engine, children, test, range_test, stages, blocks } = &self.keys;
        let images = self.budgets[at].1;
        let trains = self.schemes.iter().any(|s| s.name == scheme && !s.stages.is_empty());
        let nothing = Canonical::of(&());
        let (parent_key, role_key, seed_key) = (Canonical::of(&parent.id), Canonical::of(&role), Canonical::of(&seed));
        let (substitute_key, init_key) = (Canonical::of(&substitute), Canonical::of(&init));
        let mut members = vec![
            ("version", version),
            ("parent", &parent_key),
            ("role", &role_key),
            ("block", block.and_then(|name| blocks.get(name)).unwrap_or(&nothing)),
            ("substitute", &substitute_key),
            ("init", &init_key),
            ("stages", stages.get(scheme).unwrap_or(&nothing)),
            ("children", &children[&images]),
            ("test", test),
            ("seed", &seed_key),
        ];
        members.extend(engine.as_ref().map(|engine| ("engine", engine)));
        members.extend(range_test.as_ref().map(|test| ("range_test", test)));
        let id = Canonical::object(members).id();
        TrialSpec {
            id,
            role,
            parent: parent.id.clone(),
            block: block.map(str::to_owned),
            substitute,
            init,
            scheme: scheme.to_owned(),
            budget: trains.then_some(images),
            seed,
        }
    }
}
