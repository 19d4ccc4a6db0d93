//! The chat of axum's examples: a broadcast channel, two tasks per client. `Lagged` is told to the client, not fatal.

use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::broadcast::{self, error::RecvError};

/// More than any scenario has in flight, so nothing is missed by a reader that keeps reading.
const CHANNEL: usize = 1024;

type Room = broadcast::Sender<(SocketAddr, Utf8Bytes)>;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on port {}", listener.local_addr()?.port());
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let enter = |upgrade: WebSocketUpgrade,
                 ConnectInfo(address): ConnectInfo<SocketAddr>,
                 State(room): State<Room>| async move {
        upgrade.on_upgrade(move |socket| stay(socket, address, room))
    };
    let app = Router::new()
        .route("/", get(enter))
        .with_state(Room::new(CHANNEL));
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await
}

async fn stay(socket: WebSocket, address: SocketAddr, room: Room) {
    let (mut sink, mut messages) = socket.split();
    let mut lines = room.subscribe();
    println!("New connection from {address}");

    let mut send = tokio::spawn(async move {
        loop {
            let line = match lines.recv().await {
                Ok((who, _)) if who == address => continue,
                Ok((_, line)) => line,
                Err(RecvError::Lagged(missed)) => format!("* {missed} messages missed").into(),
                Err(RecvError::Closed) => break,
            };
            if sink.send(Message::Text(line)).await.is_err() {
                break;
            }
        }
    });
    let mut receive = tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            if let Message::Text(text) = message {
                println!("Received from {address}: {text}");
                // The only error is an empty room.
                let _ = room.send((address, format!("{address}: {text}").into()));
            }
        }
    });
    tokio::select! {
        _ = &mut send => receive.abort(),
        _ = &mut receive => send.abort(),
    }
    println!("Client {address} disconnected");
}
