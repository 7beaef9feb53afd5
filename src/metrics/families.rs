//! The table of all families.

use super::{Family, Kind};

/// A family without a unit.
const fn plain(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind,
        unit: None,
        help,
        labels,
    }
}

/// A family whose name ends with its unit.
const fn measured(
    kind: Kind,
    unit: &'static str,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind,
        unit: Some(unit),
        help,
        labels,
    }
}

/// Makes a constant of each row, and the list of all of them.
macro_rules! families {
    ($($constant:ident = $family:expr;)*) => {
        $(pub static $constant: Family = $family;)*

        /// All of them, in the order in which they stand on a page.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

const CORE: &[&str] = &["core"];
const UNIT: &[&str] = &["unit"];
const CONTROLLER: &[&str] = &["controller"];
use Kind::{Counter, Gauge, Info};

families! {
    // The process.
    BUILD = plain(Info, "iiblockdaemon_build", &["version"],
        "Which build runs.");
    START_TIME = measured(Gauge, "seconds", "iiblockdaemon_start_time_seconds", &[],
        "When the daemon was started, since 1970-01-01 00:00 UTC.");
    READY = plain(Gauge, "iiblockdaemon_ready", &[],
        "1 while logins are taken, 0 while the daemon stops.");

    // Data cores.
    CORE_TURNS = plain(Counter, "iiblockdaemon_core_turns", CORE,
        "Turns of the core's loop.");
    CORE_BUSY = measured(Counter, "seconds", "iiblockdaemon_core_busy_seconds", CORE,
        "Time of the core's turns in which there was work.");
    CORE_STANDS = plain(Gauge, "iiblockdaemon_core_stands_still", CORE,
        "1 while the core does not turn: its sessions are not served.");
    CORE_CONNECTIONS = plain(Gauge, "iiblockdaemon_core_connections", CORE,
        "TCP connections on the core, those without a login too.");
    CORE_SESSIONS = plain(Gauge, "iiblockdaemon_core_sessions", CORE,
        "iSCSI sessions on the core, discovery sessions too.");

    // Logins and what becomes of them.
    LOGINS = plain(Counter, "iiblockdaemon_logins", &[],
        "Logins that were accepted.");
    LOGINS_REFUSED = plain(Counter, "iiblockdaemon_logins_refused", &["status"],
        "Logins that were refused, by the status that the initiator was told.");
    LOGINS_BROKEN = plain(Counter, "iiblockdaemon_logins_broken", &[],
        "Connections that ended before their login did.");
    CONNECTIONS_ENDED = plain(Counter, "iiblockdaemon_connections_ended", &["how"],
        "Connections with a login that ended, by logout or lost.");

    // Logical units.
    UNITS = plain(Gauge, "iiblockdaemon_units", &["state"],
        "Logical units, by whether they are ready.");
    UNIT_READY = plain(Gauge, "iiblockdaemon_unit_ready", UNIT,
        "1 if the device behind the logical unit can be used.");
    UNIT_SIZE = measured(Gauge, "bytes", "iiblockdaemon_unit_size_bytes", UNIT,
        "Capacity of the logical unit.");
    UNIT_USED = measured(Gauge, "bytes", "iiblockdaemon_unit_used_bytes", UNIT,
        "Space that the blocks of the logical unit take, as last looked at.");
    UNIT_AVAILABLE = measured(Gauge, "bytes", "iiblockdaemon_unit_available_bytes", UNIT,
        "Space that the logical unit could still take, as last looked at.");
    UNIT_CACHE_LOST = plain(Gauge, "iiblockdaemon_unit_write_cache_lost", UNIT,
        "1 if acknowledged writes may be lost: flushes fail since.");
    UNIT_ERRORS = plain(Counter, "iiblockdaemon_unit_device_errors", UNIT,
        "Requests that failed at the device behind the logical unit.");

    // NVMe controllers that the daemon drives itself: what it knows of them.
    NVME = plain(Info, "iiblockdaemon_nvme_controller",
        &["controller", "model", "serial", "firmware"],
        "Which controller it is.");
    NVME_STATE = plain(Gauge, "iiblockdaemon_nvme_state", &["controller", "state"],
        "1 for the state that the controller is in.");
    NVME_TIMEOUTS = plain(Counter, "iiblockdaemon_nvme_timeouts", CONTROLLER,
        "Commands that were late.");
    NVME_ABORTS = plain(Counter, "iiblockdaemon_nvme_aborts", CONTROLLER,
        "Late commands that the controller was asked to abort.");
    NVME_CONTROLLER_RESETS = plain(Counter, "iiblockdaemon_nvme_controller_resets", CONTROLLER,
        "Resets of the controller.");
    NVME_FUNCTION_RESETS = plain(Counter, "iiblockdaemon_nvme_function_resets", CONTROLLER,
        "Resets of the controller's PCI function.");
    NVME_REPLAYS = plain(Counter, "iiblockdaemon_nvme_replays", CONTROLLER,
        "Commands that were sent again behind a reset.");
    NVME_BREACHES = plain(Counter, "iiblockdaemon_nvme_breaches", CONTROLLER,
        "Completions that no rule of NVMe explains.");
    NVME_ERRORS = plain(Counter, "iiblockdaemon_nvme_errors", CONTROLLER,
        "Commands that failed; those that were sent again, and succeeded then, did not.");
    NVME_EVENTS = plain(Counter, "iiblockdaemon_nvme_events", CONTROLLER,
        "Asynchronous events that the controller has reported.");
    NVME_QUARANTINED = measured(Gauge, "bytes", "iiblockdaemon_nvme_quarantined_bytes", CONTROLLER,
        "Memory that is used for nothing else because the controller may still write to it.");

    // What a controller says of its health (SMART), as last read.
    NVME_HEALTH_AGE = measured(Gauge, "seconds", "iiblockdaemon_nvme_health_age_seconds",
        CONTROLLER, "How long ago the controller's health was read.");
    NVME_WARNING = plain(Gauge, "iiblockdaemon_nvme_critical_warning", &["controller", "warning"],
        "1 for each critical warning that the controller reports.");
    NVME_TEMPERATURE = measured(Gauge, "celsius", "iiblockdaemon_nvme_temperature_celsius",
        CONTROLLER, "Composite temperature of the controller.");
    NVME_SPARE = measured(Gauge, "ratio", "iiblockdaemon_nvme_available_spare_ratio", CONTROLLER,
        "Spare blocks that are left.");
    NVME_SPARE_THRESHOLD = measured(Gauge, "ratio",
        "iiblockdaemon_nvme_available_spare_threshold_ratio", CONTROLLER,
        "Below it the controller warns that spare blocks run out.");
    NVME_USED = measured(Gauge, "ratio", "iiblockdaemon_nvme_endurance_used_ratio", CONTROLLER,
        "Part of the endurance that the vendor rates; it may exceed 1.");
    NVME_READ = measured(Counter, "bytes", "iiblockdaemon_nvme_read_bytes", CONTROLLER,
        "Data units that hosts have read from the controller in its life.");
    NVME_WRITTEN = measured(Counter, "bytes", "iiblockdaemon_nvme_written_bytes", CONTROLLER,
        "Data units that hosts have written to the controller in its life.");
    NVME_BUSY = measured(Counter, "seconds", "iiblockdaemon_nvme_busy_seconds", CONTROLLER,
        "Time in its life that the controller was busy with commands, in whole minutes.");
    NVME_POWER_ON = measured(Counter, "seconds", "iiblockdaemon_nvme_power_on_seconds", CONTROLLER,
        "Time in its life that the controller had power, in whole hours.");
    NVME_POWER_CYCLES = plain(Counter, "iiblockdaemon_nvme_power_cycles", CONTROLLER,
        "Power cycles in the controller's life.");
    NVME_UNSAFE_SHUTDOWNS = plain(Counter, "iiblockdaemon_nvme_unsafe_shutdowns", CONTROLLER,
        "Times that the controller lost power without having been shut down.");
    NVME_MEDIA_ERRORS = plain(Counter, "iiblockdaemon_nvme_media_errors", CONTROLLER,
        "Times that the controller found data that it could not correct.");
    NVME_ERROR_LOG = plain(Counter, "iiblockdaemon_nvme_error_log_entries", CONTROLLER,
        "Entries that the controller's error log has had in its life.");
    NVME_WARM = measured(Counter, "seconds", "iiblockdaemon_nvme_warning_temperature_seconds",
        CONTROLLER, "Time over the warning temperature, in whole minutes.");
    NVME_HOT = measured(Counter, "seconds", "iiblockdaemon_nvme_critical_temperature_seconds",
        CONTROLLER, "Time over the critical temperature, in whole minutes.");

    // The PCI Express link of a controller, as the kernel says it.
    NVME_LANES = plain(Gauge, "iiblockdaemon_nvme_link_lanes", CONTROLLER,
        "Lanes of the controller's link.");
    NVME_LANES_MAX = plain(Gauge, "iiblockdaemon_nvme_link_lanes_max", CONTROLLER,
        "Lanes that the controller's link could have.");
    NVME_LINK_SPEED = plain(Gauge, "iiblockdaemon_nvme_link_transfers_per_second", CONTROLLER,
        "Speed of each lane of the controller's link.");
    NVME_LINK_SPEED_MAX = plain(Gauge, "iiblockdaemon_nvme_link_transfers_per_second_max",
        CONTROLLER, "Speed that each lane of the controller's link could have.");

    // Who asks for all this.
    API_CONNECTIONS = plain(Gauge, "iiblockdaemon_api_connections", &[],
        "Connections to this endpoint.");
    API_REFUSED = plain(Counter, "iiblockdaemon_api_connections_refused", &[],
        "Connections to this endpoint that were closed at once because there were too many.");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const UNITS: [&str; 4] = ["seconds", "bytes", "ratio", "celsius"];

    fn is_name(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    }

    #[test]
    fn every_row_keeps_the_rules_of_names() {
        let mut names = HashSet::new();
        for family in ALL {
            let name = family.name;
            assert!(names.insert(name), "{name} stands twice");
            assert!(
                is_name(name) && name.starts_with("iiblockdaemon_"),
                "{name}"
            );
            let reserved = ["_total", "_info", "_count", "_sum", "_bucket", "_created"];
            assert!(!reserved.iter().any(|end| name.ends_with(end)), "{name}");
            let last = name.rsplit('_').next().unwrap();
            assert_eq!(family.unit, UNITS.contains(&last).then_some(last), "{name}");
            let help = family.help;
            assert!(
                help.ends_with('.') && !help.contains(['\n', '\\']),
                "{name}: {help}"
            );
            assert!(family.labels.iter().all(|label| is_name(label)), "{name}");
            let distinct: HashSet<_> = family.labels.iter().collect();
            assert_eq!(distinct.len(), family.labels.len(), "{name}");
        }
    }
}
