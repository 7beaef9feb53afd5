# shellcheck shell=bash
# test-cu.sh: sourced by the judges that run libiscsi's suite (iscsi-test-cu, tests/vm/nvme).
#
#   test_cu VARIANT    the suite, each of its suites a process of its own, against the targets
#                      "disk" and "small"; each test counted.  The caller sets $kinds (which lines
#                      of the list hold), $family and $parts (empty: all), $flags (the tool's), and
#                      $skips is set to how many tests skipped as listed.
EXPECTED=${IIBD_EXPECTED:-$ROOT/tests/expected-skips.txt}
LIMIT_S=${LIMIT_S:-${IIBD_TEST_CU_LIMIT_S:-120}} # each suite
# run_suite VARIANT PATTERN DISK: one process of the tool; its output goes to out.VARIANT
run_suite() {
    local rc=0 urls limit=$LIMIT_S
    urls=("$(url "$3")")
    [ -z "$PORT2" ] || urls+=("$(url2 "$3")")
    case $2 in *Sanitize*) limit=$((LIMIT_S + 180)) ;; esac
    # The tool exits 1 when a test failed: which ones, its output says.
    # shellcheck disable=SC2086
    bounded "$limit" iscsi-test-cu -i "$INITIATOR" -I "$INITIATOR-2" -d -V $flags -t "$2" \
        "${urls[@]}" > "$W/out" 2> "$W/err" || rc=$?
    cat "$W/out" >> "$W/out.$1"
    [ $rc -le 1 ] || {
        fail "$1 $2" "exit $rc (124: the time limit of $limit s); the end of the subject's log:" "$W/subject.log"
        tail -q -n 5 "$W/out" "$W/err" | cut -c1-200 | sed 's/^/     | /'
    }
}
test_cu() {
    local variant=$1 start=$EPOCHSECONDS took suite verdict name why
    bounded 10 iscsi-test-cu -l > "$W/list" || fail "list" "iscsi-test-cu -l: exit $?"
    # The lines of the list that hold for this variant and its part; they keep their numbers.
    awk -v kinds=" $kinds " -v parts=" $parts " '$1 !~ /^#/ && NF { k = "whole"; if ($1 ~ /@/) { k = $1; sub(/.*@/, "", k); sub(/@[^ ]*/, "") }
            s = $1; sub(/\..*/, "", s)
            if (!index(kinds, " " k " ") || (parts !~ /^ *$/ && !index(parts, " " s " "))) $0 = "" } { print }' "$EXPECTED" > "$W/expected"
    awk -F. -v f="${family:-*}" -v parts=" $parts " 'NF == 3 && (f == "*" || $1 == f) && (parts ~ /^ *$/ || index(parts, " " $2 " "))' "$W/list" > "$W/tests"
    awk -F. '{ print $2 "." $3 }' "$W/tests" > "$W/all"
    # What is left out is left out by naming the others.
    awk 'NR == FNR { if ($2 == "omitted") omit[$1] = 1; next } { split($0, p, "."); s = p[1] "." p[2]; if (!(s in seen)) { seen[s] = 1; order[++n] = s }
            if ((p[2] "." p[3]) in omit) cut[s] = 1; else names[s] = names[s] (names[s] == "" ? "" : ",") $0 }
        END { for (i = 1; i <= n; i++) { s = order[i]; if (!(s in cut)) print s; else if (names[s] != "") print names[s] } }' "$W/expected" "$W/tests" > "$W/suites"
    : > "$W/out.$variant"
    while read -r suite; do
        case $variant/$suite in
        # (GET LBA STATUS of a memory disk looks at all that is behind the address.)
        *-4kn/*.ExtendedCopy* | */*.GetLBAStatus*) run_suite "$variant" "$suite" small ;;
        sanitize/*)
            run_suite "$variant" "$(grep '\.Sanitize\.' "$W/tests" | grep -v '\.Reset$' | paste -sd,)" disk
            run_suite "$variant" "$suite.Reset" slow ;;
        *) run_suite "$variant" "$suite" disk ;;
        esac
    done < "$W/suites"
    took=$((EPOCHSECONDS - start))
    awk -f "$JUDGES/test-cu-results.awk" "$W/out.$variant" > "$W/results.$variant"
    awk -f "$JUDGES/test-cu-verdict.awk" "$W/expected" "$W/all" "$W/results.$variant" > "$W/verdict.$variant"
    while read -r verdict name why; do
        case $verdict in
        ok)   passed=$((passed + 1)); echo "$name" >> "$W/ran" ;;
        skip) skip "$variant $name" "$why" ;;
        *)    fail "$variant $name" "$why" ;;
        esac
    done < "$W/verdict.$variant"
    skips=$(grep -c '^skip ' "$W/verdict.$variant")
    echo "     $variant: $(grep -c '^ok ' "$W/verdict.$variant") of $(sort -u "$W/all" | wc -l) tests passed," \
        "$skips skipped as listed, $(grep -c '^FAIL ' "$W/verdict.$variant") not as listed;" \
        "$(sed -n 's/^= //p' "$W/results.$variant" | awk '{print $1 " runs"}') in $took s"
}
