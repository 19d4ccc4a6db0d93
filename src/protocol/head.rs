//! The HTTP head at the start of a connection: at most so many bytes of it, and what came behind
//! it in the same packet.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The bytes up to and with the blank line, and the bytes behind it.
#[derive(Debug)]
pub struct Head {
    /// Ends with `\r\n\r\n`.
    pub bytes: Bytes,
    /// Already the next protocol's.
    pub rest: Bytes,
}

/// Why there is no head.
#[derive(Debug)]
pub enum HeadError {
    /// More bytes than the limit without a blank line.
    TooLong,
    /// Not the beginning of one, which begins with this byte.
    NotHttp(u8),
    /// The peer left before its end.
    Left,
    /// The connection broke.
    Broken,
}

/// Reads a head of at most `limit` bytes. `plausible` looks at what there is so far and ends the
/// reading early when it cannot become a head. The caller sets the deadline.
///
/// # Errors
///
/// There is no head, and why.
pub async fn read<S>(
    stream: &mut S,
    limit: usize,
    plausible: fn(&[u8]) -> bool,
) -> Result<Head, HeadError>
where
    S: AsyncRead + Unpin,
{
    const END: &[u8] = b"\r\n\r\n";
    let mut head = BytesMut::with_capacity(512);
    let mut searched = 0;
    loop {
        // First of all, so that it makes no difference in which pieces the bytes come.
        if let Some(&first) = head.first().filter(|_| !plausible(&head)) {
            return Err(HeadError::NotHttp(first));
        }
        // The end may straddle two reads; only what is new is searched.
        let from = usize::saturating_sub(searched, END.len() - 1);
        if let Some(at) = head[from..]
            .windows(END.len())
            .position(|window| window == END)
        {
            let rest = head.split_off(from + at + END.len());
            let fits = head.len() <= limit;
            // Copied, so that the read buffer does not live as long as the connection.
            let (bytes, rest) = (head.freeze(), Bytes::copy_from_slice(&rest));
            return if fits {
                Ok(Head { bytes, rest })
            } else {
                Err(HeadError::TooLong)
            };
        }
        searched = head.len();
        if searched >= limit {
            return Err(HeadError::TooLong);
        }
        match stream.read_buf(&mut head).await {
            Ok(0) => return Err(HeadError::Left),
            Ok(_) => {}
            Err(_) => return Err(HeadError::Broken),
        }
    }
}

/// The header fields of a head.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'h, 'b>(pub &'h [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    /// The values of a field, which may be there several times.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'b str> {
        let named = self
            .0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name));
        // A value that is not UTF-8 equals nothing that anyone looks for.
        named.map(|field| std::str::from_utf8(field.value).unwrap_or("\u{FFFD}"))
    }

    /// Whether a field is there at all.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of a field that is there exactly once.
    #[must_use]
    pub fn only(&self, name: &str) -> Option<&'b str> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// The words that a field lists, which may be there several times (RFC 9110 5.6.1).
    pub fn words(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(str::trim)
    }

    /// Whether a field lists the word, in capitals or not.
    #[must_use]
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.words(name)
            .any(|listed| listed.eq_ignore_ascii_case(word))
    }
}
