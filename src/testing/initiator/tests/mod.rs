//! A scripted target shows the initiator each rule broken, and that it keeps the rules itself.

mod data;
mod login;
mod phase;

use super::config::pairs;
use super::negotiation::emit_text;
use super::wire::{Digests, Inbox};
use super::*;
use crate::pdu::{
    LoginRequest, LoginResponse, LogoutResponse, NopIn, NopOut, Opcode, R2t, Reject, Residual,
    ScsiCommand, ScsiDataIn, ScsiDataOut, ScsiResponse, ScsiResponseCode, Stage, StatSn,
    TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse, Tsih,
};
use crate::testing::Rule;

/// An initiator and the target's half of its connection, played by the test.
struct Stand {
    initiator: Initiator,
    from_initiator: Inbox,
    stat_sn: StatSn,
    exp_cmd_sn: CmdSn,
    window: u32,
}

const LUN: LunField = LunField([0, 3, 0, 0, 0, 0, 0, 0]);

impl Stand {
    fn new(config: Config) -> Self {
        let exp_cmd_sn = config.cmd_sn;
        Self {
            initiator: Initiator::new(config),
            from_initiator: Inbox::default(),
            stat_sn: StatSn(0xffff_fffe),
            exp_cmd_sn,
            window: 8,
        }
    }

    /// In full feature phase with these answers to the usual keys.
    fn logged_in(answers: &[(&str, &str)]) -> Self {
        let names: Vec<String> = answers.iter().map(|(key, _)| (*key).into()).collect();
        let mut config = Config::new("iqn.i", "iqn.t");
        config.auth = Auth::Skip;
        config.keys.retain(|(key, _)| names.contains(key));
        let mut it = Self::new(config);
        let request = it.login_request();
        it.answer_login(&request, Stage::FullFeaturePhase, answers)
            .unwrap();
        assert_eq!(it.initiator.poll_event(), Some(Event::LoggedIn));
        it
    }

    fn max_cmd_sn(&self) -> CmdSn {
        self.exp_cmd_sn.plus(self.window - 1)
    }

    fn take_stat_sn(&mut self) -> StatSn {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.next();
        stat_sn
    }

    /// What the initiator sent since the last call.
    fn sent(&mut self) -> Vec<Pdu> {
        let mut bytes = Vec::new();
        self.initiator.poll_transmit(&mut bytes);
        self.from_initiator.push(&bytes);
        let mut pdus = Vec::new();
        while let Some(pdu) = self
            .from_initiator
            .next(Digests::default(), 1 << 24)
            .unwrap()
        {
            let is_command = !matches!(
                pdu.bhs.opcode(),
                Ok(Opcode::ScsiDataOut | Opcode::LoginRequest | Opcode::Snack)
            );
            if is_command && !pdu.bhs.immediate() {
                assert_eq!(pdu.bhs.cmd_sn(), self.exp_cmd_sn);
                self.exp_cmd_sn = self.exp_cmd_sn.next();
            }
            pdus.push(pdu);
        }
        pdus
    }

    fn give(&mut self, bhs: Bhs, data: &[u8]) -> Result<(), Violation> {
        let mut bytes = Vec::new();
        Digests::default().emit(&RawPdu::new(bhs, data.to_vec()), &mut bytes);
        self.initiator.receive(&bytes)
    }

    fn login_request(&mut self) -> (LoginRequest, Vec<(String, String)>) {
        let sent = self.sent();
        let [pdu] = sent.as_slice() else {
            panic!("one Login Request, not {sent:?}")
        };
        let keys = negotiation::parse_text(&pdu.data).unwrap();
        (LoginRequest::parse(&pdu.bhs).unwrap(), keys)
    }

    fn login_response(&mut self, request: &LoginRequest) -> LoginResponse {
        LoginResponse {
            transit: request.transit,
            continue_: false,
            csg: request.csg,
            nsg: request.nsg,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: Tsih(if request.nsg == Stage::FullFeaturePhase {
                5
            } else {
                0
            }),
            itt: request.itt,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            status: LoginStatus::SUCCESS,
        }
    }

    fn answer_login(
        &mut self,
        request: &(LoginRequest, Vec<(String, String)>),
        stage: Stage,
        keys: &[(&str, &str)],
    ) -> Result<(), Violation> {
        assert!(request.0.transit && request.0.nsg == stage);
        let response = self.login_response(&request.0);
        self.give(response.emit(), &emit_text(&pairs(keys)))
    }

    fn scsi(&mut self, data: Direction) -> TaskHandle {
        let command = Scsi {
            lun: LUN,
            ..Scsi::new(3, &[0x42; 10], data)
        };
        self.initiator.submit(Command::Scsi(command))
    }

    fn data_in(&self, task: TaskHandle, data_sn: u32, buffer_offset: u32) -> ScsiDataIn {
        ScsiDataIn {
            final_: false,
            acknowledge: false,
            status: None,
            lun: LunField::default(),
            itt: task.0,
            ttt: Ttt::RESERVED,
            stat_sn: StatSn(0),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            data_sn,
            buffer_offset,
        }
    }

    fn response(&mut self, task: TaskHandle, status: u8, residual: Residual) -> ScsiResponse {
        ScsiResponse {
            response: ScsiResponseCode::CompletedAtTarget,
            status,
            status_qualifier: 0,
            residual,
            bidi_residual: Residual::None,
            itt: task.0,
            snack_tag: 0,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            exp_data_sn: 0,
        }
    }

    fn r2t(&self, task: TaskHandle, r2t_sn: u32, offset: u32, length: u32) -> R2t {
        R2t {
            lun: LUN,
            itt: task.0,
            ttt: Ttt(100 + r2t_sn),
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            r2t_sn,
            buffer_offset: offset,
            desired_length: length,
        }
    }
}

#[track_caller]
fn breaks(rule: Rule, result: Result<(), Violation>) {
    assert_eq!(result.map_err(|violation| violation.rule), Err(rule));
}

fn bytes(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}
