//! What a prescription says: predicted beside actual, as text, as a model card, as a page.

use nettriage_records::prescription::{Figures, Prescription};

use crate::format::{interval, number, percent, short};
use crate::terminal::{aligned, clean};

pub use crate::html::prescription as html;

/// The table of predicted and actual as plain text.
pub fn terminal(prescription: &Prescription) -> String {
    let mut out = aligned(&rows(prescription), |_| true).concat() + "\n";
    for replaced in &prescription.replaced {
        let [first, last] = &replaced.layers;
        out += &(clean(&format!("{first} to {last}: {}", replaced.substitute)) + "\n");
    }
    out += &format!("\n{}\n", verdict(prescription));
    out
}

/// One sentence: what was promised and whether it holds.
pub(crate) fn verdict(prescription: &Prescription) -> String {
    let last = prescription.test.as_ref().map_or(&prescription.judged, |[_, after]| after);
    let before = prescription.test.as_ref().map_or(&prescription.before, |[before, _]| before);
    let accuracy = match (last.drop, &prescription.test) {
        (Some([drop, low, high]), Some(_)) => {
            format!("{} points lost on the test set ({})", number(drop, 2), interval([low, high]))
        }
        (Some([drop, ..]), None) => format!("{} points lost on the judged images", number(drop, 2)),
        (None, _) => format!("{} of first choices stay", percent(last.agreement.unwrap_or(0.0))),
    };
    let times = before.milliseconds / last.milliseconds.max(1e-9);
    let kept = if prescription.kept { "kept" } else { "NOT kept on the test set" };
    format!(
        "{}: {kept}. {accuracy}, {} times as fast, {} of the multiply-accumulates, {} of the parameters.",
        prescription.budget,
        number(times, 2),
        percent(last.cost.macs as f64 / (before.cost.macs as f64).max(1.0)),
        percent(last.cost.parameters as f64 / (before.cost.parameters as f64).max(1.0)),
    )
}

/// Predicted beside actual; the first row is the header.
pub(crate) fn rows(prescription: &Prescription) -> Vec<Vec<String>> {
    let header = ["", "accuracy", "drop (points)", "95% interval", "parameters", "MACs", "ms"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let trained = if prescription.training == "none" { "judged" } else { "judged, trained" };
    let mut add = |name: &str, figures: &Figures, spread: bool| {
        let dash = || "-".to_owned();
        rows.push(vec![
            name.to_owned(),
            figures.accuracy.map_or_else(dash, |a| format!("{}%", number(100.0 * a, 2))),
            figures.drop.map_or_else(dash, |d| number(d[0], 2)),
            figures.drop.filter(|_| spread).map_or_else(dash, |[_, low, high]| interval([low, high])),
            short(figures.cost.parameters as f64),
            short(figures.cost.macs as f64),
            format!("{:.3}", figures.milliseconds),
        ]);
    };
    add("before", &prescription.before, false);
    add("predicted, untrained", &prescription.predicted, false);
    add("built, untrained", &prescription.built, true);
    if prescription.training != "none" {
        add(trained, &prescription.judged, true);
    }
    if let Some([before, after]) = &prescription.test {
        add("before, test set", before, false);
        add("actual, test set", after, true);
    }
    rows
}

/// The model card.
pub fn markdown(prescription: &Prescription, command: &str) -> String {
    let mut out = format!(
        "# {}, compressed\n\n{}\n\n- **Parent**: `{}`\n- **Data**: {}\n- **Training after surgery**: {}\n- **Judged by**: {}\n\
         - **Command**: `{}`\n\n",
        prescription.network,
        verdict(prescription),
        prescription.source,
        prescription.data,
        prescription.training,
        prescription.judged_from,
        command.replace('`', "'"),
    );
    out += "## What was replaced\n\n| layers | by |\n|---|---|\n";
    for replaced in &prescription.replaced {
        out += &format!("| {} to {} | {} |\n", replaced.layers[0], replaced.layers[1], replaced.substitute);
    }
    out += "\n## Predicted and actual\n\n";
    for (index, row) in rows(prescription).iter().enumerate() {
        out += &format!("| {} |\n", row.join(" | "));
        if index == 0 {
            out += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    out += &format!(
        "\nMilliseconds: a pass of {} image(s) on one thread, networks in alternation; the predicted one adds up parts measured alone. \
         The drop is paired image by image, its interval Agresti and Min's (2005).\n",
        prescription.batch
    );
    out
}
