//! The keyboard and the screen: lines come in, messages go out above the line
//! that is being typed.
//!
//! Drawing is relative, as in a shell: no alternate screen and no scroll
//! region, so the chat ends up in the terminal's own scrollback. Each redraw
//! erases the rows of the typed line, prints what has arrived, draws the
//! rows again, and is one write.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt::Write as _,
    future, io, mem,
    os::fd::OwnedFd,
    panic,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Signal as Signo, getpgrp, kill_current_process_group},
    stdio,
    termios::{
        self, InputModes, LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios,
    },
};
use tokio::{
    net::unix::pipe,
    select,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::client::event::Event;

use super::{
    editor::{Edit, Editor, Layout, layout},
    keys::Decoder,
};

/// Lines that can be shown again after a resize: more than a screen has rows.
const SHOWN_LINES: usize = 500;
/// Bytes of those lines: a screen full of the longest ones.
const SHOWN_BYTES: usize = 256 * 1024;
/// A window that is dragged sends a resize for each step, and tmux tells of
/// the first step and then of the last, 250 ms later. Meanwhile the size is not
/// the real one, and a drawing for it could erase chat that it does not repeat:
/// nothing is drawn until there was no resize for this long.
const SETTLE: Duration = Duration::from_millis(300);
/// What the kernel holds of unread keys; more cannot come in one read.
const READ: usize = 4096;
/// A paste comes in one go: after a pause as long as this its end mark was lost, and keys are
/// commands again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often to look whether the terminal is ours again, which no signal tells
/// of.
const BACKGROUND: Duration = Duration::from_secs(1);
/// Bytes that may wait for a screen that stands still; what is printed beyond
/// them is lost.
const QUEUED_BYTES: usize = 2 * 1024 * 1024;

/// The terminal that is open, if one is. There is one for a process, and a
/// panic must find it.
static OPEN: Mutex<Option<Open>> = Mutex::new(None);

struct Open {
    /// Writing to it never waits: a terminal whose reader stopped (Ctrl+S, or a
    /// window that hangs) must not keep the program from ending.
    screen: Arc<pipe::Sender>,
    /// What the screen has not taken yet.
    unwritten: Vec<u8>,
    /// The modes to go back to, as they were when the terminal was first ours.
    before: Option<Termios>,
    /// It is in raw mode, and nobody else's.
    raw: bool,
    /// What moves the cursor to the typed line's first row and empties its rows.
    erase: String,
}

impl Open {
    /// Makes a terminal the open one, and takes it into raw mode.
    fn install(screen: Arc<pipe::Sender>) -> io::Result<()> {
        let mut place = open_terminal();
        if place.is_some() {
            // Not ours: the other one must stay as it is.
            return Err(io::Error::other("the terminal is open already"));
        }
        let open = place.insert(Self {
            screen,
            unwritten: Vec::new(),
            before: None,
            raw: false,
            erase: String::new(),
        });
        let entered = open.enter();
        if entered.is_err() {
            let _ = open.leave();
            *place = None;
        }
        entered
    }

    /// Whether the keys are for us. After `client &`, or Ctrl+Z and `bg`, another
    /// job has the terminal, and whoever reads its keys or changes its modes then
    /// is stopped, again after each SIGCONT, whatever other signal has come
    /// (termios(3)). A terminal that is not ours to share has no jobs.
    fn is_foreground(&self) -> bool {
        termios::tcgetpgrp(&*self.screen).map_or(true, |group| group == getpgrp())
    }

    /// Whether it is still in raw mode, and nobody else's: whoever was stopped from
    /// outside may go on in the background.
    fn is_ours(&mut self) -> bool {
        self.raw = self.raw && self.is_foreground();
        self.raw
    }

    /// Keys come at once, unechoed, and none is a signal. Output stays as it
    /// was: what others print (a panic's message, say) keeps its line ends.
    /// In the background nothing happens.
    fn enter(&mut self) -> io::Result<()> {
        self.raw = false;
        self.unwritten.clear();
        if !self.is_foreground() {
            return Ok(());
        }
        let before = match &self.before {
            Some(before) => before,
            None => self.before.insert(termios::tcgetattr(&*self.screen)?),
        };
        let mut raw = before.clone();
        raw.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ISTRIP
            | InputModes::IXON;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(&*self.screen, OptionalActions::Now, &raw)?;
        self.raw = true;
        self.erase = "\r".into();
        self.write("\x1b[?2004h")
    }

    /// Writes as much as the screen takes; the rest waits in `unwritten`.
    fn write(&mut self, text: &str) -> io::Result<()> {
        self.unwritten.extend(text.as_bytes());
        self.flush()
    }

    /// Writes as much as the screen takes of what waits. If something is left, the
    /// runtime knows then that the screen takes nothing.
    fn flush(&mut self) -> io::Result<()> {
        while !self.unwritten.is_empty() {
            match self.screen.try_write(&self.unwritten) {
                Ok(written) => drop(self.unwritten.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Erases the typed line; bracketed paste off, autowrap and cursor on,
    /// colours off. What is left of a paste is thrown away, or the shell
    /// would run it. In the background the modes are the shell's already.
    fn leave(&mut self) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        self.raw = false;
        let modes = format!("{}\x1b[?2004l\x1b[?7h\x1b[?25h\x1b[m", self.erase);
        let written = self.write(&modes);
        // The runtime may not know yet that the screen takes something. What it does not take
        // now is lost: nobody would write it later.
        while let Ok(1..) = rustix::io::write(&*self.screen, &self.unwritten)
            .inspect(|&written| drop(self.unwritten.drain(..written)))
        {}
        let flushed = termios::tcflush(&*self.screen, QueueSelector::IFlush);
        if let Some(before) = &self.before {
            termios::tcsetattr(&*self.screen, OptionalActions::Now, before)?;
        }
        written.and(flushed.map_err(Into::into))
    }
}

fn open_terminal() -> MutexGuard<'static, Option<Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A panic's message would be erased together with the typed line, or stand
/// askew: the terminal is restored before it is printed.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print_message = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let open = match OPEN.try_lock() {
                Ok(mut open) => open.take(),
                Err(TryLockError::Poisoned(open)) => open.into_inner().take(),
                // This thread holds the lock; `Drop` comes later and restores.
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(mut open) = open {
                let _ = open.leave();
            }
            print_message(panic);
        }));
    });
}

/// A terminal in raw mode with a prompt at the bottom. Dropping it restores
/// the terminal, and so does a panic.
pub struct Terminal {
    /// Not a pipe, but only read and waited for like one: for other files Tokio
    /// has nothing that is safe.
    keyboard: pipe::Receiver,
    /// The same as in `OPEN`, to wait for it.
    screen: Arc<pipe::Sender>,
    resized: Signal,
    continued: Signal,
    /// Bytes that were read and wait to be decoded. Nothing more is read while
    /// there are any, so that a long paste waits in the kernel, not here.
    unread: VecDeque<u8>,
    decoder: Decoder,
    /// When the last byte came.
    heard: Instant,
    editor: Editor,
    prompt: String,
    queued: Vec<String>,
    queued_bytes: usize,
    /// The last of what has come in the background.
    unseen: Shown,
    shown: Shown,
    /// Columns and rows at the last drawing; `None` if that is to be done from scratch.
    size: Option<(usize, usize)>,
    /// The screen does not show the typed line as it is now.
    stale: bool,
    /// When a burst of resizes counts as over.
    settled: Option<Instant>,
    /// Ctrl+Z stopped the process, so that the next SIGCONT is no news.
    stopped: bool,
    /// When it was last looked whether the terminal is ours.
    looked: Instant,
    /// The terminal cannot be read or written any more.
    gone: bool,
}

impl Terminal {
    /// Takes the terminal on standard input into raw mode and draws `prompt`
    /// (plain text). A line can have `max_line` bytes of UTF-8.
    ///
    /// To be called within a Tokio runtime with I/O and time enabled, and at
    /// the start of a row.
    ///
    /// # Errors
    ///
    /// Standard input is no terminal, or one is open already.
    pub fn open(prompt: &str, max_line: usize) -> io::Result<Self> {
        // Opened anew, because non-blocking mode belongs to the open file, and
        // that of standard input is shared with the shell and standard output.
        let keyboard = reopen(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let screen = reopen(OFlags::RDWR | OFlags::NONBLOCK)?;
        let screen = Arc::new(pipe::Sender::from_owned_fd_unchecked(screen)?);
        let keyboard = pipe::Receiver::from_owned_fd_unchecked(keyboard)?;
        let resized = signal(SignalKind::window_change())?;
        let continued = signal(SignalKind::from_raw(Signo::CONT.as_raw()))?;
        restore_on_panic();
        // From here on, dropping `terminal` restores it.
        Open::install(screen.clone())?;
        let mut terminal = Self {
            keyboard,
            resized,
            continued,
            unread: VecDeque::new(),
            decoder: Decoder::default(),
            heard: Instant::now(),
            editor: Editor::new(max_line),
            prompt: prompt.to_owned(),
            queued: Vec::new(),
            queued_bytes: 0,
            unseen: Shown::default(),
            shown: Shown::default(),
            size: Some(size(&screen)),
            screen,
            stale: true,
            settled: None,
            stopped: false,
            looked: Instant::now(),
            gone: false,
        };
        terminal.draw()?;
        Ok(terminal)
    }

    /// Waits for the next finished line ([`Event::Line`], never an empty one: a bare Enter says
    /// nothing), and meanwhile edits and draws. The line is erased from the screen at the next
    /// drawing. [`Event::Shown`] when all that was printed is drawn; [`Event::Leave`] when a
    /// person asks to leave; once [`Event::OutputEnded`] when the terminal cannot be read or written
    /// any more, as when its window was closed, and then nothing more.
    ///
    /// Cancel safe: nothing typed is lost.
    pub async fn next(&mut self) -> Event {
        if self.gone {
            return future::pending().await;
        }
        self.wait().await.unwrap_or_else(|_| {
            self.gone = true;
            Event::OutputEnded(io::ErrorKind::BrokenPipe.into())
        })
    }

    async fn wait(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.edit()? {
                return Ok(event);
            }
            let waited = self.waiting() > 0;
            self.refresh()?;
            if waited && self.waiting() == 0 {
                return Ok(Event::Shown);
            }
            let (raw, blocked) = match open_terminal().as_ref() {
                Some(open) => (open.raw, !open.unwritten.is_empty()),
                None => return Err(io::ErrorKind::NotConnected.into()),
            };
            let settled = self.settled.unwrap_or_else(Instant::now);
            select! {
                // Whether the terminal is still ours comes first. A byte that is there ends no paste,
                // however late it is looked at.
                biased;
                Some(()) = self.continued.recv() => self.resume()?,
                () = sleep_until(self.looked + BACKGROUND), if !raw => self.resume()?,
                read = read(&self.keyboard, &mut self.unread), if raw => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.heard = Instant::now();
                }
                () = sleep_until(self.heard + PAUSE), if self.decoder.is_pasting() => {
                    self.decoder.end_paste();
                }
                writable = self.screen.writable(), if blocked => {
                    writable?;
                    // Also while nothing is drawn: else it would be writable again at once, for ever.
                    if let Some(open) = open_terminal().as_mut() {
                        open.flush()?;
                    }
                    self.stale = true;
                }
                Some(()) = self.resized.recv() => self.settled = Some(Instant::now() + SETTLE),
                // Also if the size is what it was: the rows may have been
                // rearranged there and back.
                () = sleep_until(settled), if self.settled.is_some() => self.start_over(),
            }
        }
    }

    /// Queues a line to be shown above the typed one; [`Terminal::next`] draws it, while the window
    /// is being resized a moment later. It may contain colours
    /// (SGR sequences); everything else a terminal would obey must have been
    /// escaped.
    pub fn print(&mut self, line: &str) {
        if self.queued_bytes < QUEUED_BYTES {
            self.queued_bytes += line.len() + size_of::<String>();
            self.queued.push(line.to_owned());
            self.stale = true;
        }
    }

    /// Whether it is another job's, so that nothing is shown.
    #[must_use]
    pub fn is_in_background(&self) -> bool {
        open_terminal().as_mut().is_some_and(|open| !open.is_ours())
    }

    /// Bytes of the lines that the screen has not been given yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queued_bytes
    }

    /// Shows the queued lines and leaves the text that was being typed in sight, as if it had
    /// been printed. Waits for a screen that stands still, so whoever calls it has a deadline. In the
    /// background nothing is shown.
    ///
    /// # Errors
    ///
    /// The terminal cannot be written.
    pub async fn finish(&mut self) -> io::Result<()> {
        let draft = self.editor.clear();
        if !draft.is_empty() {
            let whole = layout(&self.prompt, &draft, 0, usize::MAX, usize::MAX);
            self.print(&whole.rows.concat());
        }
        loop {
            self.draw()?;
            let done = match open_terminal().as_ref() {
                Some(open) if open.raw => open.unwritten.is_empty() && self.queued.is_empty(),
                _ => true,
            };
            if done {
                return Ok(());
            }
            self.screen.writable().await?;
        }
    }

    /// Feeds the editor until a line is finished or nothing is left to feed.
    fn edit(&mut self) -> io::Result<Option<Event>> {
        while let Some(byte) = self.unread.pop_front() {
            let Some(key) = self.decoder.feed(byte) else {
                continue;
            };
            match self.editor.key(key) {
                Edit::Nothing => {}
                Edit::Changed => self.stale = true,
                Edit::Line(line) if line.is_empty() => {}
                Edit::Line(line) => {
                    self.stale = true;
                    return Ok(Some(Event::Line(line)));
                }
                Edit::TooLong => {
                    self.stale = true;
                    return Ok(Some(Event::Unfit(format!(
                        "the line is longer than {} bytes (--max-message): not sent, and Up brings \
                         its beginning back",
                        self.editor.max()
                    ))));
                }
                Edit::Leave => {
                    self.unread.clear();
                    return Ok(Some(Event::Leave));
                }
                Edit::Suspend => self.suspend()?,
                Edit::Clear => self.clear(),
            }
        }
        Ok(None)
    }

    fn clear(&mut self) {
        self.shown = Shown::default();
        if let Some(open) = open_terminal().as_mut() {
            // After the typed line's own rows: some terminals keep what they clear.
            open.erase.push_str("\x1b[H\x1b[2J");
        }
        self.stale = true;
    }

    /// Gives the terminal back and stops the whole job, as the terminal itself
    /// does for Ctrl+Z; returns when the job is continued. (At once if no shell
    /// would continue it: the kernel does not stop such a job.)
    fn suspend(&mut self) -> io::Result<()> {
        self.unread.clear();
        if let Some(open) = open_terminal().as_mut() {
            open.leave()?;
            if !open.unwritten.is_empty() {
                // What the screen has not taken is shown again.
                self.size = None;
            }
        }
        kill_current_process_group(Signo::TSTP)?;
        self.stopped = true;
        self.enter()
    }

    /// The job is continued, or perhaps the terminal is ours again.
    fn resume(&mut self) -> io::Result<()> {
        let announced = mem::take(&mut self.stopped);
        let was_raw = open_terminal().as_ref().is_some_and(|open| open.raw);
        if announced && was_raw {
            return Ok(());
        }
        if was_raw {
            // After a stop that was not announced (SIGSTOP), the modes are the
            // shell's and the cursor is anywhere.
            self.start_over();
        }
        self.enter()
    }

    fn enter(&mut self) -> io::Result<()> {
        self.looked = Instant::now();
        if let Some(open) = open_terminal().as_mut() {
            open.enter()?;
        }
        self.stale = true;
        Ok(())
    }

    fn start_over(&mut self) {
        self.settled = None;
        self.size = None;
        self.stale = true;
    }

    fn refresh(&mut self) -> io::Result<()> {
        if !self.stale {
            return Ok(());
        }
        let size_now = open_terminal().as_ref().map(|open| size(&open.screen));
        if self.settled.is_none() && self.size.is_some() && self.size != size_now {
            // Its SIGWINCH has not been received yet.
            self.settled = Some(Instant::now() + SETTLE);
        }
        // However long the window is dragged, the queue stays short.
        if self.settled.is_some() && self.queued.len() < SHOWN_LINES {
            return Ok(());
        }
        self.draw()
    }

    fn draw(&mut self) -> io::Result<()> {
        let mut open = open_terminal();
        let Some(open) = open.as_mut() else {
            return Ok(());
        };
        if !open.is_ours() {
            // The last of it is shown when the terminal is ours again.
            self.queued.drain(..).for_each(|line| self.unseen.add(line));
            self.queued_bytes = 0;
            return Ok(());
        }
        open.flush()?;
        // One drawing after the other: `next` comes back when the screen has taken this one.
        if !open.unwritten.is_empty() {
            return Ok(());
        }
        self.stale = false;
        let (columns, rows) = size(&open.screen);
        let (text, cursor) = (self.editor.text(), self.editor.cursor());
        // One row is left for the message that the person answers.
        let input = layout(&self.prompt, text, cursor, columns, rows.saturating_sub(1));
        let mut out = mem::take(&mut open.erase);
        if self.size.replace((columns, rows)) != Some((columns, rows)) {
            // Terminals differ in what they do to rows that no longer fit, and
            // where they leave the cursor: nothing relative to it holds. Row 1
            // goes last and alone, because some (tmux) move all that is erased
            // from there down to the scrollback, which has the chat already.
            out = "\x1b[2;1H\x1b[J\x1b[H\x1b[2K".into();
            self.shown
                .paint(&mut out, columns, rows.saturating_sub(input.rows.len()));
        }
        let unseen = mem::take(&mut self.unseen);
        if unseen.before > 0 {
            let _ = write!(
                out,
                "client: {} lines before these are not shown\r\n",
                unseen.before
            );
        }
        for line in unseen.lines.into_iter().chain(self.queued.drain(..)) {
            out.push_str(&line);
            out.push_str(end_of(&line));
            self.shown.add(line);
        }
        self.queued_bytes = 0;
        open.erase = draw_input(&mut out, &input);
        open.write(&out)
    }
}

/// Erases the typed line, and leaves the terminal as `open` found it, with the
/// cursor at the start of an empty row.
impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mut open) = open_terminal().take() {
            // Nobody is left to hear of an error, and a terminal that is gone is one.
            let _ = open.leave();
        }
    }
}

/// Draws the typed line, the cursor being at the start of an empty row.
/// Returns what erases it again.
fn draw_input(out: &mut String, input: &Layout) -> String {
    // Without autowrap, a character that is wider for the terminal than for us
    // can spoil its row but not move the others.
    out.push_str("\x1b[?7l");
    out.push_str(&input.rows.join("\r\n"));
    out.push_str("\x1b[?7h\r");
    let below = input.rows.len() - 1 - input.row;
    // A count of zero would move by one.
    if below > 0 {
        let _ = write!(out, "\x1b[{below}A");
    }
    if input.column > 0 {
        let _ = write!(out, "\x1b[{}C", input.column);
    }
    let down = if below > 0 {
        format!("\x1b[{below}B")
    } else {
        String::new()
    };
    // Row by row, so that nothing but our own rows is touched.
    let above = "\x1b[A\x1b[2K".repeat(input.rows.len() - 1);
    format!("\r{down}\x1b[2K{above}")
}

/// A second open file for the terminal on standard input.
fn reopen(flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    // By its name, since macOS cannot wait for /dev/tty; but the name may not
    // be visible (in a container) or not be ours to open (after su).
    termios::ttyname(stdio::stdin(), Vec::new())
        .and_then(|name| rustix::fs::open(name, flags, Mode::empty()))
        .or_else(|_| rustix::fs::open("/dev/tty", flags, Mode::empty()))
        .map_err(Into::into)
}

/// Waits for keys, and returns how many bytes came; 0 means that the terminal is gone.
async fn read(keyboard: &pipe::Receiver, unread: &mut VecDeque<u8>) -> io::Result<usize> {
    loop {
        keyboard.readable().await?;
        let mut buffer = [0; READ];
        match keyboard.try_read(&mut buffer) {
            Ok(read) => {
                unread.extend(&buffer[..read]);
                return Ok(read);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Columns and rows; terminals that do not know say zero.
fn size(screen: &pipe::Sender) -> (usize, usize) {
    match termios::tcgetwinsize(screen) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// The end of a line that is shown: its colours do not run on.
fn end_of(line: &str) -> &'static str {
    if line.contains('\x1b') {
        "\x1b[m\r\n"
    } else {
        "\r\n"
    }
}

/// The last lines that were shown, to show them again.
#[derive(Default)]
struct Shown {
    lines: VecDeque<String>,
    bytes: usize,
    /// How many lines were before them.
    before: usize,
}

impl Shown {
    fn add(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > SHOWN_LINES || self.bytes > SHOWN_BYTES {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |line| line.len());
            self.before += 1;
        }
    }

    /// The last `rows` rows of the lines.
    fn paint(&self, out: &mut String, columns: usize, rows: usize) {
        let (mut left, mut tail) = (rows, Vec::new());
        let mut lines = self.lines.iter().rev();
        while left > 0
            && let Some(line) = lines.next()
        {
            tail.push(last_rows(line, columns, &mut left));
        }
        for line in tail.iter().rev() {
            out.push_str(line);
            out.push_str(end_of(line));
        }
    }
}

/// As much of the end of a line as fits into `left` rows, which it takes off,
/// with the colours that were set before it.
fn last_rows<'a>(line: &'a str, columns: usize, left: &mut usize) -> Cow<'a, str> {
    let (mut starts, mut used) = (vec![(0, 0)], 0);
    let (mut colours, mut in_colour) = (String::new(), false);
    for (start, cluster) in line.grapheme_indices(true) {
        if in_colour || cluster == "\x1b" {
            colours.push_str(cluster);
            in_colour = !cluster.starts_with(|char: char| char.is_ascii_alphabetic());
            continue;
        }
        let width = if cluster == "\t" {
            8 - used % 8
        } else {
            cluster.width()
        };
        if used + width > columns {
            starts.push((start, colours.len()));
            used = 0;
        }
        used += width;
    }
    let hidden = starts.len().saturating_sub(*left);
    *left = left.saturating_sub(starts.len());
    match starts[hidden] {
        (0, _) => line.into(),
        (start, set) => (colours[..set].to_owned() + &line[start..]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_what_was_shown() {
        let mut shown = Shown::default();
        for line in ["first", "汉汉汉", "\x1b[31mred\x1b[1mbold\x1b[m", "", "end"] {
            shown.add(line.into());
        }
        for (columns, rows, expected) in [
            (5, 0, ""),
            (5, 1, "end\r\n"),
            (5, 2, "\r\nend\r\n"),
            (5, 3, "\x1b[31m\x1b[1mld\x1b[m\x1b[m\r\n\r\nend\r\n"),
            (5, 4, "\x1b[31mred\x1b[1mbold\x1b[m\x1b[m\r\n\r\nend\r\n"),
            // two wide characters to a row of five
            (
                5,
                5,
                "汉\r\n\x1b[31mred\x1b[1mbold\x1b[m\x1b[m\r\n\r\nend\r\n",
            ),
            (
                80,
                9,
                "first\r\n汉汉汉\r\n\x1b[31mred\x1b[1mbold\x1b[m\x1b[m\r\n\r\nend\r\n",
            ),
        ] {
            let mut out = String::new();
            shown.paint(&mut out, columns, rows);
            assert_eq!(out, expected, "{columns} {rows}");
        }
    }

    #[test]
    fn what_was_shown_is_bounded() {
        let mut shown = Shown::default();
        for number in 0..2 * SHOWN_LINES {
            shown.add(number.to_string());
        }
        assert_eq!(
            (shown.lines.len(), shown.before),
            (SHOWN_LINES, SHOWN_LINES)
        );
        shown.add("x".repeat(SHOWN_BYTES));
        assert_eq!((shown.lines.len(), shown.bytes), (1, SHOWN_BYTES));
    }
}
