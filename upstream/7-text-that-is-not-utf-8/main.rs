//! A text message that ends inside a code point, its last fragment empty, is handed out as text, and so is
//! the next one that begins with the missing byte.

use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, duplex};
use tokio_websockets::ServerBuilder;

/// Masked, with masks of zero: the text "half an é" without its last byte, and nothing more of it; then a
/// message that begins with that byte.
const FRAMES: [&[u8]; 3] = [
    b"\x01\x89\0\0\0\0half an \xc3",
    b"\x80\x80\0\0\0\0",
    b"\x81\x87\0\0\0\0\xa9 other",
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (mut client, server) = duplex(4096);
    let mut server = ServerBuilder::new().serve(server);
    client.write_all(&FRAMES.concat()).await.unwrap();
    client.shutdown().await.unwrap();
    while let Some(next) = server.next().await {
        match next {
            Ok(message) => {
                // The `&str` itself is not looked at: it has bytes that no `str` may have.
                let is_text = message.as_text().is_some();
                let utf_8 = std::str::from_utf8(message.as_payload());
                println!("as_text() is Some: {is_text}, from_utf8() of it: {utf_8:?}");
            }
            Err(error) => println!("an error: {error}"),
        }
    }
}
