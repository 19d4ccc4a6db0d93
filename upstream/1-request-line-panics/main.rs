//! A request whose target is no URI panics `ServerBuilder::accept`.

use tokio::io::{AsyncWriteExt, duplex};
use tokio_websockets::ServerBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for target in ["/", "/a<b", "/`", "?a", "foo:bar:baz", "[::1"] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let (mut client, server) = duplex(4096);
        client.write_all(request.as_bytes()).await.unwrap();
        let accepting = async move { ServerBuilder::new().accept(server).await.map(drop) };
        match tokio::spawn(accepting).await {
            Ok(Ok(())) => println!("{target}: accepted"),
            Ok(Err(error)) => println!("{target}: refused: {error}"),
            Err(panic) => println!("{target}: {panic}"),
        }
    }
}
