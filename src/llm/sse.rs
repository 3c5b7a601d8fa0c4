//! Framing of server-sent events: bytes in, `data` payloads out. Bounded, and knows nothing of JSON.

/// Largest single event.
const MAX_EVENT: usize = 32 << 20;

/// Splits a byte stream into events.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
}

/// An event beyond the bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl SseParser {
    /// Takes the next bytes and gives the payloads of all events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => {
                    if self.line.len() + self.data.len() >= MAX_EVENT {
                        return Err(TooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    /// Ends the stream: some servers leave out the last blank line.
    pub(crate) fn finish(mut self) -> Option<Vec<u8>> {
        let last = self.end_line();
        last.or_else(|| self.take_event())
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.take_event();
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        None
    }

    fn take_event(&mut self) -> Option<Vec<u8>> {
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then_some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stream: &[u8], chunk: usize) -> Vec<String> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for piece in stream.chunks(chunk) {
            events.extend(parser.push(piece).unwrap());
        }
        events.extend(parser.finish());
        events
            .into_iter()
            .map(|event| String::from_utf8(event).unwrap())
            .collect()
    }

    #[test]
    fn events_do_not_depend_on_how_the_bytes_arrive() {
        let stream = ": ping\r\n\r\ndata: {\"a\":\"ü\"}\r\n\r\nevent: x\ndata:one\ndata: two\n\n\n\rid: 1\r\rdata: [DONE]";
        let whole = all(stream.as_bytes(), 4096);
        assert_eq!(whole, ["{\"a\":\"ü\"}", "one\ntwo", "[DONE]"]);
        for chunk in 1..7 {
            assert_eq!(all(stream.as_bytes(), chunk), whole);
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = SseParser::default();
        let block = vec![b'x'; 1 << 20];
        let refused = (0..40).any(|_| parser.push(&block) == Err(TooLong));
        assert!(refused);
    }
}
