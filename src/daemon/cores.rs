//! Starting the data cores, each on a thread of its own.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use tracing::error;

use super::ports::Ports;
use super::{Hooks, StartError, build};
use crate::backend;
use crate::config::{Config, CoreList, Poll};
use crate::control::ring::{Outbox, Sender, inbox};
use crate::iscsi::login;
use crate::iscsi::node::Nodes;
use crate::iscsi::session::{CONNECTIONS_MAX, Timeouts};
use crate::reactor::flows::{Attachment, FrameRings};
use crate::reactor::message::{ToControl, ToCore};
use crate::reactor::{Heartbeat, Plan, Polling, Reactor, affinity};

/// A core, as the control thread sees it.
#[derive(Debug)]
pub(super) struct CoreHandle {
    pub(super) outbox: Outbox<ToCore>,
    pub(super) thread: Option<std::thread::JoinHandle<()>>,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) connections: usize,
    pub(super) stopped: bool,
}

/// What all cores serve.
pub(super) struct Served<'a> {
    pub(super) units: &'a build::Units,
    pub(super) nodes: &'a Arc<Nodes>,
    pub(super) ports: Ports,
}

/// Starts a core for each of [`cpus`]; they tell `control`.
pub(super) fn start(
    config: &Config,
    served: Served<'_>,
    control: &Sender<ToControl>,
    hooks: &Hooks,
) -> Result<Vec<CoreHandle>, StartError> {
    let Served {
        units,
        nodes,
        ports,
    } = served;
    let cpus = cpus(config)?;
    let count = cpus.len();
    let (mut inboxes, mut senders) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (inbox, sender) = inbox().map_err(|error| StartError::new(error.to_string()))?;
        inboxes.push(inbox);
        senders.push(sender);
    }
    let frames = FrameRings::new(count);
    let mut attachments = ports.spread(config, count)?.into_iter();
    let mut handles = Vec::with_capacity(count);
    for (core, inbox) in inboxes.into_iter().enumerate() {
        let heartbeat = Arc::new(Heartbeat::default());
        let ports = attachments.next().unwrap_or_default();
        let plan = Plan {
            core,
            cpu: cpus[core],
            polling: polling(config),
            pool_bytes: config.memory.pool_bytes_per_core,
            pages: build::pages(config.memory.pages),
            nodes: Arc::clone(nodes),
            units: units
                .replicas
                .iter()
                .map(|unit| unit.replica(core))
                .collect(),
            backings: units.backings.clone(),
            backend: backend::Options {
                units: u16::try_from(units.replicas.len())
                    .unwrap_or(u16::MAX)
                    .max(1),
                ..backend::Options::default()
            },
            timeouts: timeouts(config),
            login_timeout: config.limits.login_timeout,
            random: hooks.random(),
            login_limits: login_limits(),
            greetings_max: greetings_max(config, count, &ports),
            joined_max: (config.limits.sessions / count).max(CONNECTIONS_MAX.into()),
            inbox,
            cores: senders.clone(),
            control: control.clone(),
            heartbeat: Arc::clone(&heartbeat),
            guards: Arc::clone(&hooks.guards),
            ports,
            frames: frames.clone(),
        };
        let thread = start_core(plan).inspect_err(|_| end(&mut handles))?;
        handles.push(CoreHandle {
            outbox: Outbox::new(senders[core].clone()),
            thread: Some(thread),
            heartbeat,
            connections: 0,
            stopped: false,
        });
    }
    Ok(handles)
}

/// Ends cores that have nothing to do, and waits for their ends.
pub(super) fn end(cores: &mut [CoreHandle]) {
    for core in cores.iter_mut() {
        core.outbox.send(ToCore::End);
    }
    for core in cores {
        while core.outbox.is_waiting() {
            core.outbox.retry();
            std::thread::yield_now();
        }
        if let Some(thread) = core.thread.take() {
            // A core that panics ends the process.
            let _ = thread.join();
        }
    }
}

/// Connections without a session that one of `count` cores may have when all together may have
/// `limit`. The daemon spreads those of sockets; a device spreads those of its ports by their ends,
/// so that one core may get most.
fn greetings_max(config: &Config, count: usize, ports: &[Attachment]) -> usize {
    let receives = ports.iter().any(|it| it.queue.receives());
    greetings_of(config.limits.unauthenticated_connections, count, receives)
}

fn greetings_of(limit: usize, count: usize, receives: bool) -> usize {
    let share = (limit / count).max(1);
    if receives {
        share.max(limit / 2)
    } else {
        share
    }
}

fn login_limits() -> login::Limits {
    login::Limits {
        // No task outlives its connection at ErrorRecoveryLevel 0.
        default_time2retain_s: 0,
        // What every session opens with, however short memory is: MaxCmdSN may not go back in the
        // final response.
        command_window: 1,
        ..login::Limits::default()
    }
}

fn polling(config: &Config) -> Polling {
    match config.cores.poll {
        Poll::Adaptive => Polling::Adaptive,
        Poll::Busy => Polling::Busy,
    }
}

fn timeouts(config: &Config) -> Timeouts {
    Timeouts {
        ping_interval: config.limits.nop_interval,
        ping_timeout: config.limits.nop_timeout,
        no_progress: config.limits.no_progress_timeout,
    }
}

/// A core that panics has state that nobody can trust, and other cores wait for it: the process
/// ends, and whoever supervises it starts it again. (Logins of strangers are guarded one by one,
/// inside.)
fn run_or_abort(core: usize, reactor: Reactor) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| reactor.run())).is_err() {
        error!(core, "a data core panicked: the process ends");
        std::process::abort();
    }
}

fn start_core(plan: Plan) -> Result<std::thread::JoinHandle<()>, StartError> {
    let core = plan.core;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("core-{core}"))
        .spawn(move || match Reactor::new(plan) {
            Ok(reactor) => {
                let _ = tell.send(Ok(()));
                run_or_abort(core, reactor);
            }
            Err(message) => {
                let _ = tell.send(Err(message));
            }
        })
        .map_err(|error| StartError::new(format!("core {core}: {error}")))?;
    match told.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(message)) => Err(StartError::new(format!("core {core}: {message}"))),
        Err(_) => Err(StartError::new(format!(
            "core {core} ended while it started"
        ))),
    }
}

/// CPUs that data cores are pinned to.
pub(super) fn data_cpus(config: &Config) -> Vec<usize> {
    // What cannot be had has ended the start before this.
    let cpus = cpus(config).unwrap_or_default();
    cpus.into_iter().flatten().collect()
}

/// Which CPU each core is pinned to, if any.
fn cpus(config: &Config) -> Result<Vec<Option<usize>>, StartError> {
    let available = affinity::available();
    let wanted = match &config.cores.list {
        CoreList::List(list) => list.clone(),
        CoreList::Count(count) => {
            // The first CPUs are left to the kernel, the control thread and everybody else.
            let skip = available.len().saturating_sub(*count);
            available
                .iter()
                .copied()
                .skip(skip)
                .chain(available.iter().copied().cycle())
                .take(*count)
                .collect()
        }
    };
    if !config.cores.pin {
        return Ok(vec![None; wanted.len()]);
    }
    if let Some(cpu) = wanted.iter().find(|cpu| !available.contains(cpu)) {
        return Err(StartError::new(format!(
            "cores.list: CPU {cpu} is not one of those that this process may use ({available:?})\n  help: \
             choose from these, or set pin = false"
        )));
    }
    Ok(wanted.into_iter().map(Some).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_at_a_port_may_all_come_to_one_core() {
        assert_eq!(greetings_of(64, 8, false), 8);
        assert_eq!(greetings_of(64, 8, true), 32);
        assert_eq!(greetings_of(64, 1, true), 64);
        assert_eq!(
            [greetings_of(1, 4, false), greetings_of(1, 4, true)],
            [1; 2]
        );
    }
}
