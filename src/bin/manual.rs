//! Writes the man pages and the shell completions, from the same definitions as the programs'
//! own `--help`:
//!
//! ```sh
//! cargo run --features manual --bin manual -- target/manual
//! ```

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use chat_pair::flags::parse;
use chat_pair::{client, server};
use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

/// Writes the man pages and the shell completions.
#[derive(Parser)]
struct Flags {
    /// The folder to write to; it is made when it is not there
    folder: PathBuf,
}

fn main() -> ExitCode {
    let folder = match parse::<Flags>("manual") {
        Ok(flags) => flags.folder,
        Err(exit) => return exit,
    };
    let programs = [
        server::flags::Server::command(),
        client::flags::Client::command(),
    ];
    let written = std::fs::create_dir_all(&folder).and_then(|()| {
        programs
            .into_iter()
            .try_for_each(|program| write(program, &folder))
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

fn write(mut program: Command, folder: &PathBuf) -> io::Result<()> {
    let name = program.get_name().to_owned();
    clap_mangen::Man::new(program.clone()).generate_to(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program, &name, folder)?;
    }
    Ok(())
}
