//! What a report says when the data do not support a conclusion, and that it says so in every output.

mod synthetic;

use nettriage_records::Run;
use nettriage_records::plan::Role;
use nettriage_records::record::{Outcome, Record};
use nettriage_report::analysis::{AccuracyVerdict, Convergence, F1Verdict, F2Verdict};
use nettriage_report::{About, Analysis, Options, RunData, analyse, card, html, json, markdown, terminal};
use synthetic::Truth;

fn analysed(data: &RunData) -> Analysis {
    analyse(data, &Options { bootstrap: false, ..Options::default() })
}

/// Page, terminal and Markdown, without line breaks.
fn outputs(data: &RunData) -> [String; 3] {
    let analysis = analysed(data);
    let without_scripts = html(data, &analysis).split("<script").next().unwrap_or_default().to_owned();
    [without_scripts, terminal(data, &analysis), markdown(data, &analysis)]
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn assert_all_say(data: &RunData, sentence: &str) {
    for text in outputs(data) {
        assert!(text.contains(sentence), "{sentence:?} not in {text}");
    }
}

fn headline_children<'r>(data: &'r mut RunData, block: &str) -> impl Iterator<Item = &'r mut Record> {
    let headline = analysed(data).headline.unwrap();
    data.records.iter_mut().filter(move |record| {
        record.spec.block.as_deref() == Some(block)
            && record.spec.init.as_deref() == Some(&headline.init)
            && record.spec.scheme == headline.scheme
            && record.spec.role == Role::Child
    })
}

/// A study in which no block costs anything, so that every block is replaceable.
fn harmless() -> Truth {
    Truth { child: |_, _, _| 0.9, image_block_sd: 0.0, seed_sd: 0.0, images: 20_000, seeds: 5, ..Truth::small() }
}

#[test]
fn blocks_are_in_network_order() {
    let mut data = Truth::small().simulate(1);
    data.plan.blocks.reverse();
    let analysis = analysed(&data);
    let names: Vec<&str> = analysis.blocks.iter().map(|block| block.block.as_str()).collect();
    assert_eq!(names, ["block1", "block2", "block3", "block4"]);
    let page = html(&data, &analysis);
    let at = |name: &str| page.find(&format!("<div class=\"what\"><b>{name}</b>")).unwrap();
    assert!(at("block1") < at("block2") && at("block3") < at("block4"));
}

#[test]
fn a_parent_at_chance_gets_no_verdict() {
    let truth = Truth { parent: 0.1, continued: 0.0, child: |_, _, _| 0.1, seed_sd: 0.0, ..Truth::small() };
    let data = truth.simulate(4);
    let analysis = analyse(&data, &Options { margin: 20.0, bootstrap: false });
    assert!(analysis.validity.parent_at_chance(), "{:?}", analysis.validity);
    assert_eq!(analysis.f1.as_ref().unwrap().verdict, F1Verdict::Undecided);
    let f2 = analysis.f2.as_ref().unwrap();
    assert!(f2.blocks.iter().chain([&f2.overall]).all(|block| block.verdict == F2Verdict::Undecided));
    let f3 = &analysis.f3.as_ref().unwrap().overall;
    assert_eq!(
        (f3.convergence, f3.against_plain, f3.against_parent),
        (Convergence::Undecided, AccuracyVerdict::Undecided, AccuracyVerdict::Undecided)
    );
    let page = html(&data, &analysis);
    let first = page.find("<h1>The parent is not shown to be better than chance").unwrap();
    assert!(first < page.find("class=\"first\"").unwrap());
    assert_eq!(page.matches("<p class=\"word\">No verdict</p>").count(), 3);
    assert!(!page.contains("can be one conv3x3"));
    let text = terminal(&data, &analysis);
    assert!(text.contains("not shown to be better than chance") && !text.contains("holds here"));
    // An untrained network may exceed chance by a few points: 53 of 360 with ten classes was one.
    let mut data = data;
    let parent = &mut data.parents[0].test;
    (parent.images, parent.correct, parent.top1) = (360, 53, 53.0 / 360.0);
    assert!(analysed(&data).validity.parent_at_chance());
    // A parent at 90% of ten classes is not at chance.
    assert!(!analysed(&Truth::small().simulate(4)).validity.parent_at_chance());
}

#[test]
fn chance_is_the_share_of_the_most_frequent_class() {
    let mut data = Truth::small().simulate(1);
    let mut images = synthetic::sample_images();
    images.labels = vec![0; 1000];
    data.sample_images = Some(images);
    let test = analysed(&data).validity.chance.unwrap();
    assert_eq!((test.chance, test.p), (1.0, 1.0));
    // With 900 of 1,000 images in one class, 90% accuracy is chance.
    let labels = &mut data.sample_images.as_mut().unwrap().labels;
    labels.iter_mut().skip(900).enumerate().for_each(|(i, label)| *label = 1 + (i % 9) as u16);
    let parent = &mut data.parents[0].test;
    (parent.correct, parent.top1) = (900, 0.9);
    let analysis = analysed(&data);
    assert_eq!(analysis.validity.chance.unwrap().chance, 0.9);
    assert!(analysis.validity.parent_at_chance());
}

#[test]
fn cells_with_failed_trials_get_no_verdict() {
    // A single combination: with others the answer would move to one that is complete.
    let truth = Truth { inits: vec!["least-squares"], schemes: vec!["global"], ..harmless() };
    let mut data = truth.simulate(7);
    let before = outputs(&data);
    assert!(before[0].contains("can be one conv3x3"), "{}", before[0]);
    assert_eq!(analysed(&data).f1.unwrap().verdict, F1Verdict::Equivalent);
    for record in headline_children(&mut data, "block2").take(1) {
        record.outcome = Outcome::Failed { reason: "a panic".into() };
        record.readings = None;
    }
    let analysis = analysed(&data);
    assert_eq!(analysis.validity.incomplete_blocks, ["block2"]);
    assert_eq!(analysis.f1.as_ref().unwrap().verdict, F1Verdict::Undecided);
    assert_all_say(&data, "No verdict on block2");
    let page = html(&data, &analysis);
    let row = |name: &str| {
        let from = page.find(&format!("<div class=\"what\"><b>{name}</b>")).unwrap();
        &page[from..from + page[from..].find("nettriage export").unwrap()]
    };
    assert!(!row("block2").contains("can be one"), "{}", row("block2"));
    assert!(row("block3").contains("can be one conv3x3"), "{}", row("block3"));
    let action = terminal(&data, &analysis);
    assert!(!action.contains("Block2 can be") && !action.contains("block2 can"), "{action}");
}

#[test]
fn zero_variance_over_seeds_is_named() {
    let mut data = Truth::small().simulate(1);
    assert!(analysed(&data).validity.zero_variance_blocks.is_empty());
    let (parent, correct) = (data.parents[0].test.clone(), data.parents[0].test_correct.clone());
    for record in &mut data.records {
        let readings = record.readings.as_mut().unwrap();
        (readings.test, readings.test_correct) = (parent.clone(), correct.clone());
    }
    assert_eq!(analysed(&data).validity.zero_variance_blocks.len(), 4);
    assert_all_say(&data, "Zero variance: all 4 seeds gave exactly the same accuracy drop");
}

#[test]
fn a_parent_from_a_file_is_not_reported_as_trained() {
    let mut data = Truth::small().simulate(1);
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("parent-from-file");
    let card_of = |data: &RunData| {
        let _ = std::fs::remove_dir_all(&folder);
        let run = Run::create(&folder, &data.plan).unwrap();
        run.write_parent(&data.parents[0]).unwrap();
        run.write(&data.records[5]).unwrap();
        card(&run, &data.records[5].spec).unwrap()
    };
    assert!(card_of(&data).contains("trained on 45000 images"));
    assert!(!outputs(&data)[0].contains("read from a file"));
    data.parents[0].curve.clear();
    assert_all_say(&data, "The parent was read from a file, not trained here.");
    assert_all_say(&data, "may have been trained on them");
    assert!(!outputs(&data)[0].contains("to train parents"));
    let text = card_of(&data);
    assert!(
        text.contains("read from a file, not trained by nettriage") && !text.contains("trained on 45000"),
        "{text}"
    );
}

#[test]
fn disturbed_times_are_not_reported() {
    let mut data = Truth::small().simulate(1);
    let quiet = analysed(&data);
    assert!(quiet.timing.unwrap().passed);
    let cell = quiet.cells[quiet.blocks[0].cell.unwrap()].clone();
    assert!((cell.latency.unwrap() - 0.88).abs() < 1e-9, "{:?}", cell.latency);
    assert_eq!(cell.latency_interval.map(|ends| ends.map(|end| (1e4 * end).round())), Some([8624.0, 8976.0]));
    // Trials after the third repeat a measurement, which counts once.
    assert_eq!(quiet.timing.unwrap().measurements, 1);
    // A process whose passes were disturbed widens the interval of its architecture too far to be reported.
    let child = headline_children(&mut data, "block1").next().unwrap();
    child.clock.inference.as_mut().unwrap().ratio = Some([0.07, 0.05, 0.9]);
    let one = analysed(&data);
    assert_eq!(one.cells[one.blocks[0].cell.unwrap()].latency, None);
    assert!(one.cells[one.blocks[1].cell.unwrap()].latency.is_some());
    // Controls have the parent's own architecture: with 608 µs against 55 µs no time can be trusted.
    for record in data.records.iter_mut().filter(|record| record.spec.role == Role::ParentContinued) {
        let inference = record.clock.inference.as_mut().unwrap();
        (inference.network[0], inference.parent[0]) = (608e-6, 55e-6);
        inference.ratio = Some([608.0 / 55.0, 10.0, 12.0]);
    }
    let analysis = analysed(&data);
    assert!(!analysis.timing.unwrap().passed);
    assert!(analysis.cells.iter().all(|cell| cell.latency.is_none()));
    assert!(analysis.blocks.iter().all(|block| block.saves_time.is_none()));
    assert!(analysis.pareto.iter().filter(|point| point.cell.is_some()).all(|point| point.latency.is_none()));
    assert_all_say(&data, "No inference times");
}

#[test]
fn control_less_child_is_the_drop() {
    let data = Truth::small().simulate(5);
    let analysis = analysed(&data);
    for cell in &analysis.cells {
        let drop = cell.criticality.as_ref().unwrap().mean;
        assert!((cell.control_accuracy.unwrap() - cell.accuracy - drop).abs() < 1e-9);
    }
    let page = html(&data, &analysis);
    let cell = &analysis.cells[analysis.blocks[0].cell.unwrap()];
    let both = format!("control {:.2}%, child {:.2}%", cell.control_accuracy.unwrap(), cell.accuracy);
    assert!(page.contains(&both), "{both}");
}

#[test]
fn intervals_beyond_the_axis_end_in_arrows() {
    let wide = Truth { seeds: 2, seed_sd: 0.3, images: 200, ..Truth::small() }.simulate(2);
    assert!(html(&wide, &analysed(&wide)).contains("class=\"beyond\""));
    let narrow = harmless().simulate(2);
    assert!(!html(&narrow, &analysed(&narrow)).contains("class=\"beyond\""));
}

#[test]
fn the_answer_does_not_contradict_itself() {
    for seed in 0..20 {
        let data = Truth { seeds: 2, ..Truth::small() }.simulate(seed);
        let text = terminal(&data, &analysed(&data));
        assert!(!text.contains("costs most") && !text.contains("which block matters most is undecided"), "{text}");
        let claims = ["looks most important", "matters most", "matter equally"];
        assert_eq!(claims.iter().filter(|claim| text.contains(**claim)).count(), 1, "{text}");
    }
}

#[test]
fn growth_has_a_plus_sign_everywhere() {
    let mut data = Truth::small().simulate(1);
    for record in data.records.iter_mut().filter(|record| record.spec.block.as_deref() == Some("block2")) {
        record.readings.as_mut().unwrap().cost.parameters = 1_520_000;
    }
    assert_all_say(&data, "+52%");
    assert!(outputs(&data).iter().all(|text| !text.contains("−52%")));
}

#[test]
fn the_export_command_is_quoted() {
    let mut data = Truth::small().simulate(1);
    data.about.run = "runs/it's mine".into();
    let page = html(&data, &analysed(&data));
    assert!(page.contains(r"nettriage export 'runs/it'\''s mine' --block block1 --best -o block1.onnx"));
}

#[test]
fn names_cannot_act_in_any_output() {
    let hostile = "\u{1b}[31m\u{202E}\u{7}</script><svg/onload=alert(1)>|`*\n# x";
    let mut data = Truth::small().simulate(1);
    data.plan.name = hostile.into();
    data.plan.data.name = hostile.into();
    data.plan.data.classes[0] = hostile.into();
    data.plan.study = hostile.into();
    for scheme in data.plan.schemes.iter_mut().filter(|scheme| scheme.name == "global") {
        scheme.name = hostile.into();
    }
    let rename = |name: &mut String| {
        if name == "global" {
            *name = hostile.into();
        }
    };
    data.plan.trials.iter_mut().for_each(|spec| rename(&mut spec.scheme));
    data.records.iter_mut().for_each(|record| rename(&mut record.spec.scheme));
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-card");
    let _ = std::fs::remove_dir_all(&folder);
    let run = Run::create(&folder, &data.plan).unwrap();
    run.write_parent(&data.parents[0]).unwrap();
    let trial = data.records.iter().find(|record| record.spec.scheme == hostile).unwrap();
    run.write(trial).unwrap();
    let analysis = analysed(&data);
    let acts = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202E}';
    let card = card(&run, &trial.spec).unwrap();
    let outputs = [html(&data, &analysis), terminal(&data, &analysis), markdown(&data, &analysis), card.clone()];
    assert!(outputs.iter().all(|text| !text.contains(acts)));
    assert!(!outputs[0].contains("<svg/onload"));
    let before_code = card.split("```").next().unwrap();
    assert!(!outputs[2].contains("<svg/onload") && !before_code.contains("<svg/onload"), "{before_code}");
    let loaded = RunData::load(&run, About::default()).unwrap();
    assert_eq!(loaded.about.run, folder.display().to_string());
    // JSON keeps names as they are, escaped by its own rules.
    assert!(json(&analysis).contains("\\u001b[31m"));
}
