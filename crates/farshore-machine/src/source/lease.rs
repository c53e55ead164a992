//! The right to serve, as the data path asks for it.

use std::io;
use std::sync::Arc;

use farshore_core::lease::Lease;
use farshore_core::workload::BootTime;

use super::shared::shut_down;

/// Now, on `CLOCK_BOOTTIME`: goes on while the host is suspended.
#[must_use]
pub fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    BootTime(
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default()),
    )
}

/// The right of a machine that holds, until an order says otherwise.
#[must_use]
pub fn holding() -> Arc<Lease> {
    Arc::new(Lease::new(Arc::new(boot_time)))
}

/// An error when nothing may be accepted or acknowledged now.
pub(super) fn check(lease: &Lease) -> io::Result<()> {
    if lease.is_valid() { Ok(()) } else { Err(shut_down()) }
}
