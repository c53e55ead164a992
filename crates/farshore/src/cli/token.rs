//! `farshore token …` and `farshore whoami`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use farshore_core::access::Role;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::client::Client;
use super::exit::Failure;
use super::show::{self, sheet, table, time};
use super::{Global, Output};
use crate::api::views::{NewTokenView, RoleWord, TokenRequest, TokenView, WhoamiView};
use crate::trust::pem_text;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print its secret, this once
    Create(CreateArgs),
    /// List tokens, without their secrets
    List,
    /// Take a token back
    Revoke {
        /// The token's id, as list shows it
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What its holder is called, in jobs and in the audit
    name: String,
    /// What its holder may do: reader, operator, contributor or admin
    #[arg(long, value_parser = Role::parse)]
    role: Role,
    /// For how long, like 12h or 30d; 366d at most
    #[arg(long, default_value = "90d", value_name = "TIME", value_parser = duration)]
    expires: Duration,
    /// A client's certificate that farshore trust issue made: showing it is as good as sending the token
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, command: TokenCommand) -> Result<(), Failure> {
    let client = Client::find(global)?;
    match command {
        TokenCommand::Create(args) => create(global, &client, args).await,
        TokenCommand::List => {
            let tokens: Vec<TokenView> = client.get("/tokens").await?;
            show::print(global, &tokens, |tokens| tokens_table(tokens))
        }
        TokenCommand::Revoke { id } => {
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                let text = format!("{id:?} is not a token's id: farshore token list shows them");
                return Err(Failure::usage(text));
            }
            let token: TokenView = client.delete(&format!("/tokens/{id}")).await?;
            show::print(global, &token, |token| {
                format!("token {} ({}) is revoked; every node refuses it within 4 s", token.name, token.id)
            })
        }
    }
}

/// The secret alone on stdout, so that it can go into a file; what it is good for on stderr.
async fn create(global: &Global, client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let asked = TokenRequest {
        name: args.name,
        role: args.role.into(),
        expires_in_seconds: Some(args.expires.as_secs()),
        certificate: args.certificate.as_deref().map(certificate).transpose()?,
    };
    let made: NewTokenView = client.post("/tokens", &asked).await?;
    if global.output == Output::Table {
        eprintln!(
            "token {} ({}, {}, until {}): this is shown once; keep it in a file that only its holder can read",
            made.token.name,
            made.token.id,
            word(made.token.role),
            time(&made.token.expires_at)
        );
    }
    show::print(global, &made, |made| made.secret.clone())
}

/// The first certificate of the file, and nothing else of it: what lies beside it may be a key.
fn certificate(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    match CertificateDer::from_pem_slice(text.as_bytes()) {
        Ok(der) => Ok(pem_text("CERTIFICATE", &der)),
        Err(_) => Err(Failure::usage(format!(
            "{} holds no certificate: give the file client-cert.pem that farshore trust issue writes",
            path.display()
        ))),
    }
}

pub(super) async fn whoami(global: &Global) -> Result<(), Failure> {
    let who: WhoamiView = Client::find(global)?.get("/whoami").await?;
    show::print(global, &who, |who| {
        sheet(&[
            ("name", who.name.clone()),
            ("role", word(who.role).to_owned()),
            ("token", who.token.clone().unwrap_or_else(|| "the node's token file".to_owned())),
            ("until", who.expires_at.as_deref().map(time).unwrap_or_default()),
        ])
    })
}

fn tokens_table(tokens: &[TokenView]) -> String {
    if tokens.is_empty() {
        return "no tokens but the one of the node's token file".to_owned();
    }
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|token| {
            vec![
                token.id.clone(),
                token.name.clone(),
                word(token.role).to_owned(),
                token.state.clone(),
                time(&token.expires_at),
                token.created_by.clone(),
            ]
        })
        .collect();
    table(&["TOKEN", "NAME", "ROLE", "STATE", "UNTIL", "MADE BY"], &rows)
}

fn word(role: RoleWord) -> &'static str {
    Role::from(role).as_str()
}

/// `90d`, `12h`, `30m`, `45s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: write it like 90d, 12h, 30m or 45s");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        let check =
            |text, seconds: u64| assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        check("45s", 45);
        check("30m", 1800);
        check("12h", 43_200);
        check("90d", 7_776_000);
        for wrong in ["", "d", "90", "9x", "-1d", "1.5h", "5é", "99999999999999999999d", "300000000000000d"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
