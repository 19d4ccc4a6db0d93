//! What /proc knows of a process: CPU time and memory.

use std::fs;

/// CPU time spent so far, in seconds.
pub struct Cpu {
    server: f64,
    load: f64,
}

impl Cpu {
    pub fn now(server: u32) -> Result<Cpu, String> {
        Ok(Cpu {
            server: cpu_seconds(server)?,
            load: cpu_seconds(std::process::id())?,
        })
    }

    /// How many cores the server and the load generator kept busy since.
    pub fn cores(&self, server: u32, seconds: f64) -> Result<(f64, f64), String> {
        let now = Cpu::now(server)?;
        Ok((
            (now.server - self.server) / seconds,
            (now.load - self.load) / seconds,
        ))
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

/// Resident memory, in KiB.
pub fn resident_kib(pid: u32) -> Result<f64, String> {
    let status = proc_file(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    figure.ok_or_else(|| "no VmRSS: the server has ended".to_owned())
}

fn proc_file(pid: u32, name: &str) -> Result<String, String> {
    fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|_| "the server has ended".to_owned())
}
