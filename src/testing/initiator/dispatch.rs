//! What the initiator receives: each PDU against the rules of its kind, then an event.

use super::login::Step;
use super::negotiation::parse_text;
use super::wire::{Digests, Pdu};
use super::{Event, Initiator, Phase, Task, TaskHandle, TaskManagement};
use crate::pdu::{
    AsyncMessage, BHS_LEN, Bhs, FormatError, Itt, LoginResponse, LogoutResponse,
    LogoutResponseCode, NopIn, Opcode, R2t, Reject, ScsiDataIn, ScsiResponse,
    TaskManagementFunction, TaskManagementResponse, TaskManagementResponseCode, TextResponse,
};
use crate::testing::violation::ensure;
use crate::testing::{Rule, Violation};
use std::collections::VecDeque;

/// The most text that a target may spread over several Text Responses.
const TEXT_MAX: usize = 4 * 1024 * 1024;
/// RFC 7143 §13.12: what holds until login is over.
const LOGIN_SEGMENT_MAX: u32 = 8192;

impl Initiator {
    /// Takes bytes from the target, in any fragmentation.
    ///
    /// # Errors
    /// The first rule that the target broke. Every later call gives the same answer.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if let Some(violation) = &self.broken {
            return Err(violation.clone());
        }
        self.inbox.push(bytes);
        let result = self.drain_inbox();
        if let Err(violation) = &result {
            self.broken = Some(violation.clone());
        }
        result
    }

    fn drain_inbox(&mut self) -> Result<(), Violation> {
        loop {
            let segment_max = match self.phase {
                Phase::FullFeature | Phase::Ended => self.negotiated.max_recv_data_segment_length,
                Phase::New | Phase::Login(_) | Phase::Manual => LOGIN_SEGMENT_MAX,
            };
            match self.inbox.next(self.digests, segment_max)? {
                None => return Ok(()),
                Some(pdu) => self.handle(pdu)?,
            }
        }
    }

    fn handle(&mut self, pdu: Pdu) -> Result<(), Violation> {
        let opcode = pdu.bhs.opcode().map_err(|unknown| {
            Violation::new(Rule::Opcode, format!("{unknown} from the target"))
        })?;
        if self.config.strict_fields {
            check_reserved(opcode, &pdu.bhs)?;
        }
        match self.phase {
            Phase::Login(_) => {
                ensure!(
                    opcode == Opcode::LoginResponse,
                    Phase,
                    "{opcode:?} during login"
                );
                self.on_login_response(&pdu)
            }
            Phase::Manual => self.on_raw(opcode, pdu),
            Phase::FullFeature if self.raw_tags.contains(&pdu.bhs.initiator_task_tag()) => {
                self.on_raw(opcode, pdu)
            }
            Phase::FullFeature => self.on_full_feature(opcode, pdu),
            Phase::New | Phase::Ended => {
                let detail = format!("{opcode:?} before the first request or after the last");
                Err(Violation::new(Rule::Phase, detail))
            }
        }
    }

    fn on_login_response(&mut self, pdu: &Pdu) -> Result<(), Violation> {
        let response = LoginResponse::parse(&pdu.bhs).map_err(|error| format_violation(&error))?;
        if response.status.is_success() {
            self.serials.on_status(response.stat_sn)?;
            self.serials
                .on_window(response.exp_cmd_sn, response.max_cmd_sn)?;
        }
        let numbers = self.serials.numbers();
        let Phase::Login(login) = &mut self.phase else {
            return Ok(());
        };
        match login.handle(&response, &pdu.data, numbers)? {
            Step::Send(request) => self.send(&request),
            Step::Done(negotiated) => {
                let negotiated = match &self.config.joins {
                    Some(joins) => negotiated.in_session(&joins.negotiated),
                    None => negotiated,
                };
                self.enter_full_feature(negotiated);
            }
            Step::Refused(status) => {
                self.phase = Phase::Ended;
                self.emit_event(Event::LoginRefused(status));
            }
        }
        Ok(())
    }

    /// A PDU for the test's own eyes: only the numbers are checked.
    fn on_raw(&mut self, opcode: Opcode, pdu: Pdu) -> Result<(), Violation> {
        let login = matches!(self.phase, Phase::Manual);
        let refused = login
            && opcode == Opcode::LoginResponse
            && LoginResponse::parse(&pdu.bhs).is_ok_and(|response| !response.status.is_success());
        if !refused {
            match opcode {
                Opcode::ScsiDataIn => {
                    let data_in =
                        ScsiDataIn::parse(&pdu.bhs).map_err(|error| format_violation(&error))?;
                    if data_in.status.is_some() {
                        self.serials.on_status(data_in.stat_sn)?;
                    }
                }
                Opcode::R2t => self.serials.on_unnumbered(pdu.bhs.stat_sn())?,
                _ => self.serials.on_status(pdu.bhs.stat_sn())?,
            }
            self.serials
                .on_window(pdu.bhs.exp_cmd_sn(), pdu.bhs.max_cmd_sn())?;
        }
        self.emit_event(Event::Raw(pdu));
        Ok(())
    }

    fn on_full_feature(&mut self, opcode: Opcode, pdu: Pdu) -> Result<(), Violation> {
        let Pdu { bhs, data } = pdu;
        // Every PDU from the target carries the window (§4.2.2.1).
        self.serials.on_window(bhs.exp_cmd_sn(), bhs.max_cmd_sn())?;
        let parse_error = |error| format_violation(&error);
        match opcode {
            Opcode::ScsiDataIn => {
                self.on_data_in(&ScsiDataIn::parse(&bhs).map_err(parse_error)?, &data)
            }
            Opcode::R2t => {
                ensure!(data.is_empty(), FieldValue, "an R2T with a data segment");
                self.on_r2t(&R2t::parse(&bhs))
            }
            Opcode::ScsiResponse => {
                self.on_scsi_response(&ScsiResponse::parse(&bhs).map_err(parse_error)?, &data)
            }
            Opcode::NopIn => self.on_nop_in(&NopIn::parse(&bhs), data),
            Opcode::TextResponse => {
                self.on_text_response(&TextResponse::parse(&bhs).map_err(parse_error)?, &data)
            }
            Opcode::TaskManagementResponse => {
                self.on_task_management_response(&TaskManagementResponse::parse(&bhs))
            }
            Opcode::LogoutResponse => self.on_logout_response(&LogoutResponse::parse(&bhs)),
            Opcode::AsyncMessage => {
                self.serials.on_status(bhs.stat_sn())?;
                self.emit_event(Event::Async {
                    message: AsyncMessage::parse(&bhs),
                    data,
                });
                Ok(())
            }
            Opcode::Reject => self.on_reject(&Reject::parse(&bhs), &data),
            Opcode::LoginResponse => Err(Violation::new(
                Rule::Phase,
                "a Login Response in full feature phase",
            )),
            Opcode::NopOut
            | Opcode::ScsiCommand
            | Opcode::TaskManagementRequest
            | Opcode::LoginRequest
            | Opcode::TextRequest
            | Opcode::ScsiDataOut
            | Opcode::LogoutRequest
            | Opcode::Snack => Err(Violation::new(
                Rule::Opcode,
                format!("{opcode:?} from the target"),
            )),
        }
    }

    fn on_data_in(&mut self, pdu: &ScsiDataIn, data: &[u8]) -> Result<(), Violation> {
        let Some(task) = self.tasks.find(pdu.itt) else {
            return Err(unknown_task("Data-In", pdu.itt));
        };
        let Task::Scsi(scsi) = task else {
            return Err(wrong_kind("Data-In", task));
        };
        scsi.on_data_in(pdu, data, &self.negotiated)?;
        let Some((status, residual)) = pdu.status else {
            return Ok(());
        };
        self.serials.on_status(pdu.stat_sn)?;
        let Some(Task::Scsi(scsi)) = self.tasks.remove(pdu.itt) else {
            return Err(unknown_task("Data-In", pdu.itt));
        };
        let outcome = scsi.on_collapsed_status(status, residual)?;
        self.emit_event(Event::Scsi {
            task: TaskHandle(pdu.itt),
            outcome,
        });
        Ok(())
    }

    fn on_r2t(&mut self, r2t: &R2t) -> Result<(), Violation> {
        self.serials.on_unnumbered(r2t.stat_sn)?;
        match self.tasks.find(r2t.itt) {
            Some(Task::Scsi(scsi)) => scsi.on_r2t(r2t, &self.negotiated),
            Some(other) => Err(wrong_kind("R2T", other)),
            None => Err(unknown_task("R2T", r2t.itt)),
        }
    }

    fn on_scsi_response(&mut self, pdu: &ScsiResponse, data: &[u8]) -> Result<(), Violation> {
        self.serials.on_status(pdu.stat_sn)?;
        let outcome = match self.tasks.remove(pdu.itt) {
            Some(Task::Scsi(scsi)) => scsi.on_response(pdu, data)?,
            Some(other) => return Err(wrong_kind("SCSI Response", &other)),
            None => return Err(unknown_task("SCSI Response", pdu.itt)),
        };
        self.emit_event(Event::Scsi {
            task: TaskHandle(pdu.itt),
            outcome,
        });
        Ok(())
    }

    fn on_nop_in(&mut self, pdu: &NopIn, data: Vec<u8>) -> Result<(), Violation> {
        if pdu.itt.is_reserved() {
            // §11.19: the target's own, a ping or a mere update of the window.
            self.serials.on_unnumbered(pdu.stat_sn)?;
            ensure!(
                !pdu.ttt.is_reserved() || data.is_empty(),
                NopInTags,
                "data in a NOP-In that wants no answer"
            );
            if self.config.answer_nop_in && !pdu.ttt.is_reserved() {
                self.answer_nop_in(pdu.lun, pdu.ttt, &data);
            }
            self.emit_event(Event::NopIn {
                lun: pdu.lun,
                ttt: pdu.ttt,
                data,
            });
            return Ok(());
        }
        self.serials.on_status(pdu.stat_sn)?;
        ensure!(
            pdu.ttt.is_reserved(),
            NopInTags,
            "{:?} in the answer to a NOP-Out",
            pdu.ttt
        );
        let sent = match self.tasks.remove(pdu.itt) {
            Some(Task::Nop { data }) => data,
            Some(other) => return Err(wrong_kind("NOP-In", &other)),
            None => return Err(unknown_task("NOP-In", pdu.itt)),
        };
        // §11.19: the data come back, cut to what the initiator can receive.
        let limit =
            usize::try_from(self.negotiated.max_recv_data_segment_length).expect("24 bits fit");
        ensure!(
            data == sent[..sent.len().min(limit)],
            NopInEcho,
            "{} bytes that are not the {} bytes of the ping",
            data.len(),
            sent.len()
        );
        self.emit_event(Event::Nop {
            task: TaskHandle(pdu.itt),
            data,
        });
        Ok(())
    }

    fn on_text_response(&mut self, pdu: &TextResponse, data: &[u8]) -> Result<(), Violation> {
        self.serials.on_status(pdu.stat_sn)?;
        let text = match self.tasks.find(pdu.itt) {
            Some(Task::Text { text }) => text,
            Some(other) => return Err(wrong_kind("Text Response", other)),
            None => return Err(unknown_task("Text Response", pdu.itt)),
        };
        text.extend_from_slice(data);
        ensure!(
            text.len() <= TEXT_MAX,
            TextFlags,
            "more than {TEXT_MAX} bytes of text"
        );
        // §11.11.4: a valid tag exactly while the exchange goes on.
        ensure!(
            pdu.final_ == pdu.ttt.is_reserved(),
            TextTags,
            "F = {} with {:?}",
            pdu.final_,
            pdu.ttt
        );
        if !pdu.final_ {
            ensure!(
                pdu.continue_ || data.is_empty(),
                TextFlags,
                "F = 0 to a request with F"
            );
            self.continue_text(pdu.itt, pdu.lun, pdu.ttt);
            return Ok(());
        }
        let keys = parse_text(text)?;
        self.tasks.remove(pdu.itt);
        self.emit_event(Event::Text {
            task: TaskHandle(pdu.itt),
            keys,
        });
        Ok(())
    }

    fn on_task_management_response(
        &mut self,
        pdu: &TaskManagementResponse,
    ) -> Result<(), Violation> {
        self.serials.on_status(pdu.stat_sn)?;
        let (request, sent_as) = match self.tasks.remove(pdu.itt) {
            Some(Task::Management { request, sent_as }) => (request, sent_as),
            Some(other) => return Err(wrong_kind("Task Management Response", &other)),
            None => return Err(unknown_task("Task Management Response", pdu.itt)),
        };
        if pdu.response == TaskManagementResponseCode::FunctionComplete {
            self.forget_aborted(&request, sent_as);
        }
        self.emit_event(Event::TaskManagement {
            task: TaskHandle(pdu.itt),
            response: pdu.response,
        });
        Ok(())
    }

    /// §4.2.3.3: once the function is complete, none of the commands that it covers is answered.
    fn forget_aborted(&mut self, request: &TaskManagement, sent_as: u64) {
        let covers = |itt: Itt, task: &Task| {
            let Task::Scsi(scsi) = task else { return false };
            let is_earlier = scsi.sent_as < sent_as;
            match request.function {
                TaskManagementFunction::AbortTask => request.referenced == Some(TaskHandle(itt)),
                TaskManagementFunction::AbortTaskSet
                | TaskManagementFunction::ClearTaskSet
                | TaskManagementFunction::LogicalUnitReset => {
                    is_earlier && scsi.command.lun == request.lun
                }
                TaskManagementFunction::TargetWarmReset
                | TaskManagementFunction::TargetColdReset
                | TaskManagementFunction::ITNexusReset => is_earlier,
                TaskManagementFunction::ClearAca
                | TaskManagementFunction::TaskReassign
                | TaskManagementFunction::QueryTask
                | TaskManagementFunction::QueryTaskSet
                | TaskManagementFunction::QueryAsynchronousEvent
                | TaskManagementFunction::Other(_) => false,
            }
        };
        let (gone, kept) = self
            .tasks
            .tasks
            .drain(..)
            .partition(|(itt, task)| covers(*itt, task));
        self.tasks.tasks = kept;
        let gone: VecDeque<(Itt, Task)> = gone;
        for (itt, _) in gone {
            self.emit_event(Event::Aborted {
                task: TaskHandle(itt),
            });
        }
    }

    fn on_logout_response(&mut self, pdu: &LogoutResponse) -> Result<(), Violation> {
        self.serials.on_status(pdu.stat_sn)?;
        let ends = match self.tasks.remove(pdu.itt) {
            Some(Task::Logout { ends }) => ends,
            Some(other) => return Err(wrong_kind("Logout Response", &other)),
            None => return Err(unknown_task("Logout Response", pdu.itt)),
        };
        if ends && pdu.response == LogoutResponseCode::Closed {
            self.phase = Phase::Ended;
        }
        self.emit_event(Event::Logout {
            task: TaskHandle(pdu.itt),
            response: pdu.response,
            time2wait_s: pdu.time2wait,
            time2retain_s: pdu.time2retain,
        });
        Ok(())
    }

    fn on_reject(&mut self, pdu: &Reject, data: &[u8]) -> Result<(), Violation> {
        self.serials.on_status(pdu.stat_sn)?;
        // §11.17: the data segment begins with the whole header of the bad PDU.
        let Some((header, _)) = data.split_first_chunk::<BHS_LEN>() else {
            let detail = format!("{} bytes are no header", data.len());
            return Err(Violation::new(Rule::RejectHeader, detail));
        };
        let header = Bhs::new(*header);
        let starts_a_task = matches!(
            header.opcode(),
            Ok(Opcode::ScsiCommand
                | Opcode::NopOut
                | Opcode::TaskManagementRequest
                | Opcode::TextRequest
                | Opcode::LogoutRequest)
        );
        let itt = header.initiator_task_tag();
        let task = (starts_a_task && self.tasks.remove(itt).is_some()).then_some(TaskHandle(itt));
        self.emit_event(Event::Reject {
            reason: pdu.reason,
            header,
            task,
        });
        Ok(())
    }

    pub(super) fn set_digests(&mut self, header: bool, data: bool) {
        self.digests = Digests { header, data };
    }
}

/// §11.1: what is reserved is zero. Our own emitter writes it so, hence a header that does not come
/// back the same from parse and emit has something where nothing belongs.
fn check_reserved(opcode: Opcode, bhs: &Bhs) -> Result<(), Violation> {
    let parse_error = |error| format_violation(&error);
    let clean = match opcode {
        Opcode::ScsiDataIn => ScsiDataIn::parse(bhs).map_err(parse_error)?.emit(),
        Opcode::R2t => R2t::parse(bhs).emit(),
        Opcode::ScsiResponse => ScsiResponse::parse(bhs).map_err(parse_error)?.emit(),
        Opcode::NopIn => NopIn::parse(bhs).emit(),
        Opcode::TextResponse => TextResponse::parse(bhs).map_err(parse_error)?.emit(),
        Opcode::TaskManagementResponse => TaskManagementResponse::parse(bhs).emit(),
        Opcode::LogoutResponse => LogoutResponse::parse(bhs).emit(),
        Opcode::AsyncMessage => AsyncMessage::parse(bhs).emit(),
        Opcode::Reject => Reject::parse(bhs).emit(),
        Opcode::LoginResponse => LoginResponse::parse(bhs).map_err(parse_error)?.emit(),
        _ => return Ok(()),
    };
    let clean = clean.with_lengths(bhs.total_ahs_length(), bhs.data_segment_length());
    let differing = clean
        .bytes()
        .iter()
        .zip(bhs.bytes())
        .position(|(clean, found)| clean != found);
    if let Some(at) = differing {
        let detail = format!("{opcode:?}: byte {at} is {:#04x}", bhs.bytes()[at]);
        return Err(Violation::new(Rule::Reserved, detail));
    }
    Ok(())
}

fn format_violation(error: &FormatError) -> Violation {
    Violation::new(Rule::FieldValue, error.to_string())
}

fn unknown_task(what: &str, itt: Itt) -> Violation {
    Violation::new(
        Rule::UnknownTask,
        format!("{what} for {itt:?}, which names no task"),
    )
}

fn wrong_kind(what: &str, task: &Task) -> Violation {
    let kind = match task {
        Task::Scsi(_) => "SCSI command",
        Task::Nop { .. } => "NOP-Out",
        Task::Text { .. } => "Text Request",
        Task::Management { .. } => "task management request",
        Task::Logout { .. } => "Logout Request",
    };
    Violation::new(Rule::AnswerKind, format!("a {what} in answer to a {kind}"))
}
