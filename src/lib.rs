//! A chat pair for the terminal: `server` relays each line that a client types to all the
//! others over WebSocket, `client` is what people type into.
//!
//! The reading order, from the outside in:
//!
//! - `src/bin/server.rs`: the room, the accept loop, a task per connection, the end
//! - [`relay`]: one client's stay, a `select!` over "the client speaks" and "the room speaks"
//! - [`room`]: the `broadcast` channel that all stays share, and who missed what
//! - [`batch`]: lines encoded once as WebSocket frames, shared by every receiver
//! - [`handshake`] and [`head`]: from a stranger's TCP stream to a WebSocket, or a refusal
//! - [`listener`]: the socket, which outlives every error
//! - [`journal`]: the server's output, which never blocks the relay
//! - `src/bin/client.rs`: a `select!` over "a line was typed" and "a frame arrived"
//! - [`connect`]: from a URL to a WebSocket, or one line that says why not
//! - [`input`] and [`output`]: the client's two ends of a pipe
//! - [`close`]: how either end leaves without losing what is on its way
//! - [`keepalive`]: how both ends notice a dead link
//! - [`line`](mod@line), [`limits`], [`flags`]: what a chat line is, every number, every flag
//!
//! Imports run one way: the binaries, then `relay`, `handshake` and `connect`, then the rest.

pub mod batch;
pub mod close;
pub mod connect;
pub mod flags;
pub mod handshake;
pub mod head;
pub mod input;
pub mod journal;
pub mod keepalive;
pub mod limits;
pub mod line;
pub mod listener;
pub mod output;
pub mod relay;
pub mod room;
