// A server of Node's standard library that shares its port; Node 22.12, 23.1, or later.
//
// cutover run --listen 127.0.0.1:8080 -- node examples/any-language/server.mjs 127.0.0.1 8080

import http from "node:http";
import net from "node:net";

const [host, port] = process.argv.slice(2);

// How long the first request of a connection may take, in ms; later requests have server.keepAliveTimeout (5 s).
const patience = { headersTimeout: 5_000, connectionsCheckingInterval: 1_000 };

export const server = http.createServer(patience, (request, response) => {
  if (!server.listening) response.setHeader("Connection", "close");
  response.end(`pid ${process.pid}\n`);
});
server.listen({ host, port, reusePort: true });

process.once("SIGTERM", () => {
  // The close() of http.Server would also cut each idle connection, and with it a request that is on its way there.
  // Here such a request gets its answer, and a connection without a request ends by its timeout.
  net.Server.prototype.close.call(server);
});
