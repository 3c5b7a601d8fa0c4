//! What precedes a member in an archive: long names, pax records, sparse maps.

/// Said of a pax record that cannot be split.
pub(super) const NOT_A_RECORD: &str = "a pax record is not of the form `length key=value`";

/// Values of the pax record and the GNU extensions that precede a member.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_version: (Option<u64>, Option<u64>),
    pub(super) sparse_map: Option<Vec<u8>>,
    pub(super) sparse_blocks: bool,
}

impl Extensions {
    /// Takes over what a pax record says.
    pub(super) fn apply(&mut self, record: &[u8]) -> Result<(), &'static str> {
        for pair in PaxRecords(record) {
            let (key, value) = pair.ok_or(NOT_A_RECORD)?;
            let number = || decimal(value).ok_or("a pax record holds no number where one belongs");
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(number()?),
                b"gid" => self.gid = Some(number()?),
                b"mtime" => self.mtime = Some(whole_seconds(value)),
                b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                    self.sparse_size = Some(number()?);
                }
                b"GNU.sparse.major" => self.sparse_version.0 = Some(number()?),
                b"GNU.sparse.minor" => self.sparse_version.1 = Some(number()?),
                b"GNU.sparse.map" => self.sparse_map = Some(value.to_vec()),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse_blocks = true,
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whole seconds of a pax time, which may have a fraction; a time that cannot be read is the epoch.
fn whole_seconds(value: &[u8]) -> i64 {
    let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
    std::str::from_utf8(whole)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Splits a pax record by its own lengths: a value may hold any byte, newlines too.
pub(super) struct PaxRecords<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for PaxRecords<'a> {
    /// `None` inside for a malformed record, after which there is nothing more.
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = pax_record(self.0);
        self.0 = parsed.map_or(&[], |(_, _, rest)| rest);
        Some(parsed.map(|(key, value, _)| (key, value)))
    }
}

fn pax_record(record: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = record.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(record.get(..space)?)?).ok()?;
    let line = record.get(space + 1..length.checked_sub(1)?)?;
    if record.get(length - 1) != Some(&b'\n') {
        return None;
    }
    let equals = line.iter().position(|byte| *byte == b'=')?;
    Some((
        line.get(..equals)?,
        line.get(equals + 1..)?,
        record.get(length..)?,
    ))
}
