// uWebSockets' own way to relay: everybody subscribes to one topic, and `publish` sends to all but the one who speaks.
#include <App.h>

#include <arpa/inet.h>
#include <cstdio>
#include <string>

struct Client {
  std::string name;
};
using Socket = uWS::WebSocket<false, true, Client>;

// The library says the address of the other end, but not its port.
static std::string name_of(Socket *socket) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  int fd = static_cast<int>(reinterpret_cast<intptr_t>(socket->getNativeHandle()));
  getpeername(fd, reinterpret_cast<sockaddr *>(&address), &length);
  char text[INET_ADDRSTRLEN] = "";
  inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
  return std::string(text) + ":" + std::to_string(ntohs(address.sin_port));
}

int main() {
  uWS::App::WebSocketBehavior<Client> chat;
  // With the default, what is sent to a reader that has 64 KiB waiting is dropped without a word. 0 is no bound.
  chat.maxBackpressure = 0;
  chat.open = [](Socket *socket) {
    Client *client = socket->getUserData();
    client->name = name_of(socket);
    printf("New connection from %s\n", client->name.c_str());
    socket->subscribe("chat");
  };
  chat.message = [](Socket *socket, std::string_view text, uWS::OpCode) {
    const std::string &name = socket->getUserData()->name;
    printf("Received from %s: %.*s\n", name.c_str(), static_cast<int>(text.size()), text.data());
    socket->publish("chat", (name + ": ").append(text), uWS::TEXT);
  };
  chat.close = [](Socket *socket, int, std::string_view) {
    printf("Client %s disconnected\n", socket->getUserData()->name.c_str());
  };
  uWS::App app;
  app.ws<Client>("/*", std::move(chat));
  app.listen("127.0.0.1", 0, [](us_listen_socket_t *socket) {
    if (socket) {
      printf("listening on port %d\n", us_socket_local_port(0, reinterpret_cast<us_socket_t *>(socket)));
      fflush(stdout);
    }
  });
  app.run();
}
