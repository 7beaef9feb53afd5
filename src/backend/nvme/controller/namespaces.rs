//! The namespaces of a controller: which there are, which can be served, and which are (Base
//! Specification 2.0 §5.17, NVM Command Set Specification 1.0 §4.1.5).
//!
//! All of them are looked at after each reset and whenever the controller says that one has
//! changed. One that is served and comes back with other blocks or another identity is not the same
//! one: it stays refused until it is.

use std::fmt::Display;
use std::sync::Arc;

use super::{Identity, Life, Trouble, good};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::DmaSpace;
use crate::backend::nvme::facts::{
    CACHE_LOST, Geometry, Namespace, NamespaceReport, NamespaceState, Report, Selector,
};
use crate::backend::nvme::link::Refusal;
use crate::backend::nvme::spec::command::{self, Identify};
use crate::backend::nvme::spec::entry::NamespaceId;
use crate::backend::nvme::spec::identify::{Identifiers, NamespaceData, namespaces};
use crate::backend::nvme::spec::registers::Version;
use crate::backend::nvme::spec::status::Status;

/// Namespaces that are looked at, the lowest numbers first.
const NAMESPACES_MAX: usize = 256;

/// One that is active.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    id: NamespaceId,
    data: NamespaceData,
    identifiers: Identifiers,
}

#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// In the order of their numbers.
    known: Vec<Known>,
    /// There are more than were looked at.
    more: bool,
    /// How many could not be looked at, the last one, and why.
    unseen: Option<(usize, NamespaceId, String)>,
    served: Vec<Arc<Namespace>>,
    /// The health log says that the media are read only.
    pub(super) read_only: bool,
}

impl Known {
    /// Why it cannot be served, if it cannot: the cause and the remedy.
    fn refusal(&self) -> Option<String> {
        let Self { id, data, .. } = self;
        let id = id.0;
        let reason = match (data.format.block_shift, data.format.metadata_bytes) {
            _ if self.identifiers.command_set.is_some_and(|set| set != 0) => {
                "is not of the NVM command set (zoned or key value); use another namespace"
                    .to_owned()
            }
            _ if data.protection != 0 => format!(
                "is formatted with protection information of type {}; format it without \
                 (nvme format --pi=0 --ms=0)",
                data.protection
            ),
            (_, bytes @ 1..) => format!(
                "is formatted with {bytes} bytes of metadata for each block; format it without \
                 (nvme format, an LBA format whose ms is 0)"
            ),
            (9 | 12, 0) if data.blocks > u64::MAX >> data.format.block_shift => {
                format!(
                    "says that it has {} blocks, which no device has",
                    data.blocks
                )
            }
            (9 | 12, 0) => return None,
            (shift, 0) => {
                format!("has blocks of 2^{shift} bytes; format it with blocks of 512 or 4096 bytes")
            }
        };
        Some(format!("namespace {id} {reason}"))
    }

    fn geometry(&self, identity: &Identity) -> Geometry {
        Geometry::of((self.id, self.identifiers), &self.data, &identity.data)
    }

    /// Why it is not the namespace that is served as `old`, if it is not.
    fn differs(&self, old: &Geometry, identity: &Identity) -> Option<String> {
        if let Some(refusal) = self.refusal() {
            return Some(refusal);
        }
        let shift = self.data.format.block_shift;
        if shift != old.block_shift {
            let was = old.block_shift;
            return Some(format!("its blocks were 2^{was} bytes and are 2^{shift}"));
        }
        let (was, are) = (&old.identifiers, &self.identifiers);
        if are.differ_from(was) {
            return Some(format!("its identifiers were {was:?} and are {are:?}"));
        }
        let (new, limits) = (self.geometry(identity), &identity.limits);
        if old.unmapped_reads_zeroes && !new.unmapped_reads_zeroes {
            return Some("deallocated blocks no longer read as zeroes".to_owned());
        }
        let [was, is] = [old, &new].map(|one| one.atomic_write_blocks(limits, 0));
        (is < was).then(|| format!("its atomic writes were {was} blocks and are {is}"))
    }
}

impl Namespaces {
    /// Has the namespace that `wanted` names served.
    pub(super) fn serve(
        &mut self,
        wanted: Selector,
        identity: &Identity,
    ) -> Result<Arc<Namespace>, Refusal> {
        let found = self.find(wanted).map_err(Refusal)?;
        if let Some(refusal) = found.refusal() {
            return Err(Refusal(refusal));
        }
        let id = found.id;
        // Who was answered too late, and waits no more, has none.
        self.served.retain(|one| Arc::strong_count(one) > 1);
        let same = |one: &&Arc<Namespace>| one.geometry.namespace == id;
        if self.served.iter().any(|one| same(&one)) {
            let why = format!("namespace {} belongs to another logical unit already", id.0);
            return Err(Refusal(why));
        }
        let namespace = Namespace::new(found.geometry(identity), found.data.blocks);
        if found.data.write_protected || self.read_only {
            namespace.set_state(NamespaceState::ReadOnly);
        }
        let namespace = Arc::new(namespace);
        self.served.push(Arc::clone(&namespace));
        Ok(namespace)
    }

    fn find(&self, wanted: Selector) -> Result<Known, String> {
        let named = |known: &&Known| wanted.names(known.id, &known.identifiers);
        let mut all = self.known.iter().filter(named);
        let first = all.next();
        let others = all.count();
        match (first, wanted) {
            (Some(found), _) if others == 0 && !(self.more && wanted == Selector::Only) => {
                Ok(*found)
            }
            (Some(_), Selector::Only) => {
                let ids: Vec<_> = self.known.iter().map(|known| known.id.0).collect();
                Err(format!(
                    "it has several namespaces ({ids:?}); say which with `namespace`"
                ))
            }
            (Some(_), _) => Err(format!(
                "{} namespaces have this identifier; name one by its number",
                others + 1
            )),
            (None, _) if self.more => Err(format!(
                "it has no such namespace among its first {NAMESPACES_MAX}, and more are not \
                 looked at"
            )),
            (None, Selector::Only) => Err("it has no active namespace; create and attach one \
                 (nvme create-ns, nvme attach-ns)"
                .to_owned()),
            (None, _) => {
                let ids: Vec<_> = self.known.iter().map(|known| known.id.0).collect();
                Err(format!(
                    "it has no such active namespace; there are {ids:?} (see `nvme info`)"
                ))
            }
        }
    }

    pub(super) fn release(&mut self, namespace: NamespaceId) {
        self.served
            .retain(|one| one.geometry.namespace != namespace);
    }

    /// The write cache was emptied by `what`, and is not on the medium. `unsure`: cores may still
    /// take completions of before.
    pub(super) fn lose_cache(&self, controller: &str, what: &str, unsure: bool) {
        for namespace in self.served.iter().filter(|one| one.empties_cache(unsure)) {
            let id = namespace.geometry.namespace.0;
            tracing::error!(controller, namespace = id, "{what}: {CACHE_LOST}");
        }
    }

    /// The controller has written its write cache to the medium by itself, as if all were flushed.
    pub(super) fn keep_cache(&self) {
        for namespace in &self.served {
            namespace.flushed(namespace.begins_flush());
        }
    }

    /// Logs which flushes have failed on a core.
    pub(super) fn tell_failed_flushes(&self, controller: &str) {
        for namespace in self.served.iter().filter(|one| one.has_failed_flush()) {
            let id = namespace.geometry.namespace.0;
            tracing::error!(controller, namespace = id, "a flush failed: {CACHE_LOST}");
        }
    }

    /// Tells whoever serves them what has become of them.
    pub(super) fn update(&self, controller: &str, identity: &Identity) {
        for namespace in &self.served {
            let id = namespace.geometry.namespace;
            let known = self.known.iter().find(|known| known.id == id);
            let differs = known.and_then(|known| known.differs(&namespace.geometry, identity));
            self.update_one(namespace, (known, differs), controller);
        }
    }

    fn update_one(
        &self,
        namespace: &Namespace,
        (known, differs): (Option<&Known>, Option<String>),
        controller: &str,
    ) {
        let id = namespace.geometry.namespace.0;
        let was = namespace.state();
        let state = match known {
            None => NamespaceState::Missing,
            Some(_) if differs.is_some() => NamespaceState::Changed,
            Some(known) if known.data.write_protected || self.read_only => NamespaceState::ReadOnly,
            Some(_) => NamespaceState::Active,
        };
        if state != was {
            let why = differs.unwrap_or_default();
            match state {
                NamespaceState::Active => {
                    tracing::info!(controller, namespace = id, "the namespace is there again");
                }
                NamespaceState::ReadOnly => {
                    tracing::warn!(controller, namespace = id, "the namespace is read only");
                }
                NamespaceState::Missing => {
                    tracing::error!(controller, namespace = id, "the namespace is gone");
                }
                NamespaceState::Changed => tracing::error!(
                    controller,
                    namespace = id,
                    "the namespace is another one now and is not served: {why}"
                ),
            }
        }
        if let Some(known) = known
            && state != NamespaceState::Changed
        {
            let (before, blocks) = (namespace.blocks(), known.data.blocks);
            if blocks < before {
                tracing::error!(
                    controller,
                    namespace = id,
                    before,
                    blocks,
                    "the namespace has shrunk; what lay behind its end is lost"
                );
            } else if blocks > before {
                tracing::info!(
                    controller,
                    namespace = id,
                    before,
                    blocks,
                    "the namespace has grown"
                );
            }
            namespace.set_blocks(blocks);
        }
        namespace.set_state(state);
    }

    fn not_seen(&mut self, id: NamespaceId, why: &dyn Display) {
        let before = self.unseen.take().map_or(0, |(count, ..)| count);
        self.unseen = Some((before + 1, id, why.to_string()));
    }

    fn reports(&self) -> Vec<NamespaceReport> {
        let report = |known: &Known| NamespaceReport {
            namespace: known.id,
            blocks: known.data.blocks,
            block_shift: known.data.format.block_shift,
            identifiers: known.identifiers,
            refused: known.refusal(),
        };
        self.known.iter().map(report).collect()
    }
}

/// Whether the status of CNS 03h says that there never are any.
fn has_no_descriptors(status: Status) -> bool {
    let unknown = [Status::INVALID_FIELD, Status::INVALID_OPCODE];
    status.do_not_retry() || unknown.iter().any(|&unknown| status.is(unknown))
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    /// Looks at all namespaces.
    pub(super) async fn scan(&mut self) -> Result<(), Trouble> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        let (version, last) = (identity.version, identity.data.namespaces_max);
        let (ids, more) = self.active(version, last).await?;
        let mut known = Vec::with_capacity(ids.len());
        self.namespaces.unseen = None;
        for id in ids {
            if let Some(one) = self.look_at_namespace(id, version).await? {
                known.push(one);
            }
        }
        // One line for all: a controller may have many, and have them looked at again and again.
        if let Some((count, id, why)) = self.namespaces.unseen.take() {
            tracing::warn!(
                controller = self.name,
                count,
                last = id.0,
                "namespaces cannot be looked at: {why}"
            );
        }
        if more {
            tracing::warn!(
                controller = self.name,
                "it has more than {NAMESPACES_MAX} namespaces; the others are not looked at"
            );
        }
        self.namespaces.known = known;
        self.namespaces.more = more;
        if let Some(identity) = &self.identity {
            self.namespaces.update(&self.name, identity);
        }
        Ok(())
    }

    /// Numbers of active namespaces, and whether there are more. Before 1.1 there was no list, and
    /// any number up to NN may be one.
    async fn active(
        &mut self,
        version: Version,
        last: u32,
    ) -> Result<(Vec<NamespaceId>, bool), Trouble> {
        if version >= Version::V1_1 {
            let above = command::identify(Identify::ActiveNamespaces(NamespaceId::NONE));
            let entry = self.command_with_data(above).await?;
            if entry.status().is_success() {
                let mut ids: Vec<_> = namespaces(&self.identify_data()).collect();
                let more = ids.len() > NAMESPACES_MAX;
                ids.truncate(NAMESPACES_MAX);
                return Ok((ids, more));
            }
            // What was there has not gone because nobody says so.
            if !self.namespaces.known.is_empty() {
                let ids = self.namespaces.known.iter().map(|known| known.id);
                return Ok((ids.collect(), self.namespaces.more));
            }
        }
        let most = u32::try_from(NAMESPACES_MAX).expect("few");
        let ids = (1..=last.min(most)).map(NamespaceId).collect();
        Ok((ids, last > most && version >= Version::V1_1))
    }

    /// `None`: it is not active.
    async fn look_at_namespace(
        &mut self,
        id: NamespaceId,
        version: Version,
    ) -> Result<Option<Known>, Trouble> {
        let entry = command::identify(Identify::Namespace(id));
        let entry = self.command_with_data(entry).await?;
        if let Err(error) = good(&entry, "Identify") {
            self.namespaces.not_seen(id, &error);
            // One that was there is not gone for that.
            let absent = entry.status().is(Status::INVALID_NAMESPACE);
            let before = self.namespaces.known.iter().find(|known| known.id == id);
            let before = before.copied();
            if before.is_none() && !absent && !entry.status().do_not_retry() {
                self.events
                    .look_again(self.now(), self.settings.health_interval);
            }
            return Ok(before.filter(|_| !absent));
        }
        let data = NamespaceData::parse(&self.identify_data());
        if data.blocks == 0 {
            return Ok(None);
        }
        let mut identifiers = Identifiers::default();
        if version >= Version::V1_3 {
            let entry = command::identify(Identify::Descriptors(id));
            let status = self.command_with_data(entry).await?.status();
            if status.is_success() {
                identifiers = Identifiers::parse(&self.identify_data());
            } else if let Some(before) = self.namespaces.known.iter().find(|it| it.id == id) {
                // They are asked for to tell it from another one, which this says nothing of; what
                // the namespace itself says of them does.
                let kept = before.identifiers;
                let said = Identifiers::default().or(&data);
                identifiers = Identifiers {
                    nguid: said.nguid.or(kept.nguid),
                    eui64: said.eui64.or(kept.eui64),
                    ..kept
                };
            } else if !has_no_descriptors(status) {
                // Of which command set it is would be a guess, and its name may be missing.
                self.namespaces
                    .not_seen(id, &format_args!("its identifiers: {status}"));
                self.events
                    .look_again(self.now(), self.settings.health_interval);
                return Ok(None);
            }
        }
        Ok(Some(Known {
            id,
            data,
            identifiers: identifiers.or(&data),
        }))
    }

    /// What there is to see of the controller, once it was initialised.
    pub(super) fn report(&self) -> Option<Report> {
        Some(Report {
            controller: self.identity.as_ref()?.data.clone(),
            health: self.health.last(),
            namespaces: self.namespaces.reports(),
        })
    }
}
