//! The pages, texts and cards of a scan and of a prescription, with names that hold markup and escape sequences.

use nettriage_records::plan::Cost;
use nettriage_records::prescription::{Figures, Front, FrontNetwork, FrontPoint, Prescription, Replaced};
use nettriage_records::scan::{Candidate, Fidelity, Images, Measure, Parent, Range, Scan, Took, Trust, Unit};

const HOSTILE: &str = "\u{1b}[31m\u{202E}</script><svg/onload=alert(1)>|`*\n# x";

fn acts(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || c == '\u{202E}'
}

fn scan() -> Scan {
    let unit = |name: &str| Unit {
        name: name.to_owned(),
        layers: [name.to_owned(), name.to_owned()],
        output: [16, 8, 8],
        products: 1,
        cost: Cost { parameters: 500, macs: 5_000 },
        milliseconds: 0.5,
    };
    let candidate = Candidate {
        substitute: HOSTILE.to_owned(),
        method: "relu".to_owned(),
        ridge: 1e-3,
        error: 0.1,
        accuracy: Some(0.89),
        drop: Some([0.5, -0.25, 0.75]),
        fidelity: Fidelity::Classes { agreement: 0.95, divergence: 0.02, softened: None },
        cost: Cost { parameters: 300, macs: 2_500 },
        milliseconds: 0.25,
    };
    Scan {
        network: HOSTILE.to_owned(),
        digest: String::new(),
        measure: Measure::Accuracy,
        source: HOSTILE.to_owned(),
        images: Images { data: HOSTILE.to_owned(), fitted: 100, judged: 200, judged_from: HOSTILE.to_owned() },
        parent: Parent { accuracy: Some(0.9), cost: Cost { parameters: 1_000, macs: 10_000 }, milliseconds: 1.0 },
        units: vec![unit("first"), unit(HOSTILE)],
        ranges: vec![Range {
            name: "first-second".to_owned(),
            units: [0, 1],
            layers: ["first".to_owned(), HOSTILE.to_owned()],
            block: Some(HOSTILE.to_owned()),
            cost: Cost { parameters: 1_000, macs: 10_000 },
            milliseconds: 1.0,
            candidates: vec![candidate],
        }],
        left_out: 1,
        took: Took { batch: 1, threads: 2, ..Took::default() },
        trust: vec![Trust {
            tau: 0.5,
            interval: None,
            parents: 1,
            blocks: 3,
            scheme: HOSTILE.to_owned(),
            init: HOSTILE.to_owned(),
            each: vec![0.5],
        }],
    }
}

fn prescription() -> Prescription {
    let replaced = vec![Replaced {
        range: HOSTILE.to_owned(),
        layers: [HOSTILE.to_owned(), "last".to_owned()],
        substitute: HOSTILE.to_owned(),
    }];
    let figures = |accuracy: f64, milliseconds: f64| Figures {
        accuracy: Some(accuracy),
        drop: Some([0.5, -0.25, 1.25]),
        fidelity: Some(Fidelity::Classes { agreement: 0.9, divergence: 0.05, softened: None }),
        cost: Cost { parameters: 1_000, macs: 10_000 },
        milliseconds,
    };
    Prescription {
        device: None,
        network: HOSTILE.to_owned(),
        source: HOSTILE.to_owned(),
        data: HOSTILE.to_owned(),
        budget: HOSTILE.to_owned(),
        place: None,
        measure: Measure::Accuracy,
        replaced: replaced.clone(),
        training: HOSTILE.to_owned(),
        judged_from: HOSTILE.to_owned(),
        before: figures(0.9, 1.0),
        predicted: figures(0.89, 0.75),
        corrected: Some(Figures { drop: Some([0.375; 3]), fidelity: None, ..figures(0.89, 0.75) }),
        built: figures(0.89, 0.75),
        judged: figures(0.895, 0.75),
        test: None,
        kept: true,
        front: [0.5, 1.0, 7.3]
            .map(|drop| FrontPoint {
                drop,
                corrected: Some(drop / 4.0),
                cost: Cost { parameters: 900, macs: 9_000 },
                milliseconds: 1.0 - 0.1 * drop,
                replaced: replaced.clone(),
                tried: Some(drop),
            })
            .into(),
        batch: 1,
        timed_by: HOSTILE.to_owned(),
        latency_table: None,
        time_ratio: [0.75, 0.7, 0.8],
    }
}

/// Three networks: the second takes more time than the third and loses more.
fn front() -> Front {
    let network = |number: usize, loss: f64, time: f64| {
        let mut prescription =
            Prescription { place: Some([number, 3]), time_ratio: [time; 3], front: Vec::new(), ..prescription() };
        prescription.judged.drop = Some([loss, loss - 0.5, loss + 0.5]);
        FrontNetwork { file: Some(format!("{HOSTILE}-{number}.onnx")), prescription }
    };
    let networks = vec![network(1, 0.25, 0.9), network(2, 3.5, 0.6), network(3, 2.0, 0.5)];
    Front { networks, plans: prescription().front }
}

#[test]
fn a_front_marks_the_network_that_another_beats() {
    assert_eq!([0, 1, 2].map(|network| front().is_dominated(network)), [false, true, false]);
    let text = nettriage_report::prescription::front_terminal(&front());
    let starred: Vec<bool> =
        (1..=3).map(|number| text.lines().any(|line| line.contains(&format!("-{number}.onnx *")))).collect();
    assert_eq!(starred, [false, true, false], "{text}");
    assert!(text.contains("as it is") && text.contains("3.50") && text.contains("60%"), "{text}");
    // Equal networks do not beat each other.
    let mut equal = front();
    equal.networks[1] = equal.networks[2].clone();
    assert!(!equal.is_dominated(1) && !equal.is_dominated(2));
}

#[test]
fn names_cannot_act_in_scans_and_prescriptions() {
    let pages = [
        nettriage_report::scan::html(&scan()),
        nettriage_report::prescription::html(&prescription()),
        nettriage_report::prescription::front_html(&front()),
    ];
    for page in &pages {
        assert!(!page.contains(acts) && !page.contains("<svg/onload"));
        assert_eq!(page.matches("</script>").count(), 1);
    }
    let texts = [
        nettriage_report::scan::terminal(&scan()),
        nettriage_report::prescription::terminal(&prescription()),
        nettriage_report::prescription::front_terminal(&front()),
    ];
    assert!(texts.iter().all(|text| !text.contains(acts)), "{texts:?}");
    let card = nettriage_report::prescription::markdown(&prescription(), &format!("nettriage prescribe {HOSTILE}"));
    let outside_code: String = card.replace("\\`", "").split('`').step_by(2).collect();
    assert!(!card.contains(acts) && !outside_code.contains("<svg/onload"), "{card}");
}

#[test]
fn every_page_sorts_its_tables_and_keeps_its_theme() {
    for page in [
        nettriage_report::scan::html(&scan()),
        nettriage_report::prescription::html(&prescription()),
        nettriage_report::prescription::front_html(&front()),
    ] {
        let (tables, sorted) = (page.matches("<thead>").count(), page.matches("<thead><tr><th scope=\"col\"").count());
        assert!(tables > 0 && tables == sorted && page.contains("class=\"sort\""));
        assert!(page.contains("id=\"theme\"") && page.contains("nettriage-theme"));
    }
}

#[test]
fn a_smaller_network_has_a_negative_change_in_a_scan() {
    let text = nettriage_report::scan::terminal(&scan());
    // 300 parameters instead of 1,000, 2,500 MACs instead of 10,000, 0.25 ms instead of 1 ms.
    assert!(text.contains("−70%") && text.contains("−75%"), "{text}");
}

#[test]
fn axis_labels_of_a_prescription_are_round() {
    let page = nettriage_report::prescription::html(&prescription());
    for label in ["2", "4", "6"] {
        assert!(page.contains(&format!("text-anchor=\"end\">{label}</text>")), "{label}");
    }
}

#[test]
fn a_prescription_says_what_was_predicted_and_where_times_come_from() {
    let text = nettriage_report::prescription::terminal(&prescription());
    assert!(text.contains("predicted, corrected") && text.contains("0.38"), "{text}");
    let first = Prescription { corrected: None, ..prescription() };
    assert!(!nettriage_report::prescription::terminal(&first).contains("corrected"));
    let page = nettriage_report::prescription::html(&prescription());
    // The plans' corrected losses are in their table: a quarter of the predicted ones.
    assert!(page.contains("Corrected") || page.contains("corrected"), "{page}");
    assert!(["0.12", "0.25", "1.82"].iter().all(|cell| page.contains(&format!(">{cell}<"))), "{page}");
    let card =
        |prescription: &Prescription| nettriage_report::prescription::markdown(prescription, "nettriage prescribe");
    assert!(card(&prescription()).contains("both networks timed in pairs"));
    let summed = Prescription { latency_table: Some(HOSTILE.to_owned()), ..prescription() };
    let card = card(&summed);
    assert!(card.contains("no pass of a whole network was timed") && !card.contains("timed in pairs"), "{card}");
    let page = nettriage_report::prescription::html(&summed);
    assert!(page.contains("measured elsewhere") && !page.contains("Timed by") && !page.contains("<svg/onload"));
}

#[test]
fn a_scan_says_how_it_was_judged() {
    let mut values = scan();
    values.measure = Measure::Values;
    let candidate = &mut values.ranges[0].candidates[0];
    (candidate.accuracy, candidate.drop) = (None, None);
    candidate.fidelity = Fidelity::Values { r2: 0.2, worst: 3, mean_r2: 0.5, relative_error: 0.125 };
    let text = nettriage_report::scan::terminal(&values);
    assert!(text.contains("taken for numbers") && text.contains("lowest R²") && text.contains("80.00"), "{text}");
    let page = nettriage_report::scan::html(&values);
    assert!(
        page.contains("Variance unexplained") && page.contains("relative error") && !page.contains("same prediction")
    );
    assert!(nettriage_report::scan::terminal(&scan()).contains("Judged by accuracy"));
}
