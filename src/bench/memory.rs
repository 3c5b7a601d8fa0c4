//! The memory of the host: where little is left, no further sample is begun.

/// What `/proc/meminfo` says, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
}

impl Memory {
    /// Of this host, where it tells.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
            kilobytes.checked_mul(1024)
        };
        Some(Self {
            total: field("MemTotal:")?,
            available: field("MemAvailable:")?,
        })
    }

    /// Less than a twentieth is left.
    #[must_use]
    pub fn is_low(self) -> bool {
        self.available < self.total / 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let text = "MemTotal:       1000 kB\nMemFree:         1 kB\nMemAvailable:     49 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(
            memory,
            Memory {
                total: 1_024_000,
                available: 50_176
            }
        );
        assert!(memory.is_low());
        assert!(
            !Memory {
                available: 51_200,
                ..memory
            }
            .is_low()
        );
        assert_eq!(Memory::parse("MemTotal: 5 kB\n"), None);
        assert!(Memory::of_host().is_some_and(|memory| memory.available <= memory.total));
    }
}
