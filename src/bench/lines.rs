//! Files of JSON lines to which lines are appended, and in which nothing is ever changed.
//!
//! A line is written with one call. A crash in the middle of it leaves a tail without an end, which whoever opens the file next
//! cuts off; a disk that refuses a part of it leaves nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::BenchError;

/// A file that gets lines.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Lines {
    /// Opens one that can be read and appended to; no line is known yet.
    pub(super) fn open(path: &Path) -> Result<Self, BenchError> {
        let mut how = OpenOptions::new();
        let file = how.read(true).append(true).create(true).open(path);
        Ok(Self {
            path: path.to_owned(),
            file: file.map_err(BenchError::file("open", path))?,
            length: 0,
        })
    }

    /// Keeps everybody else away.
    pub(super) fn lock(self) -> Result<Self, BenchError> {
        lock(&self.file, &self.path).map(|()| self)
    }

    /// Gives each line with its place, and cuts off what is behind the last.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        take: impl FnMut(T, u64),
    ) -> Result<(), BenchError> {
        self.length = read(&self.path, &self.file, take)?;
        let cut = self.file.set_len(self.length);
        cut.map_err(BenchError::file("mend", &self.path))
    }

    /// Reads the line of this place again.
    pub(super) fn at<T: DeserializeOwned>(&mut self, place: u64) -> Result<T, BenchError> {
        let mut reader = BufReader::new(&mut self.file);
        let mut line = Vec::new();
        reader
            .seek(SeekFrom::Start(place))
            .and_then(|_| reader.read_until(b'\n', &mut line))
            .map_err(BenchError::file("read", &self.path))?;
        serde_json::from_slice(&line).map_err(|e| BenchError::Malformed {
            path: self.path.clone(),
            problem: e.to_string(),
        })
    }

    /// Writes a line and gives its place.
    pub(super) fn append(&mut self, value: &impl Serialize) -> Result<u64, BenchError> {
        let line = serde_json::to_vec(value).map(|mut line| {
            line.push(b'\n');
            line
        });
        self.whole(|mut file| {
            let line = line?;
            file.write_all(&line).map(|()| line.len() as u64)
        })
    }

    /// Appends whole lines from elsewhere.
    pub(super) fn take(&mut self, mut lines: impl Read) -> Result<u64, BenchError> {
        self.whole(|mut file| std::io::copy(&mut lines, &mut file))
    }

    /// Writes all of it or nothing, and gives its place.
    fn whole(
        &mut self,
        write: impl FnOnce(&File) -> std::io::Result<u64>,
    ) -> Result<u64, BenchError> {
        let place = self.length;
        match write(&self.file) {
            Ok(size) => self.length += size,
            Err(error) => {
                // What did not fit must not stand before the next line.
                let _ = self.file.set_len(place);
                return Err(BenchError::file("write", &self.path)(error));
            }
        }
        Ok(place)
    }
}

/// Holds a file until it is closed; the kernel lets go of it when the process ends, however it does.
pub(super) fn lock(file: &File, path: &Path) -> Result<(), BenchError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => BenchError::Locked(path.to_owned()),
        TryLockError::Error(source) => BenchError::file("lock", path)(source),
    })
}

/// Gives each whole line with its place, and tells where they end.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    file: &File,
    mut take: impl FnMut(T, u64),
) -> Result<u64, BenchError> {
    let mut reader = BufReader::new(file);
    let (mut line, mut number, mut length) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let size = reader.read_until(b'\n', &mut line);
        let size = size.map_err(BenchError::file("read", path))?;
        if !line.ends_with(b"\n") {
            return Ok(length);
        }
        number += 1;
        let value = serde_json::from_slice(&line).map_err(|e| BenchError::Malformed {
            path: path.to_owned(),
            problem: format!("line {number}: {e}"),
        })?;
        take(value, length);
        length += size as u64;
    }
}
