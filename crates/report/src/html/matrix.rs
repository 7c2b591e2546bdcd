//! Criticality for every block, init and scheme.

use super::escape::text;
use super::step;
use crate::analysis::{Analysis, Cell};
use crate::data::RunData;
use crate::format::{duration, interval, number, points};

pub(crate) fn section(data: &RunData, analysis: &Analysis) -> String {
    if analysis.cells.is_empty() {
        return String::new();
    }
    let schemes: Vec<&str> = data
        .plan
        .schemes
        .iter()
        .map(|scheme| scheme.name.as_str())
        .filter(|name| analysis.cells.iter().any(|cell| cell.scheme == *name))
        .collect();
    let mut rows: Vec<(&str, &str, &str)> = Vec::new();
    for cell in &analysis.cells {
        let row = (cell.block.as_str(), cell.substitute.as_str(), cell.init.as_str());
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let several = rows.iter().any(|row| row.1 != rows[0].1);
    let sortable =
        |name: &str| format!("<th scope=\"col\"><button type=\"button\" class=\"sort\">{name}</button></th>");
    let mut head = sortable("block");
    if several {
        head += &sortable("substitute");
    }
    head += &sortable("init");
    schemes.iter().for_each(|scheme| head += &sortable(&text(scheme)));
    let mut body = String::new();
    for (i, &(block, substitute, init)) in rows.iter().enumerate() {
        let place = data.plan.blocks.iter().position(|own| own.name == block).unwrap_or(i);
        body += &format!("<tr><th scope=\"row\" data-value=\"{place}\">{}</th>", text(block));
        if several {
            body += &format!("<td class=\"name\" data-value=\"{0}\">{0}</td>", text(substitute));
        }
        body += &format!("<td class=\"name\" data-value=\"{0}\">{0}</td>", text(init));
        for scheme in &schemes {
            let found = analysis.cells.iter().enumerate().find(|(_, cell)| {
                cell.block == block && cell.substitute == substitute && cell.init == init && cell.scheme == *scheme
            });
            body += &found.map_or("<td class=\"none\">·</td>".to_owned(), |(i, own)| {
                let headline = analysis.blocks.iter().any(|block| block.cell == Some(i));
                cell(data, own, headline)
            });
        }
        body += "</tr>";
    }
    let stand_ins: usize = analysis.cells.iter().map(|cell| cell.stand_ins).sum();
    let note = if stand_ins > 0 {
        format!(
            "<p class=\"warning\">In {stand_ins} pairs the study has no parent trained on under the same scheme and seed; there the untrained parent \
             stands in (marked °), so what extra training would have given is not taken off.</p>"
        )
    } else {
        String::new()
    };
    format!(
        "<p>Points of test accuracy that each replacement costs against its control of equal budget, the mean over trials. Framed: the \
         combination of the answer above, chosen on the validation set. Hover or focus a cell for its trials; press a heading to sort.</p>{note}\
         <figure data-plot=\"matrix\"><div class=\"scroll\"><table class=\"matrix\"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{}</figure>",
        super::answer::scale()
    )
}

fn cell(data: &RunData, cell: &Cell, headline: bool) -> String {
    let Some(estimate) = &cell.criticality else { return "<td class=\"none\">no control</td>".to_owned() };
    let mut tip = vec![
        format!("{}, {}, {}, {}", cell.block, cell.substitute, cell.init, cell.scheme),
        format!("costs {} points", number(estimate.mean, 2)),
    ];
    if let Some(ends) = estimate.interval {
        tip.push(format!("95% interval {}", interval(ends)));
    }
    if let Some(ends) = estimate.student {
        tip.push(format!("Student's t over repetitions alone {}", interval(ends)));
    }
    if let Some(ends) = estimate.bootstrap {
        tip.push(format!("BCa bootstrap {}", interval(ends)));
    }
    let values: Vec<String> = estimate.values.iter().map(|&value| number(value, 2)).collect();
    tip.push(format!("each: {}", values.join("  ")));
    tip.push(format!("accuracy {}%, best by validation {}%", number(cell.accuracy, 2), number(cell.ceiling, 2)));
    tip.push(format!("damage before training {} points", points(cell.damage)));
    if cell.scheme != "none" {
        let when = cell.median_recovery.map(|at| format!(", half by {at:.0} images")).unwrap_or_default();
        let margin = 100.0 * data.plan.margin;
        tip.push(format!(
            "{} of {} within {} points of the parent{when}",
            cell.recovered,
            cell.trials,
            number(margin, 1)
        ));
    }
    tip.push(format!("agreement with the parent {}%", number(cell.agreement, 1)));
    if cell.diverged + cell.failed > 0 {
        tip.push(format!("{} diverged, {} failed", cell.diverged, cell.failed));
    }
    tip.push(format!("{} a trial", duration(cell.seconds)));
    let mark = if cell.stand_ins > 0 { "°" } else { "" };
    let lost = if cell.diverged + cell.failed > 0 { "†" } else { "" };
    format!(
        "<td tabindex=\"0\" class=\"s{}{}\" data-value=\"{}\" data-tip=\"{}\">{}{mark}{lost}</td>",
        step(estimate.mean),
        if headline { " chosen" } else { "" },
        estimate.mean,
        text(&tip.join("\n")),
        number(estimate.mean, 2)
    )
}
