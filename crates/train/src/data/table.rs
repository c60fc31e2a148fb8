//! Series of numbers in CSV files: a row a step, a column a channel.

use std::path::Path;

use super::lookup::{self, Source};
use crate::{Error, Result};

/// A series of several channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Names of the channels.
    pub channels: Vec<String>,
    /// Numbers, a row of all channels after another.
    pub values: Vec<f32>,
    /// Rows where the training, the validation and the test part end.
    pub ends: [usize; 3],
}

/// Rows of the customary parts of ETTh1: 12, 4 and 4 months of 30 days.
const ETTH1: [usize; 3] = [8640, 11_520, 14_400];

/// Reads a series: that of a data set known by name, or of a CSV file with a line of names. A first column of dates is left out. ETTh1 is
/// split into 12, 4 and 4 months, any other series into 70, 10 and 20 %.
///
/// # Errors
/// If the source is unknown, missing or unreadable, or the file is no table of numbers.
pub fn load_series(source: &str) -> Result<Series> {
    let (path, etth1) = match lookup::find(source)? {
        Source::Named { name, path } => (path, name == "etth1"),
        Source::Path(path) => (path, false),
        Source::Embedded | Source::Drawn(_) => return Err(Error::value("data.source", "a CSV file or `etth1`", source)),
    };
    let path = if etth1 && path.is_dir() { path.join("ETTh1.csv") } else { path };
    let (channels, values) = read(&path)?;
    let rows = values.len() / channels.len();
    let ends = if etth1 { ETTH1 } else { [rows * 7 / 10, rows * 8 / 10, rows] };
    if rows < ends[2] {
        return Err(Error::data(&path, format!("it has {rows} rows, the customary split needs {}", ends[2])));
    }
    Ok(Series { channels, values, ends })
}

fn read(path: &Path) -> Result<(Vec<String>, Vec<f32>)> {
    let malformed = |e: csv::Error| match e.into_kind() {
        csv::ErrorKind::Io(source) => Error::read(path)(source),
        other => Error::data(path, format!("it is no table: {}", describe(&other))),
    };
    if path.is_dir() {
        return Err(Error::data(path, "it is a folder, not a CSV file"));
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(malformed)?;
    let names: Vec<String> = reader.headers().map_err(malformed)?.iter().map(str::to_owned).collect();
    let (mut values, mut skipped) = (Vec::new(), None);
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(malformed)?;
        // The first row tells whether the first column is one of dates.
        let skip = *skipped.get_or_insert_with(|| usize::from(record.get(0).is_some_and(|cell| cell.parse::<f32>().is_err())));
        for (column, cell) in record.iter().enumerate().skip(skip) {
            let value = cell.parse::<f32>().ok().filter(|v| v.is_finite());
            let name = names.get(column).map_or("", String::as_str);
            values.push(value.ok_or_else(|| Error::data(path, format!("line {}, column `{name}`: `{cell}` is no number", index + 2)))?);
        }
    }
    let channels = names[skipped.unwrap_or(0).min(names.len())..].to_vec();
    if channels.is_empty() || values.is_empty() {
        return Err(Error::data(path, "it holds no numbers"));
    }
    Ok((channels, values))
}

fn describe(kind: &csv::ErrorKind) -> String {
    match kind {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(String::new(), |pos| format!("line {} has ", pos.line()));
            format!("{line}{len} columns, the first line {expected_len}")
        }
        csv::ErrorKind::Utf8 { pos, .. } => {
            pos.as_ref().map_or("it is not UTF-8".into(), |pos| format!("line {} is not UTF-8", pos.line()))
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn table(text: &str) -> Result<Series> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.csv");
        fs::write(&path, text).unwrap();
        load_series(path.to_str().unwrap())
    }

    #[test]
    fn dates_are_left_out_and_rows_keep_their_order() {
        let rows: String = (0..10).map(|n| format!("2016-07-01 0{n}:00:00,{n},{}.5\n", -n)).collect();
        let series = table(&format!("date,a,b\n{rows}")).unwrap();
        assert_eq!((series.channels, series.ends), (vec!["a".to_owned(), "b".to_owned()], [7, 8, 10]));
        assert_eq!(series.values[..6], [0.0, 0.5, 1.0, -1.5, 2.0, -2.5]);
        let series = table("a,b\n1,2\n3,4\n").unwrap();
        assert_eq!(series.values, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn what_is_no_table_of_numbers_is_named_with_its_place() {
        let message = |text| {
            let text = table(text).unwrap_err().to_string();
            text.split_once("t.csv: ").unwrap().1.to_owned()
        };
        assert_eq!(message("date,a\nx,1\ny,2z\n"), "line 3, column `a`: `2z` is no number");
        assert_eq!(message("date,a\nx,1\ny,\n"), "line 3, column `a`: `` is no number");
        assert_eq!(message("date,a\nx,nan\n"), "line 2, column `a`: `nan` is no number");
        assert_eq!(message("date,a\nx,1\ny,2,3\n"), "it is no table: line 3 has 3 columns, the first line 2");
        assert_eq!(message("date\nx\n"), "it holds no numbers");
        assert_eq!(message(""), "it holds no numbers");
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn etth1_has_its_customary_parts() {
        if crate::data::locate("etth1").is_none() {
            eprintln!("skipped: etth1 is not under $REGARD_DATA");
            return;
        }
        let series = load_series("etth1").unwrap();
        assert_eq!((series.channels.len(), series.values.len() / 7, series.ends), (7, 17_420, [8640, 11_520, 14_400]));
        assert_eq!(series.channels[6], "OT");
        assert!((series.values[6] - 30.531).abs() < 1e-5);
    }
}
