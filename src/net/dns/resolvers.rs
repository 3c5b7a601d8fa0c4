//! Whom the host asks for names, and the names that it knows itself.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often is looked whether the files have changed.
const LOOK: Duration = Duration::from_secs(1);
/// resolv.conf(5): no more are asked.
const SERVERS_MAX: usize = 3;
const FILE_MAX: u64 = 1 << 20;

/// The contents of resolv.conf(5) and hosts(5), read again when they have changed.
#[derive(Debug)]
pub(in crate::net) struct Resolvers {
    files: [PathBuf; 2],
    stamps: [Option<SystemTime>; 2],
    looked: Option<Instant>,
    servers: Vec<SocketAddr>,
    names: HashMap<String, Vec<IpAddr>>,
}

impl Resolvers {
    pub(in crate::net) fn new(resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        Self {
            files: [resolv_conf, hosts],
            stamps: [None; 2],
            looked: None,
            servers: Vec::new(),
            names: HashMap::new(),
        }
    }

    /// Resolvers, in the order in which they are asked.
    pub(in crate::net) fn servers(&mut self, now: Instant) -> &[SocketAddr] {
        self.look(now);
        &self.servers
    }

    /// Addresses of a name, in lower case, that the host has in its own file.
    pub(in crate::net) fn known(&mut self, name: &str, now: Instant) -> Option<&[IpAddr]> {
        self.look(now);
        self.names.get(name).map(Vec::as_slice)
    }

    fn look(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return;
        }
        self.looked = Some(now);
        let [resolv_conf, hosts] = &self.files;
        let changed = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let stamps = [changed(resolv_conf), changed(hosts)];
        if stamps == self.stamps && !self.servers.is_empty() {
            return;
        }
        self.stamps = stamps;
        self.servers = parse_servers(&read(resolv_conf));
        self.names = parse_names(&read(hosts));
    }
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(FILE_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .map(|address: IpAddr| SocketAddr::new(address, 53))
        .take(SERVERS_MAX)
        .collect();
    if servers.is_empty() {
        // What the C library does then.
        servers.push(SocketAddr::from(([127, 0, 0, 1], 53)));
    }
    servers
}

fn parse_names(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            names.entry(name).or_default().push(address);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read_as_the_c_library_does() {
        let servers = "# a\nsearch x\nnameserver 10.0.0.1 # b\n nameserver ::1\nnameserver nonsense\nnameserver 1.1.1.1\nnameserver 2.2.2.2";
        let expected = ["10.0.0.1:53", "[::1]:53", "1.1.1.1:53"];
        assert_eq!(
            parse_servers(servers),
            expected.map(|s| s.parse::<SocketAddr>().unwrap())
        );
        assert_eq!(parse_servers(""), ["127.0.0.1:53".parse().unwrap()]);
        let names = parse_names("10.1.1.1 Box box.lan. # x\n::2 box\n#1.1.1.1 no\nbad line");
        assert_eq!(
            names["box"],
            ["10.1.1.1", "::2"].map(|a| a.parse::<IpAddr>().unwrap())
        );
        assert_eq!((names["box.lan"].len(), names.len()), (1, 2));
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let arena = tempfile::tempdir().unwrap();
        let path = arena.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1").unwrap();
        let mut resolvers = Resolvers::new(path.clone(), arena.path().join("none"));
        let now = Instant::now();
        assert_eq!(resolvers.servers(now)[0].to_string(), "10.0.0.1:53");
        let file = fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut &file, b"nameserver 10.0.0.2").unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(5))
            .unwrap();
        assert_eq!(resolvers.servers(now)[0].to_string(), "10.0.0.1:53");
        assert_eq!(resolvers.servers(now + LOOK)[0].to_string(), "10.0.0.2:53");
    }
}
