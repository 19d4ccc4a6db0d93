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
//! - `src/bin/client.rs`: connect, a `select!` over "a line was typed" and "a frame arrived", and
//!   why it ended
//! - [`connect`], [`backoff`]: from a URL to a WebSocket, or one line that says why not; and again
//! - [`outbox`]: what was typed and is not known to have arrived
//! - [`console`]: the client's two ends: in a pipe [`input`] and [`output`], in a terminal
//!   [`terminal`], the line being typed ([`editor`]) and its keys ([`keys`])
//! - [`show`]: how a line of the chat looks
//! - [`close`], [`keepalive`]: how either end leaves without losing what is on its way, and how it
//!   notices a dead link
//! - [`stop`]: the signals that ask a program to end
//! - [`line`](mod@line), [`words`], [`limits`], [`flags`]: what a chat line is, what an error is
//!   called, every number, every flag
//!
//! Imports run one way: the binaries, then `relay`, `handshake`, `connect` and `console`, then the
//! rest. What the server uses and what the client uses meet only in the last three entries and in
//! [`head`].

pub mod backoff;
pub mod batch;
pub mod close;
pub mod connect;
pub mod console;
pub mod editor;
pub mod flags;
pub mod handshake;
pub mod head;
pub mod input;
pub mod journal;
pub mod keepalive;
pub mod keys;
pub mod limits;
pub mod line;
pub mod listener;
pub mod outbox;
pub mod output;
pub mod relay;
pub mod room;
pub mod show;
pub mod stop;
pub mod terminal;
pub mod words;
