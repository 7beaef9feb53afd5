//! NVMe controllers that the daemon drives itself: their states and counters, their health as their
//! keepers read it last, and their links.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::backend::nvme::facts::{Counters, Facts, State};
use crate::backend::nvme::keeper;
use crate::backend::nvme::spec::log::Health;
use crate::backend::nvme::vfio::sysfs::{Function, Link};
use crate::backend::nvme::vitals::Reading;
use crate::metrics::{Family, Page, Value, families as f};

/// Controllers that are shown: more than a process can open.
const CONTROLLERS_MAX: usize = 64;
/// 0 °C, as the standard rounds it.
const FREEZING_KELVIN: f64 = 273.0;
/// Bytes of a data unit of the health log.
const DATA_UNIT_BYTES: u128 = 512_000;

const STATES: [(State, &str); 6] = [
    (State::Starting, "starting"),
    (State::Ready, "ready"),
    (State::Recovering, "recovering"),
    (State::Failed, "failed"),
    (State::Gone, "gone"),
    (State::Closed, "closed"),
];

/// Bits of the critical warnings.
const WARNINGS: [(u8, &str); 6] = [
    (0, "spare"),
    (1, "temperature"),
    (2, "reliability"),
    (3, "read_only"),
    (4, "volatile_memory_backup"),
    (5, "persistent_memory_region"),
];

type Count = fn(&Counters) -> &AtomicU64;

const COUNTERS: [(&Family, Count); 9] = [
    (&f::NVME_TIMEOUTS, |it| &it.timeouts),
    (&f::NVME_ABORTS, |it| &it.aborts),
    (&f::NVME_CONTROLLER_RESETS, |it| &it.controller_resets),
    (&f::NVME_FUNCTION_RESETS, |it| &it.function_resets),
    (&f::NVME_REPLAYS, |it| &it.replays),
    (&f::NVME_BREACHES, |it| &it.breaches),
    (&f::NVME_ERRORS, |it| &it.errors),
    (&f::NVME_EVENTS, |it| &it.events),
    (&f::NVME_QUARANTINED, |it| &it.quarantined_bytes),
];

type Sign = fn(&Health) -> Value;

const SIGNS: [(&Family, Sign); 13] = [
    (&f::NVME_SPARE, |it| (f64::from(it.spare) / 100.0).into()),
    (&f::NVME_SPARE_THRESHOLD, |it| {
        (f64::from(it.spare_threshold) / 100.0).into()
    }),
    (&f::NVME_USED, |it| (f64::from(it.used) / 100.0).into()),
    (&f::NVME_READ, |it| {
        it.units_read.saturating_mul(DATA_UNIT_BYTES).into()
    }),
    (&f::NVME_WRITTEN, |it| {
        it.units_written.saturating_mul(DATA_UNIT_BYTES).into()
    }),
    (&f::NVME_BUSY, |it| {
        it.busy_minutes.saturating_mul(60).into()
    }),
    (&f::NVME_POWER_ON, |it| {
        it.power_on_hours.saturating_mul(3600).into()
    }),
    (&f::NVME_POWER_CYCLES, |it| it.power_cycles.into()),
    (&f::NVME_UNSAFE_SHUTDOWNS, |it| it.unsafe_shutdowns.into()),
    (&f::NVME_MEDIA_ERRORS, |it| it.media_errors.into()),
    (&f::NVME_ERROR_LOG, |it| it.errors_logged.into()),
    (&f::NVME_WARM, |it| {
        (u64::from(it.warning_minutes) * 60).into()
    }),
    (&f::NVME_HOT, |it| {
        (u64::from(it.critical_minutes) * 60).into()
    }),
];

type Quality = fn(&Link) -> Option<Value>;

const QUALITIES: [(&Family, Quality); 4] = [
    (&f::NVME_LANES, |it| Some(u64::from(it.lanes).into())),
    (&f::NVME_LANES_MAX, |it| {
        Some(u64::from(it.lanes_max).into())
    }),
    (&f::NVME_LINK_SPEED, |it| speed(&it.speed)),
    (&f::NVME_LINK_SPEED_MAX, |it| speed(&it.speed_max)),
];

/// A controller as it is found in a scrape.
struct Found {
    address: String,
    facts: Arc<Facts>,
    last: Reading,
    link: Option<Link>,
}

/// Adds what is known of all controllers of this process. /sys is below `root`.
pub(super) fn controllers(page: &mut Page, root: &Path, now: Instant) {
    let kept = keeper::kept().into_iter().take(CONTROLLERS_MAX);
    let found = kept.map(|(address, facts)| {
        let function = address.parse().ok();
        let function = function.and_then(|function| Function::read(root, function));
        Found {
            last: facts.vitals.last(),
            link: function.and_then(|function| function.link),
            address,
            facts,
        }
    });
    let mut found: Vec<Found> = found.collect();
    found.sort_unstable_by(|one, other| one.address.cmp(&other.address));
    add(page, &found, now);
}

fn add(page: &mut Page, found: &[Found], now: Instant) {
    for one in found {
        if let Some(data) = &one.last.identity {
            let labels = [&one.address, &data.model, &data.serial, &data.firmware];
            page.add(&f::NVME, &labels.map(String::as_str), true);
        }
    }
    for one in found {
        let is = one.facts.state();
        for (state, name) in STATES {
            page.add(&f::NVME_STATE, &[&one.address, name], is == state);
        }
    }
    for (family, count) in COUNTERS {
        for one in found {
            let count = count(&one.facts.counters).load(Relaxed);
            page.add(family, &[&one.address], count);
        }
    }
    let healths = || {
        found
            .iter()
            .filter_map(|one| Some((one.address.as_str(), one.last.health.as_ref()?)))
    };
    for (address, (_, at)) in healths() {
        let age = now.saturating_duration_since(*at);
        page.add(&f::NVME_HEALTH_AGE, &[address], age.as_secs_f64());
    }
    for (address, (health, _)) in healths() {
        for (bit, name) in WARNINGS {
            let set = health.warnings.0 & 1 << bit != 0;
            page.add(&f::NVME_WARNING, &[address, name], set);
        }
    }
    // 0 K: it does not know.
    for (address, (health, _)) in healths().filter(|(_, (health, _))| health.kelvin > 0) {
        let celsius = f64::from(health.kelvin) - FREEZING_KELVIN;
        page.add(&f::NVME_TEMPERATURE, &[address], celsius);
    }
    for (family, sign) in SIGNS {
        for (address, (health, _)) in healths() {
            page.add(family, &[address], sign(health));
        }
    }
    for (family, quality) in QUALITIES {
        for one in found {
            if let Some(value) = one.link.as_ref().and_then(quality) {
                page.add(family, &[&one.address], value);
            }
        }
    }
}

/// `16.0 GT/s PCIe` in transfers a second; nothing where the kernel does not know.
fn speed(text: &str) -> Option<Value> {
    let giga: f64 = text.split_once(" GT/s")?.0.parse().ok()?;
    let plausible = giga.is_finite() && giga >= 0.0;
    plausible.then(|| Value::from(giga * 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nvme::spec::identify::{ControllerData, PAGE_BYTES};
    use crate::backend::nvme::spec::log::HEALTH_BYTES;
    use crate::metrics::Format;
    use crate::reactor::clock;

    fn controller() -> Found {
        let facts = Arc::new(Facts::default());
        facts.set_state(State::Recovering);
        Counters::add(&facts.counters.timeouts, 3);
        Counters::add(&facts.counters.quarantined_bytes, 4096);
        let mut page = [b' '; PAGE_BYTES];
        page[4..8].copy_from_slice(b"S\"1\\");
        page[24..29].copy_from_slice(b"SSD 9");
        page[64..67].copy_from_slice(b"F01");
        facts.vitals.identified(&ControllerData::parse(&page));
        Found {
            address: "0000:5e:00.0".to_owned(),
            last: facts.vitals.last(),
            facts,
            link: Some(Link {
                speed: "2.5 GT/s PCIe".to_owned(),
                lanes: 2,
                speed_max: "16.0 GT/s PCIe".to_owned(),
                lanes_max: 4,
            }),
        }
    }

    fn lines(found: &[Found], now: Instant) -> Vec<String> {
        let mut page = Page::new(Format::Text);
        add(&mut page, found, now);
        let text = page.finish();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(str::to_owned).collect()
    }

    fn assert_has(lines: &[String], name: &str, more: &str, value: &str) {
        let line =
            format!("iiblockdaemon_nvme_{name}{{controller=\"0000:5e:00.0\"{more}}} {value}");
        assert!(lines.contains(&line), "{line} is not in {lines:#?}");
    }

    #[test]
    fn what_is_known_is_shown_in_base_units() {
        let mut health = [0; HEALTH_BYTES];
        health[0] = 0b100_1001;
        health[1..3].copy_from_slice(&310_u16.to_le_bytes());
        (health[3], health[4], health[5]) = (7, 10, 101);
        for (at, value) in [
            (32, 3),
            (48, 5),
            (96, 2),
            (128, 77),
            (144, 4),
            (160, 6),
            (176, 8),
        ] {
            health[at] = value;
        }
        health[192] = 9;
        let mut one = controller();
        let then = clock::now();
        one.last.health = Some((Health::parse(&health), then));
        let now = then + std::time::Duration::from_millis(1500);
        let lines = lines(&[one], now);
        let labels = ",model=\"SSD 9\",serial=\"S\\\"1\\\\\",firmware=\"F01\"";
        assert_has(&lines, "controller_info", labels, "1");
        assert_has(&lines, "state", ",state=\"recovering\"", "1");
        assert_has(&lines, "state", ",state=\"ready\"", "0");
        assert_has(&lines, "critical_warning", ",warning=\"spare\"", "1");
        assert_has(&lines, "critical_warning", ",warning=\"temperature\"", "0");
        assert_has(&lines, "critical_warning", ",warning=\"read_only\"", "1");
        for (name, value) in [
            ("timeouts_total", "3"),
            ("breaches_total", "0"),
            ("quarantined_bytes", "4096"),
            ("health_age_seconds", "1.5"),
            ("temperature_celsius", "37"),
            ("available_spare_ratio", "0.07"),
            ("available_spare_threshold_ratio", "0.1"),
            ("endurance_used_ratio", "1.01"),
            ("read_bytes_total", "1536000"),
            ("written_bytes_total", "2560000"),
            ("busy_seconds_total", "120"),
            ("power_on_seconds_total", "277200"),
            ("power_cycles_total", "0"),
            ("unsafe_shutdowns_total", "4"),
            ("media_errors_total", "6"),
            ("error_log_entries_total", "8"),
            ("warning_temperature_seconds_total", "540"),
            ("critical_temperature_seconds_total", "0"),
            ("link_lanes", "2"),
            ("link_lanes_max", "4"),
            ("link_transfers_per_second", "2500000000"),
            ("link_transfers_per_second_max", "16000000000"),
        ] {
            assert_has(&lines, name, "", value);
        }
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut one = controller();
        one.last = Reading::default();
        one.link = Some(Link {
            speed: "Unknown".to_owned(),
            speed_max: "inf GT/s PCIe".to_owned(),
            lanes: 0,
            lanes_max: 255,
        });
        let lines = lines(&[one], clock::now());
        assert_has(&lines, "link_lanes_max", "", "255");
        let known = |line: &String| {
            let rest = line.strip_prefix("iiblockdaemon_nvme_").unwrap();
            let name = &rest[..rest.find('{').unwrap()];
            let counted = COUNTERS.iter().any(|(family, _)| {
                let full = family.name.strip_prefix("iiblockdaemon_nvme_").unwrap();
                name == full || name == format!("{full}_total")
            });
            counted || ["state", "link_lanes", "link_lanes_max"].contains(&name)
        };
        assert!(lines.iter().all(known), "{lines:#?}");
    }

    #[test]
    fn a_controller_without_a_sensor_shows_no_temperature() {
        let mut one = controller();
        let now = clock::now();
        one.last.health = Some((Health::parse(&[0; HEALTH_BYTES]), now));
        let lines = lines(&[one], now);
        assert_has(&lines, "media_errors_total", "", "0");
        let none = |line: &String| !line.contains("_temperature_celsius");
        assert!(lines.iter().all(none), "{lines:#?}");
    }

    #[test]
    fn a_controller_that_lies_is_shown_all_the_same() {
        let mut one = controller();
        let now = clock::now();
        one.last.health = Some((Health::parse(&[0xff; HEALTH_BYTES]), now));
        let lines = lines(&[one], now);
        assert_has(&lines, "temperature_celsius", "", "65262");
        let most = format!("{}", u128::MAX as f64);
        assert_has(&lines, "written_bytes_total", "", &most);
        assert_has(&lines, "media_errors_total", "", &most);
    }
}
