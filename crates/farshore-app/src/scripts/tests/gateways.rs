//! Through the gateway of the region that serves, and through that of another region: the remote keeps its URL.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use farshore_core::ids::Region;

use super::rig::{Rig, change, client, git, noise, said, try_git, until};
use crate::gateway::{Gateway, GatewayOptions, Scripts, Site, SiteState};

const HOST: &str = "todo.scm.farshore.internal";

/// A gateway of `region` that knows the rig's repository.
async fn gateway(rig: &Rig, region: &str, state: SiteState) -> (Arc<Gateway>, Arc<Site>) {
    let region = Region::parse(region).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = GatewayOptions { http: any, https: Some(any), tls: None, region };
    let gateway = Gateway::open(options).await.unwrap();
    let scripts = Arc::clone(&rig.http) as Arc<dyn Scripts>;
    let site = Site::new("todo", vec!["todo.app.farshore.internal".into()], vec![HOST.into()], scripts);
    site.set(state);
    gateway.put(Arc::clone(&site)).unwrap();
    (gateway, site)
}

/// Tells git where the name leads, as DNS would, and asks it for `words`.
fn by_name<'a>(at: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["-c", at, "-c", "http.postBuffer=65536"], words].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_reaches_the_region_that_serves_through_any_gateway() {
    let rig = Rig::new().await;
    let (paris, _site) = gateway(&rig, "paris", SiteState::Empty).await;
    let there = SiteState::There {
        region: Region::parse("paris").unwrap(),
        http: Some(paris.bound().http.to_string()),
        https: None,
    };
    let (oslo, _other) = gateway(&rig, "oslo", there).await;
    let work = rig.work("work").await;
    for (name, gateway) in [("paris", &paris), ("oslo", &oslo)] {
        let port = gateway.bound().http.port();
        let at = format!("http.curloptResolve={HOST}:{port}:127.0.0.1");
        for path in ["", "/todo.git"] {
            let url = format!("http://ann:token@{HOST}:{port}{path}");
            // Too much for one piece, and with a deploy that takes its time.
            change(&work, "big", [noise(2 << 20), format!("{name}{path}").into_bytes()].concat(), name).await;
            rig.deployer.gate.forget_permits(1_000);
            let deployed = rig.deployer.commits.lock().unwrap().len();
            let pusher = client(&work, &by_name(&at, &["push", &url, "main"])).spawn().unwrap();
            until("the deploy begins", || rig.deployer.commits.lock().unwrap().len() > deployed).await;
            rig.deployer.gate.add_permits(1_000);
            let pushed = pusher.wait_with_output().await.unwrap();
            assert!(pushed.status.success(), "{}", said(&pushed));
            assert!(said(&pushed).contains("remote: release 4 runs"), "{}", said(&pushed));
            assert_eq!(
                git(&work, &by_name(&at, &["ls-remote", &url, "HEAD"])).await[..40],
                head(&work).await
            );
        }
        let wrong = format!("http://ann:wrong@{HOST}:{port}");
        let refused = try_git(&work, &by_name(&at, &["ls-remote", &wrong])).await;
        assert!(said(&refused).contains("Authentication failed"), "{}", said(&refused));
    }
    rig.no_process_is_left().await;
    oslo.stop().await;
    paris.stop().await;
    let from = rig.believer.from.lock().unwrap().clone();
    assert!(
        from.into_iter().eq([IpAddr::from([127, 0, 0, 1])]),
        "who guesses passwords is told apart by the address"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_who_leaves_the_gateway_leaves_nothing_behind() {
    let rig = Rig::new().await;
    let (paris, _site) = gateway(&rig, "paris", SiteState::Empty).await;
    let port = paris.bound().http.port();
    let at = format!("http.curloptResolve={HOST}:{port}:127.0.0.1");
    let url = format!("http://ann:token@{HOST}:{port}");
    let work = rig.work("work").await;
    rig.deployer.gate.forget_permits(1_000);
    let words = by_name(&at, &["push", &url, "main"]);
    let mut pusher = client(&work, &words).process_group(0).spawn().unwrap();
    until("the deploy begins", || !rig.deployer.commits.lock().unwrap().is_empty()).await;
    crate::scripts::program::signal_group(pusher.id().unwrap(), rustix::process::Signal::KILL);
    pusher.wait().await.unwrap();
    rig.no_process_is_left().await;
    rig.deployer.gate.add_permits(1_000);
    paris.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_git_is_not_offered_http_2_and_all_of_it_works() {
    let rig = Rig::new().await;
    let (paris, _site) = gateway(&rig, "paris", SiteState::Empty).await;
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    paris.set_certificate(HOST, &made.cert.pem(), &made.signing_key.serialize_pem()).unwrap();
    let ca = rig.path("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let port = paris.bound().https.unwrap().port();
    let at = format!("http.curloptResolve={HOST}:{port}:127.0.0.1");
    let trusts = format!("http.sslCAInfo={}", ca.display());
    let https = |words: &[&str]| {
        let config = ["-c", &at, "-c", &trusts, "-c", "http.postBuffer=65536"];
        [&config[..], words].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let url = format!("https://ann:token@{HOST}:{port}/todo.git");
    let work = rig.work("work").await;
    change(&work, "big", noise(3 << 20), "big").await;
    let words = https(&["push", &url, "main"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let pushed = client(&work, &words).env("GIT_CURL_VERBOSE", "1").output().await.unwrap();
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert!(said(&pushed).contains("remote: release 4 runs"), "{}", said(&pushed));
    // Pushes of many clients would hang with it, now and then.
    let speaks = said(&pushed).contains("POST /todo.git/git-receive-pack HTTP/1.1");
    assert!(speaks, "{}", said(&pushed));
    let words = https(&["clone", "-q", &url, "copy"]);
    git(rig.dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(std::fs::read(rig.path("copy/big")).unwrap(), noise(3 << 20));
    // One who leaves in the middle is noticed through TLS, too.
    change(&work, "next", "1", "next").await;
    rig.deployer.gate.forget_permits(1_000);
    let words = https(&["push", &url, "main"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut pusher = client(&work, &words).process_group(0).spawn().unwrap();
    until("the deploy begins", || rig.deployer.commits.lock().unwrap().len() == 2).await;
    crate::scripts::program::signal_group(pusher.id().unwrap(), rustix::process::Signal::KILL);
    pusher.wait().await.unwrap();
    rig.no_process_is_left().await;
    rig.deployer.gate.add_permits(1_000);
    paris.stop().await;
}

async fn head(work: &Path) -> String {
    git(work, &["rev-parse", "HEAD"]).await
}
