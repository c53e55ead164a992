//! `farshore app deploy`, `releases`, `rollback`, `export`.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use farshore_core::ids::Name;
use serde::Serialize;

use super::super::Global;
use super::super::client::Client;
use super::super::exit::Failure;
use super::super::show::{self, ago, bytes, table};
use super::{archive, operation, page};
use crate::api::views::{
    AppDeployRequest, AppExportView, AppReleaseView, AppRollbackRequest, AppSettingsView, AppUploadRequest,
    AppUploadView, AppView,
};

/// What is sent at once.
const PIECE_LEN: usize = 768 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct DeployArgs {
    /// The app's name
    name: Name,
    /// The directory with its scripts; .git is left out
    dir: PathBuf,
    /// What it is, for people
    #[arg(long, short, default_value = "", value_name = "TEXT", hide_default_value = true)]
    message: String,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["scripts", "settings"]))]
pub(in crate::cli) struct ExportArgs {
    /// The app's name
    name: Name,
    /// Write the scripts to this file, as an archive (tar)
    #[arg(long, value_name = "FILE")]
    scripts: Option<PathBuf>,
    /// Write the settings with their values to this file, as JSON: secrets
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

pub(super) async fn deploy(global: &Global, client: &Client, args: &DeployArgs) -> Result<(), Failure> {
    let name = &args.name;
    // Known before anything is packed: a misspelt name is told at once.
    let _: AppView = client.get(&format!("/apps/{name}")).await?;
    let archive = archive::pack(&args.dir)?;
    eprintln!("sending {} files, {}", archive.files, bytes(archive.len));
    let upload = upload(client, name, archive).await?;
    let message = match args.message.as_str() {
        "" => format!("deployed from {}", args.dir.display()),
        message => message.to_owned(),
    };
    operation::carry_out(client, name, "deploy", &AppDeployRequest { upload, message }).await?;
    live(global, client, name).await
}

/// Sends the archive in pieces, and gives the name under which the region has it.
async fn upload(client: &Client, name: &Name, archive: archive::Archive) -> Result<String, Failure> {
    let id = ulid::Ulid::generate().to_string().to_ascii_lowercase();
    let mut file = archive.file;
    let (mut piece, mut offset) = (vec![0; PIECE_LEN], 0);
    while offset < archive.len {
        let left = usize::try_from(archive.len - offset).unwrap_or(PIECE_LEN).min(PIECE_LEN);
        let piece = &mut piece[..left];
        file.read_exact(piece)
            .map_err(|error| Failure::failed(format!("cannot read the archive: {error}")))?;
        let asked = AppUploadRequest { offset, data: STANDARD.encode(&piece) };
        let view: AppUploadView = client.put(&format!("/apps/{name}/uploads/{id}"), &asked).await?;
        offset += left as u64;
        if view.received != offset {
            return Err(Failure::failed(format!(
                "the region has {} bytes of the archive where it should have {offset}: nothing was deployed, try again",
                view.received
            )));
        }
    }
    Ok(id)
}

/// Says what is live now.
async fn live(global: &Global, client: &Client, name: &Name) -> Result<(), Failure> {
    let app: AppView = client.get(&format!("/apps/{name}")).await?;
    show::print(global, &app, |app| match &app.release {
        Some(release) => {
            let url = app.urls.first().map(|url| format!("\n{url}")).unwrap_or_default();
            format!("app/{name}: release {} is live ({}){url}", release.number, page::commit(&release.commit))
        }
        None => format!("app/{name} has no release that is live: see farshore app releases {name}"),
    })
}

pub(super) async fn releases(global: &Global, client: &Client, name: &Name) -> Result<(), Failure> {
    let releases: Vec<AppReleaseView> = client.get(&format!("/apps/{name}/releases")).await?;
    show::print(global, &releases, |releases| match releases.as_slice() {
        [] => format!(
            "no releases yet: farshore app deploy {name} DIR, or push to the git URL of farshore app show {name}"
        ),
        releases => {
            let row = |release: &AppReleaseView| {
                let said = release.why.as_ref().unwrap_or(&release.message);
                vec![
                    release.number.to_string(),
                    release.state.clone(),
                    page::commit(&release.commit),
                    release.at.as_deref().map_or("-".to_owned(), ago),
                    release.by.clone(),
                    show::printable(said.lines().next().unwrap_or_default()),
                ]
            };
            table(
                &["RELEASE", "STATE", "COMMIT", "MADE", "BY", "WHAT"],
                &releases.iter().map(row).collect::<Vec<_>>(),
            )
        }
    })
}

pub(super) async fn rollback(
    global: &Global,
    client: &Client,
    name: &Name,
    to: Option<u64>,
) -> Result<(), Failure> {
    operation::carry_out(client, name, "rollback", &AppRollbackRequest { to }).await?;
    live(global, client, name).await
}

/// What an export did, for programs.
#[derive(Debug, Serialize)]
struct Exported {
    scripts: Option<String>,
    scripts_bytes: Option<u64>,
    settings: Option<String>,
    settings_count: Option<usize>,
}

pub(super) async fn export(global: &Global, client: &Client, args: &ExportArgs) -> Result<(), Failure> {
    let name = &args.name;
    let mut done = Exported { scripts: None, scripts_bytes: None, settings: None, settings_count: None };
    if let Some(path) = &args.scripts {
        done.scripts_bytes = Some(export_scripts(client, name, path).await?);
        done.scripts = Some(path.display().to_string());
    }
    if let Some(path) = &args.settings {
        let view: AppSettingsView = client.get(&format!("/apps/{name}/settings?values=true")).await?;
        let text =
            serde_json::to_vec_pretty(&view.settings).map_err(|error| Failure::failed(error.to_string()))?;
        write(path, |file| file.write_all(&text).and_then(|()| file.write_all(b"\n")))?;
        done.settings = Some(path.display().to_string());
        done.settings_count = Some(view.settings.len());
    }
    show::print(global, &done, |done| {
        let scripts = done.scripts.as_ref().zip(done.scripts_bytes);
        let settings = done.settings.as_ref().zip(done.settings_count);
        let lines = [
            scripts.map(|(path, len)| format!("scripts are in {path} ({})", bytes(len))),
            settings.map(|(path, count)| format!("{count} settings are in {path}, which only you can read")),
        ];
        lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
    })
}

async fn export_scripts(client: &Client, name: &Name, path: &Path) -> Result<u64, Failure> {
    let at = format!("/apps/{name}/scripts");
    let mut piece: AppExportView = client.get(&at).await?;
    let (commit, len) = (piece.commit.clone(), piece.len);
    let mut archive = Vec::new();
    loop {
        let data = STANDARD.decode(&piece.data).map_err(|_| {
            Failure::failed("the region sent what is no archive: are all nodes of one version?".to_owned())
        })?;
        archive.extend(&data);
        let Some(next) = piece.next else { break };
        // Whoever answers: pieces that do not follow each other are never made into one archive.
        let follows = !data.is_empty() && next == archive.len() as u64;
        if !follows || (&piece.commit, piece.len) != (&commit, len) {
            return Err(Failure::failed(format!(
                "the region sent pieces that make no archive: nothing was written to {}, export again",
                path.display()
            )));
        }
        piece = client.get(&format!("{at}?commit={commit}&offset={next}")).await?;
    }
    let has = archive.len() as u64;
    if has != len || piece.commit != commit {
        return Err(Failure::failed(format!(
            "the region sent {has} of the {len} bytes of the archive: nothing was written to {}, export again",
            path.display()
        )));
    }
    write(path, |file| file.write_all(&archive))?;
    Ok(has)
}

/// A file that only its owner can read; under another name until all is in it.
fn write(path: &Path, fill: impl FnOnce(&mut std::fs::File) -> io::Result<()>) -> Result<(), Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| fill(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        Failure::failed(format!("cannot write {}: {error}", path.display()))
    })
}
