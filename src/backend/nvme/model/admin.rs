//! Admin commands of the model (NVM Express Base Specification 2.0 §5).

use super::command::{Code, Command, admin};
use super::machine::{Machine, Outcome};
use super::prp;
use super::queue::{Completions, Shadowed, Submission};
use super::verdict::Rule;

/// Identifiers of features.
mod feature {
    pub(super) const TEMPERATURE: u8 = 0x04;
    pub(super) const WRITE_CACHE: u8 = 0x06;
    pub(super) const QUEUES: u8 = 0x07;
    pub(super) const EVENTS: u8 = 0x0b;
    pub(super) const HOST_BEHAVIOR: u8 = 0x16;
}

/// How an admin command ends: a value for dword 0, or a status.
type Answer = Result<u32, Code>;

impl Machine {
    pub(super) fn admin(&mut self, command: &Command) -> Outcome {
        *self.counters.admin.entry(command.opcode()).or_default() += 1;
        if command.reserved(true).is_some() {
            return Code::INVALID_FIELD.into();
        }
        let answer = match command.opcode() {
            admin::IDENTIFY => self.answer_identify(command),
            admin::GET_LOG_PAGE => self.get_log_page(command),
            admin::SET_FEATURES => self.set_features(command),
            admin::GET_FEATURES => self.get_features(command),
            admin::CREATE_CQ => self.create_completion_queue(command),
            admin::CREATE_SQ => self.create_submission_queue(command),
            admin::DELETE_SQ => self.delete_submission_queue(command),
            admin::DELETE_CQ => self.delete_completion_queue(command),
            admin::ABORT => self.answer_abort(command),
            admin::DBBUF_CONFIG => self.configure_doorbell_buffers(command),
            admin::ASYNC_EVENT => match self.park_event(command) {
                Ok(()) => return Outcome::Parked,
                Err(code) => Err(code),
            },
            admin::KEEP_ALIVE => Ok(0),
            _ => Err(Code::INVALID_OPCODE),
        };
        match answer {
            Ok(result) => Outcome::Done(Code::SUCCESS, result),
            Err(code) => code.into(),
        }
    }

    /// Gives the driver what a command asked for.
    fn data_out(&mut self, command: &Command, data: &[u8]) -> Result<(), Code> {
        self.check_length(data.len() as u64, command)?;
        let pieces = prp::pieces(&self.space, command, data.len() as u64);
        let mut rest = data;
        for (to, len) in pieces.map_err(|wrong| self.refuse_prp(&wrong))? {
            let (now, after) = rest.split_at(len);
            rest = after;
            if let Err(refused) = self.space.write(to, now) {
                self.refuse(refused, to, "data of an admin command");
                return Err(Code::DATA_TRANSFER);
            }
        }
        Ok(())
    }

    fn answer_identify(&mut self, command: &Command) -> Answer {
        let [cns, ..] = command.dword(10).to_le_bytes();
        let [.., set] = command.dword(11).to_le_bytes();
        if cns >= 5 && set != 0 {
            return Err(Code::INVALID_FIELD);
        }
        let wrong = if matches!(cns, 0 | 3) {
            Code::INVALID_NAMESPACE
        } else {
            Code::INVALID_FIELD
        };
        let page = self.identify(cns, command.nsid()).ok_or(wrong)?;
        self.data_out(command, &page)?;
        Ok(0)
    }

    fn get_log_page(&mut self, command: &Command) -> Answer {
        let [page, flags, ..] = command.dword(10).to_le_bytes();
        let dwords = u64::from(command.high(10)) | u64::from(command.low(11)) << 16;
        let bytes = (dwords + 1) * 4;
        let offset = u64::from(command.dword(12)) | u64::from(command.dword(13)) << 32;
        self.check_length(bytes, command)?;
        let mut log = self.log(page).ok_or(Code::LOG_PAGE)?;
        for lie in &self.faults.logs {
            if lie.page == page {
                let end = (lie.offset + lie.bytes.len()).min(log.len());
                let len = end.saturating_sub(lie.offset);
                log[end - len..end].copy_from_slice(&lie.bytes[..len]);
            }
        }
        let from = usize::try_from(offset).map_err(|_| Code::INVALID_FIELD)?;
        if from > log.len() || !offset.is_multiple_of(4) {
            return Err(Code::INVALID_FIELD);
        }
        log.drain(..from);
        log.resize(usize::try_from(bytes).map_err(|_| Code::INVALID_FIELD)?, 0);
        self.data_out(command, &log)?;
        if flags & 0x80 == 0 {
            self.events.unmask(page);
        }
        Ok(0)
    }

    fn set_features(&mut self, command: &Command) -> Answer {
        let [feature, ..] = command.dword(10).to_le_bytes();
        let value = command.dword(11);
        if command.dword(10) >> 31 != 0 {
            return Err(Code(0x410d));
        }
        match feature {
            feature::QUEUES => return self.grant_queues(value),
            feature::WRITE_CACHE if self.options.vwc & 1 != 0 => {
                self.events.caches = value & 1 != 0;
                if !self.events.caches {
                    self.disks.iter_mut().for_each(super::disk::Disk::flush);
                }
            }
            feature::EVENTS => self.events.configuration = value,
            feature::TEMPERATURE | feature::HOST_BEHAVIOR => {}
            _ => {
                let detail = format!("feature {feature:#04x} is set");
                self.break_rule(Rule::Unsupported, detail);
                return Err(Code::INVALID_FIELD);
            }
        }
        Ok(0)
    }

    fn grant_queues(&mut self, wanted: u32) -> Answer {
        let (submissions, completions) = (wanted & 0xffff, wanted >> 16);
        if self.submissions.len() > 1 || self.completions.len() > 1 {
            let detail = "the number of queues is set when there are some".to_owned();
            self.break_rule(Rule::Queue, detail);
            return Err(Code::SEQUENCE);
        }
        if submissions == 0xffff || completions == 0xffff {
            self.break_rule(Rule::Queue, "65536 queues are wanted");
            return Err(Code::INVALID_FIELD);
        }
        let most = u32::from(self.options.queue_pairs).saturating_sub(1);
        let granted = self.faults.grant_queues;
        let truth = completions.min(most) << 16 | submissions.min(most);
        let answer = granted.unwrap_or(truth);
        self.events.granted = Some((answer & 0xffff).min(answer >> 16) + 1);
        Ok(answer)
    }

    fn get_features(&mut self, command: &Command) -> Answer {
        let [feature, ..] = command.dword(10).to_le_bytes();
        let pairs = u32::from(self.options.queue_pairs).saturating_sub(1);
        match feature {
            feature::TEMPERATURE => Ok(343),
            feature::WRITE_CACHE if self.options.vwc & 1 != 0 => Ok(self.events.caches.into()),
            feature::QUEUES => Ok(pairs << 16 | pairs),
            feature::EVENTS => Ok(self.events.configuration),
            _ => Err(Code::INVALID_FIELD),
        }
    }

    fn break_queue_rule(&mut self, code: Code, detail: String) -> Code {
        self.break_rule(Rule::Queue, detail);
        code
    }

    /// Number and entries of a queue that is to be created, and its ring.
    fn new_queue(&mut self, command: &Command, bytes: u64) -> Result<(u16, u32, u64), Code> {
        let (id, entries) = (command.low(10), u32::from(command.high(10)) + 1);
        let granted = self.events.granted.unwrap_or(0);
        if id == 0 || u32::from(id) > granted || id > self.options.queue_pairs {
            let detail = format!("queue {id}, of {granted} granted");
            return Err(self.break_queue_rule(Code::QID_INVALID, detail));
        }
        if entries < 2 || entries > u32::from(self.options.mqes) + 1 {
            let detail = format!("queue {id} with {entries} entries");
            return Err(self.break_queue_rule(Code::QUEUE_SIZE, detail));
        }
        if command.dword(11) & 1 == 0 || !self.registers.has_entry_sizes() {
            let detail = format!("queue {id} is not contiguous, or CC has no entry sizes");
            return Err(self.break_queue_rule(Code::INVALID_FIELD, detail));
        }
        let base = command.prp1();
        if !base.is_multiple_of(4096) {
            self.break_rule(Rule::Prp, format!("queue {id} at {base:#x}"));
            return Err(Code::PRP_OFFSET);
        }
        let mut all = vec![0; usize::try_from(u64::from(entries) * bytes).unwrap_or(0)];
        if let Err(refused) = self.space.read(base, &mut all) {
            self.refuse(refused, base, "the ring of a queue");
            return Err(Code::DATA_TRANSFER);
        }
        Ok((id, entries, base))
    }

    fn create_completion_queue(&mut self, command: &Command) -> Answer {
        let (id, entries, base) = self.new_queue(command, 16)?;
        if self.completions.contains_key(&id) {
            let detail = format!("completion queue {id} is there");
            return Err(self.break_queue_rule(Code::QID_INVALID, detail));
        }
        if command.dword(11) & 2 != 0 {
            let detail = format!("completion queue {id} with interrupts, which nobody handles");
            self.break_rule(Rule::Queue, detail);
        }
        let mut queue = Completions::new(base, entries);
        queue.shadow = self.shadowed(2 * usize::from(id) + 1);
        self.completions.insert(id, queue);
        self.counters.queues_created += 1;
        Ok(0)
    }

    fn create_submission_queue(&mut self, command: &Command) -> Answer {
        let (id, entries, base) = self.new_queue(command, 64)?;
        let completion = command.high(11);
        if self.submissions.contains_key(&id) {
            let detail = format!("submission queue {id} is there");
            return Err(self.break_queue_rule(Code::QID_INVALID, detail));
        }
        if completion == 0 || !self.completions.contains_key(&completion) {
            let detail = format!("submission queue {id} for completion queue {completion}");
            return Err(self.break_queue_rule(Code::CQ_INVALID, detail));
        }
        let mut queue = Submission::new(base, entries, completion);
        queue.shadow = self.shadowed(2 * usize::from(id));
        self.submissions.insert(id, queue);
        self.counters.queues_created += 1;
        Ok(0)
    }

    /// Shadow doorbells, if there are any, of the doorbell that is the `nth`.
    fn shadowed(&self, nth: usize) -> Option<Shadowed> {
        let place = nth * (4 << self.options.dstrd);
        let (doorbells, events) = self.shadow.filter(|_| place < 4096)?;
        Some(Shadowed {
            doorbell: doorbells + place as u64,
            event: events + place as u64,
        })
    }

    fn delete_submission_queue(&mut self, command: &Command) -> Answer {
        let id = command.low(10);
        if id == 0 || !self.submissions.contains_key(&id) {
            let detail = format!("submission queue {id} is to be deleted");
            return Err(self.break_queue_rule(Code::QID_INVALID, detail));
        }
        self.abort_queue(id);
        self.submissions.remove(&id);
        self.counters.queues_deleted += 1;
        Ok(0)
    }

    fn delete_completion_queue(&mut self, command: &Command) -> Answer {
        let id = command.low(10);
        if id == 0 || !self.completions.contains_key(&id) {
            let detail = format!("completion queue {id} is to be deleted");
            return Err(self.break_queue_rule(Code::QID_INVALID, detail));
        }
        if self
            .submissions
            .values()
            .any(|queue| queue.completion == id)
        {
            let detail = format!("completion queue {id} is deleted before its submission queue");
            return Err(self.break_queue_rule(Code::QUEUE_DELETION, detail));
        }
        self.completions.remove(&id);
        self.counters.queues_deleted += 1;
        Ok(0)
    }

    /// Bit 0 of the answer: it was not aborted.
    fn answer_abort(&mut self, command: &Command) -> Answer {
        let is_abort = |flight: &&super::machine::Flight| {
            flight.queue == 0 && flight.command.opcode() == admin::ABORT
        };
        let aborts = self.flights.iter().filter(is_abort).count();
        if aborts > usize::from(self.options.acl) + 1 {
            self.break_rule(Rule::Limit, format!("{aborts} Aborts, above ACL"));
            return Err(Code::ABORT_LIMIT);
        }
        let aborted = match self.faults.abort_answers {
            Some(answer) => answer,
            None => self.abort(command.low(10), command.high(10)),
        };
        Ok(u32::from(!aborted))
    }

    fn park_event(&mut self, command: &Command) -> Result<(), Code> {
        if self.events.parked.len() > usize::from(self.options.aerl) {
            let detail = "more Asynchronous Event Requests than AERL".to_owned();
            self.break_rule(Rule::Limit, detail);
            return Err(Code::EVENT_LIMIT);
        }
        self.events.parked.push_back(command.cid());
        Ok(())
    }

    fn configure_doorbell_buffers(&mut self, command: &Command) -> Answer {
        if !self.options.oacs_dbbuf {
            self.break_rule(Rule::Unsupported, "Doorbell Buffer Config");
            return Err(Code::INVALID_OPCODE);
        }
        let pages = [command.prp1(), command.prp2()];
        for page in pages {
            if page % 4096 != 0 {
                self.break_rule(Rule::Prp, format!("a doorbell buffer at {page:#x}"));
                return Err(Code::INVALID_FIELD);
            }
            if let Err(refused) = self.space.read(page, &mut [0; 4096]) {
                self.refuse(refused, page, "a doorbell buffer");
                return Err(Code::DATA_TRANSFER);
            }
        }
        self.shadow = Some((pages[0], pages[1]));
        let admin = self.options.dbbuf_admin;
        let is_meant = |id: &u16| *id != 0 || admin;
        let submissions: Vec<u16> = self.submissions.keys().copied().collect();
        for id in submissions.into_iter().filter(is_meant) {
            let shadow = self.shadowed(2 * usize::from(id));
            if let Some(queue) = self.submissions.get_mut(&id) {
                queue.shadow = shadow;
            }
        }
        let completions: Vec<u16> = self.completions.keys().copied().collect();
        for id in completions.into_iter().filter(is_meant) {
            let shadow = self.shadowed(2 * usize::from(id) + 1);
            if let Some(queue) = self.completions.get_mut(&id) {
                queue.shadow = shadow;
            }
        }
        Ok(0)
    }
}
