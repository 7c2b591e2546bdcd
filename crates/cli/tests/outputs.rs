//! Outputs: links, devices, FIFOs and standard output are written through, inputs are never overwritten, and a failed write leaves
//! no part of a file.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;

use common::{nettriage, refused, succeeded};

const NETWORK: &[&str] = &["inspect", "vgg11", "--svg"];

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn links_devices_and_fifos_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("real.svg"), "old").unwrap();
    symlink("real.svg", at("link.svg")).unwrap();
    let svg = |output: &Path| nettriage().args(NETWORK).arg(output).output().unwrap();
    succeeded(&svg(&at("link.svg")));
    assert!(at("link.svg").is_symlink());
    assert!(fs::read_to_string(at("real.svg")).unwrap().starts_with("<svg"));

    succeeded(&svg(Path::new("/dev/null")));
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());

    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let fifo = at("fifo");
    let reader = std::thread::spawn(move || fs::read_to_string(fifo).unwrap());
    succeeded(&svg(&at("fifo")));
    assert!(reader.join().unwrap().starts_with("<svg"));
    assert!(at("fifo").metadata().unwrap().file_type().is_fifo());
    assert_eq!(names(folder.path()), ["fifo", "link.svg", "real.svg"]);
}

#[test]
fn standard_output_holds_the_output_and_nothing_else() {
    for output in ["-", "/dev/stdout"] {
        let shown = nettriage().args(NETWORK).arg(output).output().unwrap();
        let text = succeeded(&shown);
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{output}");
        assert!(String::from_utf8_lossy(&shown.stderr).contains("parameters"), "the table goes to standard error");
    }
    // Redirected to a file in append mode: what was there stays.
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "before\n").unwrap();
    let file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    assert!(nettriage().args(NETWORK).arg("/dev/stdout").stdout(file).status().unwrap().success());
    assert!(fs::read_to_string(&log).unwrap().starts_with("before\n<svg"));
}

#[test]
fn inputs_are_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["m.onnx", "m.onnx.toml", "m.json", "x.npy"] {
        fs::write(at(name), name).unwrap();
    }
    symlink("m.onnx", at("link.onnx")).unwrap();
    fs::create_dir(at("run")).unwrap();
    let commands: &[&[&str]] = &[
        &["evaluate", &at("m.onnx"), "--inputs", &at("x.npy"), "--logits", &at("x.npy")],
        &["evaluate", &at("m.onnx"), "--inputs", &at("x.npy"), "--logits", &at("m.onnx")],
        &["evaluate", &at("m.onnx"), "--inputs", &at("x.npy"), "--logits", &at("link.onnx")],
        &["inspect", &at("m.onnx"), "--svg", &at("m.onnx")],
        &["export", &at("m.onnx"), "-o", &at("m.onnx")],
        &["export", &at("m.onnx"), "-o", &at("link.onnx")],
        &["scan", &at("m.onnx"), "--data", "digits", "--json", &at("m.onnx")],
        &["scan", &at("m.onnx"), "--data", "digits", "--json", &at("m.onnx.toml")],
        &["prescribe", &at("m.onnx"), "--data", "digits", "--max-drop", "1pp", "-o", &at("m.onnx")],
        // The description of a prescription is written beside it: here over the scan that it is made from.
        &[
            "prescribe",
            &at("x.onnx"),
            "--data",
            "digits",
            "--max-drop",
            "1pp",
            "--scan",
            &at("m.json"),
            "-o",
            &at("m.onnx"),
        ],
    ];
    for command in commands {
        let error = refused(&nettriage().args(*command).output().unwrap());
        assert!(error.contains("would overwrite an input"), "{command:?}: {error}");
    }
    let error = refused(
        &nettriage()
            .args(["scan", &at("m.onnx"), "--data", "digits", "--json", &at("s"), "-o", &at("s")])
            .output()
            .unwrap(),
    );
    assert!(error.contains("two outputs have this name"), "{error}");
    for name in ["m.onnx", "m.onnx.toml", "m.json", "x.npy"] {
        assert_eq!(fs::read_to_string(at(name)).unwrap(), name);
    }
}

#[test]
fn a_failed_write_leaves_no_part_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.png");
    // Files of at most 1 or 2 KiB; the contact sheet takes more.
    let script =
        format!("ulimit -f 2; exec {} data show digits -o {}", env!("CARGO_BIN_EXE_nettriage"), sheet.display());
    let error = refused(&Command::new("sh").args(["-c", &script]).output().unwrap());
    assert!(error.contains("sheet.png"), "{error}");
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    fs::write(&sheet, "old").unwrap();
    refused(&Command::new("sh").args(["-c", &script]).output().unwrap());
    assert_eq!(fs::read_to_string(&sheet).unwrap(), "old");
    assert_eq!(names(folder.path()), ["sheet.png"]);
    #[cfg(target_os = "linux")]
    {
        let error = refused(&nettriage().args(NETWORK).arg("/dev/full").output().unwrap());
        assert!(error.contains("/dev/full"), "{error}");
    }
}

#[test]
fn external_data_of_a_model_are_inputs() {
    // Field 7 of a model is its graph, 5 of a graph an initializer, 13 of a tensor an entry of its external data (key, value).
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    }
    let entry = [field(1, b"location"), field(2, b"net.onnx.data")].concat();
    let model = field(7, &field(5, &field(13, &entry)));
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("net.onnx"), model).unwrap();
    fs::write(at("net.onnx.data"), "weights").unwrap();
    let export = nettriage().arg("inspect").arg(at("net.onnx")).arg("--svg").arg(at("net.onnx.data")).output().unwrap();
    let error = refused(&export);
    assert!(error.contains("would overwrite an input"), "{error}");
    assert_eq!(fs::read(at("net.onnx.data")).unwrap(), b"weights");
}
