//! What the initiator sends: commands when the window allows, data when they are due.

use super::login::LoginPhase;
use super::negotiation::emit_text;
use super::task::{OpenR2t, OutPlan, Scsi, ScsiTask};
use super::wire::RawPdu;
use super::{Command, Initiator, Phase, Task, TaskManagement};
use crate::pdu::{
    CmdSn, Itt, LogoutReason, LogoutRequest, LunField, NopOut, ScsiCommand, ScsiDataOut,
    TaskManagementFunction, TaskManagementRequest, TextRequest, Ttt,
};
use std::collections::VecDeque;

/// A run of data to be cut into Data-Out PDUs.
struct Burst<'a> {
    lun: LunField,
    itt: Itt,
    ttt: Ttt,
    offset: u32,
    data: &'a [u8],
}

impl Initiator {
    /// Appends everything that may be sent now to `out`.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) {
        if matches!(self.phase, Phase::New) {
            let mut login = Box::new(LoginPhase::new(&self.config));
            let pdu = login.start(self.serials.numbers());
            self.phase = Phase::Login(login);
            self.send(&pdu);
        }
        if matches!(self.phase, Phase::FullFeature) {
            self.answer_r2ts();
            self.send_commands();
        }
        out.append(&mut self.out);
    }

    fn answer_r2ts(&mut self) {
        let mut due = Vec::new();
        for (itt, task) in &mut self.tasks.tasks {
            if let Task::Scsi(scsi) = task
                && !scsi.held
            {
                due.extend(scsi.open_r2ts.drain(..).map(|r2t| (*itt, r2t)));
            }
        }
        for (itt, r2t) in due {
            self.answer_r2t(itt, r2t);
        }
    }

    fn answer_r2t(&mut self, itt: Itt, r2t: OpenR2t) {
        let Some(Task::Scsi(scsi)) = self.tasks.find(itt) else {
            return;
        };
        let lun = scsi.command.lun;
        let data = scsi.command.data_out().map_or(&[][..], |data| &data.bytes);
        // The range was checked against the command when the R2T came.
        let range = range(r2t.offset, r2t.length);
        let data = data.get(range).unwrap_or_default().to_vec();
        self.send_burst(&Burst {
            lun,
            itt,
            ttt: r2t.ttt,
            offset: r2t.offset,
            data: &data,
        });
    }

    /// Sends one sequence: DataSN from zero, F on its last PDU (RFC 7143 §11.7).
    fn send_burst(&mut self, burst: &Burst<'_>) {
        let segment = self.negotiated.target_max_recv_data_segment_length;
        let segment = usize::try_from(segment).expect("24 bits fit").max(1);
        let exp_stat_sn = self.serials.exp_stat_sn();
        let count = burst.data.len().div_ceil(segment);
        let mut buffer_offset = burst.offset;
        for (data_sn, piece) in (0_u32..).zip(burst.data.chunks(segment)) {
            let pdu = ScsiDataOut {
                final_: usize::try_from(data_sn) == Ok(count - 1),
                lun: burst.lun,
                itt: burst.itt,
                ttt: burst.ttt,
                exp_stat_sn,
                data_sn,
                buffer_offset,
            };
            buffer_offset += u32::try_from(piece.len()).expect("a segment is short");
            self.send(&RawPdu::new(pdu.emit(), piece.to_vec()));
        }
    }

    /// Sends what the window allows, in order; immediate commands do not wait for those that do.
    fn send_commands(&mut self) {
        let mut waiting = VecDeque::new();
        while let Some((itt, command)) = self.queue.pop_front() {
            let immediate = command.is_immediate();
            let cmd_sn = if immediate || waiting.is_empty() {
                self.serials.take_if_open(immediate)
            } else {
                None
            };
            match cmd_sn {
                Some(cmd_sn) => self.send_command(itt, command, cmd_sn),
                None => waiting.push_back((itt, command)),
            }
        }
        self.queue = waiting;
    }

    fn send_command(&mut self, itt: Itt, command: Command, cmd_sn: CmdSn) {
        self.sent += 1;
        let immediate = command.is_immediate();
        let exp_stat_sn = self.serials.exp_stat_sn();
        let lun = LunField::default();
        match command {
            Command::Scsi(scsi) => self.send_scsi(itt, scsi, cmd_sn),
            Command::Nop(nop) => {
                let pdu = NopOut {
                    immediate,
                    lun,
                    itt,
                    ttt: Ttt::RESERVED,
                    cmd_sn,
                    exp_stat_sn,
                };
                self.send(&RawPdu::new(pdu.emit(), nop.data.clone()));
                self.tasks.insert(itt, Task::Nop { data: nop.data });
            }
            Command::Text(keys) => {
                let pdu = TextRequest {
                    immediate,
                    final_: true,
                    continue_: false,
                    lun,
                    itt,
                    ttt: Ttt::RESERVED,
                    cmd_sn,
                    exp_stat_sn,
                };
                self.send(&RawPdu::new(pdu.emit(), emit_text(&keys)));
                self.tasks.insert(itt, Task::Text { text: Vec::new() });
            }
            Command::TaskManagement(request) => {
                self.send_task_management(itt, request, cmd_sn);
            }
            Command::Logout { reason, cid } => {
                let pdu = LogoutRequest {
                    immediate,
                    reason,
                    itt,
                    cid,
                    cmd_sn,
                    exp_stat_sn,
                };
                self.send(&RawPdu::new(pdu.emit(), Vec::new()));
                let ends = reason == LogoutReason::CloseSession || cid == self.config.cid;
                self.tasks.insert(itt, Task::Logout { ends });
            }
        }
    }

    fn send_scsi(&mut self, itt: Itt, scsi: Scsi, cmd_sn: CmdSn) {
        let plan = OutPlan::new(&scsi, &self.negotiated);
        let pdu = ScsiCommand {
            immediate: scsi.immediate,
            final_: plan.unsolicited == 0,
            read: scsi.read_length().is_some(),
            write: scsi.data_out().is_some(),
            attribute: scsi.attribute,
            priority: 0,
            lun: scsi.lun,
            itt,
            expected_data_transfer_length: scsi.expected_length(),
            cmd_sn,
            exp_stat_sn: self.serials.exp_stat_sn(),
            cdb: scsi.short_cdb(),
        };
        let bytes = scsi.data_out().map_or(&[][..], |data| &data.bytes);
        let immediate = bytes[range(0, plan.immediate)].to_vec();
        let unsolicited = bytes[range(plan.immediate, plan.unsolicited)].to_vec();
        self.send(&RawPdu {
            ahs: scsi.ahs(),
            ..RawPdu::new(pdu.emit(), immediate)
        });
        // Unsolicited data keep the order of their commands (RFC 7143 §4.2.5.2): right behind.
        self.send_burst(&Burst {
            lun: scsi.lun,
            itt,
            ttt: Ttt::RESERVED,
            offset: plan.immediate,
            data: &unsolicited,
        });
        let task = ScsiTask::new(scsi, cmd_sn, self.sent, &plan);
        self.tasks.insert(itt, Task::Scsi(Box::new(task)));
    }

    fn send_task_management(&mut self, itt: Itt, request: TaskManagement, cmd_sn: CmdSn) {
        let referenced = request.referenced.and_then(|task| self.tasks.find(task.0));
        // §11.5.5: the CmdSN of the task to abort; that of this request if the task was immediate
        // or is unknown to us.
        let ref_cmd_sn = match (request.function, referenced) {
            (TaskManagementFunction::AbortTask, Some(Task::Scsi(scsi))) => {
                if scsi.command.immediate {
                    cmd_sn
                } else {
                    scsi.cmd_sn
                }
            }
            (TaskManagementFunction::AbortTask, _) => cmd_sn,
            _ => CmdSn(0),
        };
        let pdu = TaskManagementRequest {
            immediate: request.immediate,
            function: request.function,
            lun: request.lun,
            itt,
            referenced_itt: request.referenced.map_or(Itt::RESERVED, |task| task.0),
            cmd_sn,
            exp_stat_sn: self.serials.exp_stat_sn(),
            ref_cmd_sn,
            exp_data_sn: 0,
        };
        self.send(&RawPdu::new(pdu.emit(), Vec::new()));
        self.tasks.insert(
            itt,
            Task::Management {
                request,
                sent_as: self.sent,
            },
        );
    }

    /// Asks for the rest of a text that the target spreads over several responses (§11.10.4).
    pub(super) fn continue_text(&mut self, itt: Itt, lun: LunField, ttt: Ttt) {
        let pdu = TextRequest {
            immediate: true,
            final_: true,
            continue_: false,
            lun,
            itt,
            ttt,
            cmd_sn: self.serials.take_cmd_sn(true),
            exp_stat_sn: self.serials.exp_stat_sn(),
        };
        self.send(&RawPdu::new(pdu.emit(), Vec::new()));
    }

    /// Answers the target's ping (§11.18): immediate, its tag and LUN copied, its data echoed.
    pub(super) fn answer_nop_in(&mut self, lun: LunField, ttt: Ttt, data: &[u8]) {
        let pdu = NopOut {
            immediate: true,
            lun,
            itt: Itt::RESERVED,
            ttt,
            cmd_sn: self.serials.take_cmd_sn(true),
            exp_stat_sn: self.serials.exp_stat_sn(),
        };
        self.send(&RawPdu::new(pdu.emit(), data.to_vec()));
    }
}

fn range(offset: u32, length: u32) -> std::ops::Range<usize> {
    let offset = usize::try_from(offset).expect("32 bits fit");
    offset..offset + usize::try_from(length).expect("32 bits fit")
}

impl Command {
    fn is_immediate(&self) -> bool {
        match self {
            Self::Scsi(scsi) => scsi.immediate,
            Self::Nop(nop) => nop.immediate,
            Self::TaskManagement(request) => request.immediate,
            Self::Text(_) | Self::Logout { .. } => false,
        }
    }
}
