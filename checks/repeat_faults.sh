#!/usr/bin/env bash
# Repeats the fault-injection tests, 50 times by default, each time with other random delays; stops at the first failure.
#
#     checks/repeat_faults.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --release -p nettriage-cli --test faults --no-run
for i in $(seq "${1:-50}"); do
    begin=$SECONDS
    if ! cargo test --quiet --release -p nettriage-cli --test faults >target/faults.log 2>&1; then
        cat target/faults.log
        echo "failed at round $i" >&2
        exit 1
    fi
    echo "round $i: $(grep -o '[0-9]* passed' target/faults.log), $((SECONDS - begin)) s"
done
