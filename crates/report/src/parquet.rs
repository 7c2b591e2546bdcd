//! The table of trials as a Parquet file, with typed columns.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use crate::data::RunData;
use crate::export::{COLUMNS, Type, rows};

/// The table of [`crate::csv`] as the bytes of a Parquet file: text, 64-bit integers and doubles; missing values are null.
pub fn parquet(data: &RunData) -> Vec<u8> {
    // Writing to memory cannot fail, and every numeric cell was formatted from a number.
    written(&rows(data)).expect("a table of plain values is written")
}

fn written(rows: &[Vec<String>]) -> Result<Vec<u8>> {
    let field = |(name, kind): &(&str, Type)| {
        let kind = match kind {
            Type::Text => return format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"),
            Type::Integer => "INT64",
            Type::Real => "DOUBLE",
        };
        format!("OPTIONAL {kind} {name};")
    };
    let fields: String = COLUMNS.iter().map(field).collect();
    let schema = Arc::new(parse_message_type(&format!("message trials {{ {fields} }}"))?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::builder().build()))?;
    let mut group = writer.next_row_group()?;
    let mut at = 0;
    while let Some(column) = group.next_column()? {
        let cells = || rows.iter().map(|row| row[at].as_str());
        match COLUMNS[at].1 {
            Type::Text => fill::<ByteArrayType>(column, cells(), |cell| Some(ByteArray::from(cell)))?,
            Type::Integer => fill::<Int64Type>(column, cells(), |cell| cell.parse().ok())?,
            Type::Real => fill::<DoubleType>(column, cells(), |cell| cell.parse().ok())?,
        }
        at += 1;
    }
    group.close()?;
    writer.into_inner()
}

/// One column; an empty cell is null.
fn fill<'a, T: DataType>(
    mut column: SerializedColumnWriter<'_>,
    cells: impl Iterator<Item = &'a str>,
    read: impl Fn(&str) -> Option<T::T>,
) -> Result<()> {
    let cells: Vec<Option<T::T>> = cells.map(|cell| if cell.is_empty() { None } else { read(cell) }).collect();
    let defined: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    let values: Vec<T::T> = cells.into_iter().flatten().collect();
    column.typed::<T>().write_batch(&values, Some(&defined), None)?;
    column.close()
}
