//! Text in full feature phase: what a whole Text Request may say and what we answer
//! (RFC 7143 §11.10, §6.4, and the "Use" of §13).
//!
//! The caller joins the data segments of a sequence ([`super::text::Assembler`] with
//! [`super::text::FULL_FEATURE_TEXT_MAX_BYTES`]), calls [`answer`], and sends what it gets in
//! pieces ([`super::text::Outgoing`]) under one Target Transfer Tag.

use thiserror::Error;

use super::discovery::send_targets;
use super::keys::{Key, Kind, Use};
use super::negotiated::{Negotiated, SessionType};
use super::node::{Nodes, TargetNode, Viewer};
use super::text::{TextError, TextWriter, pairs, parse_number};

/// Whose text it is.
#[derive(Clone, Copy, Debug)]
pub struct TextSession<'a> {
    pub viewer: Viewer<'a>,
    pub session_type: SessionType,
    /// The target of a normal session.
    pub target: Option<&'a TargetNode>,
}

/// Our answer to a whole text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextAnswer {
    /// May be longer than one data segment, and may be empty.
    pub text: Vec<u8>,
    /// The initiator has changed the longest data segment that it takes (RFC 7143 §13.12). It holds
    /// from the next PDU on that we begin.
    pub initiator_max_recv_data_segment_length: Option<u32>,
}

/// Why a text is not answered. The caller sends a Reject with reason protocol error, which also
/// ends the negotiation (RFC 7143 §6.2, §7.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TextRefusal {
    #[error("the text cannot be read: {0}")]
    Text(TextError),
    /// RFC 7143 §13: keys that are negotiated in login only.
    #[error("{0} cannot be negotiated in full feature phase")]
    LoginOnly(Key),
    #[error("{0} is not for initiators to send")]
    TargetsKey(Key),
    #[error("the value of {0} is not one that it may have")]
    BadValue(Key),
}

impl<'a> TextSession<'a> {
    /// The session that a login has made.
    pub fn of(
        negotiated: &'a Negotiated,
        local: std::net::SocketAddr,
        peer: std::net::SocketAddr,
    ) -> Self {
        Self {
            viewer: Viewer {
                initiator: &negotiated.initiator_name,
                peer,
                local,
            },
            session_type: negotiated.session_type,
            target: negotiated.target.as_deref(),
        }
    }
}

/// Answers a whole text.
pub fn answer(
    text: &[u8],
    session: TextSession<'_>,
    nodes: &Nodes,
) -> Result<TextAnswer, TextRefusal> {
    let mut out = TextWriter::default();
    let mut initiator_max_recv_data_segment_length = None;
    for (name, value) in pairs(text).map_err(TextRefusal::Text)? {
        let Some(key) = Key::from_name(name) else {
            // RFC 7143 §6.2.
            out.push(name, "NotUnderstood");
            continue;
        };
        let row = key.row();
        if !row.initiator_sends {
            return Err(TextRefusal::TargetsKey(key));
        }
        match row.use_ {
            Use::FullFeature => {
                let TextSession {
                    viewer,
                    session_type,
                    target,
                } = session;
                send_targets(nodes, viewer, session_type, target, value, &mut out);
            }
            Use::Any => {
                if let Kind::Declared { low, high } = row.kind {
                    let number = parse_number(value).and_then(|number| u32::try_from(number).ok());
                    let fits = number.filter(|number| (low..=high).contains(number));
                    let declared = fits.ok_or(TextRefusal::BadValue(key))?;
                    initiator_max_recv_data_segment_length = Some(declared);
                }
            }
            Use::First | Use::SecurityStage | Use::Operational | Use::Leading => {
                return Err(TextRefusal::LoginOnly(key));
            }
        }
    }
    Ok(TextAnswer {
        text: out.finish(),
        initiator_max_recv_data_segment_length,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::iscsi::keys::TABLE;
    use crate::iscsi::login::fixture::{name, target};
    use crate::iscsi::node::PortalGroup;

    fn ask(text: &[u8]) -> Result<TextAnswer, TextRefusal> {
        let portals = vec!["10.0.0.1:3260".parse().unwrap()];
        let groups = vec![PortalGroup { tag: 1, portals }];
        let nodes = Nodes::new(
            vec![Arc::new(target("iqn.2026-11.io.x:a"))],
            groups,
            Arc::default(),
        );
        let initiator = name("iqn.1993-08.org.debian:01:a");
        let viewer = Viewer {
            initiator: &initiator,
            peer: "10.0.0.9:40000".parse().unwrap(),
            local: "10.0.0.1:3260".parse().unwrap(),
        };
        let session = TextSession {
            viewer,
            session_type: SessionType::Discovery,
            target: None,
        };
        answer(text, session, &nodes)
    }

    #[test]
    fn send_targets_and_unknown_keys_are_answered() {
        let answer = ask(b"SendTargets=All\0X-com.y=1\0InitiatorAlias=me\0").unwrap();
        let expected = "TargetName=iqn.2026-11.io.x:a\0TargetAddress=10.0.0.1:3260,1\0\
                        X-com.y=NotUnderstood\0";
        assert_eq!(answer.text, expected.as_bytes());
        assert_eq!(answer.initiator_max_recv_data_segment_length, None);
        assert_eq!(ask(b"").unwrap().text, b"");
    }

    // RFC 7143 §13.12.
    #[test]
    fn the_longest_data_segment_may_change_within_its_range() {
        let declared = |value: &str| {
            ask(format!("MaxRecvDataSegmentLength={value}\0").as_bytes())
                .map(|answer| answer.initiator_max_recv_data_segment_length)
        };
        let bad = Err(TextRefusal::BadValue(Key::MaxRecvDataSegmentLength));
        assert_eq!(declared("512"), Ok(Some(512)));
        assert_eq!(declared("16777215"), Ok(Some(16_777_215)));
        assert_eq!(declared("511"), bad);
        assert_eq!(declared("16777216"), bad);
        assert_eq!(declared("4294967808"), bad);
        assert_eq!(declared(""), bad);
    }

    // RFC 7143 §13: the "Use" of each key.
    #[test]
    fn keys_of_login_are_refused() {
        for row in TABLE {
            let text = format!("{}=1\0", row.name);
            let answer = ask(text.as_bytes());
            if !row.initiator_sends {
                assert_eq!(answer, Err(TextRefusal::TargetsKey(row.key)));
            } else if !matches!(row.use_, Use::Any | Use::FullFeature) {
                assert_eq!(answer, Err(TextRefusal::LoginOnly(row.key)));
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(answer) = ask(&text) {
                prop_assert!(answer.text.len() <= 300 * 80);
            }
        }
    }
}
