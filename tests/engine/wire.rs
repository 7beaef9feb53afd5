//! What the session has sent, read with an eye on its numbers.

use iiblockdaemon::pdu::BHS_LEN;
use std::collections::HashMap;

const NOP_IN: u8 = 0x20;
const SCSI_RESPONSE: u8 = 0x21;
const MANAGEMENT_RESPONSE: u8 = 0x22;
const LOGIN_RESPONSE: u8 = 0x23;
const DATA_IN: u8 = 0x25;
const R2T: u8 = 0x31;
const REJECT: u8 = 0x3f;
const RESERVED_TAG: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpenR2t {
    pub(crate) itt: u32,
    pub(crate) ttt: u32,
    pub(crate) offset: u32,
    pub(crate) data_sn: u32,
}

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Wire {
    pub(crate) bytes: Vec<u8>,
    read: usize,
    next_stat_sn: Option<u32>,
    window: Option<(u32, u32)>,
    /// Last answers by tag: SCSI Responses, Data-In with status.
    pub(crate) answers: HashMap<u32, u32>,
    /// Tags of requests that were rejected.
    pub(crate) rejected: HashMap<u32, u32>,
    pub(crate) r2ts: Vec<OpenR2t>,
    /// Task Management Function Responses.
    pub(crate) managed: u32,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Wire {
    /// Another connection: numbers and unanswered R2Ts begin anew, MaxCmdSN does not.
    pub(crate) fn reconnect(&mut self) {
        self.bytes.truncate(self.read);
        self.next_stat_sn = None;
        self.r2ts.clear();
    }

    /// What the initiator acknowledges with ExpStatSN.
    pub(crate) fn next_stat_sn(&self) -> u32 {
        self.next_stat_sn.unwrap_or(0)
    }

    /// Reads all PDUs that are whole.
    pub(crate) fn read(&mut self) {
        while self.bytes.len() - self.read >= BHS_LEN {
            let bhs = &self.bytes[self.read..self.read + BHS_LEN];
            assert_eq!(bhs[4], 0, "a target sends no AHS");
            let data = (word(bhs, 4) & 0x00ff_ffff) as usize;
            let end = self.read + BHS_LEN + data.next_multiple_of(4);
            if end > self.bytes.len() {
                return;
            }
            let pdu = self.bytes[self.read..end].to_vec();
            self.read = end;
            self.on_pdu(&pdu);
        }
    }

    fn on_pdu(&mut self, pdu: &[u8]) {
        let (opcode, itt) = (pdu[0] & 0x3f, word(pdu, 16));
        let has_status = opcode != DATA_IN || pdu[1] & 0x01 != 0;
        let is_numbered = has_status && opcode != R2T && !(opcode == NOP_IN && itt == RESERVED_TAG);
        if has_status {
            let stat_sn = word(pdu, 24);
            let expected = self.next_stat_sn.unwrap_or(stat_sn);
            assert_eq!(stat_sn, expected, "StatSN of opcode {opcode:#x}");
            self.next_stat_sn = Some(stat_sn.wrapping_add(u32::from(is_numbered)));
        }
        let (exp, max) = (word(pdu, 28), word(pdu, 32));
        let is_ahead = |new: u32, old: u32| new.wrapping_sub(old) < 1 << 31;
        if let Some((old_exp, old_max)) = self.window {
            assert!(is_ahead(exp, old_exp), "ExpCmdSN went back");
            assert!(is_ahead(max, old_max), "MaxCmdSN went back");
        }
        assert!(
            is_ahead(max.wrapping_add(1), exp),
            "a window of less than nothing"
        );
        self.window = Some((exp, max));
        match opcode {
            SCSI_RESPONSE => *self.answers.entry(itt).or_default() += 1,
            DATA_IN if has_status => *self.answers.entry(itt).or_default() += 1,
            REJECT => *self.rejected.entry(word(pdu, BHS_LEN + 16)).or_default() += 1,
            R2T => self.r2ts.push(OpenR2t {
                itt,
                ttt: word(pdu, 20),
                offset: word(pdu, 40),
                data_sn: 0,
            }),
            MANAGEMENT_RESPONSE => self.managed += 1,
            LOGIN_RESPONSE | DATA_IN | NOP_IN | 0x24 | 0x26 | 0x32 => {}
            other => panic!("opcode {other:#x} from a target"),
        }
    }
}
