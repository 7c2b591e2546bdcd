//! Learning rates that a range test finds: `rate = "auto"`.

mod common;

use common::faults::{Moments, spawn_silent};
use common::{Place, assert_same, digests, nettriage, refused, succeeded};
use nettriage_records::Run;
use nettriage_records::plan::{Role, Trainings};

const STUDY: &str = r#"
name = "rates"
[data]
name = "digits"
validation = 200
test = 200
augment = { pad = 1 }
[parent]
arch = "vgg"
plan = [[8, 8], [12, 12]]
seeds = 2
[parent.training]
epochs = 6
batch = 32
rate = "auto"
[children]
seeds = 1
images = 640
batch = 32
rate = "auto"
curve = 2
calibration = 100
readings = []
[triage]
inits = ["random"]
schemes = ["local", "hint-then-global"]
reinit = []
"#;

/// The rates of parents and of children that the study's range tests have found.
fn rates(run: &Run) -> [f64; 2] {
    let tests = run.range_tests().unwrap();
    assert_eq!([Trainings::Parents, Trainings::Children], [tests[0].of, tests[1].of]);
    [tests[0].rate, tests[1].rate]
}

/// Mean validation accuracies of parents and of fine-tuned parents, in percent; 0 of one that diverged.
fn accuracies(run: &Run) -> [f64; 2] {
    let mean = |values: Vec<f64>| 100.0 * values.iter().sum::<f64>() / values.len() as f64;
    let of_parents = run.parents().unwrap().iter().map(|parent| parent.validation.top1).collect();
    let records = run.records().unwrap();
    let controls = records.iter().filter(|r| r.spec.role == Role::ParentContinued && r.spec.block.is_none());
    [
        mean(of_parents),
        mean(controls.map(|r| r.readings.as_ref().map_or(0.0, |readings| readings.validation.top1)).collect()),
    ]
}

#[test]
fn a_found_rate_trains_as_well_as_one_by_hand() {
    let accuracy = |of_parents: &str, of_children: &str| {
        let study = STUDY.replacen("rate = \"auto\"", &format!("rate = {of_parents}"), 1);
        let place = Place::new(&study.replacen("rate = \"auto\"", &format!("rate = {of_children}"), 1));
        place.complete("run", &[]);
        accuracies(&Run::open(&place.path("run")).unwrap())
    };
    let place = Place::new(STUDY);
    place.complete("run", &[]);
    let run = Run::open(&place.path("run")).unwrap();
    let found = accuracies(&run);
    let [of_parents, of_children] = rates(&run);
    // Those of studies/digits.toml.
    let by_hand = accuracy("0.05", "0.02");
    println!("rates {of_parents} and {of_children}: {found:?}%; by hand {by_hand:?}%");
    assert!(found[0] > by_hand[0] - 3.0 && found[1] > by_hand[1] - 3.0, "{found:?} by {by_hand:?}");
    // Rates that are too small or too large fail this by far.
    let small = accuracy("0.0005", "0.02");
    let large = accuracy("0.05", "20");
    println!("too small: {small:?}%, too large: {large:?}%");
    assert!(small[0] < by_hand[0] - 10.0 && large[1] < by_hand[1] - 10.0, "{small:?}, {large:?}");
}

#[test]
fn a_run_tests_its_rates_once_wherever_it_is_interrupted() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &[]);
    assert_eq!(whole.keys().filter(|name| name.starts_with("rates/")).count(), 2);
    for more in [&["--on", "processes"][..], &["--workers", "1", "--no-reuse", "all"]] {
        assert_same(&whole, &place.complete(&format!("other{}", more.len()), more));
    }
    let mut moments = Moments::new("rates");
    for (round, on) in ["local", "processes"].into_iter().enumerate() {
        let out = format!("killed{round}");
        let mut kills = 0;
        loop {
            let mut run = spawn_silent(&mut place.run(&out, &["--on", on]));
            moments.wait(100 + 20 * kills, 400 + 20 * kills);
            if run.try_wait().unwrap().is_some() {
                break;
            }
            run.kill().unwrap();
            run.wait().unwrap();
            kills += 1;
        }
        assert!(kills > 0);
        assert_same(&whole, &place.complete(&out, &["--on", on]));
    }
    // A damaged record is set aside, and the test is repeated.
    let run = Run::open(&place.path("whole")).unwrap();
    let path = place.path(&format!("whole/rates/{}.json", run.plan().range_tests[1].id));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"edge\":1", "\"edge\":2")).unwrap();
    std::fs::remove_file(place.path(&format!("whole/trials/{}.json", run.plan().trials.last().unwrap().id))).unwrap();
    place.complete("whole", &[]);
    std::fs::remove_file(path.with_extension("json.corrupt")).unwrap();
    assert_same(&whole, &digests(&place.path("whole")));
}

#[test]
fn the_rate_is_reported_everywhere() {
    let place = Place::new(STUDY);
    let planned = succeeded(&place.run("run", &["--dry-run"]).output().unwrap());
    assert!(planned.contains("rate = \"auto\" for children: found by a range test"), "{planned}");
    place.complete("run", &["--max-trials", "4"]);
    let run = Run::open(&place.path("run")).unwrap();
    let [of_parents, of_children] = rates(&run);
    let planned = succeeded(&place.run("run", &["--dry-run"]).output().unwrap());
    assert!(planned.contains(&format!("rate = \"auto\" for children: {of_children}, ")), "{planned}");
    let status = succeeded(&nettriage().arg("status").arg(place.path("run")).output().unwrap());
    assert!(status.contains(&format!("{of_parents} for parents, by a range test")), "{status}");
    let json = succeeded(&nettriage().arg("status").arg(place.path("run")).arg("--json").output().unwrap());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rates"], serde_json::json!({ "parents": of_parents, "children": of_children }));
    let report = nettriage().arg("report").arg(place.path("run")).args(["--json", "-"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_str(&succeeded(&report)).unwrap();
    assert_eq!(json["rates"][1]["rate"], of_children);
    assert_eq!(
        json["rates"][1]["losses"].as_array().unwrap().len(),
        json["rates"][1]["rates"].as_array().unwrap().len()
    );
    let page = std::fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(page.contains(&format!("The largest rate of children is {of_children}, found by a range test")));
    assert!(page.contains("Smoothed loss of the range test for children"));
}

#[test]
fn budgets_share_the_rate_and_the_ids() {
    let one = STUDY.replace("seeds = 2\n", "");
    let several = one.replace("images = 640", "budgets = [\"5 steps\", \"640 images\"]");
    let (one, several) = (Place::new(&one), Place::new(&several));
    let (single, all) = (one.complete("run", &[]), several.complete("run", &[]));
    // The id of a trial without training holds the smallest budget of its study.
    let trains = |run: &Run| -> Vec<String> {
        let trials = run.plan().trials.iter().filter(|trial| trial.budget.is_some());
        trials.map(|trial| format!("trials/{}.json", trial.id)).collect()
    };
    let rates = single.keys().filter(|name| name.starts_with("rates/") || name.starts_with("parents/")).cloned();
    let shared: Vec<String> = trains(&Run::open(&one.path("run")).unwrap()).into_iter().chain(rates).collect();
    assert!(shared.len() > 8 && shared.iter().all(|name| all.get(name) == single.get(name)), "{shared:?}");
    // With a rate by hand there is no range test, and other ids.
    let by_hand = Place::new(&STUDY.replace("rate = \"auto\"", "rate = 0.02"));
    succeeded(&by_hand.run("run", &["--max-trials", "1"]).output().unwrap());
    let (by_hand, run) = (Run::open(&by_hand.path("run")).unwrap(), Run::open(&one.path("run")).unwrap());
    assert!(by_hand.plan().range_tests.is_empty() && !by_hand.folder().join("rates").exists());
    let ids =
        |run: &Run| run.plan().trials.iter().map(|trial| trial.id.clone()).collect::<std::collections::HashSet<_>>();
    assert!(ids(&by_hand).is_disjoint(&ids(&run)));
}

#[test]
fn rates_that_make_no_sense_are_refused_in_one_line() {
    for (from, to, words) in [
        ("rate = \"auto\"", "rate = \"fast\"", "rate = \"fast\": write a number such as 0.02, or \"auto\""),
        ("rate = \"auto\"", "rate = true", "a learning rate such as 0.02, or \"auto\""),
        ("rate = \"auto\"", "rate = -1", "rate is -1"),
        (
            "[\"local\", \"hint-then-global\"]",
            "[\"none\", \"hint\"]",
            "[children] rate = \"auto\": its range test minimises",
        ),
    ] {
        assert!(STUDY.contains(from));
        let place = Place::new(&STUDY.replace(from, to));
        let error = refused(&place.run("run", &[]).output().unwrap());
        assert!(error.contains(words) && error.contains("study.toml"), "{to}: {error}");
        assert!(!place.path("run").exists());
    }
    // Steps of no length teach nothing at any rate.
    let place = Place::new(&STUDY.replace("rate = \"auto\"", "rate = \"auto\"\nclip = 1e-9"));
    let error = refused(&place.run("run", &[]).output().unwrap());
    assert!(error.contains("[parent.training] rate = \"auto\": the range test finds no rate"), "{error}");
}
