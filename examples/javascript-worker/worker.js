// A worker of a Headway parameter server in plain Node.js: softmax regression on data of its own.
//
//     node worker.js 127.0.0.1:5000 digits.json --epochs 5
//
// Who says what, and when, is told in docs/protocol.md. `link.js` is the connection.
"use strict";

const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { parseArgs } = require("node:util");
const { Worker } = require("node:worker_threads");
const { Link, withVector } = require("./link.js");
const { fits } = require("./softmax.js");

const text = (value) => ({ type: "string", default: value });
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { name: text(""), epochs: text("5"), batch: text("32"), rate: text("0.1"), ca: text("") },
});
const [address, file] = positionals;
const data = JSON.parse(readFileSync(file, "utf8"));
// Jobs are done in a thread of their own: this one has to beat meanwhile.
const trainer = new Worker(join(__dirname, "softmax.js"), { workerData: { data, options } });
trainer.on("message", done).on("error", (error) => fail(error.stack));
const told = { applied: 0, buffered: 0, rejected: 0, losses: [] };
let instructions;
let working = null; // The job that the trainer is at.
let pushed = []; // The update that has no receipt yet.
let ending = null; // Why this worker leaves with the next receipt.

const handlers = {
  holds: () => [working?.id, pushed[0]?.push.job].filter(Boolean),
  fail,
  welcome({ worker, layout, instructions: json }) {
    instructions = JSON.parse(json);
    const { algorithm, payload, keeps_model, client } = instructions;
    if (!fits(JSON.parse(layout), data)) {
      fail(`this worker trains one linear layer in float32, and the server has ${layout}`);
    } else if (keeps_model || client.some(({ name }) => name !== "proximal")) {
      fail(`this worker cannot do what ${algorithm} asks for`);
    } else {
      console.log(`joined as ${worker}, sends ${payload}`);
      if (pushed.length) pushed[0].push.again = false;
      link.send(...pushed, ...(working || ending ? [] : [{ ask: {} }]));
    }
  },
  job({ id, version, order }, base) {
    working = { id, version };
    trainer.postMessage({ id, base, instructions, order: order ?? {} });
  },
  receipt({ status }) {
    told[status] += 1;
    pushed = [];
    if (ending) leave();
  },
  cancel({ job }) {
    // Another comes without being asked for; what the trainer finds for this one is left out.
    if (job === working?.id) working = null;
  },
  wait: ({ reason }) => console.log(`waits: ${reason}`),
  stop({ reason, drain }) {
    ending = reason;
    if (!drain || !(working || pushed.length)) leave();
  },
};
const link = new Link(address, { ...options, token: process.env.HEADWAY_TOKEN }, handlers);

function done({ id, payload, loss, left, ...work }) {
  if (!left) ending ??= "the data are used up";
  const wanted = id === working?.id;
  if (wanted && work.num_steps) {
    told.losses.push(loss);
    const push = { job: id, base_version: working.version, ...work, metrics: { loss }, again: !ending };
    [working, pushed] = [null, withVector(push, payload)];
    link.send(...pushed);
  } else if (ending && (wanted || !working)) leave();
}

function leave() {
  console.log(JSON.stringify({ reason: ending, reconnects: link.reconnects, ...told }));
  link.leave(ending);
  trainer.terminate();
}

function fail(problem) {
  console.error(problem);
  process.exit(1);
}
