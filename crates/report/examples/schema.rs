//! Prints the JSON Schema of `report --json`. It allows no other keys.

use nettriage_report::Analysis;
use serde_json::{Value, json};

fn main() {
    let mut schema = serde_json::to_value(schemars::schema_for!(Analysis)).expect("plain data");
    close(&mut schema);
    schema["$id"] = json!("nettriage-analysis-2");
    println!("{}", serde_json::to_string_pretty(&schema).expect("plain data"));
}

fn close(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("properties") && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".into(), json!(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
