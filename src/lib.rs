//! A chat pair for the terminal: `server` relays each line that a client types to all the
//! others over WebSocket, `client` is what people type into.
//!
//! # The way of a line
//!
//! A person presses Enter. [`client::terminal`] makes an event of it, [`client::connection`] takes
//! that in its `select!`, [`client::outbox`] keeps the line until the server confirms it by the pong
//! of a ping behind it, and the WebSocket library encodes both. On the server,
//! [`server::connection`] reads it in one of its two loops; the line is encoded once, for everybody
//! ([`server::batch`]), and said in the room ([`server::room`]). The other loop of every other
//! connection takes it from there and writes it ([`server::writer`]). There [`client::connection`]
//! receives it and [`client::console`] shows it.
//!
//! # The reading order
//!
//! The heart is an evening's reading:
//!
//! - `src/bin/server.rs`: flags, bind, the accept loop, a task per connection, the end
//! - [`server::connection`]: one client's connection, as two loops: one reads, one writes
//! - [`server::room`]: the `broadcast` channel that all share and who waits for whom; in
//!   `src/server/room/readers.rs`: to whom the room writes itself
//! - [`server::batch`]: lines encoded once as WebSocket frames, shared by every receiver
//! - [`protocol::line`]: what a line is, and what may not be in it
//!
//! Around it, on the server:
//!
//! - [`server::codec`]: what a client sends, as messages; its buffer is there only while it is needed
//! - [`server::writer`]: the one way out to a client, and how fast it takes what is sent
//! - [`server::unwritten`]: the pieces that still have to be written; [`server::deadline`]: when a
//!   deadline counts
//! - [`server::entrance`], [`server::handshake`], [`protocol::head`]: from a stranger's stream to a
//!   connection in a room, or a refusal; [`server::arrivals`]: all who have come,
//!   and which of them are turned away when there is no place
//! - [`server::listener`], [`server::socket`]: the socket that listens, which outlives every error,
//!   and a client's, with TLS or without
//! - [`server::log`]: the server's output, which never blocks the relay
//! - [`server::ended`], [`server::frame`], [`server::identity`], [`server::flags`], [`server::limits`]
//!
//! What may be passed by, since the chat works without knowing it:
//!
//! - [`server::rooms`], [`server::name`]: the path is the room, and who may have which name in it
//! - [`server::presence`]: those in a room are told who comes and who goes
//! - [`server::access`], [`protocol::token`]: who may come in, by a token; [`server::files`] sees
//!   when the file with the tokens changes
//! - [`server::addresses`], [`server::rate`]: how many connections an address may have, and how many
//!   lines a second each may say
//! - [`server::tls`], [`client::tls`]: the handshakes of TLS, the certificate and who is trusted;
//!   `src/protocol/tls.rs`: the session behind them. In a build without the feature `tls`,
//!   `without_tls.rs` of each half stands there
//! - [`server::history`], [`server::window`], [`server::sessions`]: the last lines of a room, and who
//!   may come back and read on (`src/server/room/past.rs`); [`server::store`]: the same in a file, which
//!   outlives the server, or in a stream that several servers share. What is different in a room then is in
//!   `src/server/room/stored.rs` and `shared.rs`, and partly in `src/server/batch/`
//! - [`server::service`]: the service manager, which may pass the socket, and is told what the server does
//! - [`server::metrics`]: what the server counts of itself, and who is told
//!
//! The client:
//!
//! - `src/bin/client.rs`: connect, talk, try again
//! - [`client::connection`]: one connection, with the `select!` over "a line was typed" and "a frame
//!   arrived", and why it ended
//! - [`client::chat`], [`client::outbox`]: what stays while connections come and go, and the lines
//!   that are not known to have arrived
//! - [`client::session`]: who the client is across connections, and how far it has heard
//! - [`client::connect`], [`client::backoff`]: from a URL to an open stream, or one line that says
//!   why not; and again
//! - [`client::console`], [`client::pipe`], [`client::event`], [`client::format`]: the two ends, what
//!   happens at them, and how a line looks
//! - [`client::terminal`]: a person's keyboard and screen, which a reader of the chat may pass by
//! - [`client::flags`], [`client::limits`]
//!
//! Both:
//!
//! - [`protocol::close`], [`protocol::keepalive`]: how either end leaves without losing what is on
//!   its way, and how it notices a dead link
//! - [`protocol::limits`]: the numbers that both must agree on; [`protocol::session`]: which epochs
//!   and positions there can be
//! - [`flags`], [`os`]: how both read their flags, and what the system says to them and knows of files
//!
//! Imports run one way: the binaries, then their half, then `protocol`. The halves never import
//! each other.

pub mod client;
pub mod flags;
pub mod os;
pub mod protocol;
pub mod server;
