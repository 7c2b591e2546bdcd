"""Reads a report's exports with the programs that people read them with.

    nettriage report RUN --json analysis.json --csv trials.csv --parquet trials.parquet --tensorboard events
    python checks/exports.py analysis.json trials.csv trials.parquet events

`jsonschema` validates the JSON against crates/report/schema.json, pandas reads the tables, which are the same, TensorBoard reads the events:
curves, filter pictures and hyper-parameters. Exit status 1 if anything is amiss.
"""

import json
import pathlib
import sys

import jsonschema
import numpy as np
import pandas
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

SCHEMA = pathlib.Path(__file__).parent.parent / "crates" / "report" / "schema.json"


def main():
    if len(sys.argv) != 5:
        sys.exit("usage: exports.py analysis.json trials.csv trials.parquet events")
    analysis = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    jsonschema.validate(analysis, json.loads(SCHEMA.read_text(encoding="utf-8")), cls=jsonschema.Draft202012Validator)
    print(f"jsonschema: {len(analysis['cells'])} cells valid")

    trials = pandas.read_csv(sys.argv[2])
    recorded = trials[trials.role != "trained"]
    assert len(recorded) == analysis["recorded"], "a row for every trial"
    done = recorded[(recorded.role == "child") & (recorded.state == "done")]
    means = 100 * done.groupby(["block", "substitute", "init", "scheme"]).test_top1.mean()
    for cell in analysis["cells"]:
        own = means[(cell["block"], cell["substitute"], cell["init"], cell["scheme"])]
        assert np.isclose(own, cell["accuracy"], rtol=1e-9), cell
    columns = pandas.read_parquet(sys.argv[3])
    assert list(columns.columns) == list(trials.columns) and len(columns) == len(trials), "the same table"
    for name in trials.columns:
        here, there = trials[name], columns[name]
        assert (here.isna() == there.isna()).all(), f"{name}: the same cells are empty"
        if pandas.api.types.is_numeric_dtype(there) and here.notna().any():
            # pandas reads numbers of a text file to within one unit of the last place.
            assert np.allclose(here.dropna().astype(float), there.dropna().astype(float), rtol=1e-14, atol=0), name
        else:
            # A spreadsheet's formulas are quoted in the text file alone; none occur in a study's own names.
            assert (here.dropna().astype(str) == there.dropna().astype(str)).all(), name
    for name in ("test_images", "seed"):
        assert pandas.api.types.is_integer_dtype(columns[name].convert_dtypes()), f"{name} holds whole numbers"
    print(f"pandas: {len(trials)} rows in CSV and in Parquet")

    events = EventMultiplexer().AddRunsFromDirectory(sys.argv[4])
    events.Reload()
    runs = {name: tags for name, tags in events.Runs().items() if "-seed" in name}
    with_readings = recorded[recorded.test_top1.notna()]
    assert len(runs) == len(with_readings), f"{len(runs)} runs, {len(with_readings)} trials"
    pictures = 0
    for name, tags in runs.items():
        # Numbers and pictures come back as tensors, as TensorBoard itself reads them.
        start = events.SummaryMetadata(name, "_hparams_/session_start_info")
        message = plugin_data_pb2.HParamsPluginData.FromString(start.plugin_data.content)
        hparams = message.session_start_info.hparams
        match = with_readings[
            (with_readings.role == hparams["role"].string_value)
            & (with_readings.scheme == hparams["scheme"].string_value)
            & (with_readings.seed == hparams["seed"].number_value)
            & (with_readings.block.fillna("") == hparams["block"].string_value)
            & (with_readings.init.fillna("") == hparams["init"].string_value)
        ]
        last = events.Tensors(name, "test/top1")[-1].tensor_proto.float_val[0]
        assert np.isclose(match.test_top1, last, rtol=1e-6).any(), name
        assert len(events.Tensors(name, "curve/validation_top1")) >= 1
        if "filters" in tags["tensors"]:
            pictures += 1
            assert events.Tensors(name, "filters")[0].tensor_proto.string_val[2].startswith(b"\x89PNG"), name
    experiment = [name for name in events.Runs() if "_hparams_/experiment" in events.Runs()[name]["tensors"]]
    assert len(experiment) == 1, "one experiment"
    print(f"TensorBoard: {len(runs)} trials, {pictures} with filter pictures")


if __name__ == "__main__":
    main()
