//! Writes the man pages and the shell completions, from the same definitions as the programs'
//! own `--help`:
//!
//! ```sh
//! cargo run --features manual --bin manual -- target/manual
//! cargo run --features manual --bin manual -- target/manual chat- # for chat-server and chat-client
//! ```

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use chat_pair::flags::{named, parse};
use chat_pair::{client, server};
use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

/// Writes the man pages and the shell completions.
#[derive(Parser)]
struct Flags {
    /// The folder to write to; it is made when it is not there
    folder: PathBuf,
    /// What the names of the programs begin with where they are installed
    #[arg(default_value = "")]
    prefix: String,
}

fn main() -> ExitCode {
    let Flags { folder, prefix } = match parse("manual") {
        Ok(flags) => flags,
        Err(exit) => return exit,
    };
    let programs = [
        server::flags::Server::command(),
        client::flags::Client::command(),
    ];
    let written = std::fs::create_dir_all(&folder).and_then(|()| {
        programs
            .into_iter()
            .try_for_each(|program| write(program, &prefix, &folder))
    });
    let Err(error) = written else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(
        io::stderr(),
        "manual: cannot write to {}: {error}",
        folder.display()
    );
    ExitCode::FAILURE
}

fn write(program: Command, prefix: &str, folder: &PathBuf) -> io::Result<()> {
    let name = format!("{prefix}{}", program.get_name());
    let mut program = named(program, &name);
    clap_mangen::Man::new(program.clone()).generate_to(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program, &name, folder)?;
    }
    Ok(())
}
