//! Exports for other programs: the analysis as JSON, trials and cells as CSV.

use nettriage_records::plan::TrialSpec;
use nettriage_records::record::{Clock, Evaluation, LayerSimilarity, Outcome};
use serde::Serialize;

use crate::analysis::Analysis;
use crate::data::RunData;

/// The analysis as JSON; `schema.json` in this crate describes it.
pub fn json(analysis: &Analysis) -> String {
    serde_json::to_string_pretty(analysis).expect("plain data") + "\n"
}

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Text.
    Text,
    /// 64-bit integers.
    Integer,
    /// 64-bit floating-point numbers.
    Real,
}

/// The columns of [`csv`].
pub(crate) const COLUMNS: [(&str, Type); 47] = [
    ("id", Type::Text),
    ("role", Type::Text),
    ("parent", Type::Text),
    ("parent_seed", Type::Integer),
    ("block", Type::Text),
    ("substitute", Type::Text),
    ("init", Type::Text),
    ("scheme", Type::Text),
    ("budget", Type::Integer),
    ("seed", Type::Integer),
    ("state", Type::Text),
    ("test_images", Type::Integer),
    ("test_correct", Type::Integer),
    ("test_top1", Type::Real),
    ("test_top5", Type::Real),
    ("test_loss", Type::Real),
    ("test_calibration_error", Type::Real),
    ("test_agreement", Type::Real),
    ("validation_images", Type::Integer),
    ("validation_top1", Type::Real),
    ("validation_top5", Type::Real),
    ("validation_loss", Type::Real),
    ("before_top1", Type::Real),
    ("best_examples", Type::Integer),
    ("best_validation_top1", Type::Real),
    ("best_test_top1", Type::Real),
    ("recovered_at", Type::Integer),
    ("examples", Type::Integer),
    ("parameters", Type::Integer),
    ("macs", Type::Integer),
    ("dead_filters", Type::Integer),
    ("effective_rank", Type::Real),
    ("train_seconds", Type::Real),
    ("seconds", Type::Real),
    ("inference_seconds", Type::Real),
    ("parent_inference_seconds", Type::Real),
    ("inference_repetitions", Type::Integer),
    ("inference_ratio", Type::Real),
    ("inference_ratio_low", Type::Real),
    ("inference_ratio_high", Type::Real),
    ("hint_loss", Type::Real),
    ("test_per_class", Type::Text),
    ("test_correct_bits", Type::Text),
    ("similarity_layers", Type::Text),
    ("similarity_before", Type::Text),
    ("similarity_after", Type::Text),
    ("machine", Type::Text),
];

/// Names of the columns of [`csv`] that hold text, for readers that would guess numbers where a block is named `0`.
pub fn text_columns() -> Vec<&'static str> {
    COLUMNS.iter().filter(|(_, kind)| *kind == Type::Text).map(|(name, _)| *name).collect()
}

/// One row per parent (role `trained`) and per recorded trial, as CSV (RFC 4180) with a header.
///
/// Accuracies are 0 to 1. `test_per_class` is separated by spaces. `test_correct_bits` is base64 with one bit per image,
/// most significant first. `similarity_before` and `similarity_after` hold a value per layer of `similarity_layers`,
/// separated by spaces, `-` where unknown. Missing values are empty.
pub fn csv(data: &RunData) -> String {
    let mut out = String::new();
    line(&mut out, COLUMNS.iter().map(|(name, _)| (*name).to_owned()));
    for row in rows(data) {
        let cells = row.into_iter().zip(COLUMNS);
        line(
            &mut out,
            cells.map(|(cell, (name, _))| if ENCODED.contains(&name) { cell } else { escape_formula(cell) }),
        );
    }
    out
}

/// Columns in an encoding of their own, which must stay unescaped.
const ENCODED: [&str; 4] = ["test_per_class", "test_correct_bits", "similarity_before", "similarity_after"];

/// The table of [`csv`] as cells.
pub(crate) fn rows(data: &RunData) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for parent in &data.parents {
        let spec = TrialSpec {
            id: parent.id.clone(),
            role: nettriage_records::plan::Role::Parent,
            parent: parent.id.clone(),
            block: None,
            substitute: None,
            init: None,
            scheme: String::new(),
            budget: None,
            seed: parent.seed,
        };
        let mut row = Row::new(data, &spec, "trained", "done");
        row.test(&parent.test, &parent.test_correct);
        row.validation(&parent.validation);
        row.set("parameters", parent.cost.parameters);
        row.set("macs", parent.cost.macs);
        row.clock(&parent.clock);
        rows.push(row.cells);
    }
    for record in &data.records {
        let state = match record.outcome {
            Outcome::Done => "done",
            Outcome::Diverged { .. } => "diverged",
            Outcome::Failed { .. } => "failed",
        };
        let role = serde_json::to_value(record.spec.role).expect("plain data");
        let mut row = Row::new(data, &record.spec, role.as_str().unwrap_or_default(), state);
        row.clock(&record.clock);
        if let Some(readings) = &record.readings {
            row.test(&readings.test, &readings.test_correct);
            row.validation(&readings.validation);
            row.set("before_top1", readings.before.top1);
            row.set("best_examples", readings.best.examples);
            row.set("best_validation_top1", readings.best.validation_top1);
            row.set("best_test_top1", readings.best.test.top1);
            row.optional("recovered_at", readings.recovered_at);
            row.optional("examples", readings.curve.last().map(|point| point.examples));
            row.set("parameters", readings.cost.parameters);
            row.set("macs", readings.cost.macs);
            row.optional("dead_filters", readings.filters.as_ref().map(|filters| filters.dead));
            row.optional("effective_rank", readings.filters.as_ref().map(|filters| filters.effective_rank));
            let first_stage = readings.curve.iter().filter(|point| point.stage == 0);
            if let Some(similarity) = &readings.similarity {
                let joined = |read: &dyn Fn(&LayerSimilarity) -> String| {
                    similarity.layers.iter().map(read).collect::<Vec<_>>().join(" ")
                };
                let value = |value: Option<f64>| value.map_or("-".to_owned(), |value| value.to_string());
                row.set("similarity_layers", joined(&|layer| layer.layer.clone()));
                row.set("similarity_before", joined(&|layer| value(layer.before)));
                row.set("similarity_after", joined(&|layer| value(layer.after)));
            }
            row.optional("hint_loss", first_stage.filter_map(|point| point.train_loss).next_back());
        }
        rows.push(row.cells);
    }
    rows
}

struct Row {
    cells: Vec<String>,
}

impl Row {
    fn new(data: &RunData, spec: &TrialSpec, role: &str, state: &str) -> Row {
        let mut row = Row { cells: vec![String::new(); COLUMNS.len()] };
        row.set("id", &spec.id);
        row.set("role", role);
        row.set("parent", &spec.parent);
        row.optional("parent_seed", data.plan.parents.iter().find(|p| p.id == spec.parent).map(|p| p.seed));
        row.optional("block", spec.block.as_ref());
        row.optional("substitute", spec.substitute.as_ref());
        row.optional("init", spec.init.as_ref());
        row.set("scheme", &spec.scheme);
        row.optional("budget", spec.budget);
        row.set("seed", spec.seed);
        row.set("state", state);
        row
    }

    fn set(&mut self, column: &str, value: impl Serialize) {
        let at = COLUMNS.iter().position(|(name, _)| *name == column).expect("a column of the table");
        self.cells[at] = match serde_json::to_value(value).expect("plain data") {
            serde_json::Value::String(text) => text,
            serde_json::Value::Null => String::new(),
            // The shortest decimal that reads back as the same number.
            other => other.to_string(),
        };
    }

    fn optional(&mut self, column: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.set(column, value);
        }
    }

    fn test(&mut self, test: &Evaluation, bits: &str) {
        self.set("test_images", test.images);
        self.set("test_correct", test.correct);
        self.set("test_top1", test.top1);
        self.set("test_top5", test.top5);
        self.set("test_loss", test.loss);
        self.set("test_calibration_error", test.calibration_error);
        self.set("test_agreement", test.agreement);
        let classes: Vec<String> = test.per_class.iter().map(f64::to_string).collect();
        self.set("test_per_class", classes.join(" "));
        self.set("test_correct_bits", bits);
    }

    fn validation(&mut self, validation: &Evaluation) {
        self.set("validation_images", validation.images);
        self.set("validation_top1", validation.top1);
        self.set("validation_top5", validation.top5);
        self.set("validation_loss", validation.loss);
    }

    fn clock(&mut self, clock: &Clock) {
        self.set("train_seconds", clock.train_seconds);
        self.set("seconds", clock.seconds);
        self.optional("machine", clock.machine.as_ref().map(ToString::to_string));
        if let Some(inference) = &clock.inference {
            self.set("inference_seconds", inference.network[0]);
            self.set("parent_inference_seconds", inference.parent[0]);
            self.set("inference_repetitions", inference.repetitions);
            let names = ["inference_ratio", "inference_ratio_low", "inference_ratio_high"];
            for (i, name) in names.into_iter().enumerate() {
                self.optional(name, inference.ratio.map(|ratio| ratio[i]));
            }
        }
    }
}

/// One row per budget and cell (block, substitute, init, scheme) as CSV with a header.
pub fn csv_cells(analysis: &Analysis) -> String {
    let mut out = String::new();
    let header = [
        "block",
        "substitute",
        "init",
        "scheme",
        "budget",
        "converged",
        "trials",
        "diverged",
        "failed",
        "accuracy",
        "best_accuracy",
        "criticality",
        "low",
        "high",
        "student_low",
        "student_high",
        "bootstrap_low",
        "bootstrap_high",
        "fallback_pairs",
        "drop_before_training",
        "recovered",
        "median_recovery",
        "agreement",
        "calibration_error",
        "parameters",
        "macs",
        "latency",
        "seconds",
    ];
    line(&mut out, header.iter().map(|name| (*name).to_owned()));
    let main = analysis.cells.iter().map(|cell| (analysis.budget, cell));
    let others = analysis.budgets.iter().flat_map(|budgets| &budgets.each);
    let others = others.filter(|at| Some(at.images) != analysis.budget);
    let others = others.flat_map(|at| at.cells.iter().map(|cell| (Some(at.images), cell)));
    for (budget, cell) in main.chain(others) {
        let converged = analysis.budgets.as_ref().zip(budget).and_then(|(budgets, images)| budgets.of(images, cell));
        let number = |x: Option<f64>| x.map(|x| x.to_string()).unwrap_or_default();
        let ends = |read: fn(&crate::analysis::Estimate) -> Option<[f64; 2]>| {
            let ends = cell.criticality.as_ref().and_then(read);
            [number(ends.map(|ends| ends[0])), number(ends.map(|ends| ends[1]))]
        };
        let mut row = vec![cell.block.clone(), cell.substitute.clone(), cell.init.clone(), cell.scheme.clone()];
        row.push(budget.map(|images| images.to_string()).unwrap_or_default());
        row.push(converged.and_then(|cell| cell.converged).map(|yes| yes.to_string()).unwrap_or_default());
        row.extend([cell.trials, cell.diverged, cell.failed].map(|n| n.to_string()));
        row.extend([cell.accuracy, cell.best_accuracy].map(|x| x.to_string()));
        row.push(number(cell.criticality.as_ref().map(|estimate| estimate.mean)));
        row.extend(ends(|estimate| estimate.interval));
        row.extend(ends(|estimate| estimate.student));
        row.extend(ends(|estimate| estimate.bootstrap));
        row.push(cell.fallback_pairs.to_string());
        row.push(cell.drop_before_training.to_string());
        row.push(cell.recovered.to_string());
        row.push(number(cell.median_recovery));
        row.extend([cell.agreement, cell.calibration_error].map(|x| x.to_string()));
        row.extend([cell.cost.parameters, cell.cost.macs].map(|n| n.to_string()));
        row.push(number(cell.latency));
        row.push(cell.seconds.to_string());
        line(&mut out, row.into_iter().map(escape_formula));
    }
    out
}

/// A table of text as CSV (RFC 4180), with a header.
pub fn csv_table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut out = String::new();
    line(&mut out, header.iter().map(|name| (*name).to_owned()));
    for row in rows {
        line(&mut out, row.into_iter().map(escape_formula));
    }
    out
}

/// Prefixes an apostrophe to text that a spreadsheet would run as a formula (leading `=`, `+`, `-`, `@`); numbers stay.
fn escape_formula(cell: String) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    if formula { format!("'{cell}") } else { cell }
}

/// Appends one line of CSV, with quotes where needed.
fn line(out: &mut String, cells: impl IntoIterator<Item = String>) {
    for (i, cell) in cells.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&cell);
        }
    }
    out.push_str("\r\n");
}
