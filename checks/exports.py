"""Reads a report's exports with the programs that people use for them.

    nettriage report RUN --json analysis.json --csv trials.csv --parquet trials.parquet --tensorboard events
    python checks/exports.py analysis.json trials.csv trials.parquet events

`jsonschema` validates the JSON against crates/report/schema.json. pandas reads both tables, which must be equal. TensorBoard reads
the curves, filter images and hyper-parameters. Exit code 1 on the first difference.
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
    assert len(recorded) == analysis["recorded"], "one row per trial"
    if analysis["budgets"]:
        # Cells are of the largest budget; untrained trials are the same under each.
        recorded = recorded[recorded.budget.isna() | (recorded.budget == analysis["budget"])]
    done = recorded[(recorded.role == "child") & (recorded.state == "done")]
    means = 100 * done.groupby(["block", "substitute", "init", "scheme"]).test_top1.mean()
    for cell in analysis["cells"]:
        mean = means[(cell["block"], cell["substitute"], cell["init"], cell["scheme"])]
        assert np.isclose(mean, cell["accuracy"], rtol=1e-9), cell
    columns = pandas.read_parquet(sys.argv[3])
    assert list(columns.columns) == list(trials.columns) and len(columns) == len(trials), "CSV and Parquet differ in columns or rows"
    for name in trials.columns:
        in_csv, in_parquet = trials[name], columns[name]
        assert (in_csv.isna() == in_parquet.isna()).all(), f"{name}: other cells are empty"
        if pandas.api.types.is_numeric_dtype(in_parquet) and in_csv.notna().any():
            # pandas parses text to within one unit in the last place.
            assert np.allclose(in_csv.dropna().astype(float), in_parquet.dropna().astype(float), rtol=1e-14, atol=0), name
        else:
            # The CSV file quotes what a spreadsheet would read as a formula; the names of this study contain none.
            assert (in_csv.dropna().astype(str) == in_parquet.dropna().astype(str)).all(), name
    for name in ("test_images", "seed"):
        assert pandas.api.types.is_integer_dtype(columns[name].convert_dtypes()), f"{name}: not integers"
    print(f"pandas: {len(trials)} rows in CSV and in Parquet")

    events = EventMultiplexer().AddRunsFromDirectory(sys.argv[4])
    events.Reload()
    runs = {name: tags for name, tags in events.Runs().items() if "-seed" in name}
    recorded = trials[trials.role != "trained"]
    finished = recorded[recorded.test_top1.notna()]
    assert len(runs) == len(finished), f"{len(runs)} runs, {len(finished)} trials"
    with_filters = 0
    for name, tags in runs.items():
        # TensorBoard returns scalars and images as tensors.
        start = events.SummaryMetadata(name, "_hparams_/session_start_info")
        message = plugin_data_pb2.HParamsPluginData.FromString(start.plugin_data.content)
        hparams = message.session_start_info.hparams
        match = finished[
            (finished.role == hparams["role"].string_value)
            & (finished.scheme == hparams["scheme"].string_value)
            & (finished.seed == hparams["seed"].number_value)
            & (finished.block.fillna("") == hparams["block"].string_value)
            & (finished.init.fillna("") == hparams["init"].string_value)
        ]
        last = events.Tensors(name, "test/top1")[-1].tensor_proto.float_val[0]
        assert np.isclose(match.test_top1, last, rtol=1e-6).any(), name
        assert len(events.Tensors(name, "curve/validation_top1")) >= 1
        if "filters" in tags["tensors"]:
            with_filters += 1
            assert events.Tensors(name, "filters")[0].tensor_proto.string_val[2].startswith(b"\x89PNG"), name
    experiment = [name for name in events.Runs() if "_hparams_/experiment" in events.Runs()[name]["tensors"]]
    assert len(experiment) == 1, f"{len(experiment)} experiments"
    print(f"TensorBoard: {len(runs)} trials, {with_filters} with images of filters")


if __name__ == "__main__":
    main()
