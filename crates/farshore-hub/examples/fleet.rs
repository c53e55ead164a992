//! One hub that serves, for trying the official SDKs by hand and for measuring: MQTT, HTTP and AMQP in one process, without an engine.
//!
//! `cargo run -p farshore-hub --example fleet -- DIR 127.0.0.2 [devices | devices.txt]` listens on MQTT 8883 (TLS) and 1883 (plain), HTTPS 443 and 8443,
//! and AMQPS 5671 of that address, registers `device-1` and so on or those of the file, and prints a line of JSON: connection strings and the authority's
//! certificate. With `any-ports` after that, ports are the system's; they are printed, too. A line on standard
//! input is an order: `fence`, `stand-by`, `open EPOCH`, `stats`.

use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use farshore_hub::amqp;
use farshore_hub::fleet::{Fleet, FleetOptions, Standing};
use farshore_hub::import::import;
use farshore_hub::mqtt::connection::Mqtt;
use farshore_hub::mqtt::listener::{Limits, Listener, Transport};
use farshore_hub::mqtt::tls::server_config;
use farshore_hub::names::Key;
use farshore_hub::registry::{Auth, Edit, NewDevice};
use farshore_hub::rest::{Hub, HubOptions, Service};
use farshore_hub::sas::new_key;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

type Anything = Box<dyn Error + Send + Sync>;

/// The hub's name in tokens, whatever its address.
const HOST: &str = "contoso.hub";

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[tokio::main]
async fn main() -> Result<(), Anything> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("name a directory, then an address")?);
    let address: IpAddr = arguments.next().ok_or("name an address")?.parse()?;
    let devices = arguments.next().unwrap_or_else(|| "3".to_owned());
    let by_system = arguments.next().is_some_and(|word| word == "any-ports");
    std::fs::create_dir_all(directory.join("files"))?;
    let fleet = open(&directory, address).await?;
    let mut told = match devices.parse() {
        Ok(count) => register(&fleet, count).await?,
        Err(_) => take(&fleet, Path::new(&devices)).await?,
    };
    let (chain, key) = certificate(&directory, address)?;
    told["ca"] = directory.join("ca.pem").display().to_string().into();
    let port = |usual: u16| SocketAddr::new(address, if by_system { 0 } else { usual });

    let tls = server_config(chain.clone(), key.clone_key())?;
    let mqtt: Arc<Mqtt> = Arc::new(Mqtt::new(Arc::new(fleet.clone()), now));
    let mut listeners = Vec::new();
    for (name, usual, transport) in
        [("mqtts", 8883, Transport::Tls(Arc::clone(&tls))), ("mqtt", 1883, Transport::Plain)]
    {
        let listener = TcpListener::bind(port(usual)).await?;
        let listener = Listener::spawn(listener, transport, Arc::clone(&mqtt) as _, Limits::default())?;
        told[name] = listener.address().to_string().into();
        listeners.push(listener);
    }
    let service = service(&fleet, &directory, address);
    for (name, usual) in [("https", 443), ("https_other", 8443)] {
        let listener = TcpListener::bind(port(usual)).await?;
        told[name] = listener.local_addr()?.to_string().into();
        tokio::spawn(serve_http(listener, TlsAcceptor::from(Arc::clone(&tls)), service.clone()));
    }
    let listener = TcpListener::bind(port(5671)).await?;
    told["amqps"] = listener.local_addr()?.to_string().into();
    let (_stop, stopped) = watch::channel(false);
    let options = amqp::Options { tls: Some(tls), connections_max: 64, now };
    tokio::spawn(amqp::serve(listener, Arc::new(fleet.clone()), options, stopped));
    println!("{told}");
    obey(&fleet).await;
    for listener in listeners {
        listener.stop(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn open(directory: &Path, address: IpAddr) -> Result<Fleet, Anything> {
    let mut options = FleetOptions::new("contoso", Region::parse("oslo")?, directory.to_owned());
    options.hosts = vec![HOST.to_owned(), address.to_string()];
    options.admission.per_second = 5_000;
    options.admission.burst = 5_000;
    let fleet = Fleet::open(options)?;
    fleet.open_to_devices(Epoch(1), Standing::Current);
    fleet.make_policies().await?;
    Ok(fleet)
}

/// Registers what is missing, and tells how everybody connects.
async fn register(fleet: &Fleet, count: usize) -> Result<Value, Anything> {
    let mut devices = Vec::new();
    for number in 1..=count {
        let key = Key::parse(&format!("device-{number}"))?;
        let auth = Auth::Sas { primary: new_key(), secondary: new_key() };
        let decide = move |known: Option<&farshore_hub::registry::Device>| {
            let make = vec![Edit::Create(NewDevice::with(auth))];
            Ok::<_, Infallible>(if known.is_some() { Vec::new() } else { make })
        };
        let made = fleet.registry().change(key, decide).await.map_err(|error| error.to_string())?;
        let device = made.after.ok_or("the device is gone")?;
        let Auth::Sas { primary, .. } = &device.auth else { return Err("a device has no key".into()) };
        devices.push(format!("HostName={HOST};DeviceId={};SharedAccessKey={primary}", device.key.device));
    }
    Ok(json!({ "host": HOST, "devices": devices, "service": service_string(fleet)? }))
}

/// Whoever wrote the file knows the devices' keys.
async fn take(fleet: &Fleet, file: &Path) -> Result<Value, Anything> {
    let lines = BufReader::new(File::open(file)?);
    let imported = import(fleet.registry(), lines, &mut std::io::stderr()).await?;
    Ok(json!({ "host": HOST, "imported": imported.created, "service": service_string(fleet)? }))
}

fn service_string(fleet: &Fleet) -> Result<String, Anything> {
    let policies = fleet.registry().policies()?;
    let owner = policies.iter().find(|policy| policy.name == "iothubowner").ok_or("no owner's policy")?;
    Ok(format!("SharedAccessKeyName={};SharedAccessKey={}", owner.name, owner.primary))
}

fn certificate(
    directory: &Path,
    address: IpAddr,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Anything> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Without names of their own, some clients take the two certificates for one that signed itself.
    authority.distinguished_name.push(DnType::CommonName, "an authority for trying things out");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    std::fs::write(directory.join("ca.pem"), authority.pem())?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![HOST.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "a hub for trying things out");
    params.subject_alt_names.push(SanType::IpAddress(address));
    let chain = vec![params.signed_by(&key, &authority)?.der().clone()];
    Ok((chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()))))
}

fn service(fleet: &Fleet, directory: &Path, address: IpAddr) -> Service {
    let names = vec![HOST.to_owned(), address.to_string()];
    let options = HubOptions { names, files: Some(directory.join("files")) };
    let (registry, telemetry) = (fleet.registry().clone(), fleet.telemetry().clone());
    Service::new(Arc::new(Hub::new(options, registry, telemetry, Arc::new(fleet.clone()))))
}

async fn serve_http(listener: TcpListener, tls: TlsAcceptor, service: Service) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), service.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

/// Until standard input ends.
async fn obey(fleet: &Fleet) {
    let (read, mut lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if read.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = lines.recv().await {
        let mut words = line.split_whitespace();
        match (words.next(), words.next().and_then(|epoch| epoch.parse().ok())) {
            (Some("fence"), _) => fleet.fence().await,
            (Some("stand-by"), _) => fleet.stand_by(),
            (Some("open"), Some(epoch)) => fleet.open_to_devices(Epoch(epoch), Standing::Current),
            (Some("stats"), _) => println!("{}", json!(fleet.stats())),
            _ => eprintln!("say fence, stand-by, open EPOCH or stats"),
        }
    }
}
