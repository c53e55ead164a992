//! `farshore app key …`, `setting …`, `certificate …`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use farshore_core::ids::Name;
use serde_json::Value;

use super::super::client::Client;
use super::super::exit::Failure;
use super::super::show::{self, sheet};
use super::super::{Global, ask};
use crate::api::views::{
    AppCertificateRequest, AppKeyWord, AppKeysRequest, AppKeysView, AppRegenerateRequest, AppSettingsRequest,
    AppSettingsView,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Show all keys: secrets
    Show {
        /// The app's name
        name: Name,
    },
    /// Make a key anew: the old one opens nothing any more
    Regenerate {
        /// The app's name
        name: Name,
        /// Which key
        #[arg(value_enum)]
        key: KeyWord,
    },
    /// Give the app keys that it had elsewhere: its clients and users notice nothing
    Set {
        /// The app's name
        name: Name,
        /// The application key, or @FILE that holds it
        #[arg(long, value_name = "KEY", required_unless_present = "master")]
        application: Option<String>,
        /// The master key, or @FILE that holds it
        #[arg(long, value_name = "KEY")]
        master: Option<String>,
    },
}

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum KeyWord {
    /// That of clients
    Application,
    /// That of administrators; tokens of users are signed with what is derived from it
    Master,
    /// That with which scripts are pushed
    Deployment,
}

impl From<KeyWord> for AppKeyWord {
    fn from(word: KeyWord) -> Self {
        match word {
            KeyWord::Application => Self::Application,
            KeyWord::Master => Self::Master,
            KeyWord::Deployment => Self::Deployment,
        }
    }
}

impl KeyWord {
    /// Who notices when it changes.
    fn consequence(self) -> &'static str {
        match self {
            Self::Application => "Clients with the present application key are shut out",
            Self::Master => "All users are logged out, and whoever uses the present master key is shut out",
            Self::Deployment => "Git remotes with the present deployment password can push no more",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SettingCommand {
    /// List settings by name
    List {
        /// The app's name
        name: Name,
        /// With their values, as NAME=VALUE: they may be secrets
        #[arg(long)]
        values: bool,
    },
    /// Set settings; the others stay, and the app's processes are started again
    Set {
        /// The app's name
        name: Name,
        /// NAME=VALUE, or NAME=@FILE that holds the value
        #[arg(required = true, value_name = "NAME=VALUE")]
        settings: Vec<String>,
    },
    /// Delete settings; the app's processes are started again
    Delete {
        /// The app's name
        name: Name,
        /// Names of settings
        #[arg(required = true, value_name = "NAME")]
        settings: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CertificateCommand {
    /// Show clients this certificate at a host name of the app, in both regions
    Set {
        /// The app's name
        name: Name,
        /// The host name
        host: String,
        /// The certificate, and its chain after it (PEM)
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// Its key (PEM)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Show clients the gateway's own certificate at a host name again
    Remove {
        /// The app's name
        name: Name,
        /// The host name
        host: String,
    },
}

pub(super) async fn key(global: &Global, client: &Client, command: KeyCommand) -> Result<(), Failure> {
    let keys: AppKeysView = match command {
        KeyCommand::Show { name } => client.get(&format!("/apps/{name}/keys")).await?,
        KeyCommand::Regenerate { name, key } => {
            ask::confirm(global, &format!("{} of app/{name}.", key.consequence()))?;
            let asked = AppRegenerateRequest { which: key.into() };
            client.post(&format!("/apps/{name}/keys/regenerate"), &asked).await?
        }
        KeyCommand::Set { name, application, master } => {
            let read =
                |option: &str, text: Option<String>| text.map(|text| ask::secret(option, &text)).transpose();
            let asked = AppKeysRequest {
                application: read("application", application)?,
                master: read("master", master)?,
            };
            ask::confirm(global, &format!("Whoever uses the present key of app/{name} is shut out."))?;
            client.put(&format!("/apps/{name}/keys"), &asked).await?
        }
    };
    show::print(global, &keys, |keys| {
        sheet(&[
            ("application", keys.application.clone()),
            ("master", keys.master.clone()),
            ("deployment", keys.deployment.clone()),
            ("git", keys.git_url.clone()),
        ])
    })
}

pub(super) async fn setting(
    global: &Global,
    client: &Client,
    command: SettingCommand,
) -> Result<(), Failure> {
    match command {
        SettingCommand::List { name, values } => {
            let view: AppSettingsView = client.get(&format!("/apps/{name}/settings?values={values}")).await?;
            show::print(global, &view, |view| settings_text(&name, view))
        }
        SettingCommand::Set { name, settings } => {
            let mut set = BTreeMap::new();
            for text in &settings {
                let (setting, value) = text.split_once('=').ok_or_else(|| {
                    Failure::usage(format!("{text:?} is no setting: write NAME=VALUE, or NAME=@FILE"))
                })?;
                set.insert(setting.to_owned(), ask::secret(setting, value)?);
            }
            change(global, client, &name, AppSettingsRequest { set, delete: Vec::new() }).await
        }
        SettingCommand::Delete { name, settings } => {
            let asked = AppSettingsRequest { set: BTreeMap::new(), delete: settings };
            change(global, client, &name, asked).await
        }
    }
}

async fn change(
    global: &Global,
    client: &Client,
    name: &Name,
    asked: AppSettingsRequest,
) -> Result<(), Failure> {
    let view: AppSettingsView = client.patch(&format!("/apps/{name}/settings"), &asked).await?;
    show::print(global, &view, |view| settings_text(name, view))
}

fn settings_text(name: &Name, view: &AppSettingsView) -> String {
    if view.settings.is_empty() {
        return format!("no settings: farshore app setting set {name} NAME=VALUE");
    }
    let line = |(name, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    };
    view.settings.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) async fn certificate(
    global: &Global,
    client: &Client,
    command: CertificateCommand,
) -> Result<(), Failure> {
    match command {
        CertificateCommand::Set { name, host, chain, key } => {
            let asked = AppCertificateRequest { chain: read("chain", &chain)?, key: read("key", &key)? };
            let _: Value = client.put(&format!("/apps/{name}/certificates/{host}"), &asked).await?;
            show::say(&format!("clients of {host} are shown the certificate in {}", chain.display()));
        }
        CertificateCommand::Remove { name, host } => {
            ask::confirm(global, &format!("Clients of {host} will be shown the gateway's own certificate."))?;
            let _: Value = client.delete(&format!("/apps/{name}/certificates/{host}")).await?;
            show::say(&format!("clients of {host} are shown the gateway's own certificate"));
        }
    }
    Ok(())
}

fn read(option: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("--{option}: cannot read {}: {error}", path.display())))
}
