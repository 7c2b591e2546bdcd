//! Simulated studies of several budgets: which trainings count as converged, what the outputs say of them, and the warning of a
//! control that falls apart.

mod synthetic;

use nettriage_report::{Analysis, Options, RunData, analyse, csv, csv_cells, html, markdown, terminal};
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

/// Two blocks, one init, one scheme, no spread between seeds or images: what is left is the noise of every network on every image.
fn truth(budgets: &[usize], shortfall: fn(usize) -> f64) -> Truth {
    Truth {
        blocks: 2,
        inits: vec!["random"],
        schemes: vec!["global"],
        seeds: 4,
        images: 10_000,
        child: |block, _, _| [0.86, 0.89][block],
        image_block_sd: 0.0,
        budgets: budgets.to_vec(),
        shortfall,
        ..Truth::small()
    }
}

/// Cells that had converged at the largest of two budgets, and cells in all, over some studies.
fn converged(shortfall: fn(usize) -> f64, studies: u64) -> (usize, usize) {
    let truth = truth(&[10_000, 20_000], shortfall);
    let mut count = (0, 0);
    for seed in 0..studies {
        let budgets = analysed(&truth.simulate(seed)).budgets.unwrap();
        for cell in budgets.convergence.iter().filter(|cell| cell.budget == 20_000) {
            assert_eq!((cell.smaller, cell.converged.is_some()), (Some(10_000), true));
            count.0 += usize::from(cell.converged == Some(true));
            count.1 += 1;
        }
    }
    count
}

#[test]
fn trainings_that_gain_nothing_converge_and_those_at_the_margin_rarely() {
    let (flat, cells) = converged(|_| 0.0, 40);
    assert_eq!(cells, 80);
    // With four seeds and 10,000 test images the test finds three in four of them: 61 of these 80.
    assert!(flat >= 55, "{flat} of {cells}");
    // A gain of exactly the margin, one point, is called converged in at most 5% of studies: here with four standard errors.
    let (at_margin, cells) = converged(|budget| if budget < 20_000 { 0.01 } else { 0.0 }, 100);
    let limit = 0.05 + 4.0 * f64::sqrt(0.05 * 0.95 / cells as f64);
    assert!((at_margin as f64) < limit * cells as f64, "{at_margin} of {cells}");
    let (climbing, _) = converged(|budget| if budget < 20_000 { 0.04 } else { 0.0 }, 20);
    assert_eq!(climbing, 0);
}

#[test]
fn a_budget_is_compared_with_the_next_smaller_of_at_most_half_its_size() {
    let data = truth(&[2_000, 10_000, 15_000, 20_000, 40_000], |_| 0.0).simulate(3);
    let budgets = analysed(&data).budgets.unwrap();
    let compared: Vec<(usize, Option<usize>)> = budgets
        .convergence
        .iter()
        .filter(|cell| cell.block == "block1")
        .map(|cell| (cell.budget, cell.smaller))
        .collect();
    let expected =
        [(2_000, None), (10_000, Some(2_000)), (15_000, Some(2_000)), (20_000, Some(10_000)), (40_000, Some(20_000))];
    assert_eq!(compared, expected);
    assert!(budgets.convergence.iter().all(|cell| cell.converged.is_some() == cell.smaller.is_some()));
    assert_eq!((budgets.each[0].judged, budgets.each[1].judged), (0, 2));
    // One repetition shows nothing.
    let single = Truth { seeds: 1, ..truth(&[10_000, 20_000], |_| 0.0) }.simulate(3);
    assert!(analysed(&single).budgets.unwrap().convergence.iter().all(|cell| cell.converged.is_none()));
}

#[test]
fn everything_is_about_the_largest_budget_and_says_whether_it_had_converged() {
    let climbing = truth(&[10_000, 40_000], |budget| if budget < 40_000 { 0.05 } else { 0.0 }).simulate(5);
    let analysis = analysed(&climbing);
    assert_eq!(analysis.budget, Some(40_000));
    let alone = analysed(&climbing.at(40_000));
    assert_eq!((&analysis.cells, &analysis.f1, &analysis.f2), (&alone.cells, &alone.f1, &alone.f2));
    let budgets = analysis.budgets.as_ref().unwrap();
    assert_eq!(budgets.each[0].cells, analysed(&climbing.at(10_000)).cells);
    let drop = |at: usize| budgets.each[at].criticality("block1", analysis.headline.as_ref()).unwrap().mean;
    assert!((drop(0) - drop(1) - 5.0).abs() < 1.5, "{} and {}", drop(0), drop(1));
    assert_eq!(budgets.rankings.len(), 1);
    assert_eq!(budgets.rankings[0].tau, Some(1.0));
    for text in outputs(&climbing) {
        assert!(text.contains("From trainings that had not converged: "), "{text}");
        assert!(text.contains("Only 0 of 2 combinations had converged."), "{text}");
        assert!(text.contains("10\u{202f}000") || text.contains("10 000"), "{text}");
    }
    for text in outputs(&truth(&[10_000, 40_000], |_| 0.0).simulate(5)) {
        assert!(!text.contains("had not converged") && !text.contains("combinations had converged"), "{text}");
        assert!(!text.contains("the study has one budget"), "{text}");
    }
    for text in outputs(&climbing.at(40_000)) {
        assert!(text.contains("Whether these trainings had converged is unknown: the study has one budget"), "{text}");
    }
    // Every trial and every cell is exported with its budget.
    let (trials, cells) = (csv(&climbing), csv_cells(&analysis));
    let column = |table: &str, name: &str| table.lines().next().unwrap().split(',').position(|n| n == name).unwrap();
    let values = |table: &str, name: &str| -> std::collections::BTreeSet<String> {
        let at = column(table, name);
        table.lines().skip(1).map(|line| line.split(',').nth(at).unwrap().to_owned()).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(values(&trials, "budget"), set(&["", "10000", "40000"]));
    assert_eq!(values(&cells, "budget"), set(&["10000", "40000"]));
    assert_eq!(values(&cells, "converged"), set(&["", "false"]));
    assert_eq!(cells.lines().count(), 5);
}

#[test]
fn a_control_that_falls_apart_is_a_warning() {
    let sound = truth(&[20_000], |_| 0.0).simulate(2);
    assert!(analysed(&sound).validity.collapsed_controls.is_empty());
    let collapsed = Truth { continued: -0.06, ..truth(&[20_000], |_| 0.0) }.simulate(2);
    let found = analysed(&collapsed).validity.collapsed_controls;
    assert_eq!(found.len(), 1);
    assert!((found[0].loss.mean - 6.0).abs() < 1.5 && found[0].scheme == "global");
    for text in outputs(&collapsed) {
        assert!(text.contains("The control falls apart: fine-tuning the parent under global costs"), "{text}");
    }
    for text in outputs(&sound) {
        assert!(!text.contains("falls apart"), "{text}");
    }
}
