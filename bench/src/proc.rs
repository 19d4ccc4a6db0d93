//! What /proc knows of a process: CPU time and memory.

use crate::scenario::Order;
use std::fs;

/// CPU time spent so far, in seconds; or in each second, which is cores kept busy.
pub struct Cpu {
    pub server: f64,
    pub load: f64,
    pub nats: Option<f64>,
}

impl Cpu {
    pub fn now(order: &Order) -> Result<Cpu, String> {
        Ok(Cpu {
            server: order
                .pids
                .iter()
                .map(|&pid| cpu_seconds(pid))
                .sum::<Result<_, _>>()?,
            load: cpu_seconds(std::process::id())?,
            nats: order.nats.map(cpu_seconds).transpose()?,
        })
    }

    /// How many cores each kept busy since.
    pub fn cores(&self, order: &Order, seconds: f64) -> Result<Cpu, String> {
        let now = Cpu::now(order)?;
        Ok(Cpu {
            server: (now.server - self.server) / seconds,
            load: (now.load - self.load) / seconds,
            nats: now
                .nats
                .zip(self.nats)
                .map(|(now, before)| (now - before) / seconds),
        })
    }
}

/// User and system time from /proc/PID/stat: fields 14 and 15, counted behind the name, which may hold spaces.
fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let stat = proc_file(pid, "stat")?;
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory of all servers, in KiB.
pub fn resident_kib(order: &Order) -> Result<f64, String> {
    order.pids.iter().map(|&pid| resident_kib_of(pid)).sum()
}

fn resident_kib_of(pid: u32) -> Result<f64, String> {
    let status = proc_file(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    figure.ok_or_else(|| "no VmRSS: the server has ended".to_owned())
}

fn proc_file(pid: u32, name: &str) -> Result<String, String> {
    fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|_| "the server has ended".to_owned())
}
