//! Files that may change while the server runs: looked at again and again.

use std::io;
use std::thread;
use std::time::Duration;

use crate::os::start_thread;

/// Looks `every` so often at what `read` reads, which so far is `first`, and tells when that has
/// become something else. What cannot be read is told once, and what can be read again is too.
///
/// What is read is compared, and not the time of a file's last change: that may stay the same when
/// a file is put in its place.
///
/// It runs on a thread of its own to the end of the program. A file system that hangs would keep the
/// runtime from ending, if one of the runtime's threads waited for it.
///
/// # Errors
///
/// The system allows no more threads.
pub fn follow<T>(
    every: Duration,
    first: T,
    read: impl Fn() -> Result<T, String> + Send + 'static,
    mut tell: impl FnMut(Result<&T, &str>) + Send + 'static,
) -> io::Result<()>
where
    T: PartialEq + Send + 'static,
{
    let mut last = Ok(first);
    start_thread(move || {
        loop {
            thread::sleep(every);
            let found = read();
            if found != last {
                tell(found.as_ref().map_err(String::as_str));
                last = found;
            }
        }
    })
}
