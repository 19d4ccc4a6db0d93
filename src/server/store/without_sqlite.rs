//! What stands for a store in a build without the cargo feature `sqlite`: nothing but the sentence
//! that says so. Since no file can ever be open, the compiler leaves out what would use it.

use std::fmt::Arguments;
use std::path::Path;

use crate::server::limits::Limits;
use crate::server::store::file::{Store, Terms};

/// An open file, of which there is none.
#[derive(Clone, Debug)]
pub enum File {}

impl File {
    /// Never called, since there is no file.
    pub fn digest(&self, _what: &str, _of: &str) -> [u8; 32] {
        match *self {}
    }
}

/// Says that there is no store.
pub fn open(
    _file: &Path,
    _terms: Terms,
    _limits: &Limits,
    _tell: impl Fn(Arguments<'_>) + Clone + Send + 'static,
) -> Result<Store, String> {
    Err(
        "--store needs SQLite, and this server was built without it (the cargo feature sqlite)"
            .to_owned(),
    )
}
