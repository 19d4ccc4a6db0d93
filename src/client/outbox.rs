//! The lines that were typed and that the server has not confirmed.

use std::collections::VecDeque;

use tokio_websockets::Message;

/// Lines on their way to the server: those that wait to be sent, and those that were sent but that
/// the server has not confirmed. A WebSocket server confirms nothing by itself, but it answers each
/// ping with a pong. So we send a ping after some lines: when its pong comes, the server has read
/// the lines before it.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<String>,
    sent: VecDeque<String>,
    /// Bytes of the lines in both.
    bytes: usize,
    /// How many sent lines are no longer here, because they were confirmed, or because their
    /// connection was lost and they were given up as doubtful.
    settled: u64,
}

/// Bytes of memory that a line takes. An empty one takes some too.
fn size(line: &str) -> usize {
    size_of::<String>() + line.len()
}

impl Outbox {
    /// Adds a line after the others.
    pub fn push(&mut self, line: String) {
        self.bytes += size(&line);
        self.waiting.push_back(line);
    }

    /// Bytes of all lines that are not confirmed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many lines have not been sent.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the server has confirmed everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// The next lines to send, about `most` bytes of them, and after them a ping, whose pong will
    /// confirm them. Empty when no line waits.
    pub fn batch(&mut self, most: usize) -> Vec<Message> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while bytes < most
            && let Some(line) = self.waiting.pop_front()
        {
            bytes += size(&line);
            messages.push(Message::text(line.clone()));
            self.sent.push_back(line);
        }
        if !messages.is_empty() {
            // The ping carries the number of the last line, and its pong brings the number back.
            let last = self.settled + self.sent.len() as u64;
            messages.push(Message::ping(last.to_be_bytes().to_vec()));
        }
        messages
    }

    /// A pong came: the lines before its ping have arrived. The keepalive's pings
    /// carry no number, so their pongs confirm nothing.
    pub fn confirm(&mut self, pong: &[u8]) {
        let up_to = pong.try_into().map_or(0, u64::from_be_bytes);
        while self.settled < up_to
            && let Some(line) = self.sent.pop_front()
        {
            self.bytes -= size(&line);
            self.settled += 1;
        }
    }

    /// No sent line waits for a pong any more: the server has answered our Close, so that all have
    /// arrived, or their connection is lost, and no pong can come.
    pub fn settle_all(&mut self) {
        self.confirm(&u64::MAX.to_be_bytes());
    }

    /// The connection is lost: the lines that were sent and may not have arrived. They are not sent
    /// again, since they may have arrived, and everybody would read them twice.
    pub fn doubtful(&mut self) -> VecDeque<String> {
        let doubtful = self.sent.clone();
        self.settle_all();
        doubtful
    }

    /// The chat is over: the lines that were never sent.
    pub fn unsent(&mut self) -> VecDeque<String> {
        self.bytes -= self.waiting.iter().map(|line| size(line)).sum::<usize>();
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &[&str]) -> Outbox {
        let mut outbox = Outbox::default();
        for line in lines {
            outbox.push((*line).to_owned());
        }
        outbox
    }

    #[test]
    fn lines_go_in_order_with_a_ping_behind_them() {
        let mut outbox = with(&["a", "bb", "c"]);
        let sent = outbox.batch(2 * size(""));
        let payloads: Vec<_> = sent
            .iter()
            .map(|message| &message.as_payload()[..])
            .collect();
        assert_eq!(payloads, [&b"a"[..], b"bb", &2u64.to_be_bytes()]);
        assert_eq!(outbox.waiting(), 1);
        outbox.confirm(&2u64.to_be_bytes());
        assert_eq!(outbox.bytes(), size("c"));
        assert_eq!(outbox.batch(99).len(), 2);
        assert!(outbox.batch(99).is_empty());
        assert!(!outbox.is_empty());
        outbox.settle_all();
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn what_was_not_confirmed_is_doubtful_and_what_was_not_sent_waits() {
        let mut outbox = with(&["a", "b", "c", "d"]);
        for _ in 0..3 {
            outbox.batch(1);
        }
        outbox.confirm(&1u64.to_be_bytes());
        assert_eq!(outbox.doubtful(), ["b", "c"]);
        assert_eq!(outbox.batch(9)[1].as_payload()[..], 4u64.to_be_bytes());
        assert_eq!(outbox.unsent(), [""; 0]);
    }

    #[test]
    fn a_pong_that_nobody_asked_for_confirms_nothing_that_was_not_sent() {
        let mut outbox = with(&["a", "b"]);
        outbox.batch(1);
        outbox.confirm(b"what");
        assert_eq!(outbox.bytes(), 2 * size("a"));
        outbox.confirm(&u64::MAX.to_be_bytes());
        assert_eq!((outbox.waiting(), outbox.bytes()), (1, size("b")));
    }

    /// Empty lines without end would fill the memory otherwise.
    #[test]
    fn an_empty_line_counts() {
        assert!(with(&["", ""]).bytes() > 0);
    }
}
