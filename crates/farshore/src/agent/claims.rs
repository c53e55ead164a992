//! Which executor has the say over a job: an order of one that was replaced comes too late.

use std::collections::{HashMap, VecDeque};

use farshore_core::ids::JobId;
use farshore_core::workload::ExecutorClaim;

/// Jobs remembered: far more than can be under way; an order that is delayed for longer than so many jobs is stopped by its
/// token or its key.
const JOBS_MAX: usize = 4096;

/// The highest claim seen on each job.
#[derive(Debug, Default)]
pub(super) struct Claims {
    highest: HashMap<JobId, u64>,
    order: VecDeque<JobId>,
}

impl Claims {
    /// Notes the claim. `Err` with the highest seen when it was replaced.
    pub(super) fn admit(&mut self, claim: &ExecutorClaim) -> Result<(), u64> {
        if let Some(highest) = self.highest.get_mut(&claim.job) {
            if claim.epoch < *highest {
                return Err(*highest);
            }
            *highest = claim.epoch;
            return Ok(());
        }
        self.highest.insert(claim.job.clone(), claim.epoch);
        self.order.push_back(claim.job.clone());
        if self.order.len() > JOBS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.highest.remove(&oldest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_that_was_replaced_has_no_say() {
        let mut claims = Claims::default();
        let claim = |job: &str, epoch| ExecutorClaim { job: JobId(job.to_owned()), epoch };
        assert_eq!(claims.admit(&claim("a", 1)), Ok(()));
        assert_eq!(claims.admit(&claim("a", 3)), Ok(()));
        assert_eq!(claims.admit(&claim("a", 2)), Err(3));
        assert_eq!(claims.admit(&claim("b", 1)), Ok(()));
        for n in 0..JOBS_MAX {
            assert_eq!(claims.admit(&claim(&format!("x{n}"), 1)), Ok(()));
        }
        assert!(claims.highest.len() <= JOBS_MAX && claims.order.len() <= JOBS_MAX);
    }
}
