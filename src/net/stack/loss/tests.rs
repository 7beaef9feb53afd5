//! Each reason for duplicates, and each for keeping still.

use super::*;

const MS: Duration = Duration::from_millis(1);
/// What our timestamps show when a flight is asked after.
const CLOCK: u32 = 5;

struct Bench {
    recovery: Recovery,
    now: Instant,
}

fn heard(ack: u32, has_sack: bool) -> Heard {
    Heard {
        ack: Seq(ack),
        window: 500,
        is_empty: true,
        has_sack,
        echo: None,
    }
}

impl Bench {
    /// Ten segments of 100 bytes are under way from 1000 on; a round trip takes 1 ms.
    fn new(sack: bool) -> Self {
        let mut bench = Self {
            recovery: Recovery::new(Seq(900), sack),
            now: crate::net::some_instant(),
        };
        bench.recovery.window = 500;
        bench.sent(900);
        bench.now += MS;
        bench.acknowledged(heard(1000, false));
        for seq in (1000..2000).step_by(100) {
            bench.sent(seq);
        }
        bench
    }

    fn sent(&mut self, seq: u32) {
        self.recovery.sent(self.now, Seq(seq), 100);
    }

    /// After a round trip.
    fn answered(&mut self, heard: Heard) -> Advice {
        self.now += MS;
        self.acknowledged(heard)
    }

    fn acknowledged(&mut self, heard: Heard) -> Advice {
        self.recovery.acknowledged(self.now, &heard)
    }

    fn duplicates(&mut self, ack: u32, count: usize) -> Vec<u8> {
        let advice = (0..count).map(|_| self.acknowledged(heard(ack, true)));
        advice.map(|advice| advice.duplicates).collect()
    }
}

#[test]
fn three_duplicates_are_enough_for_the_flow_itself() {
    let mut bench = Bench::new(true);
    assert_eq!(bench.duplicates(1000, 6), [0; 6]);
    assert_eq!(bench.recovery.phase, Phase::Repairing { until: Seq(2000) });
}

#[test]
fn each_partial_acknowledgment_gets_duplicates_until_all_is_repaired() {
    let mut bench = Bench::new(true);
    bench.duplicates(1000, 3);
    bench.sent(1000);
    assert_eq!(bench.answered(heard(1300, true)).duplicates, 3);
    assert_eq!(bench.recovery.duplicate(), (Seq(1300), 500));
    bench.sent(1300);
    assert_eq!(bench.acknowledged(heard(1700, true)).duplicates, 3);
    bench.sent(1700);
    // New data have left meanwhile, they do not belong to this loss.
    bench.sent(2000);
    assert_eq!(bench.acknowledged(heard(2000, false)).duplicates, 0);
    assert_eq!(bench.recovery.phase, Phase::Open);
    assert_eq!(bench.acknowledged(heard(2100, false)).duplicates, 0);
}

#[test]
fn data_and_windows_between_duplicates_do_not_hide_a_loss() {
    let mut bench = Bench::new(true);
    for window in [400, 300] {
        let mut told = heard(1000, true);
        told.window = window;
        let advice = bench.acknowledged(told);
        assert_eq!((advice.window, advice.duplicates), (500, 0));
    }
    let mut data = heard(1000, true);
    data.is_empty = false;
    // The flow has begun to count anew.
    assert_eq!(bench.acknowledged(data).duplicates, 3);
}

#[test]
fn a_window_that_opens_is_no_duplicate() {
    for sack in [false, true] {
        let mut bench = Bench::new(sack);
        for window in [600, 700, 800, 900] {
            let mut told = heard(1000, false);
            told.window = window;
            let advice = bench.acknowledged(told);
            assert_eq!((advice.window, advice.duplicates), (window, 0));
        }
        assert_eq!(bench.recovery.phase, Phase::Open);
    }
}

#[test]
fn a_closed_window_that_opens_is_seen_at_once() {
    let mut bench = Bench::new(true);
    let mut closed = heard(1500, true);
    closed.window = 0;
    bench.acknowledged(closed);
    let advice = bench.acknowledged(heard(1500, true));
    assert_eq!((advice.pass, advice.window), (true, 500));
    assert_eq!(bench.recovery.duplicate(), (Seq(1500), 500));
}

#[test]
fn a_peer_without_sack_is_believed_by_its_window() {
    let mut bench = Bench::new(false);
    for _ in 0..3 {
        assert_eq!(bench.acknowledged(heard(1000, false)).duplicates, 0);
    }
    assert!(matches!(bench.recovery.phase, Phase::Repairing { .. }));
    let mut told = heard(1000, false);
    told.window = 900;
    assert_eq!(bench.acknowledged(told).window, 500);
    assert_eq!(bench.answered(heard(1100, false)).duplicates, 3);
}

#[test]
fn after_a_timeout_what_was_sent_twice_is_not_repaired() {
    let mut bench = Bench::new(true);
    // Not asked for: the flow's own timeout.
    bench.sent(1000);
    assert_eq!(bench.recovery.phase, Phase::Repeating { until: Seq(2000) });
    bench.sent(1100);
    let passes: Vec<_> = (0..5)
        .map(|_| bench.acknowledged(heard(1000, true)))
        .map(|advice| (advice.pass, advice.duplicates))
        .collect();
    let (yes, no) = ((true, 0), (false, 0));
    assert_eq!(passes, [yes, yes, no, no, no]);
    assert_eq!(bench.acknowledged(heard(1500, true)).duplicates, 0);
    bench.acknowledged(heard(2000, false));
    assert_eq!(bench.recovery.phase, Phase::Open);
    assert_eq!(bench.recovery.deadline(), None);
}

#[test]
fn an_unanswered_flight_is_asked_after_a_few_times() {
    let mut bench = Bench::new(true);
    let at = bench.recovery.deadline().unwrap();
    assert_eq!(at, bench.now + PROBE_MIN);
    assert_eq!(bench.recovery.expired(at - MS, CLOCK), 0);
    assert_eq!(bench.recovery.expired(at, CLOCK), DUPLICATES);
    bench.now = at;
    bench.sent(1000);
    assert!(matches!(bench.recovery.phase, Phase::Repairing { .. }));
    // It has counted three for this number: the first of four has another window.
    for expected in [2, 4] {
        let next = bench.recovery.deadline().unwrap();
        assert_eq!(next, bench.now + PROBE_MIN * expected);
        let (ack, window) = bench.recovery.duplicate();
        assert_eq!(bench.recovery.expired(next, CLOCK), DUPLICATES + 1);
        assert_eq!(bench.recovery.duplicate(), (ack, window - 1));
        bench.now = next;
        bench.sent(1000);
    }
    assert_eq!(bench.recovery.deadline(), None);
    assert_eq!(
        bench.recovery.expired(bench.now + PROBE_MIN * 100, CLOCK),
        0
    );
    // All was there but the last: no more is lost.
    assert_eq!(bench.acknowledged(heard(2000, false)).duplicates, 0);
    assert_eq!(bench.recovery.deadline(), None);
}

#[test]
fn a_core_that_stood_still_gives_the_flight_more_time_once() {
    let mut bench = Bench::new(true);
    let due = bench.recovery.deadline().unwrap();
    let late = due + STOOD_STILL + MS;
    assert_eq!(bench.recovery.expired(late, CLOCK), 0);
    assert_eq!(bench.recovery.deadline(), Some(late + PROBE_MIN));
    // However late it looks again.
    assert_eq!(
        bench.recovery.expired(late + PROBE_MIN * 10, CLOCK),
        DUPLICATES
    );
    // What is answered begins anew.
    bench.now = late + PROBE_MIN * 10;
    bench.sent(1000);
    bench.acknowledged(heard(1100, false));
    let due = bench.recovery.deadline().unwrap();
    assert_eq!(bench.recovery.expired(due + STOOD_STILL + MS, CLOCK), 0);
}

#[test]
fn answers_that_were_only_late_end_the_repair_of_a_flight_that_was_asked_after() {
    // By the timestamps, also where these have wrapped, whenever the answer comes.
    for (echo, wait) in [
        (Some(CLOCK - 1), MS * 50),
        (Some(CLOCK.wrapping_sub(6)), MS / 3),
    ] {
        let mut bench = Bench::new(true);
        bench.now = bench.recovery.deadline().unwrap();
        assert_eq!(bench.recovery.expired(bench.now, CLOCK), DUPLICATES);
        bench.sent(1000);
        bench.now += wait;
        for ack in (1100..2000).step_by(100) {
            let echo = echo.filter(|_| ack < 1500);
            let advice = bench.acknowledged(Heard {
                echo,
                ..heard(ack, false)
            });
            assert_eq!(advice.duplicates, 0, "{ack} needs no repair");
        }
        assert_eq!(bench.recovery.phase, Phase::Open);
        // Nothing has overtaken anything.
        assert_eq!(bench.recovery.patience, 0);
        // What is lost now is found as ever.
        bench.duplicates(1900, 1);
        assert!(matches!(bench.recovery.phase, Phase::Repairing { .. }));
    }
}

#[test]
fn an_answer_to_what_was_sent_again_goes_on_with_the_repair() {
    for (echo, wait) in [
        (Some(CLOCK), MS / 3),
        (Some(CLOCK + 1), MS / 3),
        // Without them nobody can tell, however soon it comes.
        (None, MS / 3),
        (None, MS * 50),
    ] {
        let mut bench = Bench::new(true);
        bench.now = bench.recovery.deadline().unwrap();
        bench.recovery.expired(bench.now, CLOCK);
        bench.sent(1000);
        bench.now += wait;
        let advice = bench.acknowledged(Heard {
            echo,
            ..heard(1300, true)
        });
        assert_eq!(advice.duplicates, DUPLICATES);
        bench.sent(1300);
        // Only the first answer tells: this one may be to the old flight.
        let advice = bench.acknowledged(Heard {
            echo: Some(CLOCK - 1),
            ..heard(1500, true)
        });
        assert_eq!(advice.duplicates, DUPLICATES);
    }
}

#[test]
fn a_repair_that_duplicates_began_is_not_ended_by_a_late_answer() {
    let mut bench = Bench::new(true);
    bench.duplicates(1000, 3);
    bench.sent(1000);
    bench.now = bench.recovery.deadline().unwrap();
    assert_eq!(bench.recovery.expired(bench.now, CLOCK), DUPLICATES + 1);
    bench.sent(1000);
    let advice = bench.acknowledged(Heard {
        echo: Some(CLOCK - 1),
        ..heard(1300, true)
    });
    assert_eq!(advice.duplicates, DUPLICATES);
}

#[test]
fn a_small_flight_needs_fewer_duplicates() {
    for (acknowledged, needed) in [(1600, 3), (1700, 2), (1800, 1), (1900, 1)] {
        let mut bench = Bench::new(true);
        bench.acknowledged(heard(acknowledged, false));
        let mut told = bench.duplicates(acknowledged, needed);
        assert_eq!(told.pop(), Some(DUPLICATES - u8::try_from(needed).unwrap()));
        assert!(told.into_iter().all(|count| count == 0));
    }
}

#[test]
fn segments_that_overtake_each_other_are_waited_for() {
    let mut bench = Bench::new(true);
    bench.duplicates(1000, 3);
    bench.sent(1000);
    // The answer comes at once, so it is not one to the repair: all that was mistaken.
    assert_eq!(bench.acknowledged(heard(1400, false)).duplicates, 0);
    assert_eq!(bench.recovery.phase, Phase::Open);
    let advice: Vec<_> = (0..5)
        .map(|_| bench.acknowledged(heard(1400, true)).pass)
        .collect();
    assert_eq!(advice, [true, true, false, false, false]);
    let until = bench.recovery.deadline().unwrap();
    assert_eq!(until, bench.now + MS / 4);
    assert_eq!(bench.recovery.expired(until - MS / 8, CLOCK), 0);
    // It comes, late.
    bench.acknowledged(heard(1500, true));
    assert_ne!(bench.recovery.deadline(), Some(until));
    // The next one does not.
    bench.duplicates(1500, 3);
    let until = bench.recovery.deadline().unwrap();
    assert_eq!(bench.recovery.expired(until, CLOCK), 1);
    assert!(matches!(bench.recovery.phase, Phase::Repairing { .. }));
}

#[test]
fn patience_ends_when_repairs_are_needed() {
    let mut bench = Bench::new(true);
    bench.duplicates(1000, 3);
    bench.acknowledged(heard(1100, false));
    assert_eq!(bench.recovery.patience, 1);
    let mut next = 2000;
    for _ in 0..REPAIRS_MAX {
        let una = bench.recovery.una.0;
        bench.duplicates(una, 3);
        let until = bench.recovery.deadline().unwrap();
        assert_eq!(bench.recovery.expired(until, CLOCK), 1);
        bench.now = until;
        bench.answered(heard(next, false));
        for seq in (next..next + 1000).step_by(100) {
            bench.sent(seq);
        }
        next += 1000;
    }
    assert_eq!(bench.recovery.patience, 0);
}

#[test]
fn a_single_segment_may_be_answered_later() {
    let mut bench = Bench::new(true);
    bench.acknowledged(heard(2000, false));
    bench.sent(2000);
    let at = bench.recovery.deadline().unwrap();
    assert_eq!(at, bench.now + PROBE_MIN + ANSWER_DELAY);
}

#[test]
fn what_was_sent_twice_measures_no_round_trip() {
    let mut bench = Bench::new(true);
    assert_eq!(bench.recovery.round_trip, Some(MS));
    bench.duplicates(1000, 3);
    bench.sent(1000);
    bench.now += MS * 500;
    bench.acknowledged(heard(2000, false));
    assert_eq!(bench.recovery.round_trip, Some(MS));
}

#[test]
fn the_flow_s_clock_is_fast_and_never_early() {
    let epoch = crate::net::some_instant();
    let clock = FlowClock::new(epoch);
    let later = epoch + Duration::from_micros(200_001);
    let second = smoltcp::time::Duration::from_secs(1);
    assert_eq!(clock.at(epoch + MS * 200) - clock.at(epoch), second);
    assert_eq!(FlowClock::scaled(MS * 200), second);
    assert_eq!(clock.when(clock.at(later)), later);
    let between = clock.at(later) + smoltcp::time::Duration::from_micros(1);
    assert!(clock.at(clock.when(between)) >= between);
}

#[test]
fn thousands_of_duplicates_are_only_many() {
    for sack in [true, false] {
        let mut bench = Bench::new(sack);
        for _ in 0..1000 {
            assert!(bench.acknowledged(heard(1000, sack)).pass);
        }
        let at = bench.recovery.deadline().unwrap();
        assert_eq!(bench.recovery.expired(at, CLOCK), DUPLICATES + 1);
    }
}
