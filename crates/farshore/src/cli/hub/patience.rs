//! What goes on while a failover is under way: asking again, and saying so once.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::exit::{FAILED, Failure, REFUSED};
use super::super::show::seconds;

/// Between two attempts: the other region is asked soon after it took over, and nobody is stormed.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A region that has been told to stop refuses for so long before the other one serves. Longer, it is refused for another reason.
const REFUSED_MAX: Duration = Duration::from_secs(60);

/// For how long to ask again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// For ever: somebody looks on.
    Stopped,
    /// For so long: a script waits.
    Over(Duration),
}

/// Bears that nobody answers, once somebody did.
#[derive(Debug)]
pub(super) struct Patience {
    until: Until,
    answered: bool,
    silent: Option<Instant>,
}

impl Patience {
    pub(super) fn new(until: Until) -> Self {
        Self { until, answered: false, silent: None }
    }

    /// It answers.
    pub(super) fn answered(&mut self) {
        self.answered = true;
        if let Some(since) = self.silent.take() {
            eprintln!("it answers again, after {}", seconds(since.elapsed().as_secs_f64()));
        }
    }

    /// Returns when it is time to ask again.
    ///
    /// # Errors
    /// What was given, when asking again cannot help.
    pub(super) async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        let since = *self.silent.get_or_insert_with(Instant::now);
        let is_over = match (failure.code, self.until) {
            (FAILED, Until::Stopped) => false,
            (FAILED, Until::Over(most)) => since.elapsed() >= most,
            (REFUSED, _) => since.elapsed() >= REFUSED_MAX,
            _ => true,
        };
        if is_over || !self.answered {
            return Err(failure);
        }
        if since.elapsed() < AGAIN_AFTER {
            eprintln!("{}; going on as soon as it answers", failure.text);
        }
        sleep(AGAIN_AFTER).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u8) -> Failure {
        Failure { code, text: "no".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_answered_is_not_waited_for() {
        let mut patience = Patience::new(Until::Stopped);
        assert!(patience.wait(failure(FAILED)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_borne_and_a_wrong_question_is_not() {
        let mut patience = Patience::new(Until::Stopped);
        patience.answered();
        for _ in 0..1000 {
            assert!(patience.wait(failure(FAILED)).await.is_ok());
        }
        patience.answered();
        assert!(patience.wait(failure(super::super::super::exit::USAGE)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_and_a_script_have_an_end() {
        for (until, code, most) in [
            (Until::Stopped, REFUSED, REFUSED_MAX),
            (Until::Over(Duration::from_secs(9)), FAILED, Duration::from_secs(9)),
        ] {
            let mut patience = Patience::new(until);
            patience.answered();
            let began = Instant::now();
            while patience.wait(failure(code)).await.is_ok() {}
            assert_eq!(began.elapsed(), most);
        }
    }
}
