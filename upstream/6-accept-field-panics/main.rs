//! A server that answers with a long `Sec-WebSocket-Accept` panics the client.

use tokio::io::{AsyncWriteExt, duplex};
use tokio_websockets::ClientBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for len in [28, 32, 64, 400] {
        let (client, mut server) = duplex(4096);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            "A".repeat(len)
        );
        server.write_all(answer.as_bytes()).await.unwrap();
        let connecting = async move {
            let builder = ClientBuilder::new().uri("ws://a").unwrap();
            builder.connect_on(client).await.map(drop)
        };
        match tokio::spawn(connecting).await {
            Ok(Ok(())) => println!("{len} characters: connected"),
            Ok(Err(error)) => println!("{len} characters: {error}"),
            Err(panic) => println!("{len} characters: {panic}"),
        }
    }
}
