//! `report`: the page and the exports of a run.

use std::io::Write;
use std::path::{Path, PathBuf};

use nettriage::{MetricReport, Report, Run};
use nettriage_report::metric;

use crate::args;
use crate::fail::Fail;
use crate::output::{self, write, write_bytes};

/// `nettriage report RUN`.
pub fn report(args: &args::Report) -> Result<(), Fail> {
    let files =
        [&args.json, &args.csv, &args.csv_cells, &args.markdown, &args.parquet, &args.tensorboard, &args.output];
    let outputs: Vec<&Path> = files.into_iter().flatten().map(PathBuf::as_path).collect();
    let page = args.output.clone().unwrap_or_else(|| args.run.join("report.html"));
    let own_page = outputs.is_empty().then_some(page.as_path());
    let files = outputs.iter().copied().filter(|path| Some(*path) != args.tensorboard.as_deref()).chain(own_page);
    let inputs: Vec<&Path> = std::iter::once(args.run.as_path()).chain(args.with.as_deref()).collect();
    output::check(&files.collect::<Vec<_>>(), &inputs)?;
    if let Some(folder) = &args.tensorboard {
        output::check_folder(folder, &inputs)?;
    }
    if Run::open(&args.run)?.plan().metric.is_some() {
        return metric_report(args, &page);
    }
    let Report { data, analysis, .. } = Report::open(&args.run)?;
    if let Some(with) = &args.with {
        let other = Report::open(with)?.analysis;
        print!("{}", nettriage_report::compare(&analysis, &other).markdown());
        return Ok(());
    }
    let exports = [
        (&args.json, nettriage_report::json(&analysis)),
        (&args.csv, nettriage_report::csv(&data)),
        (&args.csv_cells, nettriage_report::csv_cells(&analysis)),
        (&args.markdown, nettriage_report::markdown(&data, &analysis)),
    ];
    let mut exported = false;
    if let Some(folder) = &args.tensorboard {
        nettriage_report::tensorboard(&data, folder).map_err(|e| Fail::file(folder, e))?;
        exported = true;
    }
    if let Some(path) = &args.parquet {
        write_bytes(path, &nettriage_report::parquet(&data))?;
        exported = true;
    }
    for (path, text) in exports {
        if let Some(path) = path {
            write(path, &text)?;
            exported = true;
        }
    }
    if args.output.is_none() && exported {
        return Ok(());
    }
    write(&page, &nettriage_report::html(&data, &analysis))?;
    writeln!(output::messages(&outputs), "report: {}", page.display())?;
    Ok(())
}

/// `nettriage report RUN` of a study of a user-defined metric, which has fewer forms.
fn metric_report(args: &args::Report, page: &Path) -> Result<(), Fail> {
    let others = [
        ("a second run", args.with.is_some()),
        ("--parquet", args.parquet.is_some()),
        ("--csv-cells", args.csv_cells.is_some()),
        ("--tensorboard", args.tensorboard.is_some()),
    ];
    if let Some((name, _)) = others.into_iter().find(|(_, given)| *given) {
        return Err(Fail::Message(format!(
            "{}: a study of a user-defined metric has no {name}; use --json, --csv or --markdown",
            args.run.display()
        )));
    }
    let report = MetricReport::open(&args.run)?;
    let exports = [
        (&args.json, metric::json(&report.analysis)),
        (&args.csv, metric::csv(&report.data)),
        (&args.markdown, metric::markdown(&report.analysis)),
    ];
    let mut outputs: Vec<&Path> = Vec::new();
    for (path, text) in &exports {
        if let Some(path) = path {
            write(path, text)?;
            outputs.push(path);
        }
    }
    if args.output.is_some() || outputs.is_empty() {
        write(page, &report.html())?;
        outputs.push(page);
        writeln!(output::messages(&outputs), "report: {}", page.display())?;
    }
    Ok(())
}

/// Writes the page at a run's end and prints the table.
pub fn conclude(run: &Path, page: &Path) -> Result<(), Fail> {
    let report = Report::open(run)?;
    write(page, &report.html())?;
    let text = at_chance(&report.analysis).unwrap_or_default() + &report.text();
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// A line that comes before all results: the parent has learned nothing that its test images show.
fn at_chance(analysis: &nettriage_report::Analysis) -> Option<String> {
    let test = analysis.validity.chance.filter(|_| analysis.validity.parent_at_chance())?;
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    Some(format!(
        "The parent is at chance: {} of {} test images correct ({}), the most frequent class alone gives {}. No result \
         below says which block matters; train the parent further, or check its data and normalisation.\n",
        test.correct,
        test.images,
        percent(test.correct as f64 / test.images as f64),
        percent(test.chance)
    ))
}
