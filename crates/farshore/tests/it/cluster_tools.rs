//! The tools that a person has at hand, against a cluster across three namespaces.

use crate::cluster_net::{Net, text};

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_openssl_and_curl_see_what_they_should_and_no_more() {
    let net = Net::start().await;
    net.create("hold").await;
    let keys = net.exec(
        "oslo",
        &format!("etcdctl --endpoints {} get --prefix /farshore/ --keys-only", net.etcd_url("oslo")),
    );
    let said = text(&keys);
    for key in ["/farshore/meta", "/farshore/items/machine/web-1/own", "/farshore/audit/"] {
        assert!(said.contains(key), "{key} in {said}");
    }
    the_certificate_is_the_authoritys(&net);
    agents_know_each_other(&net);
}

fn the_certificate_is_the_authoritys(net: &Net) {
    let (at, ca) = (net.address("bergen"), net.ca().display().to_string());
    let seen = net.exec(
        "paris",
        &format!("openssl s_client -connect {at}:7000 -CAfile {ca} -verify_return_error -verify_ip {at}"),
    );
    assert!(seen.status.success() && text(&seen).contains("Verify return code: 0 (ok)"), "{}", text(&seen));
    let stranger = net.exec("paris", &format!("openssl s_client -connect {at}:7000 -verify_return_error"));
    assert!(!stranger.status.success(), "only the cluster's authority vouches for it");
}

/// What the agent in oslo answers to `curl` with these words.
fn agent_says(net: &Net, words: &str) -> String {
    let (url, ca) = (net.url("oslo"), net.ca().display().to_string());
    let asked = net.exec(
        "paris",
        &format!(
            "curl -sS --max-time 20 -o /dev/null -w %{{http_code}} --cacert {ca} {words} {url}/agent/v1/known"
        ),
    );
    text(&asked)
}

fn agents_know_each_other(net: &Net) {
    let out = net.data("paris").join("issued");
    let issued = net.farshore("paris", &format!("trust issue --name vm-1 --out {}", out.display()));
    assert!(issued.status.success(), "{}", text(&issued));
    let (cert, key) = (out.join("client-cert.pem"), out.join("client-key.pem"));
    let client = format!("--cert {} --key {}", cert.display(), key.display());
    assert_eq!(agent_says(net, ""), "401", "without a certificate");
    assert_eq!(agent_says(net, &client), "403", "with one that is no node's");
}
