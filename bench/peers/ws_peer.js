// node's ws. It has no SQLite before version 22: a line appended and synced to the disk stands for it.
const crypto = require("crypto"), fs = require("fs"), http = require("http"), os = require("os"), path = require("path");
const { WebSocketServer } = require("ws");

const secret = Buffer.from(process.env.BENCH_SECRET, "hex");
const log = fs.openSync(path.join(fs.mkdtempSync(path.join(os.tmpdir(), "peer-")), "log"), "a");
let seq = 0;

function check(authorization) {
  const [head, claims, signature] = (authorization || "").slice(7).split(".");
  const right = crypto.createHmac("sha256", secret).update(`${head}.${claims}`).digest();
  if (!crypto.timingSafeEqual(right, Buffer.from(signature, "base64url"))) throw new Error("token");
  if (JSON.parse(Buffer.from(claims, "base64url")).exp < Date.now() / 1000) throw new Error("expired");
}

const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    check(request.headers.authorization);
    const trade = JSON.parse(body);
    fs.writeSync(log, body + "\n");
    fs.fdatasyncSync(log);
    seq += 1;
    const data = { ticket: 8179000000000000 + seq, ...trade, kind: "position", initial_volume: 0.1, stoplimit: 0, expiration: 0,
      magic: 0, comment: "", contract_size: 0, point: 0, digits: 0, master: "master_user", source: "manual",
      opened_at: 1790000000000, master_volume: 0.1 };
    const message = JSON.stringify({ type: "signal", seq, server_time: 1790000000000, data, prev: seq - 1 });
    for (const follower of sockets.clients) follower.send(message);
    response.writeHead(201, { "Content-Type": "application/json", "Content-Length": 2 });
    response.end("{}");
  });
});
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
server.on("upgrade", (request, socket, head) => {
  check(request.headers.authorization);
  sockets.handleUpgrade(request, socket, head, (follower) => follower.on("message", () => {}));
});
server.keepAliveTimeout = 75000;
server.listen(Number(process.argv[2] || 0), "127.0.0.1", 1024, () => console.log("listening on", server.address().port));
