//! A connection before its session: frames Login Requests, lets [`Login`] judge them, and keeps the
//! answers until they are sent (RFC 7143 §6.3, §8.1).
//!
//! Memory of a stranger: this, [`LOGIN_DATA_SEGMENT_MAX_BYTES`] of text and one answer. Everything
//! but a Login Request ends the connection, since nothing else is allowed before full feature
//! phase.

use crate::pdu::{
    AHS_BYTES_MAX, Bhs, Event, FrameError, Framer, Limits, LoginRequest, LoginResponse, Opcode,
    pad_length,
};

use super::login::{Context, Login, LoginStep, Random, Refusal};
use super::negotiated::Negotiated;
use super::text::LOGIN_DATA_SEGMENT_MAX_BYTES;

/// See the module.
#[derive(Debug)]
pub struct Handshake {
    framer: Framer,
    /// Taken while a request is judged, and gone when the login is over.
    login: Option<Login>,
    bhs: Option<Bhs>,
    text: Vec<u8>,
    out: Vec<u8>,
    /// A request was answered.
    has_spoken: bool,
}

/// What the bytes came to.
#[derive(Debug)]
pub enum Greeting {
    /// Send [`Handshake::outgoing`]; the login goes on.
    GoesOn,
    /// The login agrees; the directory decides. Bytes that follow belong to full feature phase.
    Final {
        negotiated: Box<Negotiated>,
        response: LoginResponse,
        text: Vec<u8>,
    },
    /// Send [`Handshake::outgoing`] and close.
    Refused(Box<Refusal>),
}

/// Why a connection ends before it is a session's, without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeFault {
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// RFC 7143 §8.1: only Login Requests come before full feature phase.
    #[error("a PDU of opcode {0:#04x} came before the login was over")]
    NotLogin(u8),
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    pub fn new() -> Self {
        let max_data_segment =
            u32::try_from(LOGIN_DATA_SEGMENT_MAX_BYTES).expect("a few thousand bytes");
        let limits = Limits {
            max_data_segment,
            max_ahs: AHS_BYTES_MAX,
        };
        Self {
            framer: Framer::new(limits),
            login: Some(Login::new()),
            bhs: None,
            text: Vec::new(),
            out: Vec::new(),
            has_spoken: false,
        }
    }

    /// Takes bytes from the front of `input`, at most up to the end of the login.
    ///
    /// # Errors
    /// What ends the connection at once.
    pub fn receive(
        &mut self,
        cx: &Context<'_>,
        input: &mut &[u8],
        random: Random<'_>,
    ) -> Result<Greeting, HandshakeFault> {
        while self.login.is_some() {
            match self.framer.next(input)? {
                None => break,
                Some(Event::Header) => {
                    let header = self.framer.header();
                    if header.bhs.opcode() != Ok(Opcode::LoginRequest) {
                        return Err(HandshakeFault::NotLogin(header.bhs.bytes()[0] & 0x3f));
                    }
                    self.bhs = Some(header.bhs);
                    self.text.clear();
                }
                Some(Event::Data(bytes)) => self.text.extend_from_slice(bytes),
                Some(Event::End { .. }) => {
                    if let Some(end) = self.judge(cx, random) {
                        return Ok(end);
                    }
                }
            }
        }
        Ok(Greeting::GoesOn)
    }

    /// Judges a whole request. `Some`: the login is over.
    fn judge(&mut self, cx: &Context<'_>, random: Random<'_>) -> Option<Greeting> {
        let bhs = self.bhs.take().expect("a header comes before its end");
        let login = self.login.take().expect("receive() has looked");
        let step = match LoginRequest::parse(&bhs) {
            Ok(request) => login.handle(cx, &request, &self.text, random),
            Err(error) => login.refuse_header(cx, &bhs, error),
        };
        match step {
            LoginStep::Reply {
                response,
                text,
                next,
            } => {
                self.login = Some(next);
                self.answer(&response, &text);
                None
            }
            LoginStep::Final {
                negotiated,
                response,
                text,
            } => Some(Greeting::Final {
                negotiated,
                response,
                text,
            }),
            LoginStep::Refuse { response, refusal } => {
                self.answer(&response, &refusal.reason.text());
                Some(Greeting::Refused(refusal))
            }
        }
    }

    /// Queues a Login Response.
    pub fn answer(&mut self, response: &LoginResponse, text: &[u8]) {
        self.has_spoken = true;
        let length = u32::try_from(text.len()).expect("at most 8192 bytes of text");
        self.out
            .extend_from_slice(response.emit().with_lengths(0, length).bytes());
        self.out.extend_from_slice(text);
        self.out
            .resize(self.out.len() + pad_length(length) as usize, 0);
    }

    /// The peer has sent a whole Login Request that got an answer: it speaks the language at least.
    pub fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// What is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.out
    }

    /// The stream took so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.out.drain(..bytes);
    }
}
