//! Budgets: several in one study, in any unit, with ids and records that do not depend on the other budgets.

mod common;

use std::collections::BTreeMap;

use common::{Place, digests, nettriage, refused, succeeded};
use nettriage_records::Run;

const STUDY: &str = r#"
name = "budgets"
[data]
name = "digits"
validation = 100
train = 300
test = 100
augment = { pad = 1 }
[parent]
arch = "vgg"
plan = [[6, 6], [8, 8]]
[parent.training]
steps = 20
batch = 32
rate = 0.05
[children]
seeds = 2
BUDGET
batch = 32
rate = 0.02
curve = 2
calibration = 100
keep = "network"
[triage]
inits = ["random", "least-squares"]
schemes = ["none", "local", "global"]
"#;

fn study(budget: &str) -> String {
    STUDY.replace("BUDGET", budget)
}

/// The records and weights of trials and parents, by their files' names.
fn complete(budget: &str) -> (Place, BTreeMap<String, String>) {
    let place = Place::new(&study(budget));
    let found = place.complete("run", &[]);
    (place, found)
}

#[test]
fn a_trial_is_the_same_in_a_study_of_one_budget_and_of_several() {
    let (place, several) = complete(
        "budgets = [\"1 epoch\", \"3 steps\", { train = \"600 images\", schemes = [\"global\"], inits = [\"random\"] }]",
    );
    let run = Run::open(&place.path("run")).unwrap();
    let budgets: Vec<(&str, usize)> = run.plan().budgets.iter().map(|b| (b.name.as_str(), b.images)).collect();
    assert_eq!(budgets, [("3 steps", 96), ("1 epoch", 300), ("600 images", 600)]);
    let mut of_one = 0;
    for one in ["images = 96", "steps = 3", "epochs = 1", "images = 300", "images = 600"] {
        let (place, single) = complete(one);
        let run = Run::open(&place.path("run")).unwrap();
        for trial in run.plan().trials.iter().filter(|trial| trial.budget.is_some()) {
            let file = format!("trials/{}.json", trial.id);
            // The largest budget has one scheme and one init in the study of several; controls of inits are there.
            if one == "images = 600" && !several.contains_key(&file) {
                assert!(trial.scheme == "local" || trial.init.as_deref() == Some("least-squares"));
                continue;
            }
            assert_eq!(single[&file], several[&file], "{one}: {trial:?}");
            of_one += 1;
        }
    }
    assert!(of_one > 100, "{of_one}");
    // Untrained trials are there once.
    let untrained = run.plan().trials.iter().filter(|trial| trial.scheme == "none");
    assert!(untrained.clone().all(|trial| trial.budget.is_none()));
    let ids: std::collections::BTreeSet<&String> = run.plan().trials.iter().map(|trial| &trial.id).collect();
    assert_eq!(ids.len(), run.plan().trials.len());
    // The report of the whole run, in every form.
    let mut report = nettriage();
    report.arg("report").arg(place.path("run")).args(["--json", "-"]);
    let json: serde_json::Value = serde_json::from_str(&succeeded(&report.output().unwrap())).unwrap();
    assert_eq!(json["budget"], 600);
    assert_eq!(json["budgets"]["each"].as_array().unwrap().len(), 3);
    let page = std::fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(page.contains("Which trainings had converged?"));
}

#[test]
fn other_executors_and_orders_give_the_same_records() {
    let budget = "budgets = [\"3 steps\", \"300 images\"]";
    let (place, whole) = complete(budget);
    for more in [&["--on", "processes"][..], &["--workers", "1", "--cache", "0"], &["--no-reuse", "all"]] {
        let _ = std::fs::remove_dir_all(place.path("other"));
        succeeded(&place.run("other", more).output().unwrap());
        common::assert_same(&whole, &digests(&place.path("other")));
    }
}

#[test]
fn budgets_that_make_no_sense_are_refused_in_one_line() {
    for (budget, words) in [
        ("", "how long to train is missing: add `epochs`, `images` or `steps`"),
        ("images = 10\nepochs = 1", "\"10 images\" and \"1 epoch\" are both given: keep one"),
        ("images = 10\nbudgets = [\"1 epoch\"]", "is given beside `budgets`"),
        ("budgets = [\"1 hour\"]", "`1 hour` is no budget"),
        ("budgets = [\"0 steps\"]", "`0 steps` is no budget"),
        ("budgets = [\"1 epoch\", \"1 epoch\"]", "is named twice"),
        ("budgets = [\"1 epoch\", \"300 images\"]", "are both 300 images: remove one"),
        (
            "budgets = [\"1 epoch\", { train = \"2 epochs\", schemes = [\"hint\"] }]",
            "`hint` is not among [triage] schemes",
        ),
        ("budgets = [{ train = \"2 epochs\", schemes = [\"global\"] }]", "`local` of [triage] has no budget"),
        ("budgets = [{ train = \"2 epochs\", scheme = [\"global\"] }]", "scheme"),
        ("budgets = [7]", "a budget such as"),
    ] {
        let place = Place::new(&study(budget));
        let error = refused(&place.run("run", &[]).output().unwrap());
        assert!(error.contains(words), "{budget}: {error}");
        assert!(!place.path("run").exists());
    }
}
