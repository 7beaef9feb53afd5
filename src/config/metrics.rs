//! Reads `[metrics]`.

use super::model::{Metrics, PortalGroup};
use super::reader::{At, Section};
use super::report::{Finding, Span};

/// What is written where nothing else is meant.
const USUAL: &str = "127.0.0.1:9260";

/// The endpoint and where its address stands; `None`: there is to be none, or an error was
/// reported.
pub(super) fn read_metrics(section: Option<Section<'_>>) -> Option<(Metrics, Span)> {
    let mut section = section?;
    let allow_remote = section.boolean("allow_remote").unwrap_or(false);
    let help = format!("write listen = \"{USUAL}\", or leave [metrics] out");
    let text = section.required_text("listen", &help);
    let metrics = text.and_then(|text| read_listen(&section, &text, allow_remote));
    section.finish();
    metrics
}

fn read_listen(
    section: &Section<'_>,
    text: &At<&str>,
    allow_remote: bool,
) -> Option<(Metrics, Span)> {
    let wrong = |message: String, help: &str| {
        section.report(Finding::error(text.span.clone(), message).help(help));
        None
    };
    let Ok(listen) = text.value.parse() else {
        let message = format!("listen = {:?} is not an address and a port", text.value);
        let help = format!("write an IP address and a port, as in {USUAL:?} or \"[::1]:9260\"");
        return wrong(message, &help);
    };
    let metrics = Metrics {
        listen,
        allow_remote,
    };
    // Whoever listens on all addresses is reached from everywhere.
    if !listen.ip().to_canonical().is_loopback() && !allow_remote {
        let message = format!("listen = {:?} can be reached by other machines", text.value);
        let help = format!(
            "listen on this machine alone, as with {USUAL:?}, or add allow_remote = true: \
             whoever reaches it reads names of units, and models and serial numbers of disks"
        );
        return wrong(message, &help);
    }
    Some((metrics, text.span.clone()))
}

/// One address cannot be the endpoint's and a portal's. (A portal on all addresses of the host is
/// found out when it is bound.)
pub(super) fn report_shared(
    root: &Section<'_>,
    metrics: Option<&(Metrics, Span)>,
    groups: &[At<PortalGroup>],
) {
    let Some((metrics, span)) = metrics else {
        return;
    };
    let shares = |group: &&At<PortalGroup>| {
        let portals = &group.value.portals;
        metrics.listen.port() != 0
            && portals
                .iter()
                .any(|portal| portal.port.is_none() && portal.address == metrics.listen)
    };
    if let Some(group) = groups.iter().find(shares) {
        let message = format!("listen: {} is a portal too", metrics.listen);
        root.report(
            Finding::error(span.clone(), message)
                .other(group.span.clone(), "of this portal group")
                .help("give the metrics another port"),
        );
    }
}
