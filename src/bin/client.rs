//! The client: what is typed goes to the server, what the server sends is shown.

use std::io::{self, Write};
use std::process::ExitCode;

use chat_pair::client::backoff::Backoff;
use chat_pair::client::chat::{Chat, ChatEnd};
use chat_pair::client::connect::{Address, connect};
use chat_pair::client::connection::{Connection, ConnectionEnd};
use chat_pair::client::console::Console;
use chat_pair::client::flags::Client as Flags;
use chat_pair::client::format::Format;
use chat_pair::client::limits::Limits;
use chat_pair::client::session::Session;
use chat_pair::flags;
use chat_pair::os::{Stop, cannot_start};
use tokio::runtime::Builder;
use tokio::time::sleep;

fn main() -> ExitCode {
    let flags = match flags::parse::<Flags>("client") {
        Ok(flags) => flags,
        Err(exit) => return exit,
    };
    let ended = flags
        .address()
        .and_then(|address| run(&flags, &address).map_err(cannot_start));
    ended.unwrap_or_else(|line| {
        let _ = writeln!(io::stderr(), "client: {line}");
        ExitCode::FAILURE
    })
}

/// Chats to the end, and returns what the program ends with. An error means that the chat could not
/// even begin.
fn run(flags: &Flags, address: &Address) -> io::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut chat = open(flags)?;
        let end = talk(flags, address, &mut chat).await;
        Ok(chat.close(end).await)
    });
    // A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    ended
}

fn open(flags: &Flags) -> io::Result<Chat> {
    let limits = Limits {
        message: flags.max_message,
        ..Limits::DEFAULT
    };
    let format = Format {
        times: flags.timestamps,
        json: flags.json,
        ..Format::default()
    };
    let console = Console::open(format, Stop::listen()?, &limits)?;
    let mut chat = Chat::new(console, limits, flags.wait);
    // Who names a session in the URL knows what it is for.
    if flags.reconnect && !flags.url.has("session") {
        chat.session = Session::new()?;
    }
    Ok(chat)
}

/// Connects and talks, again and again if so asked, until somebody leaves.
async fn talk(flags: &Flags, url: &Address, chat: &mut Chat) -> ChatEnd {
    let limits = chat.limits.clone();
    let trust = match flags.trust() {
        Ok(trust) => trust,
        Err(why) => return ChatEnd::Failed(why),
    };
    if trust.is_some() && !url.is_secure() {
        chat.console
            .note("--ca is for wss://, and this chat goes in clear text");
    }
    if url.exposes_token() {
        chat.console
            .note("the token goes there in clear text: whoever sees the network can read it");
    }
    let (mut url, mut was_there) = (url.clone(), false);
    let mut backoff = Backoff::default();
    loop {
        let session = chat.session.ask(chat.outbox.next_count());
        let connecting = connect(&url, session.as_deref(), trust.as_ref(), &limits);
        let opened = match chat.meanwhile(connecting).await {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        let why = match opened {
            Ok(opened) => {
                was_there = true;
                chat.console
                    .note(&format!("connected to {url} (Ctrl+C or Ctrl+D leaves)"));
                let end = Connection::new(opened, chat).talk().await;
                // One that has not even answered is waited for as one that is not there.
                if !chat.session.is_asked() {
                    backoff = Backoff::default();
                }
                match end {
                    ConnectionEnd::Left => return ChatEnd::Left,
                    ConnectionEnd::InputSent => return ChatEnd::InputSent,
                    lost if flags.reconnect || !chat.console.is_terminal() => lost.to_string(),
                    lost => format!("{lost}; with --reconnect it would try again"),
                }
            }
            Err(error) => {
                let why = format!("cannot connect to {url}: {error}");
                if error.status == Some(400) && chat.session.forget_place() {
                    // Perhaps the room has not come so far as we have heard, since the server was
                    // restored from an older copy.
                    format!("{why}; what was said meanwhile may be missed")
                } else if error.status == Some(401)
                    && let Ok(renewed) = flags.address()
                    && !renewed.has_token_of(&url)
                {
                    url = renewed;
                    format!("{why}; there is another token now")
                } else if error.is_final && !(was_there && error.status.is_none()) {
                    // What is wrong with a certificate may be wrong for now where there was a chat.
                    return ChatEnd::Failed(why);
                } else {
                    why
                }
            }
        };
        if !flags.reconnect {
            return ChatEnd::Failed(why);
        }
        if !chat.goes_on() {
            return ChatEnd::InputSent;
        }
        let wait = backoff.wait();
        let seconds = wait.as_secs_f32();
        chat.console
            .note(&format!("{why}; trying again in {seconds:.1} s"));
        if let Err(end) = chat.meanwhile(sleep(wait)).await {
            return end;
        }
    }
}
