// Four of server.mjs, each in a process of its own and with a listener of its own.
//
// cutover run --listen 127.0.0.1:8080 -- node examples/any-language/cluster.mjs 127.0.0.1 8080

import cluster from "node:cluster";

if (cluster.isPrimary) {
  for (let worker = 0; worker < 4; worker++) cluster.fork();
  cluster.on("exit", (worker, code) => (process.exitCode ||= code));
  process.once("SIGTERM", () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill("SIGTERM");
  });
} else {
  const { server } = await import("./server.mjs");
  server.on("close", () => process.disconnect());
}
