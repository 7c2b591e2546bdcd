//! The report of a prescription, or of a front of several networks, as plain text, as a model card and as a page.

use nettriage_records::prescription::{Figures, Front, FrontNetwork, Prescription};
use nettriage_records::scan::Measure;

use crate::format::{interval, number, percent, printable, short};
use crate::markdown::{code, escape};
use crate::scan::{kept, kept_and_lost};
use crate::terminal::aligned;

pub use crate::html::{front as front_html, prescription as html};

/// Predicted and measured figures as plain text.
pub fn terminal(prescription: &Prescription) -> String {
    let mut out = aligned(&rows(prescription), |_| true).concat() + "\n";
    for replaced in &prescription.replaced {
        out += &format!("{}: {}\n", replaced.range, replaced.substitute);
    }
    out += &format!("\n{}\n", verdict(prescription));
    printable(&out)
}

/// The budget, whether the network meets it, and what it costs and saves.
pub(crate) fn verdict(prescription: &Prescription) -> String {
    let last = prescription.final_figures();
    let before = prescription.test.as_ref().map_or(&prescription.before, |[before, _]| before);
    let measure = prescription.measure;
    let loss = number(last.loss().unwrap_or(f64::NAN), 2);
    let lost = match (last.drop, &prescription.test) {
        (Some([_, low, high]), Some(_)) => {
            format!("Accuracy drop {loss} pp on the test set ({})", interval([low, high]))
        }
        (Some(_), None) => format!("Accuracy drop {loss} pp on the evaluation images"),
        (None, _) => format!("{loss}% {} on the evaluation images", measure.loss()),
    };
    let times = 1.0 / prescription.time_ratio[0].max(1e-9);
    let kept = if prescription.kept { "met" } else { "NOT met on the test set" };
    let result = match prescription.place {
        None => format!("{}: {kept}", prescription.budget),
        Some([number, of]) => format!("Network {number} of {of}"),
    };
    format!(
        "{result}. {lost}, {} times as fast, {} of the multiply-accumulates, {} of the parameters.",
        number(times, 2),
        percent(last.cost.macs as f64 / (before.cost.macs as f64).max(1.0)),
        percent(last.cost.parameters as f64 / (before.cost.parameters as f64).max(1.0)),
    )
}

/// The networks of a front as plain text.
pub fn front_terminal(front: &Front) -> String {
    let dominated = (0..front.networks.len()).any(|network| front.is_dominated(network));
    let note = "* another of these networks loses no more and takes no more time\n";
    printable(&(aligned(&front_rows(front), |_| true).concat() + if dominated { note } else { "" }))
}

/// The networks of a front; the first row is the header. A star marks a network that another is at least as good as in all respects.
pub(crate) fn front_rows(front: &Front) -> Vec<Vec<String>> {
    let measure = front.networks.first().map_or(Measure::Accuracy, |network| network.prescription.measure);
    let [kept_header, lost_header] = kept_and_lost(measure);
    let header = ["", kept_header, lost_header, "95% interval", "parameters", "MACs", "time", "replaced"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let dash = || "-".to_owned();
    let row = |name: String, figures: &Figures, time: f64, replaced: String| {
        let accuracy = figures.accuracy.map(|accuracy| format!("{}%", number(100.0 * accuracy, 2)));
        vec![
            name,
            figures
                .fidelity
                .map_or_else(|| accuracy.unwrap_or_else(dash), |fidelity| kept(figures.accuracy, &fidelity)),
            figures.loss().filter(|_| !replaced.is_empty()).map_or_else(dash, |loss| number(loss, 2)),
            figures.drop.map_or_else(dash, |[_, low, high]| interval([low, high])),
            short(figures.cost.parameters as f64),
            short(figures.cost.macs as f64),
            percent(time),
            replaced,
        ]
    };
    if let Some(FrontNetwork { prescription, .. }) = front.networks.first() {
        let before = prescription.test.as_ref().map_or(&prescription.before, |[before, _]| before);
        rows.push(row("as it is".to_owned(), before, 1.0, String::new()));
    }
    for (number, FrontNetwork { file, prescription }) in front.networks.iter().enumerate() {
        let star = if front.is_dominated(number) { " *" } else { "" };
        let name = file.clone().unwrap_or_else(|| (number + 1).to_string()) + star;
        let replaced: Vec<String> =
            prescription.replaced.iter().map(|r| format!("{}: {}", r.range, r.substitute)).collect();
        rows.push(row(name, prescription.final_figures(), prescription.time_ratio[0], replaced.join(", ")));
    }
    rows
}

/// Predicted and measured figures; the first row is the header.
pub(crate) fn rows(prescription: &Prescription) -> Vec<Vec<String>> {
    let [kept_header, lost_header] = kept_and_lost(prescription.measure);
    let header = ["", kept_header, lost_header, "95% interval", "parameters", "MACs", "ms"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let trained = if prescription.training == "none" { "evaluated" } else { "trained" };
    let mut add = |name: &str, figures: &Figures, spread: bool| {
        let dash = || "-".to_owned();
        rows.push(vec![
            name.to_owned(),
            match (figures.accuracy, figures.fidelity) {
                (accuracy, Some(fidelity)) => kept(accuracy, &fidelity),
                (Some(accuracy), None) => format!("{}%", number(100.0 * accuracy, 2)),
                (None, None) => dash(),
            },
            figures
                .loss()
                .filter(|_| name != "before" && name != "before, test set")
                .map_or_else(dash, |x| number(x, 2)),
            figures.drop.filter(|_| spread).map_or_else(dash, |[_, low, high]| interval([low, high])),
            short(figures.cost.parameters as f64),
            short(figures.cost.macs as f64),
            format!("{:.3}", figures.milliseconds),
        ]);
    };
    add("before", &prescription.before, false);
    add("predicted, untrained", &prescription.predicted, false);
    add("built, untrained", &prescription.built, true);
    if let Some(corrected) = &prescription.corrected {
        add("predicted, corrected", corrected, false);
    }
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
         - **Judged by**: {}\n- **Command**: {}\n\n",
        escape(&prescription.network),
        escape(&verdict(prescription)),
        code(&prescription.source),
        escape(&prescription.data),
        escape(&prescription.training),
        escape(&prescription.judged_from),
        escape(prescription.measure.describe()),
        code(command),
    );
    out += "## Replaced layers\n\n| range | first and last layer | by |\n|---|---|---|\n";
    for replaced in &prescription.replaced {
        let [first, last] = replaced.layers.each_ref().map(|layer| escape(layer));
        let (range, by) = (escape(&replaced.range), escape(&replaced.substitute));
        out += &format!("| {range} | {first}, {last} | {by} |\n");
    }
    out += "\n## Predicted and measured\n\n";
    for (index, row) in rows(prescription).iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
        out += &format!("| {} |\n", cells.join(" | "));
        if index == 0 {
            out += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    let [ratio, low, high] = prescription.time_ratio.map(|ratio| number(ratio, 3));
    out += &match &prescription.latency_table {
        Some(table) => format!(
            "\nMilliseconds: sums over the network's parts of the times in {}, which were measured elsewhere, part by part; no pass of a \
             whole network was timed. {ratio} of the original's time.",
            code(table),
        ),
        None => format!(
            "\nMilliseconds: medians of passes of {} image(s) on one thread by {}, both networks timed in pairs: {ratio} of the \
             original's time ({low} to {high}); the prediction adds up parts timed alone{}.",
            prescription.batch,
            escape(&prescription.timed_by),
            if prescription.timed_by == "nettriage" { "" } else { " by nettriage, as a share of the original's" },
        ),
    };
    out += " The drop in accuracy is paired by image, with the interval of Agresti and Min (2005).\n";
    out
}
