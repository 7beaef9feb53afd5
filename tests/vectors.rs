//! Replays `tests/vectors/*.hex`: bytes laid out by hand after the figures of the standards, and
//! the fields they must give.
//!
//! A file holds `#` comments, then `pdu NAME`, `ahs` and `data` (the lengths that the header
//! announces, in bytes), `bytes` in hexadecimal, and `fields` as `Debug` prints them, one to a
//! line. A header must parse to these fields and be emitted to the same bytes again.

use iiblockdaemon::pdu::{
    Ahs, AhsBytes, AsyncMessage, BHS_LEN, Bhs, LoginRequest, LoginResponse, LogoutRequest,
    LogoutResponse, NopIn, NopOut, Opcode, R2t, Reject, ScsiCommand, ScsiDataIn, ScsiDataOut,
    ScsiResponse, Snack, TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse,
};
use std::collections::BTreeSet;
use std::path::Path;

/// One file, read but not yet understood.
struct Vector {
    pdu: String,
    ahs_bytes: usize,
    data_bytes: u32,
    bytes: Vec<u8>,
    fields: Vec<String>,
}

impl Vector {
    fn read(text: &str) -> Self {
        let mut vector = Self {
            pdu: String::new(),
            ahs_bytes: 0,
            data_bytes: 0,
            bytes: vec![],
            fields: vec![],
        };
        let mut section = "";
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let entry = line.trim();
            match entry.split_once(' ') {
                _ if line.starts_with(' ') && section == "bytes" => {
                    let bytes = entry.split_whitespace();
                    vector
                        .bytes
                        .extend(bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
                }
                _ if line.starts_with(' ') && section == "fields" => {
                    vector.fields.push(entry.to_owned());
                }
                Some(("pdu", name)) => vector.pdu = name.to_owned(),
                Some(("ahs", length)) => vector.ahs_bytes = length.parse().unwrap(),
                Some(("data", length)) => vector.data_bytes = length.parse().unwrap(),
                None if matches!(entry, "bytes" | "fields") => section = entry,
                _ => panic!("a line of no known kind: {line}"),
            }
        }
        vector
    }

    fn bhs(&self) -> Bhs {
        let bytes: [u8; BHS_LEN] = self.bytes[..].try_into().expect("a header has 48 bytes");
        Bhs::new(bytes)
    }
}

/// Parses a header as `$pdu`, and returns what it shows and what it emits.
macro_rules! replay {
    ($bhs:expr, infallible $pdu:ident) => {{
        let pdu = $pdu::parse($bhs);
        (Opcode::$pdu, format!("{pdu:?}"), pdu.emit())
    }};
    ($bhs:expr, $pdu:ident) => {{
        let pdu = $pdu::parse($bhs).unwrap();
        (Opcode::$pdu, format!("{pdu:?}"), pdu.emit())
    }};
}

fn replay_header(vector: &Vector) {
    let bhs = vector.bhs();
    let (opcode, shown, emitted) = match vector.pdu.as_str() {
        "NopOut" => replay!(&bhs, infallible NopOut),
        "ScsiCommand" => replay!(&bhs, ScsiCommand),
        "TaskManagementRequest" => replay!(&bhs, infallible TaskManagementRequest),
        "LoginRequest" => replay!(&bhs, LoginRequest),
        "TextRequest" => replay!(&bhs, TextRequest),
        "ScsiDataOut" => replay!(&bhs, infallible ScsiDataOut),
        "LogoutRequest" => replay!(&bhs, LogoutRequest),
        "Snack" => replay!(&bhs, Snack),
        "NopIn" => replay!(&bhs, infallible NopIn),
        "ScsiResponse" => replay!(&bhs, ScsiResponse),
        "TaskManagementResponse" => replay!(&bhs, infallible TaskManagementResponse),
        "LoginResponse" => replay!(&bhs, LoginResponse),
        "TextResponse" => replay!(&bhs, TextResponse),
        "ScsiDataIn" => replay!(&bhs, ScsiDataIn),
        "LogoutResponse" => replay!(&bhs, infallible LogoutResponse),
        "R2t" => replay!(&bhs, infallible R2t),
        "AsyncMessage" => replay!(&bhs, infallible AsyncMessage),
        "Reject" => replay!(&bhs, infallible Reject),
        other => panic!("no PDU is called {other}"),
    };
    assert_eq!(bhs.opcode(), Ok(opcode));
    assert_eq!(
        shown,
        format!("{} {{ {} }}", vector.pdu, vector.fields.join(", "))
    );
    assert_eq!(bhs.total_ahs_length(), vector.ahs_bytes);
    assert_eq!(bhs.data_segment_length(), vector.data_bytes);
    assert_eq!(
        emitted.with_lengths(vector.ahs_bytes, vector.data_bytes),
        bhs
    );
}

fn replay_ahs(vector: &Vector) {
    let ahs = AhsBytes::from_wire(&vector.bytes).unwrap();
    let segments: Vec<Ahs<'_>> = ahs.iter().collect::<Result<_, _>>().unwrap();
    let shown: Vec<String> = segments
        .iter()
        .map(|segment| format!("{segment:?}"))
        .collect();
    assert_eq!(shown, vector.fields);
    let mut emitted = AhsBytes::new();
    for segment in segments {
        emitted.push(segment).unwrap();
    }
    assert_eq!(emitted, ahs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_parses_to_its_fields_and_is_emitted_to_its_bytes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let mut seen = BTreeSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "hex") {
                continue;
            }
            // Shown by the test runner when one of the assertions fails.
            println!("{}", path.display());
            let vector = Vector::read(&std::fs::read_to_string(&path).unwrap());
            match vector.pdu.as_str() {
                "Ahs" => replay_ahs(&vector),
                _ => replay_header(&vector),
            }
            seen.insert(vector.pdu);
        }
        assert_eq!(
            seen.len(),
            18 + 1,
            "one vector at least for each PDU and one for AHS: {seen:?}"
        );
    }
}
