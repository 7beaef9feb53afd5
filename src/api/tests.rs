//! The endpoint over streams in memory, under a clock that stands still until all wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;
use crate::metrics::Format;

/// Bytes of a page here.
const PAGE_BYTES: usize = 1 << 20;

struct Fixed {
    well: bool,
}

impl Source for Fixed {
    fn metrics(&self, format: Format) -> String {
        match format {
            Format::Text => "t".repeat(PAGE_BYTES),
            Format::OpenMetrics => "# EOF\n".to_owned(),
        }
    }

    fn health(&self) -> Result<(), String> {
        if self.well {
            Ok(())
        } else {
            Err("core 1 stands still".to_owned())
        }
    }

    fn readiness(&self) -> Result<(), String> {
        self.health()
    }
}

/// A peer of a connection that is being served, with so much room between.
fn connect(well: bool, room: usize) -> (DuplexStream, tokio::task::JoinHandle<bool>) {
    let (near, far) = duplex(room);
    let router = routes::router(Arc::new(Fixed { well }));
    let served = tokio::spawn(async move { server::connection(far, &router).await.is_ok() });
    (near, served)
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    builder.build().unwrap().block_on(test);
}

/// What is answered to `request`, until the connection is closed.
async fn ask(well: bool, request: &[u8]) -> String {
    let (mut peer, _served) = connect(well, 4 << 20);
    peer.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

#[test]
fn each_path_has_its_answer() {
    run(async {
        let text = ask(true, &get("/metrics", "")).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text:.200}");
        assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(text.ends_with(&"t".repeat(PAGE_BYTES)));
        let accept = "Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n";
        let open = ask(true, &get("/metrics", accept)).await;
        assert!(
            open.contains("application/openmetrics-text; version=1.0.0"),
            "{open}"
        );
        assert!(open.ends_with("\r\n\r\n# EOF\n"), "{open}");
        for path in ["/healthz", "/readyz"] {
            let well = ask(true, &get(path, "")).await;
            assert!(well.starts_with("HTTP/1.1 200 ") && well.ends_with("\r\n\r\nok\n"));
            let sick = ask(false, &get(path, "")).await;
            assert!(sick.starts_with("HTTP/1.1 503 "), "{sick}");
            assert!(sick.ends_with("\r\n\r\ncore 1 stands still\n"), "{sick}");
        }
        let head = ask(
            true,
            b"HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    });
}

#[test]
fn what_is_wrong_is_answered_as_http_says() {
    run(async {
        let long = "x".repeat(HEAD_BYTES_MAX);
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        let cases: [(Vec<u8>, &str); 9] = [
            (get("/nowhere", ""), "404"),
            (get("/metrics/", ""), "404"),
            (
                b"POST /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
                "405",
            ),
            (
                b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
                "400",
            ),
            (get("/metrics", "Host: b\r\n"), "400"),
            (get("/metrics", "Content-Length: 99999999999\r\n"), "413"),
            (get("/metrics", &format!("A: {long}\r\n")), "431"),
            (get("/metrics", &many), "431"),
            (b"\x16\x03\x01 no HTTP at all\r\n\r\n".to_vec(), "400"),
        ];
        for (request, status) in cases {
            let answer = ask(true, &request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer:.100} to {:.100}",
                String::from_utf8_lossy(&request)
            );
        }
        let post = b"POST /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        assert!(ask(true, post).await.contains("allow: GET,HEAD\r\n"));
    });
}

#[test]
fn a_head_has_its_time_however_slowly_it_comes() {
    run(async {
        for drips in [false, true] {
            let (mut peer, served) = connect(true, 1 << 10);
            let begun = Instant::now();
            peer.write_all(b"GET /metrics HT").await.unwrap();
            if drips {
                for byte in b"TP/1.1\r\n" {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    peer.write_all(&[*byte]).await.unwrap();
                }
            }
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).await.unwrap();
            assert!(begun.elapsed() - HEAD_MAX < Duration::from_millis(10));
            assert!(!served.await.unwrap());
        }
    });
}

#[test]
fn a_peer_that_asks_no_more_is_not_kept() {
    run(async {
        let (mut peer, _served) = connect(true, 1 << 10);
        let begun = Instant::now();
        peer.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"ok\n"));
        assert!(begun.elapsed() - HEAD_MAX < Duration::from_millis(10));
    });
}

#[test]
fn a_peer_that_never_reads_is_not_waited_for() {
    run(async {
        let (mut peer, served) = connect(true, 1 << 10);
        let begun = Instant::now();
        peer.write_all(&get("/metrics", "")).await.unwrap();
        assert!(!served.await.unwrap());
        assert!(begun.elapsed() - STALL_MAX < Duration::from_millis(10));
    });
}

#[test]
fn a_peer_that_reads_slowly_is_served_to_the_end() {
    run(async {
        let room = 64 << 10;
        let (mut peer, served) = connect(true, room);
        let begun = Instant::now();
        peer.write_all(&get("/metrics", "")).await.unwrap();
        let (mut piece, mut taken) = (vec![0; room], 0);
        loop {
            tokio::time::sleep(STALL_MAX - Duration::from_secs(1)).await;
            match peer.read(&mut piece).await.unwrap() {
                0 => break,
                more => taken += more,
            }
        }
        assert!(taken > PAGE_BYTES, "{taken}");
        assert!(begun.elapsed() > STALL_MAX * 8);
        assert!(served.await.unwrap());
    });
}
