//! An environment without a computer: files in a map, and a shell that knows a few words.
//!
//! `echo TEXT`, `cat PATH`, `exit N`, `lines N`, `sleep` (until the timeout), `die` (the sandbox goes), `break` (the host fails).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use llm_in_sandbox::env::{
    Captured, DirEntry, Env, EnvError, ExecRequest, ExecResult, ExitStatus, FileError, FileKind,
    FileStat, GuestPath, Listing, ShellResult,
};
use llm_in_sandbox::outcome::LimitHit;

#[derive(Debug, Default)]
pub(crate) struct MemoryEnv {
    files: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) commands: Mutex<Vec<String>>,
}

impl MemoryEnv {
    pub(crate) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let mut files = self.files.lock().unwrap();
        files.insert(absolute(&path.into()), content.as_ref().to_vec());
    }

    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.files
            .lock()
            .unwrap()
            .get(&absolute(&path.into()))
            .cloned()
    }

    fn kind(&self, path: &[u8]) -> Option<FileKind> {
        let files = self.files.lock().unwrap();
        if files.contains_key(path) {
            return Some(FileKind::File);
        }
        let prefix = directory(path);
        let inside = files.range(prefix.clone()..).next();
        inside
            .is_some_and(|(name, _)| name.starts_with(&prefix))
            .then_some(FileKind::Directory)
    }
}

impl Env for MemoryEnv {
    async fn shell(&self, command: &str, timeout: Duration) -> Result<ShellResult, EnvError> {
        self.commands.lock().unwrap().push(command.to_owned());
        let mut result = ShellResult {
            status: Some(0),
            stdout: Captured::default(),
            stderr: Captured::default(),
            tty: Captured::default(),
            timed_out: None,
            restarted: None,
            struck: Vec::new(),
            wall: Duration::ZERO,
        };
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "echo" => result.stdout.head = format!("{rest}\n").into_bytes(),
            "cat" => match self.get(rest) {
                Some(bytes) => result.stdout.head = bytes,
                None => {
                    result.stderr.head = b"cat: no such file\n".to_vec();
                    result.status = Some(1);
                }
            },
            "lines" => {
                let lines = (1..=rest.parse().unwrap()).map(|n: u32| format!("line {n}\n"));
                result.stdout.head = lines.collect::<String>().into_bytes();
            }
            "exit" => result.status = rest.parse().ok(),
            "sleep" => {
                tokio::time::sleep(timeout).await;
                result.stdout.head = b"partial\n".to_vec();
                result.status = None;
                result.timed_out = Some(timeout);
            }
            "hang" => std::future::pending::<()>().await,
            "die" => return Err(EnvError::Died("pid 1 was killed".into())),
            "bomb" => return Err(EnvError::Limit(memory_limit(/*ended*/ true))),
            "crowd" => return Err(EnvError::Limit(LimitHit::Pids { max: 9, refused: 1 })),
            "hog" => {
                result.status = Some(137);
                result.struck = vec![memory_limit(/*ended*/ false)];
            }
            "break" => return Err(EnvError::Infrastructure("lost the socket".into())),
            _ => {}
        }
        Ok(result)
    }

    async fn exec(&self, _request: &ExecRequest) -> Result<ExecResult, EnvError> {
        Ok(ExecResult {
            status: ExitStatus::Code(0),
            stdout: Captured::default(),
            stderr: Captured::default(),
            timed_out: false,
            struck: Vec::new(),
            wall: Duration::ZERO,
        })
    }

    async fn read_file(&self, path: &GuestPath, max_bytes: u64) -> Result<Vec<u8>, EnvError> {
        let name = absolute(path);
        match self.kind(&name) {
            None => Err(file_error(path, FileError::NotFound)),
            Some(FileKind::Directory) => Err(file_error(path, FileError::IsDirectory)),
            Some(_) => {
                let bytes = self.files.lock().unwrap()[&name].clone();
                let size = bytes.len() as u64;
                if size > max_bytes {
                    let limit = max_bytes;
                    return Err(file_error(path, FileError::TooLarge { size, limit }));
                }
                Ok(bytes)
            }
        }
    }

    async fn write_file(
        &self,
        path: &GuestPath,
        content: &[u8],
        exclusive: bool,
    ) -> Result<(), EnvError> {
        let name = absolute(path);
        match self.kind(&name) {
            Some(FileKind::Directory) => return Err(file_error(path, FileError::IsDirectory)),
            Some(_) if exclusive => return Err(file_error(path, FileError::Exists)),
            _ => {}
        }
        self.files.lock().unwrap().insert(name, content.to_vec());
        Ok(())
    }

    async fn stat(&self, path: &GuestPath) -> Result<FileStat, EnvError> {
        let name = absolute(path);
        let kind = self.kind(&name);
        let kind = kind.ok_or_else(|| file_error(path, FileError::NotFound))?;
        let files = self.files.lock().unwrap();
        Ok(stat(kind, files.get(&name).map_or(0, Vec::len)))
    }

    async fn list(
        &self,
        path: &GuestPath,
        depth: u32,
        max_entries: usize,
    ) -> Result<Listing, EnvError> {
        let prefix = directory(&absolute(path));
        let mut entries = BTreeMap::new();
        for (name, content) in &*self.files.lock().unwrap() {
            let Some(rest) = name.strip_prefix(prefix.as_slice()) else {
                continue;
            };
            let parts: Vec<&[u8]> = rest.split(|b| *b == b'/').collect();
            for level in 1..=parts.len().min(depth as usize) {
                let (kind, size) = if level == parts.len() {
                    (FileKind::File, content.len())
                } else {
                    (FileKind::Directory, 0)
                };
                entries.insert(parts[..level].join(&b'/'), stat(kind, size));
            }
        }
        let truncated = entries.len() > max_entries;
        let entries = entries.into_iter().take(max_entries);
        let entries = entries
            .map(|(path, stat)| DirEntry {
                path: GuestPath::new(path),
                stat,
            })
            .collect();
        Ok(Listing { entries, truncated })
    }
}

fn absolute(path: &GuestPath) -> Vec<u8> {
    if path.as_bytes().starts_with(b"/") {
        path.as_bytes().to_vec()
    } else {
        GuestPath::from("/testbed")
            .join(path.as_bytes())
            .as_bytes()
            .to_vec()
    }
}

fn directory(path: &[u8]) -> Vec<u8> {
    let mut prefix = path.to_vec();
    if prefix.last() != Some(&b'/') {
        prefix.push(b'/');
    }
    prefix
}

fn stat(kind: FileKind, size: usize) -> FileStat {
    FileStat {
        kind,
        size: size as u64,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
    }
}

fn file_error(path: &GuestPath, error: FileError) -> EnvError {
    EnvError::File {
        path: path.clone(),
        error,
    }
}

pub(crate) fn memory_limit(sandbox_ended: bool) -> LimitHit {
    LimitHit::Memory {
        max_bytes: 1 << 20,
        killed: 1,
        peak_bytes: None,
        sandbox_ended,
    }
}
