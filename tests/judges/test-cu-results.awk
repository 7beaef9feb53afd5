# Reads the output of `iscsi-test-cu -V` and prints one line for each test that
# was begun: "SUITE.TEST passed|skipped|failed|unfinished REASON", then
# "= RAN PASSED FAILED", the sum of CUnit's own summaries, one for each run of the
# tool ("= none" if there is none: the run was cut short).
#
# CUnit counts a test that skips itself as passed; a [SKIPPED] line tells it from
# the others.  A test that runs in several families appears once for each.
function done_with(result) {
    if (result == "passed" && skip != "") print name, "skipped", skip
    else if (result == "failed") print name, "failed", why
    else print name, result
    name = ""
}
function begin_test(t) {
    if (name != "") done_with("unfinished")
    name = suite "." t; skip = ""; why = ""
}
/^Suite: / { if (name != "") done_with("unfinished"); suite = $2; next }
/^  Test: / {
    begin_test($2)
    if (match($0, /\.\.\.(passed|FAILED)$/)) { done_with($0 ~ /passed$/ ? "passed" : "failed"); next }
}
name != "" && /\[SKIPPED\]/ { skip = $0; sub(/.*\[SKIPPED\] */, "", skip) }
name != "" && /\[FAILED\]/ && why == "" { why = $0; sub(/.*\[FAILED\] */, "", why) }
name != "" && /^passed/ { done_with("passed") }
name != "" && /^FAILED/ { done_with("failed") }
/^ +tests +[0-9]+ +[0-9]+/ { runs++; ran += $3; passed += $4; failed += $5 }
END {
    if (name != "") done_with("unfinished")
    if (runs) print "=", ran, passed, failed
    else print "= none"
}
