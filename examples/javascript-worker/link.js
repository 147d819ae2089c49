// A worker's connection: it joins, beats, puts vectors together, and comes back when it is lost.
"use strict";

const { randomBytes } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTO = join(__dirname, "../../src/headway/runtime/wire/headway.proto");
// Job ids have up to 64 bits, more than a number holds exactly; as text they go back as they came.
const schema = loader.loadSync(PROTO, { keepCase: true, longs: String, oneofs: true });
const { Exchange } = grpc.loadPackageDefinition(schema).headway.v1;
const PIECE_BYTES = 32 << 10; // Little, so that each arrives within a lease, also on a slow link.
const [CONNECT_MS, GIVE_UP_MS] = [30_000, 120_000];
const [FIRST_WAIT_MS, LONGEST_WAIT_MS] = [200, 5_000];
const PASSING = ["full", "name_taken", "stopping"]; // Refusals that a later attempt may not meet.

class Link {
  reconnects = 0;
  #me;
  #heart;
  #on;
  #client;
  #metadata = new grpc.Metadata({ waitForReady: true });
  #stream = null;
  #joined = false;
  #returns = false;
  #slack_s = 0;
  #wait_ms = FIRST_WAIT_MS;
  #until = Date.now() + CONNECT_MS;

  // on: functions by kinds of messages, which are given the message and its vector. Besides them
  // `holds`, which says which jobs have no receipt, and `fail`, told why there is no server.
  constructor(address, { name, ca, token }, on) {
    const { createInsecure, createSsl } = grpc.credentials;
    this.#me = { worker: name, instance: randomBytes(8).toString("hex") };
    this.#on = on;
    if (token) this.#metadata.set("authorization", `Bearer ${token}`);
    this.#client = new Exchange(address, ca ? createSsl(readFileSync(ca)) : createInsecure(), {
      "grpc.enable_http_proxy": 0,
      "grpc.keepalive_time_ms": 10_000,
      "grpc.max_receive_message_length": 16 << 20,
      "grpc.max_reconnect_backoff_ms": LONGEST_WAIT_MS,
    });
    this.#connect();
  }

  // While there is no server, nothing: who comes back says again what has no answer.
  send(...messages) {
    if (this.#joined) for (const message of messages) this.#stream.write(message);
  }

  leave(reason) {
    this.#stream?.end({ leave: { reason } });
    this.#forget();
    this.#client.close();
  }

  #connect() {
    const stream = (this.#stream = this.#client.Work(this.#metadata));
    const receive = assembler((message, vector) => this.#hear(message, vector));
    const lost = (error) => stream === this.#stream && this.#lose(error);
    stream.on("data", (message) => stream === this.#stream && receive(message));
    stream.on("error", lost).on("end", lost);
    this.#client.waitForReady(this.#until, (error) => error && lost(error));
    stream.write({ join: { protocol: 1, ...this.#me, holds: this.#on.holds() } });
  }

  #hear({ kind, [kind]: content }, vector) {
    if (kind === "beat") {
      this.#slack_s = Math.max(this.#slack_s, (2 * (Date.now() - content.number)) / 1000);
    } else if (kind === "refused") {
      const { code, message, help } = content;
      this.#lose(new Error(`refused (${code}): ${message}\n${help ?? ""}`), PASSING.includes(code));
    } else {
      if (kind === "stop") this.#returns = false;
      if (kind === "welcome") this.#enter(content);
      this.#on[kind]?.(content, vector);
    }
  }

  #enter({ worker, heartbeat_s }) {
    this.#me.worker = worker;
    this.#joined = this.#returns = true;
    this.#wait_ms = FIRST_WAIT_MS;
    const beat = () => this.send({ beat: { number: Date.now(), slack_s: this.#slack_s } });
    if (heartbeat_s > 0) this.#heart = setInterval(beat, 1000 * heartbeat_s);
  }

  #forget() {
    clearInterval(this.#heart);
    this.#stream = null;
    this.#joined = false;
  }

  // Sought again for a while, after longer and longer waits that are drawn at random.
  #lose(error, passing = error?.code !== grpc.status.UNAUTHENTICATED) {
    if (this.#joined) this.#until = Date.now() + GIVE_UP_MS;
    this.#forget();
    if (!passing || !this.#returns || Date.now() >= this.#until) {
      this.#on.fail(`the connection has ended: ${error?.message ?? "the server has gone"}`);
      return;
    }
    this.reconnects += 1;
    setTimeout(() => this.#connect(), this.#wait_ms * Math.random());
    this.#wait_ms = Math.min(2 * this.#wait_ms, LONGEST_WAIT_MS);
  }
}

// Calls `deliver` with each whole message and its vector; beats may come between its chunks.
function assembler(deliver) {
  let unfinished = null;
  return function receive(message) {
    for (const earlier of message.before ?? []) receive(earlier);
    if (message.kind === "beat") return deliver(message);
    if (message.kind === "chunk") {
      unfinished.parts.push(message.chunk.data);
      unfinished.missing -= message.chunk.data.length;
    } else {
      const vectors = message.job?.model ?? message.receipt?.answer;
      const parts = vectors?.inline ? [vectors.inline] : [];
      unfinished = { message, parts, missing: parts.length ? 0 : 4 * (vectors?.num_values ?? 0) };
    }
    if (unfinished.missing > 0) return;
    // A copy: the bytes of a message may begin at any address, and numbers may not.
    deliver(unfinished.message, new Float32Array(new Uint8Array(Buffer.concat(unfinished.parts)).buffer));
  };
}

// A push with its vector: within the message, or in chunks behind it.
function withVector(push, vector) {
  const bytes = Buffer.from(vector.buffer);
  const update = { num_values: vector.length };
  if (bytes.length <= PIECE_BYTES) return [{ push: { ...push, update: { ...update, inline: bytes } } }];
  const messages = [{ push: { ...push, update } }];
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    messages.push({ chunk: { data: bytes.subarray(at, at + PIECE_BYTES) } });
  }
  return messages;
}

module.exports = { Link, withVector };
