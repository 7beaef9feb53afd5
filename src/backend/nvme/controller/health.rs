//! Health: the SMART log each minute and when the controller says so, the error log when there are
//! new entries; a log line for what has changed, and one an hour (Base Specification 2.0 §5.16.1).

use std::time::{Duration, Instant};

use super::{Life, Trouble};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::DmaSpace;
use crate::backend::nvme::spec::command::log;
use crate::backend::nvme::spec::identify::ControllerData;
use crate::backend::nvme::spec::log::{ERROR_BYTES, ErrorEntry, HEALTH_BYTES, Health, Warnings};

/// How often there is a line though nothing has changed.
const SUMMARY: Duration = Duration::from_secs(3600);
/// Entries of the error log that are read: a page of them.
const ERRORS_READ: u16 = 64;
/// Lines about them at most, each time.
const ERROR_LINES: usize = 4;
/// 0 °C.
const FREEZING_KELVIN: i32 = 273;

#[derive(Debug, Default)]
pub(super) struct HealthState {
    last: Option<Health>,
    next: Option<Instant>,
    /// The first look has ended, or is not waited for.
    looked: bool,
    summary_at: Option<Instant>,
    /// The highest error count that was seen; those before the first look are old.
    errors_seen: Option<u64>,
}

/// How much an operator is to care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weight {
    Good,
    Bad,
}

impl HealthState {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// The first look has yet to end.
    pub(super) fn is_new(&self) -> bool {
        !self.looked
    }

    /// The controller may never be well enough to be asked: what there is will have to do.
    pub(super) fn forgo(&mut self) {
        self.looked = true;
    }

    pub(super) fn last(&self) -> Option<Health> {
        self.last
    }

    /// Entries that were not seen before, the oldest first.
    fn new_errors(&mut self, log: &[u8]) -> Vec<ErrorEntry> {
        let (entries, _) = log.as_chunks::<ERROR_BYTES>();
        let seen = self.errors_seen.unwrap_or(0);
        let mut new: Vec<_> = entries
            .iter()
            .filter_map(ErrorEntry::parse)
            .filter(|entry| entry.count > seen)
            .collect();
        new.sort_by_key(|entry| entry.count);
        if let Some(last) = new.last() {
            self.errors_seen = Some(last.count);
        }
        new
    }
}

/// What has changed since `old`, in sentences.
fn changes(
    old: Option<&Health>,
    new: &Health,
    (warning, critical): (u16, u16),
) -> Vec<(Weight, String)> {
    let mut lines = Vec::new();
    let before = old.map(|old| old.warnings).unwrap_or_default();
    let came = Warnings(new.warnings.0 & !before.0);
    let went = Warnings(before.0 & !new.warnings.0);
    lines.extend(came.sentences().map(|it| (Weight::Bad, it.to_owned())));
    lines.extend(
        went.sentences()
            .map(|it| (Weight::Good, format!("no longer: {it}"))),
    );
    let below = |health: &Health| health.spare < health.spare_threshold;
    if below(new) && !old.is_some_and(below) {
        let Health {
            spare,
            spare_threshold,
            ..
        } = new;
        lines.push((
            Weight::Bad,
            format!("{spare} % of the spare blocks are left (threshold {spare_threshold} %)"),
        ));
    }
    let zone = |kelvin: u16| {
        let over = |limit: u16| u8::from(limit != 0 && kelvin >= limit);
        over(warning) + over(critical)
    };
    let (was, is) = (old.map_or(0, |old| zone(old.kelvin)), zone(new.kelvin));
    let celsius = i32::from(new.kelvin) - FREEZING_KELVIN;
    match is.cmp(&was) {
        std::cmp::Ordering::Greater => {
            let name = if is == 2 { "critical" } else { "warning" };
            lines.push((
                Weight::Bad,
                format!("it is at {celsius} °C, over its {name} temperature"),
            ));
        }
        std::cmp::Ordering::Less => {
            lines.push((Weight::Good, format!("it has cooled down to {celsius} °C")));
        }
        std::cmp::Ordering::Equal => {}
    }
    if let Some(old) = old {
        let more = new.media_errors.saturating_sub(old.media_errors);
        if more > 0 {
            lines.push((Weight::Bad, format!("{more} more media errors")));
        }
        if new.used >= 100 && old.used < 100 {
            let text = "it has lived as long as its vendor expects".to_owned();
            lines.push((Weight::Bad, text));
        }
    }
    lines
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    /// Reads the SMART log and says what has changed.
    pub(super) async fn read_health(&mut self) -> Result<(), Trouble> {
        let now = self.now();
        self.health.next = now.checked_add(self.settings.health_interval);
        let read = self.look_at_health(now).await;
        if read.is_ok() {
            self.health.looked = true;
        } else if self.health.is_new() {
            // As soon as the controller works again.
            self.health.next = None;
        }
        read
    }

    async fn look_at_health(&mut self, now: Instant) -> Result<(), Trouble> {
        let bytes = u32::try_from(HEALTH_BYTES).expect("512");
        if !self.read_page(log::HEALTH, bytes).await? {
            return Ok(());
        }
        let mut page = [0; HEALTH_BYTES];
        self.admin.copy_data(0..HEALTH_BYTES, &mut page);
        let health = Health::parse(&page);
        let limits = self.identity.as_ref().map_or((0, 0), |identity| {
            let ControllerData {
                warning_kelvin,
                critical_kelvin,
                ..
            } = identity.data;
            (warning_kelvin, critical_kelvin)
        });
        for (weight, text) in changes(self.health.last.as_ref(), &health, limits) {
            let controller = &self.name;
            match weight {
                Weight::Bad => tracing::warn!(controller, "health: {text}"),
                Weight::Good => tracing::info!(controller, "health: {text}"),
            }
        }
        let logged = u64::try_from(health.errors_logged).unwrap_or(u64::MAX);
        match self.health.errors_seen {
            None => self.health.errors_seen = Some(logged),
            Some(seen) if logged > seen => self.events.want_error_log(),
            Some(_) => {}
        }
        self.summarise(&health, now);
        self.health.last = Some(health);
        self.facts.vitals.examined(health, now);
        let read_only = health.warnings.read_only();
        if read_only != self.namespaces.read_only {
            self.namespaces.read_only = read_only;
            if let Some(identity) = &self.identity {
                self.namespaces.update(&self.name, identity);
            }
        }
        Ok(())
    }

    fn summarise(&mut self, health: &Health, now: Instant) {
        if self.health.summary_at.is_some_and(|at| now < at) {
            return;
        }
        self.health.summary_at = now.checked_add(SUMMARY);
        tracing::info!(
            controller = self.name,
            celsius = i32::from(health.kelvin) - FREEZING_KELVIN,
            spare_percent = health.spare,
            used_percent = health.used,
            media_errors = %health.media_errors,
            unsafe_shutdowns = %health.unsafe_shutdowns,
            "health"
        );
    }

    /// Reads the error log and says what is new in it.
    pub(super) async fn read_error_log(&mut self) -> Result<(), Trouble> {
        let entries = self.identity.as_ref().map_or(1, |identity| {
            identity.data.error_entries.clamp(1, ERRORS_READ)
        });
        let bytes = usize::from(entries) * ERROR_BYTES;
        let wanted = u32::try_from(bytes).expect("at most a page");
        if !self.read_page(log::ERRORS, wanted).await? {
            return Ok(());
        }
        let mut page = vec![0; bytes];
        self.admin.copy_data(0..bytes, &mut page);
        let new = self.health.new_errors(&page);
        for entry in new.iter().rev().take(ERROR_LINES).rev() {
            tracing::warn!(
                controller = self.name,
                queue = entry.queue.0,
                command = entry.id.0,
                namespace = entry.namespace.0,
                lba = entry.lba,
                "in the error log: {}",
                entry.status
            );
        }
        Ok(())
    }
}
