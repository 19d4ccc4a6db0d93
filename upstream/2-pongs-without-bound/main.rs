//! A peer that sends pings and never reads makes the other end keep all of the pongs.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::timeout;
use tokio_websockets::ServerBuilder;

/// Bytes of memory that the program has resident (Linux).
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kib.unwrap_or_default() * 1024
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // What is sent to the client fits into 1 KiB, and it never takes any of it.
    let (mut client, server) = duplex(1024);
    let mut server = ServerBuilder::new().serve(server);
    let before = resident();
    let flood = async {
        // Masked, with a mask of zero, and with 125 bytes.
        let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
        for _ in 0..200_000 {
            client.write_all(&ping).await.unwrap();
        }
        client
    };
    let mut received = 0;
    let reading = async {
        while let Some(Ok(message)) = server.next().await {
            received += usize::from(message.is_ping());
        }
    };
    tokio::select! {
        _client = flood => {}
        () = reading => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    let _ = timeout(Duration::from_millis(100), server.next()).await;
    println!("pings received: {received}, of whose pongs the peer has taken none");
    println!("memory: {} MiB more", (resident() - before) >> 20);
}
