#!/usr/bin/env bash
# Instructions per ordinary 4 KiB READ and WRITE command of the engine (session and SCSI, no sockets, a device that
# copies nothing): the same number in every run of one build, so that one can say what a change costs.
#
#   bench/instructions.sh [COMMIT...]
#
# Without a COMMIT the working tree is counted; each COMMIT is checked out and built beside it, with its own
# bench/src/bin/instructions.rs where it has one. Needs valgrind, whose cachegrind counts; the
# figure is the difference of two runs with different numbers of commands, divided by the difference. A write
# comes as immediate data, so copying its 4 KiB into the buffer is in the figure; that copy is all that is.
set -euo pipefail
cd "$(dirname "$0")/.."
FEW=2000 MANY=12000
command -v valgrind >/dev/null || { echo "instructions.sh: valgrind is missing (package valgrind)" >&2; exit 2; }
work=$(mktemp -d "${TMPDIR:-/tmp}/iibd-instructions.XXXXXX")
cleanup() {
    local t
    for t in "$work"/tree-*; do [[ ! -d $t ]] || git worktree remove --force "$t"; done
    rm -rf "$work"
}
trap cleanup EXIT

# refs BINARY WAY COMMANDS: instructions of the whole run
refs() {
    valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null --log-file="$work/log" \
        "$1" --way "$2" --commands "$3" >/dev/null
    sed -n 's/^.*I \+refs: *//p' "$work/log" | tr -d ,
}
count() { # count NAME TREE
    (cd "$2" && nice -n 10 cargo build --quiet --release --package bench --bin instructions)
    local bin=${CARGO_TARGET_DIR:-$2/target}/release/instructions way few many line="| $1 |"
    for way in read write; do
        few=$(refs "$bin" $way $FEW)
        many=$(refs "$bin" $way $MANY)
        line+=" $(((many - few) / (MANY - FEW))) |"
    done
    echo "$line"
}

echo "| engine | READ (10), 4 KiB | WRITE (10), 4 KiB |"
echo "|---|---|---|"
for commit in "$@"; do
    tree=$work/tree-$commit
    git worktree add --quiet --detach "$tree" "$commit"
    if [[ ! -e $tree/bench/src/bin/instructions.rs ]]; then
        echo "instructions.sh: $commit has no bench/src/bin/instructions.rs" >&2
        exit 2
    fi
    CARGO_TARGET_DIR=$PWD/target count "$commit" "$tree"
done
[[ $# -gt 0 ]] || count "$(git rev-parse --short HEAD)$(git diff --quiet HEAD -- src Cargo.lock || echo +)" "$PWD"
