//! Who leaves when it has received a Close has not answered it, and who closes waits for ever.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;
use tokio_websockets::ServerBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (mut client, server) = duplex(4096);
    let mut server = ServerBuilder::new().serve(server);
    // A Close with code 1000, masked with a mask of zero.
    client.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.unwrap();
    let message = server.next().await.unwrap().unwrap();
    assert!(message.is_close());
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    println!("the answer to a Close: \"{}\"", answer.escape_ascii());

    // This peer is there, and says nothing any more.
    let (_client, server) = duplex(4096);
    let mut server = ServerBuilder::new().serve(server);
    let closed = timeout(Duration::from_secs(5), server.close()).await;
    println!(
        "close() within 5 s: {}",
        closed.map_or("still waits", |_| "is done")
    );
}
