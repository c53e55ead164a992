//! Which error number a client sees for which [`io::Error`]: all in one place.

use std::io;

/// Not permitted: the export is read-only.
pub const EPERM: u32 = 1;
/// The disk failed.
pub const EIO: u32 = 5;
/// No memory for the request.
pub const ENOMEM: u32 = 12;
/// The request makes no sense for this export.
pub const EINVAL: u32 = 22;
/// No space, or beyond the end.
pub const ENOSPC: u32 = 28;
/// The reply would be too large.
pub const EOVERFLOW: u32 = 75;
/// Not possible here.
pub const ENOTSUP: u32 = 95;
/// This side no longer serves the export.
pub const ESHUTDOWN: u32 = 108;

// Numbers of the system (Linux, all architectures we run on) that have no number of their own in the protocol.
const SYSTEM_EACCES: i32 = 13;
const SYSTEM_EFBIG: i32 = 27;
const SYSTEM_EROFS: i32 = 30;
const SYSTEM_ENOSYS: i32 = 38;
const SYSTEM_EDQUOT: i32 = 122;

/// The error of an export that was fenced or stopped; clients see `ESHUTDOWN`.
#[must_use]
pub fn shutdown_error() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "this side no longer serves the disk: connect to the active region",
    )
}

/// What to put on the wire for `error`.
#[must_use]
pub fn to_wire(error: &io::Error) -> u32 {
    error.raw_os_error().map_or_else(|| from_kind(error.kind()), from_system)
}

/// What clients that show texts show for `errno`. The error's own text may name files here: it goes to the log.
pub(super) fn text(errno: u32) -> &'static str {
    match errno {
        EPERM => "not permitted: the disk is read-only",
        ENOMEM => "out of memory",
        EINVAL => "the request makes no sense for this disk",
        ENOSPC => "no space left where the disk is kept",
        EOVERFLOW => "the reply would be too large",
        ENOTSUP => "not supported for this disk",
        ESHUTDOWN => "this side no longer serves the disk: connect to the active region",
        _ => "the disk failed; the server's log says why",
    }
}

fn from_system(number: i32) -> u32 {
    match number {
        SYSTEM_EACCES | SYSTEM_EROFS => EPERM,
        SYSTEM_EFBIG | SYSTEM_EDQUOT => ENOSPC,
        SYSTEM_ENOSYS => ENOTSUP,
        other => match u32::try_from(other) {
            Ok(known @ (EPERM | ENOMEM | EINVAL | ENOSPC | EOVERFLOW | ENOTSUP | ESHUTDOWN)) => known,
            _ => EIO,
        },
    }
}

fn from_kind(kind: io::ErrorKind) -> u32 {
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => EPERM,
        io::ErrorKind::InvalidInput => EINVAL,
        io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge | io::ErrorKind::QuotaExceeded => ENOSPC,
        io::ErrorKind::NotConnected => ESHUTDOWN,
        io::ErrorKind::Unsupported => ENOTSUP,
        io::ErrorKind::OutOfMemory => ENOMEM,
        _ => EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_number_clients_expect() {
        let rows: [(io::Error, u32); 13] = [
            (io::Error::from_raw_os_error(1), EPERM),
            (io::Error::from_raw_os_error(5), EIO),
            (io::Error::from_raw_os_error(28), ENOSPC),
            (io::Error::from_raw_os_error(30), EPERM),
            (io::Error::from_raw_os_error(122), ENOSPC),
            (io::Error::from_raw_os_error(9), EIO),
            (io::Error::from_raw_os_error(-1), EIO),
            (io::ErrorKind::InvalidInput.into(), EINVAL),
            (io::ErrorKind::StorageFull.into(), ENOSPC),
            (io::ErrorKind::Unsupported.into(), ENOTSUP),
            (io::ErrorKind::OutOfMemory.into(), ENOMEM),
            (io::Error::other("anything"), EIO),
            (shutdown_error(), ESHUTDOWN),
        ];
        for (error, expected) in rows {
            assert_eq!(to_wire(&error), expected, "{error:?}");
        }
    }
}
