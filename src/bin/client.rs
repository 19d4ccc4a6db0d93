//! The client: what is typed goes to the server, what the server sends is shown.

use std::io::{self, Write};
use std::process::ExitCode;

use chat_pair::client::backoff::Backoff;
use chat_pair::client::chat::{Chat, Over};
use chat_pair::client::connect::connect;
use chat_pair::client::connection::{Connection, Ended};
use chat_pair::client::console::Console;
use chat_pair::client::flags::Client as Flags;
use chat_pair::client::format::Format;
use chat_pair::client::limits::Limits;
use chat_pair::flags;
use chat_pair::os::{Stop, describe};
use tokio::signal::unix::SignalKind;
use tokio::time::sleep;

fn main() -> ExitCode {
    let flags = match flags::parse::<Flags>("client") {
        Ok(flags) => flags,
        Err(exit) => return exit,
    };
    run(&flags).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "client: cannot start: {}", describe(&error));
        ExitCode::FAILURE
    })
}

fn run(flags: &Flags) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let mut chat = open(flags)?;
        let over = talk(flags, &mut chat).await;
        Ok(chat.close(over).await)
    });
    // A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    ended.map(|ended| match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    })
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
    let stop = Stop::listen(&[
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ])?;
    let console = Console::open(format, &limits)?;
    Ok(Chat::new(console, stop, limits, flags.wait))
}

/// Connects and talks, again and again if so asked, until somebody leaves.
async fn talk(flags: &Flags, chat: &mut Chat) -> Over {
    let (url, limits) = (&flags.url, chat.limits.clone());
    let mut backoff = Backoff::default();
    loop {
        let Some(connected) = chat.meanwhile(connect(url, &limits)).await else {
            return Over::Left;
        };
        let why = match connected {
            Ok(ws) => {
                backoff = Backoff::default();
                let connected = format!("connected to {url} (Ctrl+C or Ctrl+D leaves)");
                chat.console.note(&connected);
                match Connection::new(ws, chat).talk().await {
                    Ended::Over(over) => return over,
                    lost if flags.reconnect || !chat.console.is_terminal() => lost.to_string(),
                    lost => format!("{lost}; with --reconnect it would try again"),
                }
            }
            Err(error) => format!("cannot connect to {url}: {error}"),
        };
        if !flags.reconnect || !chat.goes_on() {
            return Over::Failed(why);
        }
        let wait = backoff.wait();
        let seconds = wait.as_secs_f32();
        chat.console
            .note(&format!("{why}; trying again in {seconds:.1} s"));
        if chat.meanwhile(sleep(wait)).await.is_none() {
            return Over::Left;
        }
    }
}
