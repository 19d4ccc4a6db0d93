//! The usual server with tokio-tungstenite: a bounded queue and a writing half per client, the library's defaults.

use futures_util::{SinkExt, StreamExt, stream};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::{Error, Message};

/// More than any scenario has in flight, so a full queue means a reader that stopped reading.
const QUEUE: usize = 1024;

type Room = Arc<Mutex<HashMap<SocketAddr, mpsc::Sender<Message>>>>;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on port {}", listener.local_addr()?.port());
    let room = Room::default();
    loop {
        let (stream, address) = listener.accept().await?;
        let room = room.clone();
        tokio::spawn(async move {
            if let Err(error) = stay(stream, address, &room).await {
                eprintln!("{address}: {error}");
            }
            if room.lock().unwrap().remove(&address).is_some() {
                println!("Client {address} disconnected");
            }
        });
    }
}

async fn stay(stream: TcpStream, address: SocketAddr, room: &Room) -> Result<(), Error> {
    stream.set_nodelay(true)?;
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
