//! The last lines of a room, for those who come back and those who come late.
//!
//! They are copies of what was broadcast, so that keeping them does not take any of the room's space
//! from those who speak. Whoever reads them gets copies too, a piece at a time: a reader that is slow,
//! or does not read at all, keeps nothing of the window alive.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::server::frame;
use crate::server::limits::Limits;
use crate::server::sessions::Subscriber;

/// Chunks that a full window consists of: what is given up at once is such a part of it.
const CHUNKS: usize = 64;

/// Bytes that the pasts of all rooms together may take.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    most: usize,
    scarce: Notify,
}

impl Budget {
    /// So many bytes.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            most,
            scarce: Notify::new(),
        })
    }

    /// Something that took `before` bytes takes `after` now.
    pub fn account(&self, before: usize, after: usize) {
        self.used.fetch_add(after, Relaxed);
        self.used.fetch_sub(before, Relaxed);
        if after > before && self.is_scarce() {
            self.scarce.notify_one();
        }
    }

    /// Whether more is used than there is: then a room gives up what it has kept for longest.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.used.load(Relaxed) > self.most
    }

    /// Whether nearly all is used: then rooms in which nobody is are dropped, so that the others need
    /// not give anything up.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.used.load(Relaxed) > self.most / 16 * 15
    }

    /// Waits until something was kept though nearly all is used.
    pub async fn scarce(&self) {
        self.scarce.notified().await;
    }
}

/// The last lines of a room, bounded in lines and in bytes.
#[derive(Debug)]
pub struct Window {
    chunks: VecDeque<Chunk>,
    /// The position of the first line that is kept; `end` if none is.
    start: u64,
    /// The position of the next line.
    end: u64,
    /// The labels that follow the last line, and the last one that was given up with its chunk.
    next_label: u64,
    given_up: u64,
    /// What the chunks take in memory.
    bytes: usize,
    most_lines: u64,
    most_bytes: usize,
    budget: Arc<Budget>,
}

/// Lines in a row.
#[derive(Debug)]
struct Chunk {
    position: u64,
    frames: Vec<u8>,
    runs: Vec<Run>,
}

/// Lines in a row of one author that were said at one time.
#[derive(Debug)]
struct Run {
    author: u64,
    /// The position of its first line, as clients are told it.
    label: u64,
    time: u64,
    lines: u64,
    bytes: usize,
}

impl Chunk {
    /// Bytes that it takes in memory.
    fn size(&self) -> usize {
        size_of::<Self>() + self.frames.capacity() + self.runs.capacity() * size_of::<Run>()
    }

    fn push(&mut self, run: Run, frames: &[u8]) {
        self.frames.extend_from_slice(frames);
        match self.runs.last_mut() {
            Some(last)
                if (last.author, last.time) == (run.author, run.time)
                    && last.label + last.lines == run.label =>
            {
                last.lines += run.lines;
                last.bytes += run.bytes;
            }
            _ => self.runs.push(run),
        }
    }

    fn shrink(&mut self) {
        self.frames.shrink_to_fit();
        self.runs.shrink_to_fit();
    }
}

impl Window {
    /// An empty window at the beginning of a room.
    #[must_use]
    pub fn new(limits: &Limits, budget: &Arc<Budget>) -> Self {
        Self {
            chunks: VecDeque::new(),
            start: 0,
            end: 0,
            next_label: 0,
            given_up: 0,
            bytes: 0,
            most_lines: limits.window_lines,
            most_bytes: limits.window,
            budget: budget.clone(),
        }
    }

    /// The position of the first line that is kept; [`Window::end`] if none is.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The position of the next line.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Passes over lines that are not kept, and over all before them.
    pub fn pass(&mut self, lines: u64) {
        self.end += lines;
        self.start = self.end;
        self.trim();
        self.next_label = self.end;
    }

    /// Keeps lines, which were said at `time`, and gives up the oldest ones that are too many. Clients
    /// are told `label` as the position of the first.
    pub fn push(&mut self, author: u64, label: u64, time: u64, frames: &[u8], lines: u64) {
        let full = self.most_bytes / CHUNKS;
        let run = Run {
            author,
            label,
            time,
            lines,
            bytes: frames.len(),
        };
        match self.chunks.back_mut() {
            Some(last) if last.frames.len() + frames.len() <= full => {
                let before = last.size();
                last.push(run, frames);
                let after = last.size();
                self.account(before, after);
            }
            last => {
                let (mut before, mut after) = (0, 0);
                if let Some(last) = last {
                    before = last.size();
                    last.shrink();
                    after = last.size();
                }
                let next = Chunk {
                    position: self.end,
                    frames: frames.to_vec(),
                    runs: vec![run],
                };
                after += next.size();
                self.chunks.push_back(next);
                self.account(before, after);
            }
        }
        self.end += lines;
        self.next_label = label + lines;
        self.trim();
    }

    /// Gives up everything; the lines that come next have labels from `label` on.
    pub fn begin_at(&mut self, label: u64) {
        self.clear();
        (self.next_label, self.given_up) = (label, label);
    }

    /// What clients are told as the position of the line at `position`.
    #[must_use]
    pub fn label(&self, position: u64) -> u64 {
        let run = self.runs(position).next();
        run.map_or(self.next_label, |(at, run, _)| {
            run.label + position.max(at) - at
        })
    }

    /// What is behind the last line that was given up, as clients are told it.
    #[must_use]
    pub fn floor(&self) -> u64 {
        match self.chunks.front() {
            Some(first) if first.position < self.start => self.label(self.start - 1) + 1,
            _ => self.given_up,
        }
    }

    /// The position of the first line that has this label or a later one.
    #[must_use]
    pub fn position(&self, label: u64) -> u64 {
        let first = |chunk: &Chunk| chunk.runs.first().map_or(0, |run| run.label);
        let behind = self.chunks.partition_point(|chunk| first(chunk) <= label);
        let from = self.chunks.get(behind.saturating_sub(1));
        let from = from.map_or(self.end, |chunk| chunk.position);
        let mut runs = self.runs(from);
        let found = runs.find(|(_, run, _)| label < run.label + run.lines);
        let position = found.map_or(self.end, |(at, run, _)| {
            at + label.saturating_sub(run.label)
        });
        position.clamp(self.start, self.end)
    }

    /// Gives up everything.
    pub fn clear(&mut self) {
        self.account(self.bytes, 0);
        self.chunks = VecDeque::new();
        self.start = self.end;
        self.given_up = self.next_label;
    }

    /// How many lines from `from` up to `until` are this author's.
    #[must_use]
    pub fn lines_of(&self, author: u64, from: u64, until: u64) -> u64 {
        let runs = self.runs(from).take_while(|(at, ..)| *at < until);
        let own = runs.filter(|(_, run, _)| run.author == author);
        let lines = own.map(|(at, run, _)| until.min(at + run.lines) - from.max(at));
        lines.sum()
    }

    /// The frames of the lines from `from` up to `until` that are for a subscriber, as many as fit
    /// into `most` bytes but at least one run of them. Returns them, where the next piece begins, and
    /// how many lines up to there were left out, since they are its own.
    #[must_use]
    pub fn read(&self, who: Subscriber, from: u64, until: u64, most: usize) -> (Vec<u8>, u64, u64) {
        let (mut frames, mut position, mut own) = (Vec::new(), from, 0);
        // What the last `@` says of the line behind the last one.
        let mut told = None;
        for (at, run, bytes) in self.runs(from).take_while(|(at, ..)| from.max(*at) < until) {
            let (skip, take) = (from.saturating_sub(at), run.lines.min(until - at));
            let (first, next) = (at + skip, at + take);
            if run.author == who.author {
                own += next - first;
                position = next;
                continue;
            }
            let bytes = match (skip, take) {
                (0, take) if take == run.lines => bytes,
                _ => &bytes[frame::end_of(bytes, skip)..frame::end_of(bytes, take)],
            };
            if frames.is_empty() {
                frames.reserve_exact(most.min(self.bytes).max(bytes.len() + frame::MARK));
            } else if frames.len() + frame::MARK + bytes.len() > most {
                break;
            }
            let label = run.label + skip;
            if who.marked && told != Some((label, run.time)) {
                frames.extend_from_slice(&frame::mark(label, run.time));
            }
            frames.extend_from_slice(bytes);
            told = Some((run.label + take, run.time));
            position = next;
        }
        (frames, position, own)
    }

    /// The runs from the one on that has the line at `from`, with their positions and their frames.
    fn runs(&self, from: u64) -> impl Iterator<Item = (u64, &Run, &[u8])> {
        let behind = self.chunks.partition_point(|chunk| chunk.position <= from);
        let chunks = self.chunks.range(behind.saturating_sub(1)..);
        let runs = chunks.flat_map(|chunk| {
            let (mut position, mut rest) = (chunk.position, &chunk.frames[..]);
            chunk.runs.iter().map(move |run| {
                let (frames, behind) = rest.split_at(run.bytes);
                let at = position;
                (position, rest) = (at + run.lines, behind);
                (at, run, frames)
            })
        });
        runs.skip_while(move |(at, run, _)| at + run.lines <= from)
    }

    /// Gives up the oldest lines until what is left is within the bounds.
    fn trim(&mut self) {
        self.start = self.start.max(self.end.saturating_sub(self.most_lines));
        while let Some(first) = self.chunks.front() {
            let next = self.chunks.get(1).map_or(self.end, |next| next.position);
            let fits = self.bytes <= self.most_bytes && !self.budget.is_exceeded();
            if fits && next > self.start {
                return;
            }
            let last = first.runs.last();
            self.given_up = last.map_or(self.given_up, |run| run.label + run.lines);
            self.account(first.size(), 0);
            self.chunks.pop_front();
            self.start = self.start.max(next);
        }
    }

    fn account(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes + after - before;
        self.budget.account(before, after);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.clear();
    }
}
