//! The page of a prescription: predicted beside actual, and the front of plans.

use nettriage_records::prescription::Prescription;

use super::escape::text;
use super::{head, table};
use crate::format::{number, short};
use crate::prescription::{rows, verdict};

/// Width and height of the front's picture.
const SIZE: [f64; 2] = [720.0, 320.0];

/// Plans with a larger predicted drop are not drawn.
const LARGEST: f64 = 30.0;

const FRONT: &str = ".front text{fill:var(--soft);font-size:12px}.front path{fill:none;stroke:var(--accent);stroke-width:2}\
     .front circle{fill:var(--accent)}.front rect{fill:var(--no)}.front line{stroke:var(--line)}";

/// The prescription as one HTML document; it has no script and fetches nothing.
pub fn prescription(prescription: &Prescription) -> String {
    let safe = |rows: &[Vec<String>]| -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| text(cell)).collect()).collect()
    };
    let figures = rows(prescription);
    let header: Vec<&str> = figures[0].iter().map(String::as_str).collect();
    let replaced: Vec<Vec<String>> = prescription
        .replaced
        .iter()
        .map(|r| vec![format!("{} to {}", r.layers[0], r.layers[1]), r.substitute.clone()])
        .collect();
    let front: Vec<Vec<String>> = prescription
        .front
        .iter()
        .map(|p| {
            let replaced: Vec<String> = p.replaced.iter().map(|r| format!("{} {}", r.range, r.substitute)).collect();
            vec![
                number(p.drop, 2),
                p.tried.map_or("-".to_owned(), |t| number(t, 2)),
                format!("{:.3}", p.milliseconds),
                short(p.cost.macs as f64),
                short(p.cost.parameters as f64),
                replaced.join(", "),
            ]
        })
        .collect();
    let head = head(&format!("{}: compressed", text(&prescription.network)), "", FRONT);
    format!(
        "{head}<body>\
         <header><nav><b>nettriage prescribe</b></nav></header><main>\
         <section id=\"answer\"><p class=\"eyebrow\"><b>{name}</b>, {data}</p><h1>{verdict}</h1>{figures}</section>\
         <section><h2>What was replaced</h2>{replaced}<p>Training after surgery: {training}. Judged by {judged}.</p></section>\
         <section><h2>What other budgets would buy</h2><p>Every plan that none beats in both predicted drop and predicted cost, added up from the scan, \
         before refitting and training. Squares: what was built and judged.</p><figure class=\"front\">{picture}</figure>{front}</section>\
         </main></body></html>\n",
        name = text(&prescription.network),
        data = text(&prescription.data),
        verdict = text(&verdict(prescription)),
        figures = table("plain", &header, &safe(&figures[1..])),
        replaced = table("plain left", &["layers", "by"], &safe(&replaced)),
        training = text(&prescription.training),
        judged = text(&prescription.judged_from),
        picture = picture(prescription),
        front = table(
            "plain left",
            &["predicted drop", "judged drop", "ms", "MACs", "parameters", "ranges"],
            &safe(&front)
        ),
    )
}

fn picture(prescription: &Prescription) -> String {
    let [width, height] = SIZE;
    let points: Vec<_> = prescription.front.iter().filter(|p| p.drop <= LARGEST).collect();
    let most = points.iter().map(|p| p.milliseconds).fold(0.0, f64::max).max(1e-9);
    let widest = points.iter().map(|p| p.drop.max(p.tried.unwrap_or(0.0))).fold(1.0, f64::max);
    let x = |ms: f64| 60.0 + (width - 80.0) * ms / most;
    let y = |drop: f64| 20.0 + (height - 70.0) * drop.max(0.0) / widest;
    let mut out = format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Predicted drop against milliseconds\" style=\"max-width:100%\">"
    );
    for k in 0..=4 {
        let (drop, ms) = (widest * f64::from(k) / 4.0, most * f64::from(k) / 4.0);
        out += &format!(
            "<line x1=\"60\" x2=\"{}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/><text x=\"52\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
            width - 20.0,
            y(drop),
            y(drop) + 4.0,
            number(drop, 1)
        );
        out += &format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{ms:.3}</text>", x(ms), height - 30.0);
    }
    let path: Vec<String> = points.iter().map(|p| format!("{:.1} {:.1}", x(p.milliseconds), y(p.drop))).collect();
    out += &format!("<path d=\"M{}\"/>", path.join("L"));
    for point in &points {
        out += &format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{} points, {:.3} ms</title></circle>",
            x(point.milliseconds),
            y(point.drop),
            number(point.drop, 2),
            point.milliseconds
        );
        if let Some(tried) = point.tried {
            out += &format!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\"><title>judged: {} points</title></rect>",
                x(point.milliseconds) - 4.5,
                y(tried) - 4.5,
                number(tried, 2)
            );
        }
    }
    out += &format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">milliseconds a pass, and points lost</text></svg>",
        width / 2.0,
        height - 8.0
    );
    out
}
