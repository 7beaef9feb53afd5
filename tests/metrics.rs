//! The metrics endpoint of a daemon with a memory disk and a namespace of an NVMe controller: both
//! formats, read by a parser that holds them to their rules, before and after logins; and peers
//! that do not behave.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "metrics/exposition.rs"]
mod exposition;
#[path = "common/served.rs"]
mod served;

use exposition::Exposition;
use iiblockdaemon::api::CONNECTIONS_MAX;
use iiblockdaemon::backend::NvmeModel;
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::tcp::TcpInitiator;
use served::{
    INITIATOR, Served, TARGET, TIMEOUT, TOML_CHAP, TOML_MEMORY, chap, login, toml_head,
    toml_target, toml_unit,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const BLOCKS: u64 = 1 << 15;
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Scrapes in which something has to come to pass.
const SCRAPES_MAX: usize = 10_000;

/// Two cores, the units `memory` and, at a controller of its own, `namespace`; one that is not
/// there; CHAP.
fn start(address: &str) -> (NvmeModel, Served) {
    let mut model = NvmeModel::at(address, BLOCKS);
    let nvme = format!("{{ type = \"nvme\", address = \"{address}\" }}");
    let missing = "{ type = \"block\", path = \"DIR/missing\" }";
    let toml = "[metrics]\nlisten = \"127.0.0.1:0\"\n".to_owned()
        + &toml_head(2, 32)
        + &toml_unit("memory", TOML_MEMORY)
        + &toml_unit("namespace", &nvme)
        + &toml_unit("missing", missing)
        + &toml_target(TARGET, TOML_CHAP, &["memory", "namespace", "missing"]);
    let served = Served::from_toml(&toml, Hooks::default);
    model.leave_to_units();
    (model, served)
}

/// A login that is accepted.
fn with_chap() -> iiblockdaemon::testing::Config {
    iiblockdaemon::testing::Config {
        auth: chap(),
        ..login()
    }
}

fn endpoint(served: &Served) -> SocketAddr {
    served.metrics.expect("it was asked for")
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// What `request` is answered with, until the connection is closed.
fn ask(to: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(to);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Head and body of the answer to a GET.
fn get(to: SocketAddr, path: &str, accept: &str) -> (String, String) {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    let answer = ask(to, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

fn scrape(to: SocketAddr, content_type: &str) -> Exposition {
    let (head, body) = get(to, "/metrics", content_type);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains(&format!("content-type: {content_type}\r\n")),
        "{head}"
    );
    Exposition::read(&body, content_type == OPEN_METRICS)
}

/// Scrapes until `seen` is so.
fn until(to: SocketAddr, what: &str, seen: impl Fn(&Exposition) -> bool) -> Exposition {
    for _ in 0..SCRAPES_MAX {
        let page = scrape(to, TEXT);
        if seen(&page) {
            return page;
        }
    }
    panic!("{what} did not come to pass");
}

#[test]
fn both_formats_say_the_same_and_keep_their_rules() {
    let (_model, served) = start("0000:d1:00.0");
    let to = endpoint(&served);
    let text = scrape(to, TEXT);
    let open = scrape(to, OPEN_METRICS);
    let names = |page: &Exposition| page.series().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&text), names(&open));
    assert_eq!(open.kind("iiblockdaemon_build"), Some("info"));
    assert_eq!(text.kind("iiblockdaemon_build_info"), Some("gauge"));
    assert_eq!(
        open.kind("iiblockdaemon_core_busy_seconds"),
        Some("counter")
    );
    assert_eq!(
        open.unit("iiblockdaemon_core_busy_seconds"),
        Some("seconds")
    );
    assert_eq!(text.unit("iiblockdaemon_core_busy_seconds"), None);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        text.value(&format!(
            "iiblockdaemon_build_info{{version=\"{version}\"}}"
        )),
        1.0
    );
    for (series, value) in [
        ("units{state=\"ready\"}", 2.0),
        ("units{state=\"not_ready\"}", 1.0),
        ("unit_ready{unit=\"memory\"}", 1.0),
        ("unit_ready{unit=\"namespace\"}", 1.0),
        ("unit_ready{unit=\"missing\"}", 0.0),
        ("unit_size_bytes{unit=\"memory\"}", 16.0 * 1048576.0),
        ("unit_size_bytes{unit=\"namespace\"}", 512.0 * 32768.0),
        ("unit_write_cache_lost{unit=\"namespace\"}", 0.0),
        ("core_stands_still{core=\"1\"}", 0.0),
        ("core_connections{core=\"0\"}", 0.0),
        (
            "logins_refused_total{status=\"authentication_failure\"}",
            0.0,
        ),
        ("api_connections", 1.0),
        ("ready", 1.0),
    ] {
        for page in [&text, &open] {
            assert_eq!(
                page.value(&format!("iiblockdaemon_{series}")),
                value,
                "{series}"
            );
        }
    }
    // Another scrape later: what counts has gone on.
    let turns = "iiblockdaemon_core_turns_total{core=\"0\"}";
    let before = text.value(turns);
    until(to, "a turn", |page| page.value(turns) > before);
}

#[test]
fn a_controllers_health_is_there_without_asking_it() {
    let address = "0000:d2:00.0";
    let (mut model, served) = start(address);
    let to = endpoint(&served);
    let nvme = |name: &str| format!("iiblockdaemon_nvme_{name}{{controller=\"{address}\"}}");
    // The first look at the log is soon after the start.
    let age = nvme("health_age_seconds");
    let page = until(to, "a look at the health", |page| page.has(&age));
    let state = |state: &str| {
        format!("iiblockdaemon_nvme_state{{controller=\"{address}\",state=\"{state}\"}}")
    };
    assert_eq!(page.value(&state("ready")), 1.0);
    assert_eq!(page.value(&state("failed")), 0.0);
    for counter in [
        "timeouts_total",
        "controller_resets_total",
        "breaches_total",
    ] {
        assert_eq!(page.value(&nvme(counter)), 0.0, "{counter}");
    }
    let celsius = page.value(&nvme("temperature_celsius"));
    assert!((0.0..100.0).contains(&celsius), "{celsius}");
    let spare = page.value(&nvme("available_spare_ratio"));
    assert!((0.0..=1.0).contains(&spare), "{spare}");
    let mine = |series: &&str| series.contains(&format!("controller=\"{address}\""));
    let info = page.series().filter(mine);
    let info = info.filter(|series| series.starts_with("iiblockdaemon_nvme_controller_info{"));
    assert_eq!(info.count(), 1);
    // Nothing of the controller works any more: what is known of it is there as before.
    model.stop();
    let still = scrape(to, OPEN_METRICS);
    assert_eq!(still.value(&nvme("temperature_celsius")), celsius);
    assert!(still.value(&age) >= page.value(&age));
    model.resume();
}

#[test]
fn logins_are_counted_by_what_became_of_them() {
    let (_model, served) = start("0000:d3:00.0");
    let to = endpoint(&served);
    let refused =
        |status: &str| format!("iiblockdaemon_logins_refused_total{{status=\"{status}\"}}");
    let address = served.addresses[0];
    let stranger = TcpInitiator::connect(address, login(), TIMEOUT);
    assert!(stranger.is_err(), "CHAP is required");
    let nowhere = iiblockdaemon::testing::Config::new(INITIATOR, "iqn.2026-11.io.iiblockdaemon:no");
    let stranger = TcpInitiator::connect(address, nowhere, TIMEOUT);
    assert!(stranger.is_err(), "there is no such target");
    let mut it = TcpInitiator::connect(address, with_chap(), TIMEOUT).unwrap();
    let page = until(to, "a login", |page| {
        page.value("iiblockdaemon_logins_total") == 1.0
            && page.sum("iiblockdaemon_core_sessions{") == 1.0
            && page.sum("iiblockdaemon_core_connections{") == 1.0
    });
    assert_eq!(page.value(&refused("authentication_failure")), 1.0);
    assert_eq!(page.value(&refused("not_found")), 1.0);
    assert_eq!(page.sum("iiblockdaemon_logins_refused_total{"), 2.0);
    it.logout().unwrap();
    drop(it);
    let ended = |how: &str| format!("iiblockdaemon_connections_ended_total{{how=\"{how}\"}}");
    let page = until(to, "a logout", |page| {
        page.value(&ended("logout")) == 1.0 && page.sum("iiblockdaemon_core_sessions{") == 0.0
    });
    assert_eq!(page.value(&ended("lost")), 0.0);
    drop(TcpInitiator::connect(address, with_chap(), TIMEOUT).unwrap());
    until(to, "a lost connection", |page| {
        page.value(&ended("lost")) == 1.0
    });
}

#[test]
fn a_crowd_is_turned_away_and_counted() {
    let (_model, served) = start("0000:d4:00.0");
    let to = endpoint(&served);
    // Each has had an answer, so all of them are there.
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = connect(to);
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            let mut piece = [0; 512];
            let more = stream.read(&mut piece).unwrap();
            assert!(more > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..more]);
        }
        crowd.push(stream);
    }
    let mut late = connect(to);
    let ended = late.read(&mut [0; 1]);
    assert!(
        matches!(&ended, Ok(0))
            || matches!(&ended, Err(e) if e.kind() == ErrorKind::ConnectionReset),
        "{ended:?}"
    );
    drop(crowd.pop());
    // There is a place again as soon as the daemon has seen that.
    let page = (0..SCRAPES_MAX)
        .find_map(|_| try_scrape(to))
        .expect("a place");
    assert_eq!(
        page.value("iiblockdaemon_api_connections"),
        CONNECTIONS_MAX as f64
    );
    assert!(page.value("iiblockdaemon_api_connections_refused_total") >= 1.0);
    // The disks are served beside them, and the end waits for none of them.
    let mut it = TcpInitiator::connect(served.addresses[0], with_chap(), TIMEOUT).unwrap();
    it.logout().unwrap();
    drop((it, served));
    drop(crowd);
}

/// `None`: it was turned away.
fn try_scrape(to: SocketAddr) -> Option<Exposition> {
    let mut stream = connect(to);
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(Exposition::read(body, false))
}

#[test]
fn one_who_never_reads_harms_nobody() {
    let (_model, served) = start("0000:d5:00.0");
    let to = endpoint(&served);
    let mut deaf = connect(to);
    deaf.set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    // Asks and asks, until neither side has room for another byte.
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(64);
    while deaf.write_all(&request).is_ok() {}
    let page = scrape(to, TEXT);
    assert_eq!(page.value("iiblockdaemon_api_connections"), 2.0);
    drop(served);
    drop(deaf);
}

#[test]
fn what_is_wrong_is_refused_and_forgotten() {
    let (_model, served) = start("0000:d6:00.0");
    let to = endpoint(&served);
    let huge = [
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nA: ",
        &b"x".repeat(64 << 10)[..],
    ]
    .concat();
    let fields = b"A: b\r\n".repeat(200);
    let many = [b"GET / HTTP/1.1\r\nHost: a\r\n", &fields[..], b"\r\n"].concat();
    let post = b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n";
    let garbage: [(&[u8], &str); 4] = [
        (b"\0\x01\x02\x03\r\n\r\n", "400"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", "400"),
        (post, "413"),
        (&many, "431"),
    ];
    for (request, status) in garbage {
        let answer = ask(to, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    // It is not read to its end, so the answer may be lost with the connection.
    let mut stream = connect(to);
    let _ = stream.write_all(&huge);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let (head, body) = get(to, "/nowhere", "*/*");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert_eq!(body, "there is /metrics, /healthz and /readyz\n");
    let page = until(to, "an end of all of them", |page| {
        page.value("iiblockdaemon_api_connections") == 1.0
    });
    assert_eq!(
        page.value("iiblockdaemon_api_connections_refused_total"),
        0.0
    );
}

#[test]
fn readiness_and_health_are_said_in_words() {
    let (_model, served) = start("0000:d7:00.0");
    let to = endpoint(&served);
    for path in ["/healthz", "/readyz"] {
        let (head, body) = get(to, path, "*/*");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(body, "ok\n");
    }
}

#[test]
fn a_daemon_that_stops_is_well_and_not_ready() {
    let head = toml_head(1, 32).replacen("shutdown_timeout_s = 1", "shutdown_timeout_s = 60", 1);
    let toml = "[metrics]\nlisten = \"127.0.0.1:0\"\n".to_owned()
        + &head
        + &toml_unit("memory", TOML_MEMORY)
        + &toml_target(TARGET, "", &["memory"]);
    let served = Served::from_toml(&toml, Hooks::default);
    let to = endpoint(&served);
    // It waits for this one to log out.
    let it = TcpInitiator::connect(served.addresses[0], login(), TIMEOUT).unwrap();
    served.stopper().stop();
    let answers = (0..SCRAPES_MAX).map(|_| get(to, "/readyz", "*/*"));
    let (head, body) = answers
        .into_iter()
        .find(|(head, _)| head.starts_with("HTTP/1.1 503 "))
        .expect("it is told to stop");
    assert!(head.contains("content-type: text/plain"), "{head}");
    assert_eq!(body, "the daemon stops: no logins are taken\n");
    assert_eq!(get(to, "/healthz", "*/*").1, "ok\n");
    assert_eq!(scrape(to, OPEN_METRICS).value("iiblockdaemon_ready"), 0.0);
    drop(it);
    served.ended().unwrap();
    assert!(TcpStream::connect(to).is_err(), "nobody listens any more");
}

#[test]
fn an_address_that_is_taken_is_an_error_of_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = served::config();
    config.metrics = Some(iiblockdaemon::config::Metrics {
        listen: address,
        allow_remote: false,
    });
    let directory = served::folder();
    let state = iiblockdaemon::state::StateDir::open(directory.path()).unwrap();
    let refused = iiblockdaemon::daemon::Daemon::start(&config, state, &Hooks::default());
    let why = refused.unwrap_err().to_string();
    let wanted = format!("metrics: listen: cannot listen on {address}: ");
    assert!(why.starts_with(&wanted), "{why}");
    assert!(why.contains("help: another program listens there"), "{why}");
}

#[test]
fn without_the_table_there_is_no_endpoint() {
    let served = Served::start(served::config());
    assert_eq!(served.metrics, None);
}
