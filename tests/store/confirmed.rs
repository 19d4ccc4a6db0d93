//! When those who speak are told that their lines are stored.

use std::sync::mpsc::channel;
use std::thread;

use crate::Folder;
use crate::support::raw::{Ear, FIN, PING, PONG, Raw, TEXT, flood, frame};

/// There is always more to store than the slowest reader takes, so each line waits for its turn, and when it
/// is stored the next one is there already. Its pong does not wait for that one's turn.
#[test]
fn who_asks_again_and_again_is_told_in_between() {
    const PIECE: usize = 16 * 1024;
    const BEHIND: usize = 512 * 1024;
    const MOST: usize = 4 * 1024 * 1024;
    let folder = Folder::new();
    let server = folder.serve();
    let mut slow = Ear::of(Raw::narrow(server.port));
    let mut writer = Raw::join(server.port);
    writer.read_in_background();
    let flooding = thread::spawn(move || {
        let line = frame(FIN | TEXT, &[b'x'; 400]);
        flood(&mut writer.stream, &line, u64::MAX);
    });
    let mut heard = 0;
    while heard < BEHIND {
        heard += slow.read_piece(PIECE);
    }
    let mut polite = Raw::join(server.port);
    let mut reader = polite.again();
    let (tell, told) = channel();
    let reading = thread::spawn(move || {
        while let Some((first, _)) = reader.frame_if_whole() {
            if first == FIN | PONG {
                let _ = tell.send(());
            }
        }
    });
    let mut pongs = 0;
    while pongs < 5 {
        polite.say("hello");
        polite.send_frame(FIN | PING, b"stored?");
        heard += slow.read_piece(PIECE);
        pongs += told.try_iter().count();
        assert!(heard < MOST, "{pongs} pongs");
    }
    drop(server);
    flooding.join().unwrap();
    reading.join().unwrap();
}
