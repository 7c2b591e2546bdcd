//! A table of milliseconds that the user measured on another device: one row for each part of a network.

use std::collections::HashMap;
use std::path::Path;

use nettriage_compress::scan::{self, Part};
use nettriage_net::Network;
use nettriage_records::scan::Scan;

use crate::Error;

/// Columns of the list of parts; the last is for the user to fill in.
pub const COLUMNS: [&str; 10] =
    ["key", "part", "layers", "input", "output", "parameters", "macs", "count", "model", "milliseconds"];

/// A longer time is a mistake, in milliseconds: a day.
const LONGEST: f64 = 8.64e7;

/// Milliseconds of parts of networks, by their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyTable {
    name: String,
    milliseconds: HashMap<String, f64>,
}

impl LatencyTable {
    /// Reads a table as CSV (RFC 4180): a header with the columns `key` and `milliseconds` among others, then one row for each part.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn read(path: &Path) -> Result<LatencyTable, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.display().to_string(), source })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        LatencyTable::of(&text, name).map_err(|problem| Error::Request(format!("{}: {problem}", path.display())))
    }

    fn of(text: &str, name: String) -> Result<LatencyTable, String> {
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        let mut rows = rows(text)?.into_iter();
        let (_, header) = rows.next().ok_or("it is empty; `nettriage scan --parts DIR` writes one to fill in")?;
        let column = |name: &str| {
            let found = header.iter().position(|cell| cell.trim() == name);
            found.ok_or_else(|| {
                format!("line 1: no column `{name}`; the first line names the columns, separated by commas, among them key and milliseconds")
            })
        };
        let [key, milliseconds] = [column("key")?, column("milliseconds")?];
        let (mut table, mut lines) = (HashMap::new(), HashMap::new());
        for (line, row) in rows {
            let cell = |column: usize| row.get(column).map_or("", |cell| cell.trim());
            let (key, text) = (cell(key), cell(milliseconds));
            if key.is_empty() {
                return Err(format!("line {line}: no key; copy the rows of `nettriage scan --parts DIR`"));
            }
            let number = text.parse::<f64>().ok().filter(|number| (0.0..=LONGEST).contains(number));
            let Some(number) = number else {
                let problem =
                    if text.is_empty() { "no milliseconds".to_owned() } else { format!("milliseconds is {text}") };
                return Err(format!(
                    "line {line}: {problem} for {key:?}; write the measured time of its model, 0 or more, such as 0.25"
                ));
            };
            if let Some(first) = lines.insert(key.to_owned(), line) {
                return Err(format!("line {line}: {key:?} is in line {first} too; leave one of them"));
            }
            table.insert(key.to_owned(), number);
        }
        Ok(LatencyTable { name, milliseconds: table })
    }

    /// The name of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The scan with the milliseconds of this table.
    ///
    /// # Errors
    /// The first part without a row.
    pub fn applied(&self, network: &Network, scan: &Scan) -> Result<Scan, Error> {
        let of = |part: &Part| {
            self.milliseconds.get(&part.key).copied().ok_or_else(|| {
                nettriage_compress::Error::Request(format!(
                    "{}: no row for {} ({}: {}, input {}); `nettriage scan --parts DIR` with the same --substitutes writes every row and a \
                     model to time",
                    self.name,
                    part.key,
                    part.name,
                    part.describe(),
                    part.graph.input
                ))
            })
        };
        Ok(scan::with_times(network, scan, &of)?)
    }
}

/// The list of parts for the user to measure: the columns [`COLUMNS`], the last one empty.
pub fn part_rows(parts: &[Part]) -> Vec<Vec<String>> {
    let row = |part: &Part| {
        vec![
            part.key.clone(),
            part.name.clone(),
            part.describe(),
            part.graph.input.to_string(),
            part.output.to_string(),
            part.cost.parameters.to_string(),
            part.cost.macs.to_string(),
            part.count.to_string(),
            model_name(part),
            String::new(),
        ]
    };
    parts.iter().map(row).collect()
}

/// The file of a part's model.
pub fn model_name(part: &Part) -> String {
    format!("{}.onnx", part.key)
}

/// The rows of a text in CSV that are not empty, with the lines in which they begin.
fn rows(text: &str) -> Result<Vec<(u64, Vec<String>)>, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let row = |record: Result<csv::StringRecord, csv::Error>| {
        let record = record.map_err(|problem| problem.to_string())?;
        // The position is that of the empty lines before the row.
        let line = record.position().map_or(0, |before| {
            let rest = text.as_bytes()[before.byte() as usize..].iter();
            let ends = rest.take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n');
            before.line() + ends.count() as u64
        });
        Ok((line, record.iter().map(str::to_owned).collect::<Vec<_>>()))
    };
    let mut rows = reader.records().map(row).collect::<Result<Vec<_>, String>>()?;
    rows.retain(|(_, row)| row.iter().any(|cell| !cell.trim().is_empty()));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HashMap<String, f64>, String> {
        LatencyTable::of(text, "t.csv".to_owned()).map(|table| table.milliseconds)
    }

    #[test]
    fn rows_are_read_in_any_order_of_columns_with_quotes_and_other_ends_of_lines() {
        let text = "\u{FEFF}part,milliseconds,key\r\n\"a, \"\"b\"\"\nc\",0.25,part-1\r\n\r\nx, 1e-3 ,part-2";
        assert_eq!(read(text).unwrap(), HashMap::from([("part-1".to_owned(), 0.25), ("part-2".to_owned(), 1e-3)]));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        for (text, words) in [
            ("", "it is empty"),
            ("key;milliseconds\npart-1;2\n", "line 1: no column `key`"),
            ("key\npart-1\n", "line 1: no column `milliseconds`"),
            ("key,milliseconds\npart-1,2\npart-2\n", "line 3: no milliseconds for \"part-2\""),
            ("key,milliseconds\npart-1,nan\n", "line 2: milliseconds is nan"),
            ("key,milliseconds\npart-1,-1\n", "line 2: milliseconds is -1"),
            ("key,milliseconds\npart-1,inf\n", "line 2: milliseconds is inf"),
            ("key,milliseconds\npart-1,1e300\n", "line 2: milliseconds is 1e300"),
            ("key,milliseconds\npart-1,\"1,5\"\n", "line 2: milliseconds is 1,5"),
            ("key,milliseconds\n,3\n", "line 2: no key"),
            ("key,milliseconds\npart-1,1\n\npart-1,2\n", "line 4: \"part-1\" is in line 2 too"),
            // A quotation mark that is not closed.
            ("key,milliseconds\n\"part-1,1\npart-2,2\n", "line 2: no milliseconds for \"part-1,1"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(words), "{text:?}: {problem}");
        }
    }
}
