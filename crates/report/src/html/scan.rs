//! The page of a scan: the triangle of ranges, what each would save, and the table behind it.

use nettriage_records::scan::{Candidate, Range, Scan};

use super::escape::text;
use super::{head, step, table};
use crate::format::{interval, number, percent, short};
use crate::scan::{HEADER, cells, layers, trusted, worth_a_look};

/// Pixels a side of a triangle's cell, and left of and above the cells for names.
const CELL: usize = 26;
const NAMES: usize = 150;

/// The scan as one HTML document; it has no script and fetches nothing.
pub fn scan(scan: &Scan) -> String {
    let body = [
        ("answer", answer(scan)),
        ("triangle", format!("<h2>From layer to layer</h2>{}", triangles(scan))),
        ("table", format!("<h2>Every candidate</h2>{}", everything(scan))),
        ("method", format!("<h2>Method</h2>{}", method(scan))),
    ];
    let body: String = body.iter().map(|(id, body)| format!("<section id=\"{id}\">{body}</section>")).collect();
    let head = head(&format!("{}: which ranges could be one layer", text(&scan.network)), "", TRIANGLE);
    format!(
        "{head}<body>\
         <header><nav aria-label=\"Sections\"><b>nettriage scan</b><a href=\"#answer\">Answer</a><a href=\"#triangle\">From layer to layer</a>\
         <a href=\"#table\">Every candidate</a><a href=\"#method\">Method</a></nav></header>\
         <main>{body}</main></body></html>\n"
    )
}

const TRIANGLE: &str = ".triangles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:1rem}\
     .triangles svg{max-width:100%;height:auto;display:block}.triangles text{fill:var(--ink);font-size:11px}\
     .triangles text.v{font-size:8.5px;text-anchor:middle;pointer-events:none}.triangles .s0+text.v{fill:var(--t0)}\
     .triangles .s7+text.v{fill:var(--t7)}.triangles .s8+text.v{fill:var(--t8)}\
     .steps{display:flex;gap:.5rem;flex-wrap:wrap;font-size:.8rem;margin:.4rem 0 1rem}.steps span{padding:.05rem .5rem;border-radius:4px}\
     td.num{text-align:right}";

fn answer(scan: &Scan) -> String {
    let front = worth_a_look(scan);
    let free = front.iter().filter(|(_, c)| c.drop.is_some_and(|[_, _, high]| high <= 1.0));
    let free =
        free.max_by(|a, b| (a.0.milliseconds - a.1.milliseconds).total_cmp(&(b.0.milliseconds - b.1.milliseconds)));
    let headline = match free {
        Some((range, candidate)) => format!(
            "{} could be one {}: {} less time for {} points of accuracy, before any training.",
            text(&layers(scan, range)),
            text(&candidate.substitute),
            percent((range.milliseconds - candidate.milliseconds) / scan.parent.milliseconds.max(1e-9)),
            number(candidate.drop.map_or(0.0, |d| d[0]), 2)
        ),
        None if scan.images.labelled => {
            "No range could be one layer without training at a cost of surely less than a point.".to_owned()
        }
        None => "What each range of layers, replaced by one layer, leaves of the network's own answers.".to_owned(),
    };
    let accuracy = scan
        .parent
        .accuracy
        .map(|a| format!("{}% right on {}, ", number(100.0 * a, 2), text(&scan.images.judged_from)));
    let rows: Vec<Vec<String>> =
        front.iter().map(|(r, c)| cells(scan, r, c).iter().map(|cell| text(cell)).collect()).collect();
    format!(
        "<p class=\"eyebrow\"><b>{}</b>, {}</p><h1>{headline}</h1><p class=\"conditions\">{}{} parameters, {} multiply-accumulates, \
         {:.3} ms. {}</p><p>Ranges that nothing beats in both accuracy and time, and the default blocks; changes are shares of the whole network.</p>{}",
        text(&scan.network),
        text(&scan.images.data),
        accuracy.unwrap_or_default(),
        short(scan.parent.cost.parameters as f64),
        short(scan.parent.cost.macs as f64),
        scan.parent.milliseconds,
        text(&trusted(scan)),
        table("plain", &HEADER, &rows)
    )
}

/// Four triangles: accuracy lost, and parameters, multiply-accumulates and milliseconds saved, by each range's best.
fn triangles(scan: &Scan) -> String {
    let parent = &scan.parent;
    let lost = |_: &Range, c: &Candidate| c.drop.map_or(100.0 * (1.0 - c.agreement), |d| d[0]);
    let parameters = |r: &Range, c: &Candidate| {
        100.0 * (r.cost.parameters as f64 - c.cost.parameters as f64) / (parent.cost.parameters as f64).max(1.0)
    };
    let macs = |r: &Range, c: &Candidate| {
        100.0 * (r.cost.macs as f64 - c.cost.macs as f64) / (parent.cost.macs as f64).max(1.0)
    };
    let time = |r: &Range, c: &Candidate| 100.0 * (r.milliseconds - c.milliseconds) / parent.milliseconds.max(1e-9);
    let what =
        if scan.images.labelled { "Accuracy lost, percentage points" } else { "First choices changed, per cent" };
    // Savings take the scale's other side: the more, the bluer.
    let saving = |share: f64| match share {
        s if s >= 20.0 => 0,
        s if s >= 8.0 => 1,
        s if s >= 2.0 => 2,
        s if s >= -2.0 => 3,
        _ => 5,
    };
    let key = "<div class=\"steps\">Points: <span class=\"s2\">gained</span><span class=\"s3\">within 0.25</span><span class=\"s4\">up to 1</span>\
         <span class=\"s5\">up to 2</span><span class=\"s6\">up to 5</span><span class=\"s7\">up to 10</span><span class=\"s8\">more</span></div>";
    format!(
        "<p>A cell is the range from the layer of its row to the layer of its column, replaced by the single layer that keeps most. \
         Point at a cell for its figures; the table below holds them all.</p>{key}<div class=\"triangles\">{}{}{}{}</div>",
        triangle(scan, what, &lost, &step),
        triangle(scan, "Time saved, per cent of the network's", &time, &saving),
        triangle(scan, "Multiply-accumulates saved, per cent of the network's", &macs, &saving),
        triangle(scan, "Parameters saved, per cent of the network's", &parameters, &saving),
    )
}

fn triangle(
    scan: &Scan,
    title: &str,
    value: &dyn Fn(&Range, &Candidate) -> f64,
    colour: &dyn Fn(f64) -> usize,
) -> String {
    let n = scan.units.len();
    let (width, height) = (NAMES + n * CELL + 56, 92 + n * CELL);
    let mut parts = String::new();
    for (i, unit) in scan.units.iter().enumerate() {
        let name = text(&shortened(&unit.name));
        let y = 92 + i * CELL + CELL / 2 + 4;
        parts += &format!("<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{name}</text>", NAMES - 6);
        let x = NAMES + i * CELL + CELL / 2 + 4;
        parts += &format!("<text transform=\"translate({x} 86) rotate(-60)\">{name}</text>");
    }
    for range in &scan.ranges {
        let Some(best) = range.best() else { continue };
        let (x, y) = (NAMES + range.units[1] * CELL, 92 + range.units[0] * CELL);
        let shown = value(range, best);
        let drop = best.drop.map_or(String::new(), |[d, low, high]| {
            format!(", drop {} ({}) points", number(d, 2), interval([low, high]))
        });
        let hint = format!(
            "{}: {}{drop}, {} of first choices stay, {} to {} ms",
            layers(scan, range),
            best.substitute,
            percent(best.agreement),
            number(range.milliseconds, 3),
            number(best.milliseconds, 3)
        );
        parts += &format!(
            "<g><title>{}</title><rect class=\"s{}\" x=\"{x}\" y=\"{y}\" width=\"{c}\" height=\"{c}\" rx=\"3\"/>\
             <text class=\"v\" x=\"{}\" y=\"{}\">{}</text></g>",
            text(&hint),
            colour(shown),
            x + CELL / 2 - 1,
            y + CELL / 2 + 2,
            number(shown, usize::from(shown.abs() < 9.95)),
            c = CELL - 2,
        );
    }
    format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\" \
         style=\"width:{width}px\">{parts}</svg></figure>"
    )
}

/// The end of a long name: what tells layers apart stands there.
fn shortened(name: &str) -> String {
    let count = name.chars().count();
    if count <= 20 { name.to_owned() } else { format!("…{}", name.chars().skip(count - 19).collect::<String>()) }
}

fn everything(scan: &Scan) -> String {
    let header = [&HEADER[..], &["method", "error", "agree", "divergence"]].concat();
    let mut rows = Vec::new();
    for range in &scan.ranges {
        for candidate in &range.candidates {
            let mut row: Vec<String> = cells(scan, range, candidate).iter().map(|cell| text(cell)).collect();
            row.extend([
                text(&candidate.method),
                number(candidate.error, 3),
                percent(candidate.agreement),
                number(candidate.divergence, 3),
            ]);
            rows.push(row);
        }
    }
    table("plain", &header, &rows)
}

fn method(scan: &Scan) -> String {
    format!(
        "<p>For every range and every single layer that fits its shapes, the weights are the ridge regression from the range's input to its \
         output before the closing activation, over {} images without their labels; the ridge is chosen on a fifth of them held out. Method \
         <code>relu</code> solves once more and asks nothing of outputs that the closing ReLU cuts off for fit and target alike. The network with \
         the layer in the range's place is then run on {} ({} images). Drop is paired image by image, its interval Agresti and Min's (2005). \
         Milliseconds are medians of forward passes of {} image(s) on one thread, parts measured one by one. <i>Error</i>: squared error of the \
         affine map on held-out images over its target's variance. <i>Divergence</i>: Kullback-Leibler from the network as it is, in nats.</p>\
         <p>{} ranges, {} threads, {:.1} s: {:.1} s of solving, {:.1} s of running, {:.1} s of timing; at most {} MiB of sums and solutions.</p>",
        scan.images.fitted,
        text(&scan.images.judged_from),
        scan.images.judged,
        scan.took.batch,
        scan.ranges.len(),
        scan.took.threads,
        scan.took.seconds,
        scan.took.fitting,
        scan.took.judging,
        scan.took.timing,
        scan.took.bytes >> 20,
    )
}
