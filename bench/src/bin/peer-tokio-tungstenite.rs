//! The usual server with tokio-tungstenite: a bounded queue and a writing half per client, the library's defaults.

mod tls;

use futures_util::{SinkExt, StreamExt, stream};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::{Error, Message};

/// More than any scenario has in flight, so a full queue means a reader that stopped reading.
const QUEUE: usize = 1024;

type Room = Arc<Mutex<HashMap<SocketAddr, mpsc::Sender<Message>>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tls = tls::acceptor()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on port {}", listener.local_addr()?.port());
    let room = Room::default();
    loop {
        let (stream, address) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let (room, tls) = (room.clone(), tls.clone());
        tokio::spawn(async move {
            let stayed = match tls {
                None => stay(stream, address, &room).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => stay(stream, address, &room).await,
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = stayed {
                eprintln!("{address}: {error}");
            }
            if room.lock().unwrap().remove(&address).is_some() {
                println!("Client {address} disconnected");
            }
        });
    }
}

async fn stay<S>(stream: S, address: SocketAddr, room: &Room) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut messages) = accept_async(stream).await?.split();
    let (queue, mut queued) = mpsc::channel(QUEUE);
    room.lock().unwrap().insert(address, queue);
    println!("New connection from {address}");

    // `send_all` feeds what is queued and flushes when nothing is left; it ends when the queue's sender is gone.
    tokio::spawn(async move {
        let mut queued = stream::poll_fn(|context| queued.poll_recv(context)).map(Ok);
        sink.send_all(&mut queued).await
    });
    while let Some(message) = messages.next().await {
        if let Message::Text(text) = message? {
            println!("Received from {address}: {text}");
            let line = Message::text(format!("{address}: {text}"));
            // A reader whose queue is full is put out of the room.
            room.lock()
                .unwrap()
                .retain(|who, queue| *who == address || queue.try_send(line.clone()).is_ok());
        }
    }
    Ok(())
}
