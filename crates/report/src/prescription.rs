//! The report of a prescription as plain text, as a model card and as a page.

use nettriage_records::prescription::{Figures, Prescription};

use crate::format::{interval, number, percent, printable, short};
use crate::markdown::{code, escape};
use crate::terminal::aligned;

pub use crate::html::prescription as html;

/// Predicted and measured figures as plain text.
pub fn terminal(prescription: &Prescription) -> String {
    let mut out = aligned(&rows(prescription), |_| true).concat() + "\n";
    for replaced in &prescription.replaced {
        let [first, last] = &replaced.layers;
        out += &format!("{first} to {last}: {}\n", replaced.substitute);
    }
    out += &format!("\n{}\n", verdict(prescription));
    printable(&out)
}

/// The budget, whether the network meets it, and what it costs and saves.
pub(crate) fn verdict(prescription: &Prescription) -> String {
    let last = prescription.test.as_ref().map_or(&prescription.judged, |[_, after]| after);
    let before = prescription.test.as_ref().map_or(&prescription.before, |[before, _]| before);
    let accuracy = match (last.drop, &prescription.test) {
        (Some([drop, low, high]), Some(_)) => {
            format!("Accuracy drop {} pp on the test set ({})", number(drop, 2), interval([low, high]))
        }
        (Some([drop, ..]), None) => format!("Accuracy drop {} pp on the evaluation images", number(drop, 2)),
        (None, _) => format!("{} of predictions stay the same", percent(last.agreement.unwrap_or(0.0))),
    };
    let times = before.milliseconds / last.milliseconds.max(1e-9);
    let kept = if prescription.kept { "met" } else { "NOT met on the test set" };
    format!(
        "{}: {kept}. {accuracy}, {} times as fast, {} of the multiply-accumulates, {} of the parameters.",
        prescription.budget,
        number(times, 2),
        percent(last.cost.macs as f64 / (before.cost.macs as f64).max(1.0)),
        percent(last.cost.parameters as f64 / (before.cost.parameters as f64).max(1.0)),
    )
}

/// Predicted and measured figures; the first row is the header.
pub(crate) fn rows(prescription: &Prescription) -> Vec<Vec<String>> {
    let header = ["", "accuracy", "drop, pp", "95% interval", "parameters", "MACs", "ms"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let trained = if prescription.training == "none" { "evaluated" } else { "trained" };
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
        add("after, test set", after, true);
    }
    rows
}

/// The model card.
pub fn markdown(prescription: &Prescription, command: &str) -> String {
    let mut out = format!(
        "# {}, compressed\n\n{}\n\n- **Parent**: {}\n- **Data**: {}\n- **Training after surgery**: {}\n- **Evaluated on**: {}\n\
         - **Command**: {}\n\n",
        escape(&prescription.network),
        escape(&verdict(prescription)),
        code(&prescription.source),
        escape(&prescription.data),
        escape(&prescription.training),
        escape(&prescription.judged_from),
        code(command),
    );
    out += "## Replaced layers\n\n| layers | by |\n|---|---|\n";
    for replaced in &prescription.replaced {
        let [first, last] = replaced.layers.each_ref().map(|layer| escape(layer));
        out += &format!("| {first} to {last} | {} |\n", escape(&replaced.substitute));
    }
    out += "\n## Predicted and measured\n\n";
    for (index, row) in rows(prescription).iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
        out += &format!("| {} |\n", cells.join(" | "));
        if index == 0 {
            out += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    out += &format!(
        "\nMilliseconds: a pass of {} image(s) on one thread, both networks timed in alternation; the prediction adds up parts timed \
         alone. The drop is paired by image, with the interval of Agresti and Min (2005).\n",
        prescription.batch
    );
    out
}
