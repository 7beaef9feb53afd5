//! What an errno of the kernel means to an initiator.

use rustix::io::Errno;

use crate::backend::IoError;

/// Maps what a system call on a device answered. What is not known to be something else is the
/// medium's fault.
pub(super) fn io_error(errno: Errno) -> IoError {
    match errno {
        // EFBIG: a file size limit (of the file system or RLIMIT_FSIZE) leaves no room either.
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => IoError::NoSpace,
        Errno::ROFS | Errno::PERM | Errno::ACCESS | Errno::TXTBSY => IoError::WriteProtected,
        Errno::BADF
        | Errno::NODEV
        | Errno::NXIO
        | Errno::NOMEDIUM
        | Errno::SHUTDOWN
        | Errno::STALE
        | Errno::NOTCONN
        | Errno::HOSTDOWN
        | Errno::NOLINK => IoError::NotReady,
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => IoError::Unsupported,
        Errno::AGAIN
        | Errno::INTR
        | Errno::NOMEM
        | Errno::NOBUFS
        | Errno::MFILE
        | Errno::NFILE
        | Errno::BUSY => IoError::Resource,
        _ => IoError::Medium,
    }
}

/// Whether the same call may simply be made again.
pub(super) fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::INTR | Errno::CANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_disk_keep_their_meaning() {
        assert_eq!(io_error(Errno::IO), IoError::Medium);
        assert_eq!(io_error(Errno::NOSPC), IoError::NoSpace);
        assert_eq!(io_error(Errno::DQUOT), IoError::NoSpace);
        assert_eq!(io_error(Errno::ROFS), IoError::WriteProtected);
        assert_eq!(io_error(Errno::NXIO), IoError::NotReady);
        assert_eq!(io_error(Errno::OPNOTSUPP), IoError::Unsupported);
        assert_eq!(io_error(Errno::NOMEM), IoError::Resource);
        assert_eq!(io_error(Errno::ILSEQ), IoError::Medium);
    }
}
