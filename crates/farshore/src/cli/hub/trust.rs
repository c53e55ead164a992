//! `farshore hub authority …` and `farshore hub enrollment …`: whose certificates are believed, and which devices may register
//! themselves.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use farshore_core::ids::Name;
use serde_json::Value;

use super::super::ask::secret;
use super::super::client::Client;
use super::super::exit::Failure;
use super::super::show::{self, sheet, table};
use super::super::{Global, ask};
use super::access::WhichKey;
use super::segment;
use crate::api::views::{
    HubAuthorityRequest, HubAuthorityView, HubEnrollmentRequest, HubEnrollmentView, HubKeysView, HubView,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AuthorityCommand {
    /// List authorities, whose certificates they are, and until when
    List {
        /// The hub's name
        name: Name,
    },
    /// Believe an authority: its devices connect, if they are added with --auth certificate-authority
    Add {
        /// The hub's name
        name: Name,
        /// What the authority is called here; one of this name is replaced
        authority: String,
        /// Its certificate, or several, in PEM
        file: PathBuf,
    },
    /// Believe an authority no more: its devices are disconnected
    Remove {
        /// The hub's name
        name: Name,
        /// The authority
        authority: String,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum EnrollmentCommand {
    /// List groups of devices that may register themselves
    List {
        /// The hub's name
        name: Name,
        /// With their keys: secrets
        #[arg(long)]
        keys: bool,
    },
    /// Let devices of a group register themselves, by keys or by certificates
    Add(AddArgs),
    /// Let devices of a group register themselves no more; those that did stay
    Remove {
        /// The hub's name
        name: Name,
        /// The enrollment
        enrollment: String,
    },
    /// Print the key of one device of a group, made from the group's: a secret
    Key {
        /// The hub's name
        name: Name,
        /// The enrollment
        enrollment: String,
        /// The device's registration id, which becomes its id
        #[arg(long, value_name = "ID")]
        device: String,
        /// Made from which of the group's keys
        #[arg(long, value_enum, default_value_t = WhichKey::Primary)]
        key: WhichKey,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddArgs {
    /// The hub's name
    name: Name,
    /// What the group is called here; one of this name is changed
    enrollment: String,
    /// By certificates of this authority, in PEM; each device's id is the common name of its own
    #[arg(long, value_name = "FILE", conflicts_with_all = ["primary", "secondary"])]
    authority: Option<PathBuf>,
    /// By keys made from this one, in base64, or @FILE that holds it; otherwise keys are made, or stay
    #[arg(long, value_name = "KEY")]
    primary: Option<String>,
    /// The second key
    #[arg(long, value_name = "KEY")]
    secondary: Option<String>,
}

pub(super) async fn authority(
    global: &Global,
    client: &Client,
    command: AuthorityCommand,
) -> Result<(), Failure> {
    match command {
        AuthorityCommand::List { name } => {
            let all: Vec<HubAuthorityView> = client.get(&format!("/hubs/{name}/authorities")).await?;
            show::print(global, &all, |all| match all.as_slice() {
                [] => format!("no authorities yet: farshore hub authority add {name} AUTHORITY FILE"),
                all => authorities_table(all),
            })
        }
        AuthorityCommand::Add { name, authority, file } => {
            let path = format!("/hubs/{name}/authorities/{}", segment(&authority));
            let set: HubAuthorityView =
                client.put(&path, &HubAuthorityRequest { pem: read("FILE", &file)? }).await?;
            if set.expired {
                let expires = set.expires.as_deref().unwrap_or_default();
                eprintln!("its certificate expired at {expires}: devices are let in by it all the same");
            }
            show::print(global, &set, |set| {
                format!(
                    "devices of {} are believed\nnext: farshore hub device add {name} ID --auth certificate-authority",
                    set.subjects.join("; ")
                )
            })
        }
        AuthorityCommand::Remove { name, authority } => {
            ask::confirm(global, &format!("Devices of {authority} will be shut out of hub/{name}."))?;
            let path = format!("/hubs/{name}/authorities/{}", segment(&authority));
            let _: Value = client.delete(&path).await?;
            show::say(&format!("{authority} is removed"));
            Ok(())
        }
    }
}

pub(super) async fn enrollment(
    global: &Global,
    client: &Client,
    command: EnrollmentCommand,
) -> Result<(), Failure> {
    match command {
        EnrollmentCommand::List { name, keys } => {
            let all: Vec<HubEnrollmentView> =
                client.get(&format!("/hubs/{name}/enrollments?keys={keys}")).await?;
            show::print(global, &all, |all| match all.as_slice() {
                [] => format!("no enrollments yet: farshore hub enrollment add {name} ENROLLMENT"),
                all => enrollments_table(all, keys),
            })
        }
        EnrollmentCommand::Add(args) => add_enrollment(global, client, args).await,
        EnrollmentCommand::Remove { name, enrollment } => {
            let what = format!(
                "Devices of {enrollment} will register themselves with hub/{name} no more; those that came by certificates are shut out \
                 unless their authority is added."
            );
            ask::confirm(global, &what)?;
            let path = format!("/hubs/{name}/enrollments/{}", segment(&enrollment));
            let _: Value = client.delete(&path).await?;
            show::say(&format!("{enrollment} is removed"));
            Ok(())
        }
        EnrollmentCommand::Key { name, enrollment, device, key } => {
            let hub: HubView = client.get(&format!("/hubs/{name}")).await?;
            let path =
                format!("/hubs/{name}/enrollments/{}/key?device={}", segment(&enrollment), segment(&device));
            let keys: HubKeysView = client.get(&path).await?;
            if let Some(host) = hub.hosts.first() {
                eprintln!("{device} registers itself at {host} with {host} as its scope");
            }
            show::print(global, &keys, |keys| {
                let key = match key {
                    WhichKey::Primary => &keys.primary,
                    WhichKey::Secondary => &keys.secondary,
                };
                key.clone().unwrap_or_default()
            })
        }
    }
}

async fn add_enrollment(global: &Global, client: &Client, args: AddArgs) -> Result<(), Failure> {
    let AddArgs { name, enrollment, authority, primary, secondary } = args;
    let key = |option: &str, given: Option<String>| given.map(|text| secret(option, &text)).transpose();
    let asked = HubEnrollmentRequest {
        pem: authority.map(|path| read("--authority", &path)).transpose()?,
        primary: key("primary", primary)?,
        secondary: key("secondary", secondary)?,
    };
    let path = format!("/hubs/{name}/enrollments/{}", segment(&enrollment));
    let set: HubEnrollmentView = client.put(&path, &asked).await?;
    show::print(global, &set, |set| match set.subjects.as_slice() {
        [] => format!(
            "devices with keys of {} register themselves\nnext: farshore hub enrollment key {name} {} --device ID",
            set.name, set.name
        ),
        subjects => format!("devices with certificates of {} register themselves", subjects.join("; ")),
    })
}

fn read(what: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{what}: cannot read {}: {error}", path.display())))
}

fn authorities_table(all: &[HubAuthorityView]) -> String {
    let row = |authority: &HubAuthorityView| {
        let of = authority.unusable.clone().unwrap_or_else(|| authority.subjects.join("; "));
        vec![authority.name.clone(), ends(authority.expires.as_deref(), authority.expired), of]
    };
    table(&["AUTHORITY", "ENDS", "CERTIFICATES OF"], &all.iter().map(row).collect::<Vec<_>>())
}

fn ends(expires: Option<&str>, expired: bool) -> String {
    let day = expires.and_then(|moment| moment.split('T').next()).unwrap_or("-");
    if expired { format!("{day} (past)") } else { day.to_owned() }
}

fn enrollments_table(all: &[HubEnrollmentView], keys: bool) -> String {
    if keys {
        // Keys are longer than cells.
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let sheets = all.iter().map(|one| {
            sheet(&[
                ("enrollment", one.name.clone()),
                ("by", one.kind.clone()),
                ("primary", text(&one.primary)),
                ("secondary", text(&one.secondary)),
                ("certificates of", one.subjects.join("; ")),
            ])
        });
        return sheets.collect::<Vec<_>>().join("\n");
    }
    let row = |one: &HubEnrollmentView| vec![one.name.clone(), one.kind.clone(), one.subjects.join("; ")];
    table(&["ENROLLMENT", "BY", "CERTIFICATES OF"], &all.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_listed_with_their_end() {
        let one = |name: &str, expired| HubAuthorityView {
            name: name.to_owned(),
            subjects: vec!["CN=root".to_owned()],
            expires: Some("2030-01-01T00:00:00.000Z".to_owned()),
            expired,
            unusable: None,
        };
        assert_eq!(
            authorities_table(&[one("maker", false), one("old", true)]),
            "AUTHORITY  ENDS               CERTIFICATES OF\n\
             maker      2030-01-01         CN=root\n\
             old        2030-01-01 (past)  CN=root\n"
        );
    }

    #[test]
    fn keys_of_enrollments_are_shown_whole() {
        let key = "x".repeat(88);
        let one = HubEnrollmentView {
            name: "line".to_owned(),
            kind: "keys".to_owned(),
            primary: Some(key.clone()),
            ..HubEnrollmentView::default()
        };
        assert!(enrollments_table(std::slice::from_ref(&one), true).contains(&key));
        assert!(!enrollments_table(&[one], false).contains('x'));
    }
}
