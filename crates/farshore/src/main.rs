//! Farshore: disaster recovery for people who run their own regions. All of it is in the library.
use std::path::PathBuf;
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    let ok = match args.get(1).map(String::as_str) {
        Some("node") => farshore::node::run(&PathBuf::from(&args[3]), farshore::node::Until::StdinCloses)
            .await
            .map_err(|e| eprintln!("{e}"))
            .is_ok(),
        Some("demo") => farshore::demo::play(&farshore::demo::Play {
            data: PathBuf::from(&args[2]),
            keep: false,
            json: args.get(3).is_some(),
        })
        .await
        .unwrap_or_else(|e| {
            eprintln!("{e}");
            false
        }),
        _ => false,
    };
    std::process::exit(i32::from(!ok));
}
