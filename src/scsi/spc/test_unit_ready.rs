//! TEST UNIT READY (SPC-4): GOOD once the checks that all commands share are passed, since
//! they are what it asks for.

use crate::scsi::task::{Begin, Task, Transfer, UnitCall};

pub(in crate::scsi) fn start(_call: &mut UnitCall<'_>) -> Begin {
    Task::good(Transfer::None)
}
