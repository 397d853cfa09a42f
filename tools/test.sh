#!/usr/bin/env bash
# Runs the tests:  tools/test.sh [pytest's words]
#
# First those that keep up with the clock, one after another and with the machine to themselves; then all
# others, which share its cores. Environment: WORKERS, how many do so (auto: one a core, at most 8).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
none_selected=5 # pytest's word for it

"$python" -m pytest -m real_time "$@"
clock=$?
((clock == 0 || clock == none_selected)) || exit "$clock"
"$python" -m pytest -m "not real_time" --numprocesses "${WORKERS:-auto}" --maxprocesses 8 --dist worksteal "$@"
others=$?
((others == none_selected)) && exit "$clock"
exit "$others"
