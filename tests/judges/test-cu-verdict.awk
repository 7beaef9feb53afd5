# Judges results (test-cu-results.awk) by a list of what is expected:
#   awk -f test-cu-verdict.awk EXPECTED ALL_TESTS RESULTS
# EXPECTED   "SUITE.TEST skipped|omitted REASON", # for comments
# ALL_TESTS  "SUITE.TEST", every test that has to appear in the results
# Prints for each test one line: "ok NAME", "skip NAME REASON" (listed) or
# "FAIL NAME WHY": failed, skipped and not listed, listed and now passing (the
# line is stale), listed as the other kind, cut short, never run, unknown in the
# list, a list line without a reason, sums that are not CUnit's.  There is no
# such thing as an expected failure.
FNR == 1 { file++ }
file == 1 {
    if ($0 ~ /^[ \t]*(#|$)/) next
    reason = $0; sub(/^[ \t]*[^ \t]+[ \t]+[^ \t]+[ \t]*/, "", reason)
    if (NF < 3 || ($2 != "skipped" && $2 != "omitted")) { print "FAIL list line " FNR ": want NAME skipped|omitted REASON"; next }
    if ($1 in kind) { print "FAIL list line " FNR ": " $1 " is listed twice"; next }
    kind[$1] = $2; because[$1] = reason
    next
}
file == 2 { if (!($1 in wanted)) { wanted[$1] = 1; order[++n] = $1 } next }
$1 == "=" { summary = $0; next }
{
    rank["passed"] = 1; rank["skipped"] = 2; rank["failed"] = 3; rank["unfinished"] = 4
    count[$2]++
    # the worst of several runs of one test
    if (rank[$2] > rank[got[$1]]) {
        got[$1] = $2; text = $0; sub(/^[^ ]+ [^ ]+ ?/, "", text); detail[$1] = text
    }
    if (!($1 in wanted)) { wanted[$1] = 1; order[++n] = $1 }
}
END {
    for (i = 1; i <= n; i++) {
        t = order[i]; g = got[t]
        if (g == "") print (kind[t] == "omitted" ? "skip " t " " because[t] : "FAIL " t " was not run")
        else if (g == "unfinished") print "FAIL " t " did not finish"
        else if (g == "passed") {
            if (t in kind) print "FAIL " t " passes now: remove its line from the list"
            else print "ok " t
        }
        else if (g == "failed") print "FAIL " t " failed: " detail[t]
        else if (!(t in kind)) print "FAIL " t " " g " (not listed): " detail[t]
        else if (kind[t] != g) print "FAIL " t " " g ", but is listed as " kind[t] ": " detail[t]
        else print "skip " t " " because[t]
    }
    for (t in kind) if (!(t in wanted)) print "FAIL " t " is listed, but there is no such test"
    ran = count["passed"] + count["skipped"] + count["failed"]
    want = "= " ran " " count["passed"] + count["skipped"] " " count["failed"] + 0
    if (summary != want) print "FAIL summary: CUnit says \"" summary "\", the lines sum up to \"" want "\""
}
