//! The HTML pages: single files that fetch nothing.
//!
//! Text, tables and the diagram of the network are static HTML and readable without scripts. Observable Plot (ISC licence,
//! embedded) draws the plots from the analysis, which the page holds as JSON: the same serialisation as [`crate::json`].

mod answer;
mod budgets;
mod details;
mod filters;
mod findings;
mod images;
mod matrix;
mod method;
mod metric;
mod plots;
mod prescription;
mod scan;

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use crate::analysis::Analysis;
use crate::data::RunData;
use crate::format::printable;
pub(crate) use filters::contact_sheet;
pub use metric::metric;
pub use prescription::{front, prescription};
pub use scan::scan;

const D3: &str = include_str!("../../assets/d3.min.js");
const PLOT: &str = include_str!("../../assets/plot.umd.min.js");
const STYLE: &str = include_str!("../../assets/style.css");
/// Runs on every page.
const COMMON: &str = concat!(
    include_str!("../../assets/page/helpers.js"),
    include_str!("../../assets/page/theme.js"),
    include_str!("../../assets/page/tables.js"),
    include_str!("../../assets/page/tips.js"),
);
/// Draws the report's plots.
const PLOTS: &str = concat!(
    include_str!("../../assets/page/plot_helpers.js"),
    include_str!("../../assets/page/criticality.js"),
    include_str!("../../assets/page/budgets.js"),
    include_str!("../../assets/page/curves.js"),
    include_str!("../../assets/page/similarity.js"),
    include_str!("../../assets/page/survival.js"),
    include_str!("../../assets/page/pareto.js"),
    include_str!("../../assets/page/figures.js"),
);

/// The report of a run as one HTML document.
pub fn html(data: &RunData, analysis: &Analysis) -> String {
    let whole = data;
    let data = &*whole.of(analysis);
    let sections = [
        ("answer", "Answer", Some(answer::section(data, analysis))),
        ("budgets", "Budgets", budgets::section(analysis)),
        ("matrix", "Matrix", matrix::section(analysis)),
        ("curves", "Learning curves", plots::curves(analysis)),
        ("findings", "Findings", findings::section(analysis)),
        ("cost", "Cost", plots::pareto(analysis)),
        ("controls", "Controls", details::controls(analysis)),
        ("proxies", "Proxy rankings", details::proxies(analysis)),
        ("classes", "Classes", details::classes(data, analysis)),
        ("calibration", "Calibration", details::calibration(analysis)),
        ("filters", "Filters", filters::section(data, analysis)),
        ("similarity", "Similarity", plots::similarity(analysis)),
        ("method", "Method", Some(method::section(whole, analysis))),
    ];
    let scripts = html! {
        script type="application/json" id="data" { (script_json(analysis)) }
        script { (PreEscaped(D3)) }
        script { (PreEscaped(PLOT)) }
        (script(&[COMMON, PLOTS]))
    };
    of_sections(&analysis.name, sections, &scripts)
}

/// A page of sections: their ids, titles and bodies; those without a body are left out.
fn of_sections<const N: usize>(name: &str, sections: [(&str, &str, Option<Markup>); N], scripts: &Markup) -> String {
    let shown: Vec<(&str, &str, Markup)> =
        sections.into_iter().filter_map(|(id, title, body)| Some((id, title, body?))).collect();
    let links: Vec<(&str, &str)> = shown.iter().map(|(id, title, _)| (*id, *title)).collect();
    let body = html! {
        @for (id, title, body) in &shown {
            section id=(id) aria-label=(title) {
                @if *id != "answer" { h2 { (title) } }
                (body)
            }
        }
    };
    document(&format!("{name}: which blocks matter"), "nettriage", &links, &body, scripts)
}

/// A whole page. `links` are the sections' ids and titles, `scripts` come last in the body.
fn document(title: &str, program: &str, links: &[(&str, &str)], body: &Markup, scripts: &Markup) -> String {
    // The policy forbids every request, whatever names the records hold.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:";
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#answer" { "Skip to the answer" }
                header {
                    nav aria-label="Sections" {
                        b { (program) }
                        @for (id, title) in links { a href={ "#" (id) } { (title) } }
                    }
                    button #theme type="button" title="Light or dark" aria-label="Light or dark" { "◐" }
                }
                main { (body) }
                div #tip role="tooltip" hidden {}
                (scripts)
            }
        }
    };
    printable(&page.into_string()) + "\n"
}

/// The scripts of a page that has no plots.
fn common_script() -> Markup {
    script(&[COMMON])
}

fn script(parts: &[&str]) -> Markup {
    html! { script { (PreEscaped("\"use strict\";\n(() => {\n")) @for part in parts { (PreEscaped(part)) } (PreEscaped("})();\n")) } }
}

/// JSON for a `<script type="application/json">`. Nothing in it can end the element or open a comment.
fn script_json(value: &impl serde::Serialize) -> PreEscaped<String> {
    let plain = serde_json::to_string(value).expect("plain data");
    PreEscaped(plain.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}

/// The step of the colour scale for an accuracy drop in percentage points: 0 to 8, where 3 is no change. The steps are
/// fixed, so that colours mean the same in every report.
fn colour_step(drop: f64) -> usize {
    const ENDS: [f64; 8] = [-2.0, -1.0, -0.25, 0.25, 1.0, 2.0, 5.0, 10.0];
    ENDS.iter().filter(|&&end| drop > end).count()
}

/// A table cell: its content, and the number that it sorts by where the content alone does not tell.
struct Td {
    content: Markup,
    value: Option<f64>,
}

impl<T: Render> From<T> for Td {
    fn from(content: T) -> Td {
        Td { content: content.render(), value: None }
    }
}

impl Td {
    /// A cell that sorts by `value`.
    fn number(value: f64, content: impl Render) -> Td {
        Td { content: content.render(), value: Some(value) }
    }

    /// A cell for a value that may be absent.
    fn optional(value: Option<f64>, show: impl FnOnce(f64) -> String) -> Td {
        value.map_or_else(Td::none, |value| Td::number(value, show(value)))
    }

    /// A cell without a value.
    fn none() -> Td {
        Td::from("–")
    }
}

/// A table whose columns sort; the first cell of a row is its header.
fn table(class: &str, header: &[&str], rows: Vec<Vec<Td>>) -> Markup {
    html! {
        div.scroll {
            table class=(class) {
                thead { tr { @for name in header { (sortable(name)) } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (column, cell) in row.into_iter().enumerate() {
                                @if column == 0 {
                                    th scope="row" data-value=[cell.value] { (cell.content) }
                                } @else {
                                    td data-value=[cell.value] { (cell.content) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The header of a column that sorts.
fn sortable(name: &str) -> Markup {
    html! {
        th scope="col" {
            @if !name.is_empty() { button.sort type="button" { (name) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_end_its_element() {
        assert_eq!(html! { (r#"<b a="'">&"#) }.into_string(), "&lt;b a=&quot;'&quot;&gt;&amp;");
        let PreEscaped(json) = script_json(&"</script><!--");
        assert!(!json.contains('<'));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "</script><!--");
    }
}
