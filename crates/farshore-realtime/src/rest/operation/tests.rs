//! Requests as people would write them, and what they are read as.

use proptest::prelude::*;

use super::*;

/// `METHOD /path?query` to what it is read as, or to `STATUS code target`.
fn read(request: &str) -> String {
    let (method, url) = request.split_once(' ').unwrap();
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    match Operation::parse(&method.parse().unwrap(), path, query) {
        Ok(Operation::Health) => "health".to_owned(),
        Ok(Operation::Hub { hub, action }) => format!("{hub}: {action:?}"),
        Err(error) => {
            format!("{} {} {}", error.status().as_u16(), error.code(), error.target().unwrap_or("-"))
        }
    }
}

fn check(rows: &[(&str, &str)]) {
    for (request, expected) in rows {
        assert_eq!(read(request), *expected, "{request}");
    }
}

#[test]
fn health_is_asked_with_get_or_head_in_any_version() {
    check(&[
        ("GET /api/health", "health"),
        ("HEAD /api/health", "health"),
        ("HEAD /api/health?api-version=2021-10-01", "health"),
        ("HEAD /api/health?api-version=2024-12-01", "health"),
        ("HEAD /api/health?api-version=2019-01-01", "400 Error.UnsupportedApiVersion api-version"),
        ("POST /api/health", "405 Error.MethodNotAllowed -"),
        ("DELETE /api/health", "405 Error.MethodNotAllowed -"),
        ("GET /api/health/", "404 Error.NotFound -"),
        ("GET /api/Health", "404 Error.NotFound -"),
    ]);
}

#[test]
fn the_operations_on_connections() {
    check(&[
        ("HEAD /api/hubs/chat/connections/c1", r#"chat: Ask(Exists(Connection("c1")))"#),
        (
            "DELETE /api/hubs/chat/connections/c1",
            r#"chat: Ask(Close { who: Connection("c1"), exclude: [], reason: "" })"#,
        ),
        (
            "DELETE /api/hubs/chat/connections/c1?reason=go%20away&excluded=c1",
            r#"chat: Ask(Close { who: Connection("c1"), exclude: [], reason: "go away" })"#,
        ),
        (
            "POST /api/hubs/chat/connections/c1/:send",
            r#"chat: Send(Sending { to: Connection("c1"), exclude: [], filter: None, ttl_seconds: None })"#,
        ),
        (
            "POST /api/hubs/chat/connections/c1/:send?messageTtlSeconds=7&excluded=c1&filter=invalid",
            r#"chat: Send(Sending { to: Connection("c1"), exclude: [], filter: None, ttl_seconds: Some(7) })"#,
        ),
        ("DELETE /api/hubs/chat/connections/c1/groups", r#"chat: Ask(LeaveAll { connection: "c1" })"#),
        ("PUT /api/hubs/chat/groups/g/connections/c1", r#"chat: Ask(Join { connection: "c1", group: "g" })"#),
        (
            "DELETE /api/hubs/chat/groups/g/connections/c1",
            r#"chat: Ask(Leave { connection: "c1", group: "g" })"#,
        ),
    ]);
}

#[test]
fn the_operations_on_permissions() {
    check(&[
        (
            "PUT /api/hubs/chat/permissions/joinLeaveGroup/connections/c1",
            r#"chat: Ask(Grant { connection: "c1", permission: JoinLeaveGroup, group: None })"#,
        ),
        (
            "PUT /api/hubs/chat/permissions/sendToGroup/connections/c1?targetName=a%20b",
            r#"chat: Ask(Grant { connection: "c1", permission: SendToGroup, group: Some("a b") })"#,
        ),
        (
            "DELETE /api/hubs/chat/permissions/sendToGroup/connections/c1?targetName=g",
            r#"chat: Ask(Revoke { connection: "c1", permission: SendToGroup, group: Some("g") })"#,
        ),
        (
            "HEAD /api/hubs/chat/permissions/joinLeaveGroup/connections/c1?targetName=",
            r#"chat: Ask(Has { connection: "c1", permission: JoinLeaveGroup, group: None })"#,
        ),
        ("PUT /api/hubs/chat/permissions/fly/connections/c1", "400 Error.BadRequest permission"),
        (
            "PUT /api/hubs/chat/permissions/sendToGroup/connections/c1?targetName=%20",
            "400 Error.BadRequest group",
        ),
        (
            "PUT /api/hubs/chat/permissions/sendToGroup/connections/c1?targetName=a&targetName=b",
            "400 Error.BadRequest targetName",
        ),
        ("GET /api/hubs/chat/permissions/sendToGroup/connections/c1", "405 Error.MethodNotAllowed -"),
        ("PUT /api/hubs/chat/permissions/sendToGroup/connections", "404 Error.NotFound -"),
        ("PUT /api/hubs/chat/permissions/sendToGroup/users/u", "404 Error.NotFound -"),
    ]);
}

#[test]
fn the_operations_on_groups() {
    check(&[
        ("HEAD /api/hubs/chat/groups/g", r#"chat: Ask(Exists(Group("g")))"#),
        (
            "POST /api/hubs/chat/groups/g/:closeConnections?excluded=a&excluded=b&reason=bye",
            r#"chat: Ask(Close { who: Group("g"), exclude: ["a", "b"], reason: "bye" })"#,
        ),
        (
            "POST /api/hubs/chat/groups/g/:send?excluded=a&excluded=b&messageTtlSeconds=300",
            r#"chat: Send(Sending { to: Group("g"), exclude: ["a", "b"], filter: None, ttl_seconds: Some(300) })"#,
        ),
        (
            "GET /api/hubs/chat/groups/g/connections",
            r#"chat: Members(Page { group: "g", size: 200, top: None, after: None })"#,
        ),
        (
            "GET /api/hubs/chat/groups/g/connections?maxpagesize=2&top=5&continuationToken=c2",
            r#"chat: Members(Page { group: "g", size: 2, top: Some(5), after: Some("c2") })"#,
        ),
        (
            "GET /api/hubs/chat/groups/g/connections?maxpagesize=200&top=2147483647",
            r#"chat: Members(Page { group: "g", size: 200, top: Some(2147483647), after: None })"#,
        ),
        ("HEAD /api/hubs/chat/groups/%20", "400 Error.BadRequest group"),
        ("HEAD /api/hubs/chat/groups/", "400 Error.BadRequest group"),
        ("GET /api/hubs/chat/groups/g", "405 Error.MethodNotAllowed -"),
        ("POST /api/hubs/chat/groups/g/connections", "405 Error.MethodNotAllowed -"),
        ("POST /api/hubs/chat/groups/g/connections/c", "405 Error.MethodNotAllowed -"),
        ("GET /api/hubs/chat/groups/g/:send", "405 Error.MethodNotAllowed -"),
        ("GET /api/hubs/chat/groups", "404 Error.NotFound -"),
        ("POST /api/hubs/chat/groups/g/:shout", "404 Error.NotFound -"),
        ("PUT /api/hubs/chat/groups/g/connections/c/d", "404 Error.NotFound -"),
    ]);
}

#[test]
fn pages_have_limits() {
    for (query, target) in [
        ("maxpagesize=0", "maxpagesize"),
        ("maxpagesize=201", "maxpagesize"),
        ("maxpagesize=-1", "maxpagesize"),
        ("maxpagesize=ten", "maxpagesize"),
        ("maxpagesize=", "maxpagesize"),
        ("maxpagesize=1&maxpagesize=2", "maxpagesize"),
        ("maxpagesize=99999999999999999999", "maxpagesize"),
        ("top=0", "top"),
        ("top=-3", "top"),
        ("top=1.5", "top"),
        ("top=2147483648", "top"),
        ("top=", "top"),
        ("continuationToken=", "continuationToken"),
        ("continuationToken=a%20b", "continuationToken"),
        ("continuationToken=a&continuationToken=b", "continuationToken"),
    ] {
        let request = format!("GET /api/hubs/chat/groups/g/connections?{query}");
        assert_eq!(read(&request), format!("400 Error.BadRequest {target}"), "{query}");
    }
}

#[test]
fn the_operations_on_users() {
    check(&[
        ("HEAD /api/hubs/chat/users/ann", r#"chat: Ask(Exists(User("ann")))"#),
        ("HEAD /api/hubs/chat/users/us%20er%2F1", r#"chat: Ask(Exists(User("us er/1")))"#),
        ("HEAD /api/hubs/chat/users/a+b", r#"chat: Ask(Exists(User("a+b")))"#),
        ("HEAD /api/hubs/chat/users/%E2%82%AC", r#"chat: Ask(Exists(User("€")))"#),
        ("HEAD /api/hubs/chat/users/..", r#"chat: Ask(Exists(User("..")))"#),
        (
            "POST /api/hubs/chat/users/ann/:closeConnections?excluded=a",
            r#"chat: Ask(Close { who: User("ann"), exclude: ["a"], reason: "" })"#,
        ),
        (
            "POST /api/hubs/chat/users/us%20er%2F1/:send?messageTtlSeconds=0&excluded=a",
            r#"chat: Send(Sending { to: User("us er/1"), exclude: [], filter: None, ttl_seconds: None })"#,
        ),
        ("DELETE /api/hubs/chat/users/ann/groups", r#"chat: Ask(UserLeaveAll { user: "ann" })"#),
        ("PUT /api/hubs/chat/users/ann/groups/g%2F1", r#"chat: Ask(UserJoin { user: "ann", group: "g/1" })"#),
        ("DELETE /api/hubs/chat/users/ann/groups/g", r#"chat: Ask(UserLeave { user: "ann", group: "g" })"#),
        ("HEAD /api/hubs/chat/users/", "400 Error.BadRequest userId"),
        ("HEAD /api/hubs/chat/users/us er/1", "404 Error.NotFound -"),
        ("GET /api/hubs/chat/users/ann", "405 Error.MethodNotAllowed -"),
        ("PUT /api/hubs/chat/users/ann/groups", "405 Error.MethodNotAllowed -"),
        ("POST /api/hubs/chat/users/ann/groups/g", "405 Error.MethodNotAllowed -"),
        ("HEAD /api/hubs/chat/users", "404 Error.NotFound -"),
    ]);
}

#[test]
fn the_operations_on_the_whole_hub() {
    check(&[
        ("POST /api/hubs/chat/:addToGroups", "chat: AddToGroups"),
        ("POST /api/hubs/chat/:removeFromGroups", "chat: RemoveFromGroups"),
        ("POST /api/hubs/chat/%3AremoveFromGroups", "chat: RemoveFromGroups"),
        (
            "POST /api/hubs/chat/:closeConnections",
            r#"chat: Ask(Close { who: All, exclude: [], reason: "" })"#,
        ),
        (
            "POST /api/hubs/chat/:closeConnections?excluded=a&EXCLUDED=b&excluded=&excluded=no%20id&reason=a+b%2Bc",
            r#"chat: Ask(Close { who: All, exclude: ["a", "b"], reason: "a b+c" })"#,
        ),
        (
            "POST /api/hubs/chat/:send",
            "chat: Send(Sending { to: All, exclude: [], filter: None, ttl_seconds: None })",
        ),
        (
            "POST /api/hubs/chat/:send?api-version=2024-12-01&excluded=a&messagettlseconds=300&unknown=1",
            r#"chat: Send(Sending { to: All, exclude: ["a"], filter: None, ttl_seconds: Some(300) })"#,
        ),
        ("GET /api/hubs/chat/:send", "405 Error.MethodNotAllowed -"),
        ("PATCH /api/hubs/chat/:send", "405 Error.MethodNotAllowed -"),
        ("POST /api/hubs/chat/:SEND", "404 Error.NotFound -"),
        ("POST /api/hubs/chat/send", "404 Error.NotFound -"),
        ("POST /api/hubs/chat/", "404 Error.NotFound -"),
        ("POST /api/hubs/chat", "404 Error.NotFound -"),
        ("POST /api/hubs", "404 Error.NotFound -"),
        ("POST /hubs/chat/:send", "404 Error.NotFound -"),
        ("POST /API/hubs/chat/:send", "404 Error.NotFound -"),
        ("POST //api/hubs/chat/:send", "404 Error.NotFound -"),
        ("GET /", "404 Error.NotFound -"),
        ("OPTIONS *", "404 Error.NotFound -"),
    ]);
}

#[test]
fn a_filter_is_read_at_once() {
    let read_ok = read("POST /api/hubs/chat/:send?filter=userId%20eq%20%27ann%27");
    assert!(read_ok.starts_with("chat: Send(Sending { to: All, exclude: [], filter: Some("), "{read_ok}");
    for path in [":send", "groups/g/:send", "users/u/:send"] {
        let request = format!("POST /api/hubs/chat/{path}?filter=invalid%20filter");
        assert_eq!(read(&request), "400 Error.BadRequest filter", "{path}");
    }
}

#[test]
fn names_of_hubs_are_checked_and_lowered() {
    let long = "h".repeat(129);
    check(&[
        ("HEAD /api/hubs/CHAT/groups/G", r#"chat: Ask(Exists(Group("G")))"#),
        ("HEAD /api/hubs/c_1`,.[]/groups/g", r#"c_1`,.[]: Ask(Exists(Group("g")))"#),
        ("HEAD /api/hubs/c%5B1%5D/groups/g", r#"c[1]: Ask(Exists(Group("g")))"#),
        ("HEAD /api/hubs/1chat/groups/g", "400 Error.BadRequest hub"),
        ("HEAD /api/hubs/ch-at/groups/g", "400 Error.BadRequest hub"),
        ("HEAD /api/hubs/ch%20at/groups/g", "400 Error.BadRequest hub"),
        ("HEAD /api/hubs/ch%2Fat/groups/g", "400 Error.BadRequest hub"),
        ("HEAD /api/hubs//groups/g", "400 Error.BadRequest hub"),
        (&format!("HEAD /api/hubs/{long}/groups/g"), "400 Error.BadRequest hub"),
    ]);
}

#[test]
fn names_of_groups_and_users_are_as_long_as_1024() {
    let (longest, too_long) = ("x".repeat(1024), "x".repeat(1025));
    for (what, target) in [("groups", "group"), ("users", "userId")] {
        assert!(read(&format!("HEAD /api/hubs/chat/{what}/{longest}")).starts_with("chat: Ask(Exists("));
        let request = format!("HEAD /api/hubs/chat/{what}/{too_long}");
        assert_eq!(read(&request), format!("400 Error.BadRequest {target}"));
    }
}

#[test]
fn ids_that_no_hub_has_given_name_nobody() {
    let long = "c".repeat(129);
    for id in ["no%20id", "a%2Fb", "%E2%82%AC", "", "a.b", &long] {
        let base = "/api/hubs/chat";
        check(&[
            (&format!("HEAD {base}/connections/{id}"), "chat: Nobody(404)"),
            (&format!("DELETE {base}/connections/{id}"), "chat: Nobody(204)"),
            (&format!("POST {base}/connections/{id}/:send"), "chat: Nobody(202)"),
            (&format!("DELETE {base}/connections/{id}/groups"), "chat: Nobody(204)"),
            (&format!("PUT {base}/groups/g/connections/{id}"), "chat: Nobody(404)"),
            (&format!("DELETE {base}/groups/g/connections/{id}"), "chat: Nobody(204)"),
            (&format!("PUT {base}/permissions/sendToGroup/connections/{id}"), "chat: Nobody(404)"),
            (&format!("DELETE {base}/permissions/sendToGroup/connections/{id}"), "chat: Nobody(204)"),
            (&format!("HEAD {base}/permissions/sendToGroup/connections/{id}"), "chat: Nobody(404)"),
        ]);
    }
}

#[test]
fn the_time_to_live_has_limits() {
    for path in [":send", "groups/g/:send", "users/u/:send", "connections/c/:send"] {
        for ttl in ["-1", "301", "x", "", "1.0", "99999999999", "1&messageTtlSeconds=2"] {
            let request = format!("POST /api/hubs/chat/{path}?messageTtlSeconds={ttl}");
            assert_eq!(read(&request), "400 Error.BadRequest messageTtlSeconds", "{request}");
        }
        for ttl in ["0", "1", "300"] {
            let request = format!("POST /api/hubs/chat/{path}?messageTtlSeconds={ttl}");
            assert!(read(&request).starts_with("chat: Send("), "{request}");
        }
    }
}

#[test]
fn so_many_connections_are_left_out_at_most() {
    for path in [":send", "groups/g/:send", ":closeConnections", "users/u/:closeConnections"] {
        let excluded = "excluded=c&".repeat(EXCLUDED_MAX);
        let fits = read(&format!("POST /api/hubs/chat/{path}?{excluded}"));
        assert!(fits.starts_with("chat: "), "{path}: {fits}");
        let too_many = read(&format!("POST /api/hubs/chat/{path}?{excluded}excluded=c"));
        assert_eq!(too_many, "400 Error.BadRequest excluded", "{path}");
    }
}

#[test]
fn versions_are_ours_or_refused() {
    for version in API_VERSIONS {
        let request = format!("HEAD /api/hubs/chat/groups/g?api-version={version}");
        assert_eq!(read(&request), r#"chat: Ask(Exists(Group("g")))"#, "{version}");
    }
    check(&[
        ("HEAD /api/hubs/chat/groups/g?api-version=", "400 Error.UnsupportedApiVersion api-version"),
        ("HEAD /api/hubs/chat/groups/g?api-version=latest", "400 Error.UnsupportedApiVersion api-version"),
        (
            "HEAD /api/hubs/chat/groups/g?api-version=2024-12-01&api-version=2024-12-01",
            "400 Error.BadRequest api-version",
        ),
        ("HEAD /api/hubs/chat/groups/g?API-Version=2024-12-01", r#"chat: Ask(Exists(Group("g")))"#),
    ]);
}

#[test]
fn what_a_token_shall_say() {
    check(&[
        (
            "POST /api/hubs/chat/:generateToken",
            "chat: GenerateToken(TokenWish { user: None, roles: [], groups: [], minutes: 60 })",
        ),
        (
            "POST /api/hubs/chat/:generateToken?userId=ann&role=webpubsub.sendToGroup&role=webpubsub.joinLeaveGroup.a%2Bb&group=g1&group=g2&minutesToExpire=1&clientType=default",
            r#"chat: GenerateToken(TokenWish { user: Some("ann"), roles: ["webpubsub.sendToGroup", "webpubsub.joinLeaveGroup.a+b"], groups: ["g1", "g2"], minutes: 1 })"#,
        ),
        (
            "POST /api/hubs/chat/:generateToken?userId=&role=&group=",
            "chat: GenerateToken(TokenWish { user: None, roles: [], groups: [], minutes: 60 })",
        ),
        ("POST /api/hubs/chat/:generateToken?minutesToExpire=0", "400 Error.BadRequest minutesToExpire"),
        ("POST /api/hubs/chat/:generateToken?minutesToExpire=", "400 Error.BadRequest minutesToExpire"),
        (
            "POST /api/hubs/chat/:generateToken?minutesToExpire=2147483648",
            "400 Error.BadRequest minutesToExpire",
        ),
        ("POST /api/hubs/chat/:generateToken?group=%20", "400 Error.BadRequest group"),
        ("POST /api/hubs/chat/:generateToken?userId=a&userId=b", "400 Error.BadRequest userId"),
        ("POST /api/hubs/chat/:generateToken?clientType=MQTT", "501 Error.NotImplemented -"),
        ("POST /api/hubs/chat/:generateToken?clientType=telex", "400 Error.BadRequest clientType"),
        ("GET /api/hubs/chat/:generateToken", "405 Error.MethodNotAllowed -"),
    ]);
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    let long = "r".repeat(REASON_LEN_MAX + 1);
    check(&[
        ("HEAD /api/hubs/chat/groups/%zz", "400 Error.BadRequest path"),
        ("HEAD /api/hubs/chat/groups/%2", "400 Error.BadRequest path"),
        ("HEAD /api/hubs/chat/groups/%ff", "400 Error.BadRequest path"),
        ("HEAD /api/hubs/chat/groups/g?filter=%zz", "400 Error.BadRequest query"),
        ("HEAD /api/hubs/chat/groups/g?%ff=1", "400 Error.BadRequest query"),
        ("HEAD /api/hubs/chat/groups/g?&&a&=&b=c=d", r#"chat: Ask(Exists(Group("g")))"#),
        (&format!("POST /api/hubs/chat/:closeConnections?reason={long}"), "400 Error.BadRequest reason"),
        ("POST /api/hubs/chat/:closeConnections?reason=a&reason=b", "400 Error.BadRequest reason"),
    ]);
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    for (path, expected) in [
        ("/api/health", "GET, HEAD"),
        ("/api/hubs/chat/:send", "POST"),
        ("/api/hubs/chat/connections/c", "HEAD, DELETE"),
        ("/api/hubs/chat/connections/c/groups", "DELETE"),
        ("/api/hubs/chat/groups/g", "HEAD"),
        ("/api/hubs/chat/groups/g/connections", "GET"),
        ("/api/hubs/chat/groups/g/connections/c", "PUT, DELETE"),
        ("/api/hubs/chat/permissions/sendToGroup/connections/c", "HEAD, PUT, DELETE"),
        ("/api/hubs/chat/users/u/groups/g", "PUT, DELETE"),
    ] {
        let error = Operation::parse(&Method::PATCH, path, None).unwrap_err();
        let RestError::Method { method, allowed } = error else { panic!("{path}: {error}") };
        assert_eq!((method.as_str(), allowed.join(", ").as_str()), ("PATCH", expected), "{path}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(method in "GET|HEAD|POST|PUT|DELETE|X", path in ".{0,80}", query in ".{0,80}") {
        let _ = Operation::parse(&method.parse().expect("a method"), &path, Some(&query));
    }

    #[test]
    fn parsing_what_is_almost_right_never_panics(
        method in "GET|HEAD|POST|PUT|DELETE",
        hub in "[a-zA-Z0-9%/_.]{0,8}",
        what in "(connections|groups|users|permissions|:send|:closeConnections|:generateToken|/|%[0-9a-f]{2}|[a-z]){0,6}",
        query in "((filter|excluded|top|maxpagesize|api-version|messageTtlSeconds|[a-z%]{1,3})=[ -~]{0,8}&){0,4}",
    ) {
        let path = format!("/api/hubs/{hub}/{what}");
        let _ = Operation::parse(&method.parse().expect("a method"), &path, Some(&query));
    }
}
