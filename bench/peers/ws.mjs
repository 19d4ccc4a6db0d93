// The broadcast server of ws's own examples: each line encoded as bytes once, then `send` for every other client.
import { WebSocket, WebSocketServer } from "ws";

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
server.on("listening", () => console.log(`listening on port ${server.address().port}`));

server.on("connection", (socket, request) => {
  // ws sets TCP_NODELAY on every connection itself.
  const name = `${request.socket.remoteAddress}:${request.socket.remotePort}`;
  console.log(`New connection from ${name}`);
  socket.on("message", (text) => {
    console.log(`Received from ${name}: ${text}`);
    const line = Buffer.from(`${name}: ${text}`);
    for (const client of server.clients) {
      if (client !== socket && client.readyState === WebSocket.OPEN) {
        client.send(line, { binary: false });
      }
    }
  });
  socket.on("error", (error) => console.error(`${name}: ${error.message}`));
  socket.on("close", () => console.log(`Client ${name} disconnected`));
});
