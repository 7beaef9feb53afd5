//! The command window of a session (RFC 7143 §4.2.2.1): which CmdSN may come, and what stands
//! behind it.
//!
//! Each command that the window admits has `chunks_per_command` chunks of the core's pool reserved
//! before MaxCmdSN is raised to it, enough for FirstBurstLength, so that whatever a peer may send
//! without being asked always has a place. Reservations (`credits`) are taken by [`Window::grant`]
//! and handed to the command by [`Window::accept`].
//!
//! Invariants: MaxCmdSN = ExpCmdSN + credits − 1 and never goes back; a session without commands
//! under way gets at least one credit, because every other use of the pool leaves the floor alone.

use crate::mem::Pool;
use crate::pdu::CmdSn;

/// The part of the pool that windows leave alone.
const SPARE_PART: usize = 8;
/// The part of what is left that one session's window may take.
const SHARE_PART: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    exp_cmd_sn: CmdSn,
    credits: u32,
    chunks_per_command: usize,
    /// Commands that may be under way and admitted together.
    depth: u32,
}

/// Where a CmdSN stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The one that is expected.
    Next,
    /// Admitted, but so many others have to come before it.
    Ahead(u32),
    /// Received before, or beyond MaxCmdSN.
    Outside,
}

impl Window {
    /// A window that begins at `first` (the CmdSN of the leading login) and admits at most `depth`
    /// commands. `None` when the pool cannot back a single command.
    pub(super) fn new(
        first: CmdSn,
        depth: u32,
        chunks_per_command: usize,
        pool: &Pool,
    ) -> Option<Self> {
        pool.reserve(chunks_per_command).then_some(Self {
            exp_cmd_sn: first,
            credits: 1,
            chunks_per_command,
            depth,
        })
    }

    pub(super) fn exp_cmd_sn(&self) -> CmdSn {
        self.exp_cmd_sn
    }

    /// MaxCmdSN; one before ExpCmdSN while the window is closed.
    pub(super) fn max_cmd_sn(&self) -> CmdSn {
        self.exp_cmd_sn.plus(self.credits).minus(1)
    }

    /// The initiator may send no command.
    pub(super) fn is_closed(&self) -> bool {
        self.credits == 0
    }

    pub(super) fn chunks_per_command(&self) -> usize {
        self.chunks_per_command
    }

    pub(super) fn place(&self, cmd_sn: CmdSn) -> Place {
        let ahead = cmd_sn.0.wrapping_sub(self.exp_cmd_sn.0);
        match ahead {
            0 if self.credits > 0 => Place::Next,
            _ if ahead < self.credits => Place::Ahead(ahead),
            _ => Place::Outside,
        }
    }

    /// Takes the expected command: ExpCmdSN advances, and the command owns the reservation of
    /// [`Self::chunks_per_command`] chunks.
    pub(super) fn accept(&mut self) {
        assert!(
            self.credits > 0,
            "only a command inside the window is accepted"
        );
        self.credits -= 1;
        self.exp_cmd_sn = self.exp_cmd_sn.next();
    }

    /// Raises MaxCmdSN as far as depth and memory allow. `under_way` counts commands that were
    /// accepted and still hold something; `floor` is what of the pool stays set aside so that every
    /// session of the core can have its first command.
    pub(super) fn grant(&mut self, under_way: u32, floor: usize, pool: &Pool) {
        let mut admitted = under_way + self.credits;
        if admitted >= self.depth {
            return;
        }
        // A lone session gets its depth; in a crowd, each takes at most a part of what is left
        // beyond the floor and the room that READs and large WRITEs need.
        let spare = pool
            .available()
            .saturating_sub(floor + pool.chunks() / SPARE_PART);
        let share = spare / SHARE_PART;
        let mut has = admitted as usize * self.chunks_per_command;
        while admitted < self.depth {
            let first = has == 0;
            has += self.chunks_per_command;
            if !first && has > share {
                return;
            }
            if !pool.reserve(self.chunks_per_command) {
                return;
            }
            self.credits += 1;
            admitted += 1;
        }
    }

    /// Gives all reservations back. The window admits nothing any more.
    pub(super) fn close(&mut self, pool: &Pool) {
        pool.unreserve(self.credits as usize * self.chunks_per_command);
        self.credits = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Pages;

    fn pool(chunks: usize) -> Pool {
        Pool::new(chunks * crate::mem::CHUNK_BYTES, Pages::Normal).unwrap()
    }

    #[test]
    fn the_window_opens_to_its_depth_and_closes_command_by_command() {
        let pool = pool(1024);
        let mut window = Window::new(CmdSn(u32::MAX - 1), 8, 4, &pool).unwrap();
        assert_eq!(window.max_cmd_sn(), CmdSn(u32::MAX - 1));
        window.grant(0, 4, &pool);
        assert_eq!(window.max_cmd_sn(), CmdSn(5));
        assert_eq!(pool.reserved(), 32);
        assert_eq!(window.place(CmdSn(u32::MAX - 1)), Place::Next);
        assert_eq!(window.place(CmdSn(5)), Place::Ahead(7));
        assert_eq!(window.place(CmdSn(6)), Place::Outside);
        assert_eq!(window.place(CmdSn(u32::MAX - 2)), Place::Outside);
        for under_way in 1..=8 {
            let max = window.max_cmd_sn();
            window.accept();
            window.grant(under_way, 4, &pool);
            assert_eq!(
                window.max_cmd_sn(),
                max,
                "MaxCmdSN neither goes back nor on"
            );
        }
        assert_eq!(window.place(window.exp_cmd_sn()), Place::Outside);
        pool.unreserve(32);
    }

    #[test]
    fn short_memory_narrows_the_window_but_leaves_the_first_command() {
        let pool = pool(16);
        let mut window = Window::new(CmdSn(1), 8, 4, &pool).unwrap();
        let rest = pool.available();
        assert!(pool.reserve(rest));
        window.grant(0, 4, &pool);
        assert_eq!(window.max_cmd_sn(), CmdSn(1));
        window.accept();
        pool.unreserve(4);
        // The floor is all that is left: a second command must wait …
        window.grant(1, 4, &pool);
        assert_eq!(window.place(CmdSn(2)), Place::Outside);
        // … and the first of an idle session may have it.
        window.grant(0, 4, &pool);
        assert_eq!(window.place(CmdSn(2)), Place::Next);
        window.close(&pool);
        pool.unreserve(rest);
    }
}
