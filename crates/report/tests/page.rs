//! Every output of a synthetic study: complete, escaped, and consistent with the records.

mod synthetic;

use nettriage_report::{Options, analyse, csv, csv_cells, html, json, markdown, terminal};
use synthetic::Truth;

fn with_images(data: nettriage_report::RunData) -> nettriage_report::RunData {
    nettriage_report::RunData { sample_images: Some(synthetic::sample_images()), ..data }
}

/// A study whose names hold markup and escape sequences.
fn hostile() -> nettriage_report::RunData {
    let mut data = Truth::small().simulate(3);
    let hostile = "</script><img src=x onerror=alert(1)>\"'&\u{1b}[31m|=1+1";
    data.plan.name = hostile.into();
    data.plan.study = hostile.into();
    data.plan.data.name = hostile.into();
    data.plan.data.classes[0] = hostile.into();
    data.plan.layers[0].kind = hostile.into();
    data.about.command = hostile.into();
    for block in &mut data.plan.blocks {
        block.name = format!("{hostile}{}", block.name);
    }
    let rename = |block: &mut Option<String>| *block = block.as_ref().map(|name| format!("{hostile}{name}"));
    data.plan.trials.iter_mut().for_each(|trial| rename(&mut trial.block));
    data.records.iter_mut().for_each(|record| rename(&mut record.spec.block));
    data
}

#[test]
fn the_page_has_every_section_and_makes_no_request() {
    let data = with_images(Truth::small().simulate(1));
    let analysis = analyse(&data, &Options::default());
    let page = html(&data, &analysis);
    for id in [
        "answer",
        "matrix",
        "curves",
        "findings",
        "cost",
        "controls",
        "proxies",
        "classes",
        "calibration",
        "filters",
        "similarity",
        "method",
    ] {
        assert!(page.contains(&format!("<section id=\"{id}\"")), "{id}");
    }
    // Outside the embedded libraries, whose sources contain addresses, no address but namespaces occurs.
    let own =
        page.replace(include_str!("../assets/d3.min.js"), "").replace(include_str!("../assets/plot.umd.min.js"), "");
    let addresses: Vec<&str> = own.match_indices("http").map(|(at, _)| &own[at..at + 40]).collect();
    assert!(
        addresses
            .iter()
            .all(|address| address.starts_with("http://www.w3.org/2000/svg") || address.starts_with("http-equiv")),
        "{addresses:?}"
    );
    assert!(own.contains("class=\"patches\"") && own.contains("class=\"thumb\""));
    assert!(own.contains("default-src 'none'"));
    assert!(page.len() < 2_000_000, "{}", page.len());
}

#[test]
fn five_hundred_trials_stay_below_five_megabytes() {
    let truth = Truth {
        blocks: 5,
        inits: vec!["random", "first", "collapse", "least-squares"],
        seeds: 6,
        images: 10_000,
        ..Truth::small()
    };
    let data = with_images(truth.simulate(2));
    assert!(data.records.len() >= 500, "{}", data.records.len());
    let started = std::time::Instant::now();
    let page = html(&data, &analyse(&data, &Options::default()));
    assert!(page.len() < 5_000_000, "{}", page.len());
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn markup_in_names_is_escaped() {
    let data = hostile();
    let analysis = analyse(&data, &Options::default());
    let page = html(&data, &analysis);
    assert!(!page.contains("<img src=x"));
    assert_eq!(page.matches("</script>").count(), 4, "one end for the data and each script");
    assert!(!markdown(&data, &analysis).contains("<img"));
    let shown = terminal(&data, &analysis);
    assert!(!shown.contains('\u{1b}'));
    for table in [csv(&data), csv_cells(&analysis)] {
        assert!(!table.lines().any(|line| line.starts_with('=')));
    }
}

#[test]
fn json_reads_back_as_the_same_analysis() {
    let data = Truth::small().simulate(1);
    let analysis = analyse(&data, &Options::default());
    let again: serde_json::Value = serde_json::from_str(&json(&analysis)).unwrap();
    assert_eq!(again["schema"], nettriage_report::analysis::SCHEMA);
    assert_eq!(again["cells"].as_array().unwrap().len(), analysis.cells.len());
    let back: nettriage_report::Analysis = serde_json::from_value(again).unwrap();
    assert!(back == analysis);
}

#[test]
fn csv_has_a_row_for_every_record() {
    let data = Truth::small().simulate(1);
    let table = csv(&data);
    assert_eq!(table.lines().count(), 1 + data.parents.len() + data.records.len());
    let columns = table.lines().next().unwrap().split(',').count();
    assert!(table.lines().all(|line| line.split(',').count() == columns));
}

#[test]
fn csv_does_not_escape_encoded_cells() {
    let mut data = Truth::small().simulate(1);
    data.records[0].readings.as_mut().unwrap().test_correct = "+/9Z".into();
    data.records[0].spec.scheme = "+1*2".into();
    let table = csv(&data);
    assert!(table.contains(",+/9Z,") && table.contains(",'+1*2,"));
}

#[test]
fn parquet_reads_back_with_an_independent_reader() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    let data = Truth::small().simulate(1);
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("trials.parquet");
    std::fs::write(&path, nettriage_report::parquet(&data)).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), data.parents.len() + data.records.len());
    for (row, record) in rows[data.parents.len()..].iter().zip(&data.records) {
        let cell = |name: &str| row.get_column_iter().find(|(column, _)| *column == name).unwrap().1.clone();
        let text = |value: &Option<String>| value.clone().map_or(Field::Null, Field::Str);
        let test = record.readings.as_ref().map(|readings| readings.test.top1);
        assert_eq!(cell("id"), Field::Str(record.spec.id.clone()));
        assert_eq!(cell("init"), text(&record.spec.init));
        assert_eq!(cell("seed"), Field::Long(record.spec.seed as i64));
        assert_eq!(cell("test_top1"), test.map_or(Field::Null, Field::Double));
    }
}

#[test]
fn inconsistent_image_shapes_are_omitted() {
    let mut data = with_images(hostile());
    let images = data.sample_images.as_mut().unwrap();
    images.shape = [usize::MAX, 2, 3];
    images.labels.clear();
    let damaged = html(&data, &analyse(&data, &Options::default()));
    data.sample_images.as_mut().unwrap().shape = [0, 0, 0];
    let empty = html(&data, &analyse(&data, &Options::default()));
    data.sample_images.as_mut().unwrap().shape = [32, 32, 3];
    for record in &mut data.records {
        let filters = record.readings.as_mut().and_then(|readings| readings.filters.as_mut());
        filters.into_iter().flat_map(|f| &mut f.patches).flatten().for_each(|patch| patch.left = usize::MAX);
    }
    let far = html(&data, &analyse(&data, &Options::default()));
    assert!([damaged, empty, far].iter().all(|page| !page.contains("class=\"patches\"")));
}

#[test]
fn similarity_is_the_mean_over_seeds() {
    let data = Truth::small().simulate(1);
    let analysis = analyse(&data, &Options::default());
    let first = &analysis.similarity[0];
    // The synthetic records hold 1 − 0.1 layer − 0.01 seed, and no value before training at the first layer.
    let mean_seed = (data.records.iter().map(|r| r.spec.seed).max().unwrap() as f64) / 2.0;
    assert_eq!(first.layers[0].before, None);
    assert!((first.layers[2].before.unwrap() - (0.8 - 0.01 * mean_seed)).abs() < 1e-12);
    assert!((first.layers[2].after.unwrap() - (0.9 - 0.01 * mean_seed)).abs() < 1e-12);
}

#[test]
fn empty_runs_and_diverged_trials_are_reported() {
    let mut data = Truth::small().simulate(1);
    // One cell of the headline diverges at every seed, one record fails.
    for record in data.records.iter_mut().filter(|record| {
        record.spec.init.as_deref() == Some("random") && record.spec.block.as_deref() == Some("block2")
    }) {
        record.outcome = nettriage_records::record::Outcome::Diverged { examples: 640, reason: None };
        record.readings = None;
    }
    let analysis = analyse(&data, &Options::default());
    assert_eq!(analysis.diverged, 16);
    assert!(html(&data, &analysis).contains("16 trials diverged"));
    assert!(terminal(&data, &analysis).contains("16 diverged"));
    // A combination that lacks a block cannot be the headline.
    assert_eq!(analysis.headline.as_ref().unwrap().init, "least-squares");
    data.records.clear();
    let empty = analyse(&data, &Options::default());
    assert!(terminal(&data, &empty).contains("No block has a finished trial yet"));
    html(&data, &empty);
    markdown(&data, &empty);
    data.parents.clear();
    html(&data, &analyse(&data, &Options::default()));
}

#[test]
fn differences_agree_with_the_records() {
    let data = Truth::small().simulate(5);
    let analysis = analyse(&data, &Options::default());
    let cell = analysis
        .cells
        .iter()
        .find(|cell| cell.block == "block1" && cell.init == "random" && cell.scheme == "global")
        .unwrap();
    let top1 = |role, block: Option<&str>, init: Option<&str>, seed| {
        let found = data.records.iter().find(|record| {
            let spec = &record.spec;
            spec.role == role
                && spec.block.as_deref() == block
                && spec.init.as_deref() == init
                && spec.scheme == "global"
                && spec.seed == seed
        });
        100.0 * found.unwrap().readings.as_ref().unwrap().test.top1
    };
    use nettriage_records::plan::Role::{Child, ParentContinued};
    let expected: Vec<f64> = (0..4)
        .map(|seed| top1(ParentContinued, None, None, seed) - top1(Child, Some("block1"), Some("random"), seed))
        .collect();
    let estimate = cell.criticality.as_ref().unwrap();
    assert_eq!(cell.fallback_pairs, 0);
    for (a, b) in estimate.values.iter().zip(&expected) {
        assert!((a - b).abs() < 1e-9);
    }
    assert!((estimate.mean - expected.iter().sum::<f64>() / 4.0).abs() < 1e-9);
    // Without fine-tuned parents the parent is the control, and the report says so.
    let mut bare = data.clone();
    bare.records.retain(|record| record.spec.role != ParentContinued);
    let analysis = analyse(&bare, &Options::default());
    assert!(analysis.cells.iter().filter(|cell| cell.scheme != "none").all(|cell| cell.fallback_pairs == 4));
    assert!(html(&bare, &analysis).contains("without fine-tuning"));
}

#[test]
fn a_run_compared_with_itself_shows_no_difference() {
    use nettriage_report::compare;
    let options = Options { bootstrap: false, ..Options::default() };
    let one = analyse(&Truth::small().simulate(1), &options);
    let same = compare(&one, &one);
    assert!(same.blocks.iter().all(|block| block.difference == Some(0.0) && block.p == Some(1.0)));
    assert_eq!(same.tau, Some(1.0));
    // A run in which block2 costs ten points more.
    let costlier = Truth {
        child: |block, _, scheme| {
            if scheme == "none" {
                0.5
            } else if block == 1 {
                0.8
            } else {
                0.9
            }
        },
        ..Truth::small()
    };
    let other = analyse(&costlier.simulate(2), &options);
    let comparison = compare(&one, &other);
    let block = comparison.blocks.iter().find(|block| block.block == "block2").unwrap();
    assert!(block.p.unwrap() < 0.01 && block.difference.unwrap() > 5.0, "{block:?}");
    let text = comparison.markdown();
    assert!(text.contains("| block2 |") && text.contains("Kendall"));
}

#[test]
fn event_files_are_framed_as_tfrecords() {
    let folder = std::env::temp_dir().join(format!("nettriage-tensorboard-{}", std::process::id()));
    let data = Truth { seeds: 1, ..Truth::small() }.simulate(1);
    nettriage_report::tensorboard(&data, &folder).unwrap();
    let mut files = Vec::new();
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    // The study, the parent, and every trial.
    assert_eq!(files.len(), 2 + data.records.len());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let (mut at, mut events) = (0, 0);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            at += 12 + length + 4;
            events += 1;
        }
        assert_eq!(at, bytes.len(), "{}", file.display());
        assert!(events >= 2, "{}", file.display());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn one_seed_gives_no_verdict() {
    use nettriage_report::analysis::{Basis, Convergence, F1Verdict, F2Verdict};
    let analysis =
        analyse(&Truth { seeds: 1, ..Truth::small() }.simulate(1), &Options { margin: 90.0, bootstrap: true });
    // Not even with a margin that covers every difference.
    assert_eq!(analysis.f1.as_ref().unwrap().verdict, F1Verdict::Undecided);
    assert_eq!(analysis.f3.as_ref().unwrap().overall.convergence, Convergence::Undecided);
    assert!(analysis.f2.as_ref().unwrap().blocks.iter().all(|block| block.verdict == F2Verdict::Undecided));
    let estimate = analysis.cells[0].criticality.as_ref().unwrap();
    assert_eq!((estimate.basis, estimate.student, estimate.bootstrap), (Some(Basis::Images), None, None));
}

#[test]
fn the_schema_names_every_key() {
    // `checks/exports.py` validates in full; this fails as soon as a field is missing from the schema.
    let schema: serde_json::Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let mut analysis = analyse(&Truth::small().simulate(1), &Options::default());
    // Left out where no rate was tested.
    let tested = serde_json::json!([{
        "of": "parents", "rate": 0.1, "rule": "", "edge": 0.3, "chance": 2.3, "rates": [0.1], "losses": [2.0], "smoothed": [2.0]
    }]);
    analysis.rates = serde_json::from_value(tested).unwrap();
    let value = serde_json::to_value(&analysis).unwrap();
    let names = |value: &serde_json::Value| {
        value.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&value), names(&schema["properties"]));
    for (field, definition) in [
        ("cells", "Cell"),
        ("rates", "TestedRate"),
        ("controls", "Control"),
        ("flips", "Flips"),
        ("proxies", "ProxyRanking"),
        ("curves", "Curve"),
    ] {
        assert_eq!(names(&value[field][0]), names(&schema["$defs"][definition]["properties"]), "{definition}");
    }
    assert_eq!(names(&value["validity"]), names(&schema["$defs"]["Validity"]["properties"]));
    assert_eq!(names(&value["timing"]), names(&schema["$defs"]["TimingCheck"]["properties"]));
    assert_eq!(names(&value["f1"]), names(&schema["$defs"]["F1"]["properties"]));
    assert_eq!(names(&value["f3"]["overall"]), names(&schema["$defs"]["F3Pair"]["properties"]));
}
