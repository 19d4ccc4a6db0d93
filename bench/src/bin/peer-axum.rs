//! The chat of axum's examples: a broadcast channel, two tasks per client. `Lagged` is told to the client, not fatal.

mod tls;

use axum::Extension;
use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_rustls::TlsAcceptor;

/// More than any scenario has in flight, so nothing is missed by a reader that keeps reading.
const CHANNEL: usize = 1024;

type Room = broadcast::Sender<(SocketAddr, Utf8Bytes)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tls = tls::acceptor()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on port {}", listener.local_addr()?.port());
    let enter = |upgrade: WebSocketUpgrade,
                 ConnectInfo(address): ConnectInfo<SocketAddr>,
                 State(room): State<Room>| async move {
        upgrade.on_upgrade(move |socket| stay(socket, address, room))
    };
    let app = Router::new()
        .route("/", get(enter))
        .with_state(Room::new(CHANNEL));
    if let Some(tls) = tls {
        return Ok(serve_tls(listener, tls, app).await?);
    }
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}

/// What `axum::serve` does, with a TLS handshake before it.
async fn serve_tls(listener: TcpListener, tls: TlsAcceptor, app: Router) -> std::io::Result<()> {
    loop {
        let (stream, address) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let tls = tls.clone();
        let app = app.clone().layer(Extension(ConnectInfo(address)));
        tokio::spawn(async move {
            let stream = match tls.accept(stream).await {
                Ok(stream) => TokioIo::new(stream),
                Err(error) => return eprintln!("{address}: {error}"),
            };
            let served = Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(stream, TowerToHyperService::new(app))
                .await;
            if let Err(error) = served {
                eprintln!("{address}: {error}");
            }
        });
    }
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
