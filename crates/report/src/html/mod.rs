//! One offline page: no request leaves it.
//!
//! Words, tables and the drawing of the network are written here and read without scripts; the plots are drawn by
//! Observable Plot (ISC, embedded) from the data in the page.

mod answer;
mod details;
mod escape;
mod filters;
mod findings;
mod matrix;
mod method;
mod pictures;
mod plots;
mod prescription;
mod scan;

use crate::analysis::Analysis;
use crate::data::RunData;
use escape::text;
pub(crate) use filters::sheet;
pub use prescription::prescription;
pub use scan::scan;

const D3: &str = include_str!("../../assets/d3.min.js");
const PLOT: &str = include_str!("../../assets/plot.umd.min.js");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole report as one HTML document.
pub fn html(data: &RunData, analysis: &Analysis) -> String {
    let sections = [
        ("answer", "Answer", answer::section(data, analysis)),
        ("matrix", "Matrix", matrix::section(data, analysis)),
        ("curves", "Learning curves", plots::curves(analysis)),
        ("findings", "Findings", findings::section(data, analysis)),
        ("cost", "Cost", plots::cost(analysis)),
        ("controls", "Controls", details::controls(analysis)),
        ("cheaper", "Cheaper answers", details::cheap(analysis)),
        ("classes", "Classes", details::classes(data, analysis)),
        ("calibration", "Calibration", details::calibration(analysis)),
        ("filters", "Filters", filters::section(data, analysis)),
        ("similarity", "Similarity", plots::similarity(analysis)),
        ("method", "Method", method::section(data, analysis)),
    ];
    let shown: Vec<_> = sections.iter().filter(|(_, _, body)| !body.is_empty()).collect();
    let links: Vec<String> = shown.iter().map(|(id, title, _)| format!("<a href=\"#{id}\">{title}</a>")).collect();
    let bodies: Vec<String> = shown
        .iter()
        .map(|(id, title, body)| {
            let heading = if *id == "answer" { String::new() } else { format!("<h2>{title}</h2>") };
            format!("<section id=\"{id}\" aria-label=\"{title}\">{heading}{body}</section>")
        })
        .collect();
    let head = head(&format!("{}: which blocks matter", text(&analysis.name)), "script-src 'unsafe-inline'; ", "");
    format!(
        "{head}<body>\
         <a class=\"skip\" href=\"#answer\">To the answer</a>\
         <header><nav aria-label=\"Sections\"><b>nettriage</b>{links}</nav>\
         <button id=\"theme\" type=\"button\" title=\"Light or dark\" aria-label=\"Light or dark\">◐</button></header>\
         <main>{bodies}</main><div id=\"tip\" role=\"tooltip\" hidden></div>\
         <script type=\"application/json\" id=\"data\">{payload}</script>\n\
         <script>{D3}</script>\n<script>{PLOT}</script>\n<script>{SCRIPT}</script></body></html>\n",
        links = links.concat(),
        bodies = bodies.concat(),
        payload = escape::json(&plots::payload(data, analysis)),
    )
}

/// A page's beginning, up to its body; `style` comes after what all pages have.
///
/// Nothing may be fetched, whatever the records hold: the policy allows what is in the page alone.
pub(crate) fn head(title: &str, scripts: &str, style: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; {scripts}img-src data: blob:\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <title>{title}</title><style>{STYLE}{style}</style></head>\n"
    )
}

/// The step of the colour scale that a criticality falls on: 0 to 8, 3 for none. The steps are fixed so that two reports
/// can be compared by eye.
pub(crate) fn step(points: f64) -> usize {
    const ENDS: [f64; 8] = [-2.0, -1.0, -0.25, 0.25, 1.0, 2.0, 5.0, 10.0];
    ENDS.iter().filter(|&&end| points > end).count()
}

/// A table: header cells and rows of cells, all already safe.
pub(crate) fn table(class: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let head: String = header.iter().map(|cell| format!("<th scope=\"col\">{cell}</th>")).collect();
    let body: String = rows
        .iter()
        .map(|row| {
            let cells = row.iter().enumerate().map(|(i, cell)| match i {
                0 => format!("<th scope=\"row\">{cell}</th>"),
                _ => format!("<td>{cell}</td>"),
            });
            format!("<tr>{}</tr>", cells.collect::<String>())
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"{class}\"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
}
