// A worker of a Headway parameter server in plain Node.js: softmax regression on data of its own.
//
//     node worker.js 127.0.0.1:5000 digits.json --epochs 5
//
// Who says what, and when, is told in docs/protocol.md; the messages come from the schema itself.
"use strict";

const { randomBytes } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { parseArgs } = require("node:util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { Softmax } = require("./softmax.js");

const PROTO = join(__dirname, "../../src/headway/runtime/wire/headway.proto");
// Job ids have up to 64 bits, more than a number holds exactly; as text they go back as they came.
const schema = loader.loadSync(PROTO, { keepCase: true, longs: String, oneofs: true });
const { Exchange } = grpc.loadPackageDefinition(schema).headway.v1;
const CONNECT_MS = 30_000;
const CHUNK_BYTES = 1 << 20;
const INLINE_BYTES = 64 << 10;

const text = (value) => ({ type: "string", default: value });
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { name: text(""), epochs: text("5"), batch: text("32"), rate: text("0.1"), ca: text("") },
});
const [address, file] = positionals;
const softmax = new Softmax(JSON.parse(readFileSync(file, "utf8")), options);
const counts = { applied: 0, buffered: 0, rejected: 0 };
const losses = [];
let told = null; // The server's instructions.
let unfinished = null; // A message whose vector is still on its way.

const { createInsecure, createSsl } = grpc.credentials;
const metadata = new grpc.Metadata({ waitForReady: true });
const token = process.env.HEADWAY_TOKEN;
if (token) metadata.set("authorization", `Bearer ${token}`);
const credentials = options.ca ? createSsl(readFileSync(options.ca)) : createInsecure();
const client = new Exchange(address, credentials, {
  "grpc.enable_http_proxy": 0,
  "grpc.max_receive_message_length": 16 << 20,
});
client.waitForReady(Date.now() + CONNECT_MS, (error) => error && fail(error.message));
const stream = client.Work(metadata);
stream.on("data", receive);
stream.on("error", (error) => fail(`the connection has ended: ${error.message}`));
stream.on("end", () => client.close());
const instance = randomBytes(8).toString("hex");
stream.write({ join: { protocol: 1, worker: options.name, instance } });

function receive(message) {
  for (const earlier of message.before ?? []) receive(earlier);
  if (message.kind === "chunk") {
    unfinished.parts.push(message.chunk.data);
    unfinished.missing -= message.chunk.data.length;
  } else {
    const vectors = message.job?.model ?? message.receipt?.answer;
    const parts = vectors?.inline ? [vectors.inline] : [];
    const missing = parts.length ? 0 : 4 * Number(vectors?.num_values ?? 0);
    unfinished = { message, parts, missing };
  }
  if (unfinished.missing > 0) return;
  const { message: whole, parts } = unfinished;
  // A copy: the bytes of a message may begin at any address, and numbers may not.
  const vector = new Float32Array(new Uint8Array(Buffer.concat(parts)).buffer);
  const answers = { welcome, refused, job, receipt, stop: leave };
  answers[whole.kind]?.(whole[whole.kind], vector);
}

function welcome({ worker, layout, instructions }) {
  told = JSON.parse(instructions);
  const foreign = told.client.filter(({ name }) => name !== "proximal");
  if (!softmax.fits(JSON.parse(layout))) {
    fail(`this worker trains one linear layer in float32, and the server has ${layout}`);
  } else if (told.keeps_model || foreign.length) {
    fail(`this worker cannot do what ${told.algorithm} asks for`);
  } else {
    console.log(`joined as ${worker}, sends ${told.payload}`);
    stream.write({ ask: {} });
  }
}

function refused({ code, message, help }) {
  fail(`refused (${code}): ${message}\n${help ?? ""}`);
}

function job({ id, version, order = {} }, base) {
  const { payload, loss, ...work } = softmax.train(base, told, order);
  losses.push(loss);
  const bytes = Buffer.from(payload.buffer);
  const inline = bytes.length <= INLINE_BYTES;
  const update = { num_values: payload.length, ...(inline && { inline: bytes }) };
  const again = softmax.batchesLeft > 0;
  const push = { job: id, base_version: version, ...work, metrics: { loss }, update, again };
  stream.write({ push });
  for (let at = 0; !inline && at < bytes.length; at += CHUNK_BYTES) {
    stream.write({ chunk: { data: bytes.subarray(at, at + CHUNK_BYTES) } });
  }
}

function receipt({ status }) {
  counts[status] += 1;
  if (softmax.batchesLeft === 0) leave({ reason: "the data are used up" });
}

function leave({ reason }) {
  if (stream.writableEnded) return;
  console.log(JSON.stringify({ reason, ...counts, losses }));
  stream.end({ leave: { reason } });
}

function fail(problem) {
  if (!process.exitCode) console.error(problem);
  process.exitCode = 1;
  stream.cancel();
  client.close();
}
