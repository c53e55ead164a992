//! Incidents: list, show, open, update, close.

use clap::{Args, Subcommand};

use super::client::Client;
use super::exit::Failure;
use super::show::{ago, health, sheet, table, time};
use super::{Global, show};
use crate::api::views::{IncidentMessage, IncidentRequest, IncidentView, SeverityWord};

#[derive(Debug, Subcommand)]
pub(super) enum IncidentCommand {
    /// List incidents, oldest first
    List {
        /// Closed ones too
        #[arg(long)]
        all: bool,
    },
    /// Show one incident and its history
    Show {
        /// Its id
        id: String,
    },
    /// Open an incident by hand; only a person closes it
    Open(OpenArgs),
    /// Add a message to an open incident
    Update(SayArgs),
    /// Close an incident; what is still wrong opens a new one
    Close(SayArgs),
}

#[derive(Debug, Args)]
pub(super) struct OpenArgs {
    /// What is wrong
    text: String,
    /// What it is about: KIND/NAME, region/NAME or service
    #[arg(long, default_value = "service", value_name = "SUBJECT")]
    about: String,
    /// How bad it is
    #[arg(long, value_enum, default_value_t, value_name = "SEVERITY")]
    severity: SeverityWord,
}

#[derive(Debug, Args)]
pub(super) struct SayArgs {
    /// Its id
    id: String,
    /// What is new, or how it ended
    text: String,
}

pub(super) async fn run(global: &Global, command: IncidentCommand) -> Result<(), Failure> {
    let client = Client::find(global)?;
    let incident: IncidentView = match command {
        IncidentCommand::List { all } => {
            let state = if all { "all" } else { "open" };
            let incidents: Vec<IncidentView> = client.get(&format!("/incidents?state={state}")).await?;
            return show::print(global, &incidents, |incidents| match incidents.is_empty() {
                true => "no incidents".to_owned(),
                false => incidents_table(incidents),
            });
        }
        IncidentCommand::Show { id } => client.get(&format!("/incidents/{id}")).await?,
        IncidentCommand::Open(OpenArgs { text, about, severity }) => {
            let request = IncidentRequest { subject: Some(about), severity, text };
            client.post("/incidents", &request).await?
        }
        IncidentCommand::Update(SayArgs { id, text }) => {
            client.post(&format!("/incidents/{id}/update"), &IncidentMessage { text }).await?
        }
        IncidentCommand::Close(SayArgs { id, text }) => {
            client.post(&format!("/incidents/{id}/close"), &IncidentMessage { text }).await?
        }
    };
    show::print(global, &incident, incident_page)
}

pub(super) fn incidents_table(incidents: &[IncidentView]) -> String {
    let rows: Vec<Vec<String>> = incidents
        .iter()
        .map(|incident| {
            let state = match &incident.closed_at {
                Some(_) => "closed".to_owned(),
                None => health(incident.severity),
            };
            vec![
                incident.id.clone(),
                state,
                incident.subject.clone(),
                ago(&incident.opened_at),
                incident.text.clone(),
            ]
        })
        .collect();
    table(&["INCIDENT", "STATE", "ABOUT", "BEGAN", "WHAT"], &rows)
}

fn incident_page(incident: &IncidentView) -> String {
    let mut page = sheet(&[
        ("incident", incident.id.clone()),
        ("about", incident.subject.clone()),
        ("cause", incident.cause.clone()),
        ("severity", health(incident.severity)),
        ("what", incident.text.clone()),
        ("advice", incident.advice.clone().unwrap_or_default()),
        ("began", time(&incident.opened_at)),
        ("ended", incident.closed_at.as_deref().map(time).unwrap_or_default()),
    ]);
    let rows: Vec<Vec<String>> = incident
        .history
        .iter()
        .map(|change| vec![time(&change.at), change.who.clone(), change.what.clone()])
        .collect();
    page.push_str(&format!("\n{}", table(&["TIME", "WHO", "WHAT"], &rows)));
    page
}
