//! Who may ask.

use super::*;

#[test]
fn names_of_the_server_and_pages_of_others() {
    let server = Server::start(|settings| {
        settings.hosts = vec!["pictures.example".into()];
        settings.origins = vec!["https://friend.example".into()];
    });
    let status = |headers: &str| server.raw("GET", "/v1/models", headers, b"").status;
    for host in [
        "localhost",
        "localhost:7860",
        "LOCALHOST.",
        "a.localhost:1",
        "127.0.0.1:7860",
        "10.1.2.3",
        "[::1]:7860",
        "pictures.example:80",
    ] {
        assert_eq!(status(&format!("Host: {host}\r\n")), 200, "{host}");
        // Its own page.
        assert_eq!(status(&format!("Host: {host}\r\nOrigin: http://{host}\r\n")), 200, "{host}");
        assert_eq!(status(&format!("Host: {host}\r\nOrigin: https://friend.example\r\n")), 200, "{host}");
        for origin in
            ["http://evil.example", "null", "http://localhost.evil.example", "file://", "https://friend.example.evil"]
        {
            assert_eq!(status(&format!("Host: {host}\r\nOrigin: {origin}\r\n")), 403, "{host} {origin}");
        }
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "pictures.example.evil",
        "[evil",
        "",
    ] {
        assert_eq!(status(&format!("Host: {host}\r\n")), 403, "{host}");
        assert_eq!(status(&format!("Host: {host}\r\nOrigin: http://{host}\r\n")), 403, "{host}");
    }
    // What another page loads as a picture, and a link to the page.
    assert_eq!(status("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"), 403);
    let link = "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    assert_eq!(server.raw("GET", "/", link, b"").status, 200);
    assert_eq!(status(link), 403);
    let ask = "Host: localhost\r\nOrigin: https://friend.example\r\nAccess-Control-Request-Method: POST\r\n";
    let allowed = server.raw("OPTIONS", "/v1/jobs", ask, b"");
    let head = "access-control-allow-origin: https://friend.example";
    assert!(
        allowed.status == 204 && allowed.head.contains(head) && !allowed.head.contains("credentials"),
        "{allowed:?}"
    );
    assert!(!server.get("/v1/models").head.contains("access-control"));
}

#[test]
fn a_page_of_another_site_cannot_send_an_order() {
    let server = Server::start(|_| {});
    let order = b"{\"prompt\":\"a\"}";
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        let headers = format!("Host: localhost\r\nContent-Type: {kind}\r\n");
        let answer = server.raw("POST", "/v1/images/generations", &headers, order);
        assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"), "{kind}");
    }
}

#[test]
fn keys() {
    let server =
        Server::start(|settings| settings.keys = Keys::new(["right".to_owned(), "other".into(), String::new()]));
    let status = |headers: &str| server.raw("GET", "/v1/models", &format!("Host: localhost\r\n{headers}"), b"").status;
    for good in ["Bearer right", "bearer other", "Basic dXNlcjpyaWdodA=="] {
        assert_eq!(status(&format!("Authorization: {good}\r\n")), 200, "{good}");
    }
    for bad in ["Bearer wrong", "Bearer ", "Bearer", "right", "Basic cmlnaHQ=", "Basic dXNlcjo=", "Bearer right2"] {
        assert_eq!(status(&format!("Authorization: {bad}\r\n")), 401, "{bad}");
    }
    let none = server.get("/v1/models");
    assert!(none.code() == "invalid_api_key" && none.head.contains("www-authenticate: bearer"), "{none:?}");
    for (path, status) in [
        ("/", 200),
        ("/health/ready", 200),
        ("/v2/health/live", 200),
        ("/openapi.json", 200),
        ("/metrics", 401),
        ("/v1/jobs", 401),
    ] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
    assert_eq!(format!("{:?}", Keys::new(["secret".to_owned()])), "1 keys");
}

#[test]
fn the_page_runs_its_own_script_alone() {
    let server = Server::start(|_| {});
    let page = server.get("/");
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy")).unwrap();
    for word in ["default-src 'none'", "script-src 'sha256-", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(word), "{policy}");
    }
    assert!(!policy.contains("unsafe") && page.head.contains("x-content-type-options: nosniff"), "{policy}");
    // Neither style nor script may stand in attributes, and nothing comes from elsewhere.
    for word in [" style=", " onclick=", "https://", "//cdn"] {
        assert!(!page.body.contains(word), "{word}");
    }
}
