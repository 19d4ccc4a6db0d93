//! After a fragmented message that is too long, the stream goes on and hands it out without its middle.

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_websockets::{Limits, ServerBuilder};

/// A masked frame, with a mask of zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (mut client, server) = duplex(4096);
    let limits = Limits::default().max_payload_len(Some(20));
    let mut server = ServerBuilder::new().limits(limits).serve(server);
    let message = [
        frame(0x01, b"pay 10 to Ann, "),
        frame(0x00, b"not at all "),
        frame(0x80, b"5"),
    ];
    client.write_all(&message.concat()).await.unwrap();
    client.shutdown().await.unwrap();
    while let Some(next) = server.next().await {
        match next {
            Ok(message) => println!("a message: {:?}", message.as_text()),
            Err(error) => println!("an error: {error}"),
        }
    }
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    println!("what the peer is answered: \"{}\"", answer.escape_ascii());
}
