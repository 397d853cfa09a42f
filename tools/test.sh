#!/usr/bin/env bash
# Runs the tests:  tools/test.sh [pytest's words]
#
# First those that keep up with the clock, one after another and with the machine to themselves; then all
# others, which share its cores. Environment: WORKERS, how many do so (auto: one a core, at most 8).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
interrupted=2 none_selected=5 # pytest's words for it

"$python" -m pytest --clock only "$@"
clock=$?
((clock != interrupted)) || exit "$clock"
"$python" -m pytest --clock without --numprocesses "${WORKERS:-auto}" --maxprocesses 8 --dist worksteal "$@"
others=$?
for status in "$clock" "$others"; do
    ((status == 0 || status == none_selected)) || exit "$status"
done
((clock == none_selected)) || exit "$clock"
exit "$others"
