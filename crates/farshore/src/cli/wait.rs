//! Follows a job to its end, with a bar on a terminal and with lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::client::Client;
use super::exit::{FAILED, Failure};
use super::show::bytes;
use crate::api::views::JobView;

/// A control plane that is started again is back within this.
const AWAY_MAX: u32 = 60;
/// Between two attempts to reach it.
const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// Longest line of a stream: a job with all its notes fits many times.
const LINE_LEN_MAX: usize = 4 << 20;
/// Parts of the bar.
const BAR_TICKS: u64 = 1000;

/// Waits until the job has ended or is stuck, and gives its last view. Being cut off does not touch the job.
pub(super) async fn follow(client: &Client, first: JobView) -> Result<JobView, Failure> {
    let mut teller = Teller::new();
    let mut view = first;
    let mut away = 0;
    loop {
        teller.tell(&view);
        if view.ended || view.state == "stuck" {
            teller.end();
            return Ok(view);
        }
        match read_stream(client, &mut view, &mut teller).await {
            Ok(()) => away = 0,
            Err(_) if away < AWAY_MAX => {
                away += 1;
                tokio::time::sleep(AWAY_PAUSE).await;
            }
            Err(failure) => {
                teller.end();
                return Err(Failure {
                    text: format!("{}; the job goes on: farshore job watch {}", failure.text, view.id),
                    ..failure
                });
            }
        }
    }
}

/// Reads views until the stream ends, the job ends, or it is stuck.
async fn read_stream(client: &Client, view: &mut JobView, teller: &mut Teller) -> Result<(), Failure> {
    let mut response = client.stream(&format!("/jobs/{}/events", view.id)).await?;
    let mut pending = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| Failure::failed(error.to_string()))?;
        let Some(chunk) = chunk else { return Ok(()) };
        pending.extend_from_slice(&chunk);
        if pending.len() > LINE_LEN_MAX {
            return Err(Failure::failed("the job's stream is not one of a control plane"));
        }
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            if let Ok(next) = serde_json::from_slice::<JobView>(data) {
                *view = next;
                teller.tell(view);
            }
        }
        if view.ended || view.state == "stuck" {
            return Ok(());
        }
    }
}

/// `Err` for a job that did not succeed, with what can be done.
pub(super) fn verdict(job: &JobView) -> Result<(), Failure> {
    let why = job.why.as_deref().unwrap_or("no reason is known");
    let residue = match job.residue.as_slice() {
        [] => String::new(),
        left => format!("; could not be taken back: {}", left.join("; ")),
    };
    let head = format!("{} of {}", job.verb, job.item);
    let clean = if job.residue.is_empty() { "everything was taken back" } else { "most was taken back" };
    let text = match job.state.as_str() {
        "succeeded" => return Ok(()),
        "stuck" => format!(
            "{head} is stuck: {why}\nmend it, then: farshore job retry {id} (or job skip, or job abandon)",
            id = job.id
        ),
        "cancelled" => format!("{head} was cancelled; {clean}{residue}"),
        "failed" => format!("{head} failed, {clean}: {why}{residue}"),
        _ => format!("{head} was {}: {why}{residue}", job.state),
    };
    Err(Failure { code: FAILED, text })
}

/// Says on stderr how a job goes.
struct Teller {
    bar: Option<ProgressBar>,
    told: Option<(String, Option<String>)>,
}

impl Teller {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(BAR_TICKS);
            // The template is constant; the default bar would do too.
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {percent:>3}% {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, told: None }
    }

    fn tell(&mut self, job: &JobView) {
        let step = job.step.clone().unwrap_or_default();
        if let Some(bar) = &self.bar {
            let copied = job.bytes.map(|done| format!(" {} of {}", bytes(done.done), bytes(done.total)));
            bar.set_prefix(format!("{} {}", job.verb, job.item));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share between 0 and 1 of a thousand"
            )]
            bar.set_position((job.progress.clamp(0.0, 1.0) * BAR_TICKS as f64) as u64);
            let state = if job.state == "running" { String::new() } else { format!("{}: ", job.state) };
            bar.set_message(format!("{state}{step}{}", copied.unwrap_or_default()));
            return;
        }
        let now = (job.state.clone(), job.step.clone());
        if self.told.as_ref() != Some(&now) {
            if !job.ended {
                eprintln!("{} {}: {} {step}", job.verb, job.item, job.state);
            }
            self.told = Some(now);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
