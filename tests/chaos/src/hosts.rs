//! Several hosts on one machine: a network namespace for each, joined by a bridge in one more. Nothing of
//! the machine's own network is touched. Needs root, and `ip` of iproute2.
//!
//! Invariants
//!   H1  Namespaces have names of this process alone, and are removed when the hosts are dropped.
//!   H2  Two hosts are parted at most once: parting them again, or joining those that are not, does nothing.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// See the module.
pub struct Hosts {
    tag: String,
    count: usize,
    /// H2.
    parted: Mutex<BTreeSet<(usize, usize)>>,
}

fn ip(words: &[&str]) -> io::Result<()> {
    let done = Command::new("ip").args(words).output()?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(io::Error::other(format!("ip {}: {}", words.join(" "), why.trim())))
}

impl Hosts {
    /// Makes `count` hosts that reach each other.
    ///
    /// # Errors
    /// When this process may not, or `ip` is missing: what says which.
    pub fn new(count: usize) -> io::Result<Self> {
        // One process may have several networks.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tag = format!("tmc{}n{number}", std::process::id());
        let hosts = Hosts { tag, count, parted: Mutex::default() };
        let switch = hosts.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for n in 0..count {
            let (name, port) = (hosts.name(n), format!("p{n}"));
            let address = format!("{}/24", hosts.address(n));
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                "netns", &name,
            ])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &name, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(hosts)
    }

    fn switch(&self) -> String {
        format!("{}sw", self.tag)
    }

    fn name(&self, n: usize) -> String {
        format!("{}h{n}", self.tag)
    }

    /// The address of a host, on the network that only these hosts have.
    pub fn address(&self, n: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 207, 41, 10 + n as u8)
    }

    /// What runs a command on a host.
    pub fn prefix(&self, n: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.name(n)].map(str::to_owned).to_vec()
    }

    /// Does something on a host, on a thread of its own.
    ///
    /// # Errors
    /// When there is no way into it.
    pub fn inside<T: Send>(&self, n: usize, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let space = File::open(format!("/run/netns/{}", self.name(n)))?;
        let enter = || -> io::Result<T> {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        thread::scope(|scope| {
            scope.spawn(enter).join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
        })
    }

    /// From now on nothing gets from one host to the other, nor back, and nobody is told; or again.
    ///
    /// # Errors
    /// When `ip` does not do it.
    pub fn part(&self, a: usize, b: usize, parted: bool) -> io::Result<()> {
        let pair = (a.min(b), a.max(b));
        let mut known = self.parted.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = if parted { known.insert(pair) } else { known.remove(&pair) };
        if !changes {
            return Ok(());
        }
        let how = if parted { "add" } else { "del" };
        for (here, there) in [(a, b), (b, a)] {
            let (name, address) = (self.name(here), format!("{}/32", self.address(there)));
            ip(&["-n", &name, "route", how, "blackhole", &address])?;
        }
        Ok(())
    }
}

impl Hosts {
    /// Ends all connections between two hosts, and tells both; new ones are possible.
    ///
    /// # Errors
    /// When `ss` does not do it.
    pub fn cut(&self, a: usize, b: usize) -> io::Result<()> {
        for (here, there) in [(a, b), (b, a)] {
            let address = self.address(there).to_string();
            let words =
                ["netns", "exec", &self.name(here), "ss", "-K", "-t", "-H", "dst", &address];
            ip(&words)?;
        }
        Ok(())
    }
}

impl Drop for Hosts {
    /// H1.
    fn drop(&mut self) {
        for n in 0..self.count {
            let _ = ip(&["netns", "delete", &self.name(n)]);
        }
        let _ = ip(&["netns", "delete", &self.switch()]);
    }
}
