//! DPDK's environment: started once per process, on a thread of its own, because `rte_eal_init`
//! moves the thread that calls it to a CPU of its choice. Its log goes to `tracing`.

use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use crossbeam::queue::ArrayQueue;
use dpdk_sys as sys;

use super::{EalError, EalSettings, facts};

/// Lines of complaint kept to explain a failure with.
const COMPLAINTS_MAX: usize = 16;
/// The last of DPDK's levels that says that something failed (`RTE_LOG_ERR`), and that something is
/// odd (`RTE_LOG_WARNING`).
const LEVEL_ERROR: u32 = 4;
const LEVEL_WARNING: u32 = 5;

/// Ports that there can be.
const PORTS: usize = sys::RTE_MAX_ETHPORTS as usize;

static STARTED: AtomicBool = AtomicBool::new(false);
/// Somebody has frames that nobody waits for: DPDK's memory stays as long as the process.
static KEPT: AtomicBool = AtomicBool::new(false);

/// The running environment; clones name the same one. It ends with the last of them, and devices
/// hold one each.
#[derive(Clone, Debug)]
pub struct Eal {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    /// Ends the thread when it is dropped.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    vdevs: Vec<String>,
    /// Ports that somebody has opened, by their numbers.
    ports: [AtomicBool; PORTS],
}

impl Eal {
    /// Starts DPDK and attaches the devices of the settings.
    ///
    /// # Errors
    /// [`EalError`]; after any but those that are found before DPDK is called, a second attempt in
    /// this process is refused.
    pub fn start(settings: &EalSettings) -> Result<Self, EalError> {
        let arguments = arguments(settings)?;
        if STARTED.load(Ordering::Acquire) {
            return Err(EalError::Started);
        }
        for address in &settings.pci {
            facts::pci_device(Path::new("/"), &facts::pci_address(address))?;
        }
        if settings.huge {
            facts::huge_pages(Path::new("/"), settings.memory_mib)?;
        }
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::Started);
        }
        let (answer, started) = channel();
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("dpdk-eal".to_owned())
            .spawn(move || run(&arguments, &answer, &stopped))
            .map_err(|error| EalError::Thread(error.to_string()))?;
        let eal = Self {
            running: Arc::new(Running {
                stop: Some(stop),
                thread: Some(thread),
                vdevs: settings.vdevs.clone(),
                ports: [const { AtomicBool::new(false) }; PORTS],
            }),
        };
        started.recv().map_err(|_| EalError::Init {
            why: "its thread has ended".to_owned(),
            log: complaints(),
        })??;
        for device in &settings.vdevs {
            eal.attach(device)?;
        }
        Ok(eal)
    }

    /// Attaches a virtual device.
    pub(super) fn attach(&self, device: &str) -> Result<(), EalError> {
        let arguments = c_string(device)?;
        while complained().pop().is_some() {}
        // SAFETY: the environment runs, as `self` exists; the text ends with a NUL.
        let done = unsafe { sys::rte_dev_probe(arguments.as_ptr()) };
        if done == 0 {
            return Ok(());
        }
        let name = device.split(',').next().unwrap_or_default();
        let driver = name.trim_end_matches(|last: char| last.is_ascii_digit());
        let log = complaints();
        let why = if log.contains("failed to parse device") {
            format!(
                "no driver takes it: {driver} is misspelt, or its plugin librte_{driver}.so is \
                 not in DPDK's folder of plugins"
            )
        } else {
            let privilege = match driver {
                "net_af_packet" | "net_tap" | "net_af_xdp" => {
                    " (it needs CAP_NET_RAW and CAP_NET_ADMIN in its network namespace)"
                }
                _ => "",
            };
            format!("it cannot be attached: {}{privilege}", error_text(done))
        };
        Err(EalError::Vdev {
            device: device.to_owned(),
            why,
            log,
        })
    }

    /// Takes a port for the caller. `false`: somebody has it.
    pub(super) fn take_port(&self, port: u16) -> bool {
        let taken = self.running.ports.get(usize::from(port));
        taken.is_some_and(|taken| !taken.swap(true, Ordering::AcqRel))
    }

    /// A port that was taken is closed.
    pub(super) fn give_port(&self, port: u16) {
        if let Some(taken) = self.running.ports.get(usize::from(port)) {
            taken.store(false, Ordering::Release);
        }
    }

    /// The arguments with which a virtual device of that name was attached at start.
    pub(super) fn vdev(&self, name: &str) -> Option<&str> {
        let mut vdevs = self.running.vdevs.iter().map(String::as_str);
        vdevs.find(|device| device.split(',').next() == Some(name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends by itself; if it panicked there is nothing left to end.
            let _ = thread.join();
        }
    }
}

/// The life of the thread: start, wait, clean up.
fn run(arguments: &[CString], answer: &Sender<Result<(), EalError>>, stopped: &Receiver<()>) {
    // SAFETY: the function is one for the whole life of the process, and takes what it is given.
    if unsafe { sys::iibd_open_log(Some(log_line)) } != 0 {
        tracing::warn!("no memory for DPDK's log, it goes to the standard error");
    }
    let mut pointers: Vec<*mut c_char> = arguments
        .iter()
        .map(|argument| argument.as_ptr().cast_mut())
        .collect();
    let count = c_int::try_from(pointers.len()).expect("a few arguments");
    pointers.push(std::ptr::null_mut());
    // SAFETY: `count` strings that end with a NUL, then a null pointer, as main gets them. They
    // live until this thread ends; DPDK copies what it keeps, and changes none of them in place.
    let started = unsafe { sys::rte_eal_init(count, pointers.as_mut_ptr()) };
    if started < 0 {
        // SAFETY: reads a variable of this thread.
        let errno = unsafe { sys::iibd_errno() };
        let _ = answer.send(Err(EalError::Init {
            why: error_text(errno),
            log: complaints(),
        }));
        return;
    }
    // Whoever asked waits for it, and ends the environment by dropping the other channel.
    let _ = answer.send(Ok(()));
    let _ = stopped.recv();
    if KEPT.load(Ordering::Acquire) {
        tracing::warn!("DPDK is not cleaned up: frames of it are still in use");
        return;
    }
    // SAFETY: the environment was started on this thread, and nothing uses it any more: every
    // device and pool holds an `Eal`, of which the last is gone.
    let ended = unsafe { sys::rte_eal_cleanup() };
    if ended != 0 {
        tracing::warn!("DPDK did not clean up: {}", error_text(ended));
    }
}

/// The command line of the EAL.
fn arguments(settings: &EalSettings) -> Result<Vec<CString>, EalError> {
    let cpus = if settings.cpus.is_empty() {
        own_cpus()
    } else {
        settings.cpus.clone()
    };
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let mut texts = vec![
        "iiblockdaemon".to_owned(),
        // One logical core for all of them: the cores that poll register themselves.
        format!("--lcores=0@({})", cpus.join(",")),
        "-m".to_owned(),
        settings.memory_mib.to_string(),
        "--no-telemetry".to_owned(),
    ];
    if settings.huge {
        texts.push("--in-memory".to_owned());
        if settings.single_file_segments {
            texts.push("--single-file-segments".to_owned());
        }
    } else {
        texts.push("--no-huge".to_owned());
        texts.push("--no-shconf".to_owned());
    }
    if !settings.file_prefix.is_empty() {
        texts.push(format!("--file-prefix={}", settings.file_prefix));
    }
    if settings.pci.is_empty() {
        texts.push("--no-pci".to_owned());
    }
    for address in &settings.pci {
        texts.push(format!("--allow={}", facts::pci_address(address)));
    }
    texts.extend(settings.extra.iter().cloned());
    texts.iter().map(|text| c_string(text)).collect()
}

/// The CPUs that this process may run on.
fn own_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return vec![0];
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}

/// DPDK is not to clean up at its end: somebody still has frames, which lie in its memory.
pub(super) fn keep_running() {
    KEPT.store(true, Ordering::Release);
}

pub(super) fn c_string(text: &str) -> Result<CString, EalError> {
    if text.is_empty() {
        return Err(EalError::Argument(text.to_owned()));
    }
    CString::new(text).map_err(|_| EalError::Argument(text.to_owned()))
}

/// What an error number of DPDK means; its sign does not matter.
pub(super) fn error_text(number: c_int) -> String {
    // DPDK's own numbers begin at 1000; the kernel's have better texts here.
    std::io::Error::from_raw_os_error(number.saturating_abs()).to_string()
}

fn complained() -> &'static ArrayQueue<String> {
    static LINES: OnceLock<ArrayQueue<String>> = OnceLock::new();
    LINES.get_or_init(|| ArrayQueue::new(COMPLAINTS_MAX))
}

/// What DPDK has complained of lately, as the end of an error's text.
pub(super) fn complaints() -> String {
    let mut text = String::new();
    while let Some(line) = complained().pop() {
        text.push_str("\n  DPDK: ");
        text.push_str(&line);
    }
    text
}

/// A line of DPDK's log, on whatever thread it was written.
extern "C" fn log_line(level: u32, text: *const c_char, bytes: usize) {
    // SAFETY: the shim gives the text of one message, which stays until this returns.
    let text = unsafe { slice::from_raw_parts(text.cast::<u8>(), bytes) };
    let text = String::from_utf8_lossy(text);
    if level <= LEVEL_ERROR {
        tracing::warn!("DPDK: {text}");
        let _ = complained().force_push(text.into_owned());
    } else if level == LEVEL_WARNING {
        tracing::info!("DPDK: {text}");
    } else {
        tracing::debug!("DPDK: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(settings: &EalSettings) -> String {
        let arguments = arguments(settings).unwrap();
        let texts: Vec<&str> = arguments
            .iter()
            .map(|text| text.to_str().unwrap())
            .collect();
        texts.join(" ")
    }

    #[test]
    fn without_huge_pages_nothing_is_shared_and_no_pci_is_touched() {
        let settings = EalSettings {
            cpus: vec![1, 3],
            memory_mib: 64,
            huge: false,
            single_file_segments: true,
            ..EalSettings::default()
        };
        assert_eq!(
            line(&settings),
            "iiblockdaemon --lcores=0@(1,3) -m 64 --no-telemetry --no-huge --no-shconf --no-pci"
        );
    }

    #[test]
    fn pci_devices_are_named_one_by_one() {
        let settings = EalSettings {
            cpus: vec![0],
            pci: vec!["03:00.0".to_owned(), "0001:04:00.1".to_owned()],
            file_prefix: "one".to_owned(),
            single_file_segments: true,
            extra: vec!["--log-level=8".to_owned()],
            ..EalSettings::default()
        };
        assert_eq!(
            line(&settings),
            "iiblockdaemon --lcores=0@(0) -m 512 --no-telemetry --in-memory \
             --single-file-segments --file-prefix=one --allow=0000:03:00.0 --allow=0001:04:00.1 \
             --log-level=8"
        );
        assert!(!own_cpus().is_empty());
    }

    #[test]
    fn an_argument_with_a_nul_is_refused() {
        let settings = EalSettings {
            extra: vec!["a\0b".to_owned()],
            ..EalSettings::default()
        };
        assert_eq!(
            arguments(&settings),
            Err(EalError::Argument("a\0b".to_owned()))
        );
    }
}
