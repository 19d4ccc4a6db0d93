//! Files that may change while the server runs, such as a certificate that is renewed.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::os::read_file;

/// Files that belong together, and what was in them when they were last read.
#[derive(Clone, Debug)]
pub struct Files<const N: usize> {
    /// Where they are.
    pub paths: [PathBuf; N],
    last: Contents<N>,
}

/// The bytes of each file; or if one of them cannot be read, one line that says why.
pub type Contents<const N: usize> = Result<[Vec<u8>; N], String>;

impl<const N: usize> Files<N> {
    /// Reads the files for the first time.
    #[must_use]
    pub fn read(paths: [PathBuf; N]) -> Self {
        let last = read_all(&paths);
        Self { paths, last }
    }

    /// What was in them when they were last read.
    ///
    /// # Errors
    ///
    /// One of them could not be read, and why.
    pub fn contents(&self) -> Result<&[Vec<u8>; N], String> {
        self.last.as_ref().map_err(Clone::clone)
    }

    /// Reads the files again after each `pause`, until something is different from the last time.
    /// They are compared as a whole, because a file may also be replaced by one that is older. May
    /// be cancelled.
    pub async fn changed(&mut self, pause: Duration) {
        loop {
            sleep(pause).await;
            let paths = self.paths.clone();
            // On a thread of its own: a disk may be slow, and a file on another machine slower.
            let read = spawn_blocking(move || read_all(&paths)).await;
            let Ok(contents) = read else { continue };
            if contents != self.last {
                self.last = contents;
                return;
            }
        }
    }
}

fn read_all<const N: usize>(paths: &[PathBuf; N]) -> Contents<N> {
    let mut contents = [const { Vec::new() }; N];
    for (bytes, path) in contents.iter_mut().zip(paths) {
        *bytes = read_file(path)?;
    }
    Ok(contents)
}
