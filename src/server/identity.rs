//! How a client is called: by the others, and in the log.

/// The names of one client. Without rooms and names all that there is of them is its address.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What stands before its lines: its name, or else its address.
    pub name: String,
    /// What the log calls it: its address, and its name if it has one, `127.0.0.1:50112 (ana)`.
    pub label: String,
    /// What the log says of its room: nothing in the seed's room, elsewhere ` in rust`.
    pub place: String,
}

impl Identity {
    /// A client in the seed's room that has no name.
    #[must_use]
    pub fn of(address: &str) -> Self {
        Self {
            name: address.to_owned(),
            label: address.to_owned(),
            place: String::new(),
        }
    }
}
