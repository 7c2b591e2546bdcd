//! Simulated studies with known truth: interval coverage, and error rates of the verdicts.
//!
//! The default is small enough for every test run; `NETTRIAGE_SIMULATIONS=1000 cargo test --release -p nettriage-report
//! --test coverage -- --nocapture` simulates 1,000 studies of every kind, about 15,000 in all, and prints the tables that
//! the book shows.

mod synthetic;

use nettriage_report::analysis::{AccuracyVerdict, Analysis, Convergence, F1Verdict, F2Verdict};
use nettriage_report::stats::bootstrap::Draws;
use nettriage_report::stats::distributions::{normal_cdf, normal_quantile};
use nettriage_report::stats::paired::{crossed, student};
use nettriage_report::{Options, analyse};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use synthetic::{Truth, normal};

fn studies() -> usize {
    std::env::var("NETTRIAGE_SIMULATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Fails if a share exceeds `rate` by more than four standard errors.
fn assert_at_most(what: &str, count: usize, of: usize, rate: f64) {
    let limit = rate + 4.0 * (rate * (1.0 - rate) / of as f64).sqrt();
    let share = count as f64 / of as f64;
    assert!(share <= limit, "{what}: {share} > {limit}");
}

fn assert_at_least(what: &str, count: usize, of: usize, rate: f64) {
    let limit = rate - 4.0 * (rate * (1.0 - rate) / of as f64).sqrt();
    let share = count as f64 / of as f64;
    assert!(share >= limit, "{what}: {share} < {limit}");
}

/// A design: seeds, images, and the standard deviations between seeds and of the image-by-block interaction.
struct Design {
    seeds: usize,
    images: usize,
    seed_sd: f64,
    image_block_sd: f64,
}

struct Study {
    rows: Vec<Vec<f64>>,
    /// Mean difference over new seeds on the same images.
    on_these: f64,
}

const CONTROL: f64 = 0.92;
const CHILD: f64 = 0.90;

fn simulate(design: &Design, random: &mut ChaCha8Rng) -> Study {
    let image_sd = 1.0;
    let variance = 1.0_f64 + image_sd * image_sd + design.seed_sd.powi(2);
    let control = normal_quantile(CONTROL) * variance.sqrt();
    let child = normal_quantile(CHILD) * (variance + design.image_block_sd.powi(2)).sqrt();
    let images: Vec<(f64, f64)> =
        (0..design.images).map(|_| (image_sd * normal(random), design.image_block_sd * normal(random))).collect();
    let noise = (1.0 + design.seed_sd.powi(2)).sqrt();
    let on_these = images
        .iter()
        .map(|(ease, own)| normal_cdf((control + ease) / noise) - normal_cdf((child + ease + own) / noise))
        .sum::<f64>()
        / design.images as f64;
    let rows = (0..design.seeds)
        .map(|_| {
            let (a, b) = (control + design.seed_sd * normal(random), child + design.seed_sd * normal(random));
            let right = |level: f64, random: &mut ChaCha8Rng| f64::from(level + normal(random) > 0.0);
            images.iter().map(|(ease, own)| right(a + ease, random) - right(b + ease + own, random)).collect()
        })
        .collect();
    Study { rows, on_these }
}

#[test]
fn intervals_have_nominal_coverage() {
    let covers = |[low, high]: [f64; 2], truth: f64| usize::from(low <= truth && truth <= high);
    let mut random = ChaCha8Rng::seed_from_u64(20);
    println!(
        "\n| seeds | images | spread of seeds | of images | crossed | Student's t, these images | BCa | mean width: crossed | BCa |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let n = studies();
    let mut all = [0, 0];
    // The larger design runs only with many studies.
    for images in [400, 2000].into_iter().take(if n < 500 { 1 } else { 2 }) {
        let draws = Draws::new(images).unwrap();
        for seeds in [3, 5, 10] {
            for (seed_sd, image_block_sd) in [(0.0, 0.0), (0.05, 0.4), (0.2, 0.4)] {
                let design = Design { seeds, images, seed_sd, image_block_sd };
                let (mut crossed_in, mut student_in, mut bca_in, mut bca_tried) = (0, 0, 0, 0);
                let (mut width, mut bca_width) = (0.0, 0.0);
                for i in 0..n {
                    let study = simulate(&design, &mut random);
                    let interval = crossed(&study.rows).unwrap().interval(0.95);
                    crossed_in += covers(interval, CONTROL - CHILD);
                    width += 100.0 * (interval[1] - interval[0]) / n as f64;
                    let means: Vec<f64> =
                        study.rows.iter().map(|row| row.iter().sum::<f64>() / images as f64).collect();
                    student_in += covers(student(&means).unwrap().interval(0.95), study.on_these);
                    // The bootstrap is far more expensive.
                    if i % 5 == 0
                        && let Some(interval) = draws.interval(&study.rows)
                    {
                        bca_in += covers(interval, CONTROL - CHILD);
                        bca_width += 100.0 * (interval[1] - interval[0]);
                        bca_tried += 1;
                    }
                }
                let percent = |count: usize, of: usize| 100.0 * count as f64 / of as f64;
                println!(
                    "| {seeds} | {images} | {seed_sd} | {image_block_sd} | {:.1}% | {:.1}% | {:.1}% | {width:.2} | {:.2} |",
                    percent(crossed_in, n),
                    percent(student_in, n),
                    percent(bca_in, bca_tried),
                    bca_width / bca_tried as f64
                );
                // Satterthwaite's degrees of freedom are approximate: with three seeds coverage may be a point or two lower.
                let promised = if seeds == 3 { 0.93 } else { 0.94 };
                assert_at_least("crossed", crossed_in, n, promised);
                assert_at_least("Student", student_in, n, 0.95);
                assert_at_most("Student", student_in, n, 0.95);
                all[0] += crossed_in;
                all[1] += n;
            }
        }
    }
    assert_at_least("crossed, all designs", all[0], all[1], 0.945);
    println!(
        "\ncrossed interval over all designs: {:.2}% of {} studies",
        100.0 * all[0] as f64 / all[1] as f64,
        all[1]
    );
}

fn bare() -> Truth {
    Truth {
        blocks: 3,
        inits: vec!["least-squares"],
        schemes: vec!["global"],
        seeds: 5,
        images: 400,
        parent: 0.9,
        continued: 0.0,
        child: |_, _, _| 0.9,
        image_block_sd: 0.2,
        ..Truth::small()
    }
}

fn count(truth: &Truth, first: u64, margin: f64, mut is: impl FnMut(&Analysis) -> bool) -> usize {
    let options = Options { margin, bootstrap: false };
    (0..studies() as u64).filter(|i| is(&analyse(&truth.simulate(first + i), &options))).count()
}

fn print(what: &str, count: usize, stated: &str) {
    println!("| {what} | {:.1}% | {stated} |", 100.0 * count as f64 / studies() as f64);
}

#[test]
fn f1_error_rates_are_nominal() {
    let n = studies();
    println!("\n| truth | verdict | stated |\n|---|--:|---|");
    // All blocks equal: "different" is an error.
    let wrong = count(&bare(), 1_000_000, 3.0, |a| a.f1.as_ref().unwrap().verdict == F1Verdict::Different);
    print("F1, all blocks equal: *different*", wrong, "at most 5%");
    assert_at_most("different though equal", wrong, n, 0.05);
    // One block a margin worse: "equivalent" is an error.
    let edge = Truth { child: |block, _, _| if block == 0 { 0.87 } else { 0.9 }, ..bare() };
    let wrong = count(&edge, 2_000_000, 3.0, |a| a.f1.as_ref().unwrap().verdict == F1Verdict::Equivalent);
    print("F1, one block worse by the margin: *equivalent*", wrong, "at most 5%");
    assert_at_most("equivalent at the margin", wrong, n, 0.05);
    // Power: a test that never decides would pass the checks above.
    let equal = Truth { images: 4000, ..bare() };
    let options_margin = 2.0;
    let right = count(&equal, 3_000_000, options_margin, |a| a.f1.as_ref().unwrap().verdict == F1Verdict::Equivalent);
    print("F1, all equal, 4,000 images: *equivalent* within 2 points", right, "power");
    assert_at_least("equivalent where equal", right, n, 0.6);
    let far = Truth { child: |block, _, _| if block == 0 { 0.8 } else { 0.9 }, ..bare() };
    let right = count(&far, 4_000_000, 1.0, |a| a.f1.as_ref().unwrap().verdict == F1Verdict::Different);
    print("F1, one block 10 points worse: *different*", right, "power");
    assert_at_least("different where so", right, n, 0.9);
}

#[test]
fn f2_error_rates_are_nominal() {
    let n = studies();
    println!("\n| truth | verdict | stated |\n|---|--:|---|");
    let verdict = |a: &Analysis| a.f2.as_ref().unwrap().blocks[0].verdict;
    let edge = Truth { child: |_, _, _| 0.88, ..bare() };
    let wrong = count(&edge, 5_000_000, 2.0, |a| matches!(verdict(a), F2Verdict::Recovered | F2Verdict::Exceeded));
    print("F2, child worse by the margin: *recovered* or better", wrong, "at most 5%");
    assert_at_most("recovered at the margin", wrong, n, 0.05);
    let wrong = count(&edge, 6_000_000, 2.0, |a| verdict(a) == F2Verdict::NotRecovered);
    print("F2, child worse by the margin: *not recovered*", wrong, "at most 5%");
    assert_at_most("not recovered at the margin", wrong, n, 0.05);
    let wrong =
        count(&bare(), 7_000_000, 2.0, |a| matches!(verdict(a), F2Verdict::Exceeded | F2Verdict::ExceededByTraining));
    print("F2, child as the parent: *exceeded* (either)", wrong, "at most 5%");
    assert_at_most("exceeded though equal", wrong, n, 0.05);
    let trained = Truth { continued: 0.05, child: |_, _, _| 0.95, ..bare() };
    let wrong = count(&trained, 8_000_000, 2.0, |a| verdict(a) == F2Verdict::Exceeded);
    print("F2, child as the fine-tuned parent, both 5 pp up: *exceeded*", wrong, "at most 5%");
    assert_at_most("exceeded though by training", wrong, n, 0.05);
    let right = count(&trained, 9_000_000, 2.0, |a| verdict(a) == F2Verdict::ExceededByTraining);
    print("F2, the same: *exceeded only because of the extra training*", right, "power");
    assert_at_least("only by training", right, n, 0.4);
}

#[test]
fn f3_error_rates_are_nominal() {
    let n = studies();
    println!("\n| truth | verdict | stated |\n|---|--:|---|");
    let same = Truth { schemes: vec!["global", "distill"], examples: |_| 9_000.0, ..bare() };
    let f3 = |a: &Analysis| a.f3.as_ref().map(|f3| (f3.overall.convergence, f3.overall.against_plain)).unwrap();
    let wrong = count(&same, 10_000_000, 2.0, |a| matches!(f3(a).0, Convergence::Faster | Convergence::Slower));
    print("F3, same convergence: *faster* or *slower*", wrong, "at most 5%");
    // With a few dozen events, many of them tied, the chi-squared distribution is approximate.
    assert_at_most("convergence though the same", wrong, n, 0.06);
    let lower = Truth { child: |_, _, scheme| if scheme == "distill" { 0.88 } else { 0.9 }, ..same };
    let wrong = count(&lower, 11_000_000, 2.0, |a| f3(a).1 == AccuracyVerdict::Equivalent);
    print("F3, distilled lower by the margin: *equivalent*", wrong, "at most 5%");
    assert_at_most("accuracy equivalent at the margin", wrong, n, 0.05);
    let faster = Truth { examples: |scheme| if scheme == "distill" { 2_500.0 } else { 12_000.0 }, ..lower };
    let right = count(&faster, 12_000_000, 2.0, |a| f3(a).0 == Convergence::Faster);
    print("F3, five times as fast: *faster*", right, "power");
    assert_at_least("faster where so", right, n, 0.8);
}

#[test]
fn several_parents_generalise_to_the_architecture() {
    // The effect of replacing a block varies between parents, which seeds of one parent cannot show.
    let truth = Truth { parents: 5, seeds: 2, blocks: 2, interaction_sd: 0.3, seed_sd: 0.05, ..bare() };
    let n = studies();
    let options = Options { bootstrap: false, ..Options::default() };
    let covers = |analysis: &Analysis| {
        let ends = analysis.cells[0].criticality.as_ref().unwrap().interval.unwrap();
        ends[0] <= truth.criticality(0, "least-squares", "global")
            && truth.criticality(0, "least-squares", "global") <= ends[1]
    };
    let (mut with, mut without) = (0, 0);
    for i in 0..n as u64 {
        let data = truth.simulate(13_000_000 + i);
        with += usize::from(covers(&analyse(&data, &options)));
        // The same study with its first parent alone.
        let mut alone = data;
        let first = alone.plan.parents[0].id.clone();
        alone.records.retain(|record| record.spec.parent == first);
        without += usize::from(covers(&analyse(&alone, &options)));
    }
    println!("\n| truth about the architecture | covered |\n|---|--:|");
    println!("| five parents, two seeds each | {:.1}% |", 100.0 * with as f64 / n as f64);
    println!("| one parent, two seeds | {:.1}% |", 100.0 * without as f64 / n as f64);
    assert_at_least("architecture", with, n, 0.94);
    assert!(without < with);
}
