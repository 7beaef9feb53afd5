//! What a 4 KiB command costs a core through our NVMe driver, beside the null device and the memory
//! disk behind the same `Set`.
//!
//! `--depth` commands are submitted and told to the controller with one kick, then the model of a
//! controller (`NvmeModel`) does all of them, then the core polls until they are answered: again
//! and again, one thread for everything. Time runs only in the two parts that are ours. In those
//! the model still has its registers behind the doorbells; what a write to one costs is measured
//! alone and taken out, and so is the clock. `--only` one device and one way is for callgrind,
//! which counts what happens inside of [`begin`] and [`finish`]: `bench/instructions.sh`.

use std::process::ExitCode;
use std::time::Instant;

use bench::clock::Clock;
use clap::{Parser, ValueEnum};
use iiblockdaemon::backend::{
    Backing, Completion, Kind, NvmeModel, NvmeSettings, Operation, Options, Request, Selector, Set,
    Spec, Token, UnitIndex,
};
use iiblockdaemon::mem::{CHUNK_BYTES, DmaBuf, Pages, Pool};

const ADDRESS: &str = "0000:be:01.0";
const UNIT: UnitIndex = UnitIndex(0);
const BLOCK_BYTES: u32 = 512;
const BLOCKS: u64 = 1 << 15;
/// Their bytes.
const BYTES: u64 = 16 << 20;
/// Of one command.
const COMMAND_BLOCKS: u32 = 8;
const COMMAND_BYTES: usize = 4096;
/// Commands at a time that can be asked for: fewer than a queue has entries.
const DEPTH_MAX: u32 = 255;
/// Commands that have places of their own.
const PLACES: u32 = 4096;
/// Polls in which what the controller has done comes out, or never.
const POLLS_MAX: u32 = 1000;
/// Measurements of which the least disturbed one counts.
const ROUNDS: usize = 9;
/// What is measured alone is done so often.
const ALONE: u64 = 200_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Way {
    Read,
    Write,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Device {
    Nvme,
    Null,
    Memory,
}

/// A table, or one kind of work whose instructions are counted from outside.
#[derive(Debug, Parser)]
struct Arguments {
    /// Of each measurement; without `--only` there are nine of each.
    #[arg(long, default_value_t = 100_000)]
    commands: u32,
    /// Commands at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,32,128")]
    depths: Vec<u32>,
    /// One device, once, without a table.
    #[arg(long, value_enum)]
    only: Option<Device>,
    /// The way of that.
    #[arg(long, value_enum, default_value_t = Way::Read)]
    way: Way,
    #[arg(long)]
    cpu: Option<usize>,
}

/// A core's devices, of which one is used.
struct Core {
    set: Set,
    /// Those of commands that are not under way.
    buffers: Vec<DmaBuf>,
    done: Vec<Completion>,
    requests: Vec<Request>,
    lba: u64,
    now: Instant,
    failed: u64,
    /// Bytes that the controller reached before the core had a part in it.
    mapped_before: usize,
    /// Last but one: what the device has is given back before.
    model: Option<NvmeModel>,
    _pool: Pool,
}

/// Both parts of a turn that are the core's, in nanoseconds, and the doorbells.
#[derive(Clone, Copy, Default, Debug)]
struct Turns {
    ns: u64,
    register_writes: u64,
    turns: u64,
}

impl Core {
    fn new(device: Device) -> Result<Self, String> {
        let model = (device == Device::Nvme).then(|| NvmeModel::at(ADDRESS, BLOCKS));
        let mapped_before = model.as_ref().map_or(0, NvmeModel::mapped_bytes);
        let kind = match device {
            Device::Nvme => Kind::Nvme {
                address: ADDRESS.to_owned(),
                namespace: Selector::Only,
                settings: NvmeSettings::default(),
                unsafe_noiommu: false,
            },
            Device::Null => Kind::Null { bytes: BYTES },
            Device::Memory => Kind::Memory { bytes: BYTES },
        };
        let spec = Spec {
            block_size: BLOCK_BYTES,
            ..Spec::new(kind)
        };
        let backing = Backing::open(&spec).map_err(|error| error.to_string())?;
        let pool = Pool::new(2 * DEPTH_MAX as usize * CHUNK_BYTES, Pages::Normal)
            .map_err(|error| error.to_string())?;
        let options = Options {
            depth: DEPTH_MAX,
            units: 1,
        };
        let mut set = Set::new(&options).map_err(|error| error.to_string())?;
        set.use_pool(&pool, Pages::Normal);
        set.attach(UNIT, &backing)
            .map_err(|error| error.to_string())?;
        let buffers: Option<Vec<_>> = (0..DEPTH_MAX).map(|_| pool.alloc(COMMAND_BYTES)).collect();
        let capacity = DEPTH_MAX as usize;
        let mut core = Self {
            set,
            buffers: buffers.ok_or("the pool is too small")?,
            done: Vec::with_capacity(capacity),
            requests: Vec::with_capacity(capacity),
            lba: 0,
            now: Clock::start().began(),
            failed: 0,
            mapped_before,
            model,
            _pool: pool,
        };
        core.open()?;
        Ok(core)
    }

    /// Waits until the keeper has opened the queue pair, and lets the model do nothing by itself
    /// from then on. What is read was written.
    fn open(&mut self) -> Result<(), String> {
        self.prepare(Way::Write, 1);
        begin(self);
        while self.done.is_empty() {
            std::thread::yield_now();
            self.set.kick(self.now);
            self.set.poll(&mut self.done);
        }
        self.put_away();
        if let Some(model) = &mut self.model {
            model.stop();
        }
        self.work(Way::Write, PLACES, DEPTH_MAX).map(drop)
    }

    /// The next requests.
    fn prepare(&mut self, way: Way, count: u32) {
        for tag in 0..count {
            let buf = self.buffers.pop().expect("as many as can be asked for");
            let (lba, blocks) = (self.lba, COMMAND_BLOCKS);
            // Steps that reach every command's place, but not the next one next.
            self.lba = (self.lba + 5 * u64::from(blocks)) % BLOCKS;
            let operation = match way {
                Way::Read => Operation::Read { lba, blocks, buf },
                Way::Write => Operation::Write {
                    lba,
                    blocks,
                    fua: false,
                    buf,
                },
            };
            self.requests.push(Request {
                unit: UNIT,
                operation,
                past_limit: false,
                token: Token::new(tag.into()),
            });
        }
    }

    /// Takes back what was answered.
    fn put_away(&mut self) {
        for completion in self.done.drain(..) {
            self.failed += u64::from(completion.result.is_err());
            completion.token.finish();
            self.buffers.extend(completion.buf);
        }
    }

    /// So many commands, `depth` at a time.
    fn work(&mut self, way: Way, commands: u32, depth: u32) -> Result<Turns, String> {
        let clock = Clock::start();
        let mut sum = Turns::default();
        let writes = |core: &Self| core.model.as_ref().map_or(0, NvmeModel::register_writes);
        let before = writes(self);
        for _ in 0..commands.div_ceil(depth) {
            self.prepare(way, depth);
            let began = clock.now_ns();
            begin(self);
            sum.ns += clock.now_ns() - began;
            if let Some(model) = &self.model {
                model.settle();
            }
            let began = clock.now_ns();
            finish(self, depth as usize);
            sum.ns += clock.now_ns() - began;
            if self.done.len() != depth as usize {
                return Err(format!("{} of {depth} came back", self.done.len()));
            }
            self.put_away();
            sum.turns += 1;
        }
        if self.failed > 0 {
            return Err(format!("{} commands have failed", self.failed));
        }
        sum.register_writes = writes(self) - before;
        Ok(sum)
    }
}

/// Commands in: what is counted, with [`finish`].
#[inline(never)]
fn begin(core: &mut Core) {
    for request in core.requests.drain(..) {
        core.set.submit(request);
    }
    core.set.kick(core.now);
}

/// Answers out.
#[inline(never)]
fn finish(core: &mut Core, count: usize) {
    for _ in 0..POLLS_MAX {
        core.set.poll(&mut core.done);
        if core.done.len() >= count {
            return;
        }
    }
}

/// What the bench itself costs, in nanoseconds each.
#[derive(Clone, Copy, Debug)]
struct Own {
    /// Between two looks at the clock with nothing between.
    clock: f64,
    register_write: f64,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sums of nanoseconds are far below 2^52"
)]
fn per(sum: u64, count: u64) -> f64 {
    sum as f64 / count as f64
}

fn own(model: &NvmeModel) -> Own {
    let clock = Clock::start();
    let mut least = Own {
        clock: f64::INFINITY,
        register_write: f64::INFINITY,
    };
    for _ in 0..ROUNDS {
        let mut empty = 0;
        for _ in 0..ALONE {
            let began = clock.now_ns();
            empty += clock.now_ns() - began;
        }
        least.clock = least.clock.min(per(empty, ALONE));
        let began = clock.now_ns();
        for _ in 0..ALONE {
            model.write_nothing();
        }
        let took = clock.now_ns() - began;
        least.register_write = least.register_write.min(per(took, ALONE));
    }
    least
}

fn row(device: Device, way: Way, (commands, depth): (u32, u32), own: Own) -> Result<(), String> {
    let mut core = Core::new(device)?;
    core.work(way, commands / 10, depth)?;
    let mut least: Option<(f64, f64, f64)> = None;
    for _ in 0..ROUNDS {
        let turns = core.work(way, commands, depth)?;
        let count = turns.turns * u64::from(depth);
        let all = per(turns.ns, count);
        let clock = own.clock * per(2 * turns.turns, count);
        let writes = per(turns.register_writes, count);
        let ours = all - clock - writes * own.register_write;
        if least.is_none_or(|(least, ..)| ours < least) {
            least = Some((ours, all, writes));
        }
    }
    let (ours, all, writes) = least.ok_or("nothing was measured")?;
    let (device, way) = (format!("{device:?}"), format!("{way:?}"));
    println!(
        "| {} | {} | {depth} | {ours:.0} | {all:.0} | {writes:.2} |",
        device.to_lowercase(),
        way.to_lowercase()
    );
    Ok(())
}

/// What a core has for one controller.
fn memory() -> Result<(), String> {
    let core = Core::new(Device::Nvme)?;
    let model = core.model.as_ref().expect("an NVMe device has one");
    let pool = 2 * DEPTH_MAX as usize * CHUNK_BYTES;
    let all = model.mapped_bytes() - core.mapped_before;
    println!(
        "\nFor one controller a core has {} bytes of queues, PRP lists and zeroes; what the keeper \
         has of it are {} bytes.",
        all - pool,
        core.mapped_before
    );
    Ok(())
}

fn table(arguments: &Arguments) -> Result<(), String> {
    let mut model = NvmeModel::at(ADDRESS, BLOCKS);
    // So that its own thread is not woken.
    model.stop();
    let own = own(&model);
    drop(model);
    println!(
        "Taken out: the clock {:.1} ns, twice a turn; a write to a register of the model {:.1} ns.\n",
        own.clock, own.register_write
    );
    println!("| device | way | commands at a time | ns a command | with those | doorbells |");
    println!("|---|---|---|---|---|---|");
    for &depth in &arguments.depths {
        for way in [Way::Read, Way::Write] {
            for device in [Device::Null, Device::Memory, Device::Nvme] {
                row(device, way, (arguments.commands, depth), own)?;
            }
        }
    }
    memory()
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if let Some(wrong) = arguments
        .depths
        .iter()
        .find(|depth| !(1..=DEPTH_MAX).contains(depth))
    {
        return Err(format!("{wrong} at a time; 1 to {DEPTH_MAX} are"));
    }
    if let Some(id) = arguments.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(format!("this process may not use CPU {id}"));
    }
    let Some(device) = arguments.only else {
        return table(arguments);
    };
    let mut core = Core::new(device)?;
    for &depth in &arguments.depths {
        core.work(arguments.way, arguments.commands, depth)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("nvme: {why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_answer_at_every_depth() {
        for device in [Device::Null, Device::Memory, Device::Nvme] {
            let mut core = Core::new(device).unwrap();
            for (way, depth) in [(Way::Read, 1), (Way::Write, 32), (Way::Read, DEPTH_MAX)] {
                let turns = core.work(way, 300, depth).unwrap();
                assert_eq!(turns.turns, 300_u64.div_ceil(depth.into()));
                let nvme = device == Device::Nvme;
                assert_eq!(turns.register_writes > 0, nvme, "{device:?}");
            }
        }
    }
}
