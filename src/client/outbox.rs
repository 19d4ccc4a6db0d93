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
    /// connection was lost and they were given up as doubtful. In a session this is the server's
    /// count, so that both give a line the same number.
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

    /// Where a server that does not know our session is to begin to count. If it is in doubt whether
    /// sent lines were taken, this is more than a server which knows the session can have counted,
    /// so that we see from its count whether it does.
    #[must_use]
    pub fn next_count(&self) -> u64 {
        match self.sent.len() as u64 {
            0 => self.settled,
            in_doubt => self.settled + in_doubt + 1,
        }
    }

    /// A server that has our session has taken so many lines: what it has not taken is to be sent
    /// again, before the lines that wait. Returns `false` if that cannot be the count of the lines
    /// that were sent; then nothing has changed.
    #[must_use]
    pub fn resume(&mut self, taken: u64) -> bool {
        let possible = self.settled..=self.settled + self.sent.len() as u64;
        if !possible.contains(&taken) {
            return false;
        }
        self.confirm(&taken.to_be_bytes());
        self.sent.append(&mut self.waiting);
        std::mem::swap(&mut self.sent, &mut self.waiting);
        true
    }

    /// The lines of a session are counted on from this number. None of them is in doubt.
    pub fn count_from(&mut self, taken: u64) {
        self.settled = taken;
    }

    /// Gives up the next line to send.
    pub fn skip(&mut self) -> Option<String> {
        let line = self.waiting.pop_front()?;
        self.bytes -= size(&line);
        Some(line)
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

    #[test]
    fn what_a_session_has_not_taken_is_sent_again_in_order() {
        for taken in 1..=3_u64 {
            let mut outbox = with(&["a", "b", "c", "d"]);
            for _ in 0..3 {
                outbox.batch(1);
            }
            outbox.confirm(&1u64.to_be_bytes());
            assert!(outbox.resume(taken));
            let rest = &["a", "b", "c", "d"][usize::try_from(taken).unwrap()..];
            let bytes: usize = rest.iter().map(|line| size(line)).sum();
            assert_eq!(outbox.bytes(), bytes);
            assert_eq!((outbox.waiting(), outbox.next_count()), (rest.len(), taken));
            let messages = outbox.batch(9999);
            let (ping, lines) = messages.split_last().unwrap();
            let lines: Vec<_> = lines.iter().map(|line| &line.as_payload()[..]).collect();
            let expected: Vec<_> = rest.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(lines, expected);
            // A line has the same number as before.
            assert_eq!(ping.as_payload()[..], 4u64.to_be_bytes());
        }
    }

    /// Whether a server knows the session is seen from its count.
    #[test]
    fn a_count_that_cannot_be_ours_leaves_the_lines_in_doubt() {
        let mut outbox = with(&["a", "b", "c", "d"]);
        assert_eq!(outbox.next_count(), 0);
        for _ in 0..3 {
            outbox.batch(1);
        }
        outbox.confirm(&1u64.to_be_bytes());
        for strange in [0, outbox.next_count(), u64::MAX] {
            assert!(!outbox.resume(strange));
        }
        assert_eq!(outbox.doubtful(), ["b", "c"]);
        outbox.count_from(4);
        assert_eq!(outbox.batch(9)[1].as_payload()[..], 5u64.to_be_bytes());
    }

    #[test]
    fn a_line_that_is_given_up_takes_no_memory() {
        let mut outbox = with(&["a"]);
        assert_eq!(outbox.skip().as_deref(), Some("a"));
        assert_eq!((outbox.skip(), outbox.bytes()), (None, 0));
    }

    /// Empty lines without end would fill the memory otherwise.
    #[test]
    fn an_empty_line_counts() {
        assert!(with(&["", ""]).bytes() > 0);
    }
}
