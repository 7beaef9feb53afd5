# shellcheck shell=bash
# guest.sh: sourced by the judges that run a script of guest/ which may ask for
# something outside (see guest/paths).
VM=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
vm=''
# guest_answer WHAT: what a guest may ask for
guest_answer() {
    case $1 in
    kill-and-restart) subject_kill; subject_again || fail "the subject starts again" "it did not" "$W/subject.log" ;;
    *) fail "the guest asks for $1" "nobody knows what that is" ;;
    esac
}
# end_parts: what a judge has begun beside the machine, ended with it
end_parts() { :; }
# guest_machine NAME LIMIT_S WORD...: boots a machine by run-vm.sh with these words (options,
# script, arguments), counts what it prints, and answers what it asks for.  Sets $guest_status.
guest_machine() {
    local name=$1 limit=$2 line bad=0
    shift 2
    JUDGE_LATER='[ -z "$vm" ] || kill "$vm" 2>/dev/null; end_parts'
    mkdir -p "$ROOT/target/vm" "$W/guest" "$W/answers"
    cp "$VM/guest/paths" "$W/guest/"
    rm -f "$W/lines"
    mkfifo "$W/lines"
    "$VM/run-vm.sh" --timeout "$limit" --share "$W/guest" --out "$W/answers" --console "$ROOT/target/vm/$name.console" \
        "$@" > "$W/lines" 2> "$W/err" < /dev/null &
    vm=$!
    while IFS= read -r line; do
        case $line in
        "ok "*)   ok "${line#ok }" ;;
        "skip "*) line=${line#skip }; skip "${line%%: *}" "${line#*: }" ;;
        "FAIL "*) bad=$((bad + 1)); line=${line#FAIL }; line=${line%)}; fail "${line% (exit*}" "${line##* (}" ;;
        "host "*) line=${line#host }; guest_answer "${line#* }"; : > "$W/answers/${line%% *}" ;;
        *)        printf '%s\n' "$line" ;;
        esac
    done < "$W/lines"
    guest_status=0; wait $vm || guest_status=$?
    vm=''
    # Each failed step was counted above; what is left is a script that did not come to its
    # end, where it says how many failed, or a machine that did not.
    if [ $guest_status -ge 124 ]; then fail "machine" "exit $guest_status (124: time limit, 125: ended early)" "$W/err"
    elif [ $guest_status -ne $bad ]; then fail "the script in the machine" "exit $guest_status after $bad failed steps" "$W/err"; fi
}
# guest_run SCRIPT LIMIT_S ARG...: starts the subject, boots a machine, runs
# guest/SCRIPT with these arguments (@PORT and @PORT2 are filled in) and counts its
# lines.
guest_run() {
    local script=$1 limit=$2 args=() a
    shift 2
    check "image" "$VM/build-image.sh" || judge_end
    subject_start
    for a in "$@"; do
        case $a in @PORT) a=$PORT ;; @PORT2) a=$PORT2 ;; esac
        args+=("$a")
    done
    guest_machine "$script" "$limit" "$VM/guest/$script" "${args[@]}"
    [ $guest_status -eq 0 ] || { echo "     the end of the subject's log:"; tail -n 20 "$W/subject.log" | sed 's/^/     | /'; }
    check "the subject still runs" kill -0 "$SUBJECT_PID"
}
