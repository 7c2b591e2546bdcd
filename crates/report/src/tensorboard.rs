//! Event files for TensorBoard: curves, filter images and hyper-parameters, one run per trial.
//!
//! The messages are those of TensorFlow's `event.proto` and `summary.proto` and of TensorBoard's `plugins/hparams`, reduced
//! to the fields that are written. Records are framed as TFRecord: length, masked CRC-32C of the length, data, masked
//! CRC-32C of the data.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nettriage_records::record::{CurvePoint, Evaluation};
use prost::Message;

use crate::analysis::index::Kind;
use crate::data::RunData;
use crate::html::contact_sheet;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin: Option<Plugin>,
}

#[derive(Clone, PartialEq, Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct HParams {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(message, optional, tag = "2")]
    experiment: Option<Experiment>,
    #[prost(message, optional, tag = "3")]
    start: Option<SessionStart>,
    #[prost(message, optional, tag = "4")]
    end: Option<SessionEnd>,
}

#[derive(Clone, PartialEq, Message)]
struct Experiment {
    #[prost(message, repeated, tag = "4")]
    hparams: Vec<HParamInfo>,
    #[prost(message, repeated, tag = "5")]
    metrics: Vec<MetricInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct HParamInfo {
    #[prost(string, tag = "1")]
    name: String,
    /// 1 is a string, 3 a number.
    #[prost(int32, tag = "4")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct MetricInfo {
    #[prost(message, optional, tag = "1")]
    name: Option<MetricName>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricName {
    #[prost(string, tag = "2")]
    tag: String,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    /// 1 is success, 2 failure.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `google.protobuf.Value`, reduced to the two cases used.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(double, optional, tag = "2")]
    number: Option<f64>,
    #[prost(string, optional, tag = "3")]
    string: Option<String>,
}

/// The hyper-parameters.
const HPARAMS: [&str; 6] = ["role", "block", "substitute", "init", "scheme", "seed"];
/// The metrics in TensorBoard's table of hyper-parameters.
const METRICS: [&str; 4] = ["test/top1", "test/loss", "test/agreement", "validation/top1"];

/// Writes one folder of events for the study, and one per parent and recorded trial, into `folder`.
///
/// Steps count training images. Open the folder with `tensorboard --logdir FOLDER`.
///
/// # Errors
/// Those of writing files.
pub fn tensorboard(data: &RunData, folder: &Path) -> io::Result<()> {
    let experiment = Experiment {
        hparams: HPARAMS
            .map(|name| HParamInfo { name: name.to_owned(), kind: if name == "seed" { 3 } else { 1 } })
            .into(),
        metrics: METRICS.map(|tag| MetricInfo { name: Some(MetricName { tag: tag.to_owned() }) }).into(),
    };
    let mut log = Log::create(folder, 0.0)?;
    log.hparams("experiment", HParams { experiment: Some(experiment), ..HParams::default() })?;
    log.finish()?;
    for parent in &data.parents {
        let mut log = Log::create(&folder.join(format!("parent-{}", parent.seed)), parent.clock.finished)?;
        log.curve(&parent.curve)?;
        let end = parent.curve.last().map_or(0, |point| point.examples);
        log.evaluation(end, "test", &parent.test)?;
        log.finish()?;
    }
    for record in &data.records {
        let Some(readings) = &record.readings else { continue };
        let spec = &record.spec;
        let kind = Kind::of(spec);
        let role = serde_json::to_value(spec.role).expect("plain data");
        let role = role.as_str().unwrap_or_default();
        let parts = [role, &kind.block, &kind.substitute, &kind.init, &kind.scheme];
        let name: Vec<String> = parts.iter().filter(|part| !part.is_empty()).map(|part| safe(part)).collect();
        let parent = data.plan.parents.iter().position(|parent| parent.id == spec.parent).unwrap_or(0);
        let several = data.plan.budgets.len() > 1;
        let budget = spec.budget.filter(|_| several).map_or(String::new(), |images| format!("{images}-images/"));
        let name = format!("{budget}{}/parent{parent}-seed{}", name.join("-"), spec.seed);
        let mut log = Log::create(&folder.join(name), record.clock.finished)?;
        let string = |text: &str| Scalar { string: Some(text.to_owned()), number: None };
        let mut hparams: BTreeMap<String, Scalar> =
            HPARAMS.iter().zip(parts).map(|(name, value)| ((*name).to_owned(), string(value))).collect();
        hparams.insert("seed".to_owned(), Scalar { number: Some(spec.seed as f64), string: None });
        log.hparams("session_start_info", HParams { start: Some(SessionStart { hparams }), ..HParams::default() })?;
        log.curve(&readings.curve)?;
        let end = readings.curve.last().map_or(0, |point| point.examples);
        log.evaluation(end, "test", &readings.test)?;
        log.scalar(end, "validation/top1", readings.validation.top1)?;
        if let Some(filters) = &readings.filters {
            let coloured = data.plan.data.shape[0] == 3 && filters.shape[1] == 3;
            for (step, bytes) in [(0, &filters.images.before), (end, &filters.images.after)] {
                if let Some((encoded, width, height)) = contact_sheet(&filters.images, bytes, coloured) {
                    log.image(step, "filters", encoded, width, height)?;
                }
            }
        }
        log.hparams("session_end_info", HParams { end: Some(SessionEnd { status: 1 }), ..HParams::default() })?;
        log.finish()?;
    }
    Ok(())
}

/// Text as part of a folder's name, without path separators or dots.
fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).take(60).collect()
}

struct Log {
    path: PathBuf,
    content: Vec<u8>,
    time: f64,
}

impl Log {
    fn create(folder: &Path, time: f64) -> io::Result<Log> {
        std::fs::create_dir_all(folder)?;
        // TensorBoard looks for names of this form; the time in it orders several files of one run.
        let path = folder.join(format!("events.out.tfevents.{:010}.nettriage", time as u64));
        let mut log = Log { path, content: Vec::new(), time };
        log.event(Event { wall_time: time, file_version: Some("brain.Event:2".to_owned()), ..Event::default() })?;
        Ok(log)
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        self.content.write_all(&length)?;
        self.content.write_all(&masked(&length).to_le_bytes())?;
        self.content.write_all(&data)?;
        self.content.write_all(&masked(&data).to_le_bytes())
    }

    fn value(&mut self, examples: u64, value: Value) -> io::Result<()> {
        let step = i64::try_from(examples).unwrap_or(i64::MAX);
        self.event(Event {
            wall_time: self.time,
            step,
            file_version: None,
            summary: Some(Summary { value: vec![value] }),
        })
    }

    fn scalar(&mut self, examples: u64, tag: &str, x: f64) -> io::Result<()> {
        self.value(examples, Value { tag: tag.to_owned(), simple_value: Some(x as f32), ..Value::default() })
    }

    fn curve(&mut self, curve: &[CurvePoint]) -> io::Result<()> {
        for point in curve {
            self.scalar(point.examples, "curve/validation_top1", point.validation_top1)?;
            self.scalar(point.examples, "curve/validation_loss", point.validation_loss)?;
            if let Some(loss) = point.train_loss {
                self.scalar(point.examples, "curve/train_loss", loss)?;
            }
        }
        Ok(())
    }

    fn evaluation(&mut self, examples: u64, set: &str, evaluation: &Evaluation) -> io::Result<()> {
        let readings = [
            ("top1", evaluation.top1),
            ("top5", evaluation.top5),
            ("loss", evaluation.loss),
            ("calibration_error", evaluation.calibration_error),
            ("agreement", evaluation.agreement),
        ];
        readings.into_iter().try_for_each(|(name, x)| self.scalar(examples, &format!("{set}/{name}"), x))
    }

    fn image(&mut self, examples: u64, tag: &str, encoded: Vec<u8>, width: usize, height: usize) -> io::Result<()> {
        let side = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let image = Image { height: side(height), width: side(width), colorspace: 4, encoded };
        self.value(examples, Value { tag: tag.to_owned(), image: Some(image), ..Value::default() })
    }

    fn hparams(&mut self, part: &str, message: HParams) -> io::Result<()> {
        let plugin = Plugin { name: "hparams".to_owned(), content: message.encode_to_vec() };
        let metadata = Some(Metadata { plugin: Some(plugin) });
        self.value(0, Value { tag: format!("_hparams_/{part}"), metadata, ..Value::default() })
    }

    fn finish(self) -> io::Result<()> {
        nettriage_files::write_output(&self.path, &self.content)
    }
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mask_is_tensorflows() {
        // CRC-32C of "123456789" is the standard's check value 0xe3069283; masked by hand:
        // rotated right by 15 it is 0x2507c60d, plus 0xa282ead8 it is 0xc78ab0e5.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(super::masked(b"123456789"), 0xc78a_b0e5);
    }
}
