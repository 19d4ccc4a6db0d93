//! Neither end bounds the HTTP head that it reads: not its bytes, and not the work for each of them.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, ServerBuilder};

/// Sends one header field that does not end, and ends after 4 MiB of it, or when nobody reads any more.
async fn endless(stream: &mut DuplexStream, start: &str) -> usize {
    let mut sent = 0;
    stream.write_all(start.as_bytes()).await.unwrap();
    while sent < 4 << 20 && stream.write_all(&[b'a'; 4096]).await.is_ok() {
        sent += 4096;
    }
    sent
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (mut client, server) = duplex(64 * 1024);
    let builder = ServerBuilder::new();
    let accepting = async move {
        let accepted = timeout(Duration::from_secs(20), builder.accept(server)).await;
        accepted.map_or("still waits".to_owned(), |done| {
            format!("{:?}", done.map(drop))
        })
    };
    let (sent, said) = tokio::join!(endless(&mut client, "GET / HTTP/1.1\r\nA: "), accepting);
    println!("a server that was sent {sent} bytes of head: {said}");

    let (client, mut server) = duplex(64 * 1024);
    let builder = ClientBuilder::new().uri("ws://a").unwrap();
    let connecting = async move {
        let connected = timeout(Duration::from_secs(20), builder.connect_on(client)).await;
        connected.map_or("still waits".to_owned(), |done| {
            format!("{:?}", done.map(drop))
        })
    };
    let start = "HTTP/1.1 101 Switching Protocols\r\nA: ";
    let (sent, said) = tokio::join!(endless(&mut server, start), connecting);
    println!("a client that was sent {sent} bytes of head: {said}");
}
